// What takes space: where models, runs and exports lie, a list of what can be freed, and the move to another drive.
(() => {
  const app = window.tunebench, { byId, makeNode, setText } = app.tools;
  app.renderers.storage = ["storage", drawMove];
  let reported = 0; // the move whose end the list shows

  document.addEventListener("toggle", (event) => event.target.id === "storage" && event.target.open && loadReport(), true);

  async function loadReport() {
    setText(byId("storage-problem"), "");
    byId("storage").setAttribute("aria-busy", "true");
    showReport(await app.storage.report());
  }

  // An answer is a new report, or the problem that left everything as it was.
  function showReport(report) {
    byId("storage").removeAttribute("aria-busy");
    if (!report) return; // the app is gone, which the page says elsewhere
    setText(byId("storage-problem"), report.problem ?? "");
    if (report.problem) return;
    byId("storage-places").replaceChildren(...report.places.map(makePlace));
    byId("storage-groups").replaceChildren(...report.groups.map(makeGroup));
    setText(byId("storage-interrupted"), report.interrupted);
  }

  // ---- where they lie

  function makePlace(place) {
    const row = makeNode("div", { class: "place", "data-kind": place.kind });
    const move = makeNode("button", { type: "button", class: "button small", onclick: () => row.append(makeMoveForm(place, row)) }, pageText("storage.move"), makeNode("span", { class: "sr" }, ` ${place.label}`));
    row.append(makeNode("p", { class: "row" }, makeNode("b", {}, place.label), makeNode("span", { class: "num" }, place.size), makeNode("span", { class: "quiet path" }, `${place.folder} · ${place.free}`), move));
    return row;
  }

  function makeMoveForm(place, row) {
    row.querySelector("form")?.remove();
    const to = makeNode("input", { type: "text", required: true, placeholder: pageText("storage.example") });
    const start = async (event) => {
      event.preventDefault();
      await startMove(place.kind, to.value, row);
    };
    const form = makeNode("form", { onsubmit: start },
      makeNode("label", {}, `${pageText("storage.to", { kind: place.label })} `, to), makeNode("p", { class: "quiet small" }, pageText("storage.what_moves")),
      makeNode("p", { class: "buttons" }, makeNode("button", { class: "button small" }, pageText("storage.start")),
        ...(place.away ? [makeNode("button", { type: "button", class: "button small", onclick: () => startMove(place.kind, "", row) }, pageText("storage.back"))] : []),
        makeNode("button", { type: "button", class: "button small", onclick: () => { form.remove(); row.querySelector("button").focus(); } }, pageText("storage.cancel"))));
    setTimeout(() => to.focus());
    return form;
  }

  async function startMove(kind, to, row) {
    const answer = await app.storage.move({ kind, to });
    setText(byId("storage-problem"), answer?.problem ?? "");
    if (answer?.problem) return;
    row.querySelector("form")?.remove();
    app.pollSoon();
  }

  function drawMove(move, place) {
    const bar = byId("storage-move");
    bar.hidden = !move.active;
    if (move.active) {
      const track = bar.querySelector(".bar");
      track.setAttribute("aria-label", move.label);
      track.setAttribute("aria-valuenow", Math.round(100 * move.share));
      track.firstChild.style.width = `${100 * move.share}%`;
      setText(bar.querySelector(".part"), [move.label, move.left].filter(Boolean).join(" · "));
    }
    setText(byId("storage-said"), move.problem || move.done || "");
    byId("storage-said").className = move.problem ? "warn" : "quiet";
    if (move.active || !move.began || move.began === reported) return;
    reported = move.began;
    if (place.open) app.storage.report().then(showReport);
  }

  document.addEventListener("click", (event) => event.target.id === "storage-stop" && app.storage.stop());

  // ---- what takes space

  const makeGroup = (group) => makeNode("section", { class: "stored" },
    makeNode("h3", {}, group.title, makeNode("span", { class: "num quiet" }, ` ${group.size}`)), makeNode("p", { class: "quiet small" }, group.lost),
    makeNode("ul", {}, ...group.items.filter((item) => item.key || item.name).map((item) => makeItem(item, group))));

  function makeItem(item, group) {
    const free = async () => {
      confirm.disabled = true;
      showReport(await app.storage.free({ key: item.key }));
      byId("storage").querySelector("summary").focus();
    };
    const confirm = makeNode("button", { type: "button", class: "button small danger", hidden: true, onclick: free }, pageText("storage.free_now", { size: item.size }));
    const ask = makeNode("button", { type: "button", class: "button small", onclick: () => { ask.hidden = true; confirm.hidden = false; confirm.focus(); } }, pageText("storage.free_it"), makeNode("span", { class: "sr" }, ` ${item.name || group.title}`));
    return makeNode("li", {}, makeNode("span", { class: "path" }, item.name || group.title), makeNode("span", { class: "num" }, item.size), ...(item.key ? [ask, confirm] : [makeNode("span", {})]));
  }
})();
