// The Runs tab: the table, what one does with a run, curves of chosen runs over each other, and the trash.
(() => {
  const app = window.tunebench, { at, make, put, write, when, list, show, working, copy } = app.tools;
  const MOST = 6, COLUMNS = 10, LEVELS = 35, SCREENFUL = 100;
  const chosen = new Set(), made = new Map(); // made: run → { key, row, more: the row below it that asks something }
  let room = SCREENFUL; // so many rows are there; more when the last one comes into sight

  app.chosen = () => [...chosen];
  app.draws.runs = ["runs", drawTable, ["runs", "going", "trash"]];
  app.draws.trash = ["trash", drawTrash];
  app.draws.overlay = ["overlay", drawOverlay];

  const send = (event, run, more = {}) => app.send(event, { run: run.id, ...more });

  // ---- the table: a row is made when it comes into sight, and only touched when its run has changed, so that nothing a person
  // is doing in it is lost

  function drawTable(_, table) {
    const runs = [...app.is("going"), ...app.is("runs")].sort((a, b) => b.pinned - a.pinned || (a.id < b.id ? 1 : -1));
    at("runs-empty").hidden = runs.length > 0;
    write("runs-empty", app.is("trash").runs.length ? "All runs are in the trash, which is below." : "No run yet. The first one is one click away, on Start.");
    at("runs-tools").hidden = !runs.length;
    table.hidden = !runs.length;
    const known = new Set(runs.map((run) => run.id));
    for (const id of made.keys()) if (!known.has(id)) forget(id);
    const found = runs.filter(fits), rows = found.slice(0, room).flatMap((run) => rowsOf(run)), body = table.tBodies[0];
    const from = rows.findIndex((row, index) => row !== body.rows[index]);
    if (from >= 0 && from === body.rows.length) body.append(...rows.slice(from));
    else if (rows.length !== body.rows.length || from >= 0) body.replaceChildren(...rows);
    put(at("runs-count"), wanted() ? `${found.length} of ${runs.length} runs` : `${runs.length} run${runs.length === 1 ? "" : "s"}`);
    table.setAttribute("aria-rowcount", found.length + 1);
    end.disconnect();
    if (found.length > room) end.observe(rows[rows.length - 1]);
  }

  const redraw = () => drawTable(null, at("runs"));
  const end = new IntersectionObserver((seen) => {
    if (!seen.some((one) => one.isIntersecting)) return;
    room += SCREENFUL;
    redraw();
  });

  function forget(id) {
    made.delete(id);
    chosen.delete(id);
  }

  function rowsOf(run) {
    const key = JSON.stringify(run), old = made.get(run.id);
    if (old?.key !== key) made.set(run.id, { key, run, row: rowOf(run), more: old?.more });
    const { row, more } = made.get(run.id);
    return more ? [row, more] : [row];
  }

  function rowOf(run) {
    const cell = (text, kind = "") => make("td", { class: kind }, text || "–");
    const row = make("tr", { title: run.error || null, "data-run": run.id },
      make("td", {}, make("input", { type: "checkbox", class: "choose", "aria-label": `Draw ${run.name}`, checked: chosen.has(run.id), disabled: !run.spark, onchange: (event) => choose(run, event.target) })),
      make("td", {}, make("span", { class: "pill", "data-tone": run.tone }, run.pill)),
      make("th", { scope: "row" }, make("button", { class: "plain", onclick: () => show(run.id) }, run.name),
        ...(run.pinned ? [make("span", { class: "pin", title: "Pinned" }, " ★"), make("span", { class: "sr" }, " pinned")] : []),
        make("div", { class: "quiet small lineage" }, ...lineage(run)),
        ...(run.problem ? [make("div", { class: "small warn" }, run.problem)] : []),
        ...(run.note ? [make("div", { class: "small note" }, run.note)] : [])),
      cell(run.data, "minor"), cell(run.steps, "num minor"),
      make("td", { class: "num lesser" }, ...(run.spark ? [sparkline(run.spark)] : []), run.loss || "–"),
      cell(run.accuracy, "num lesser"), cell(run.size, "num minor"), cell(when(run.when), "minor"),
      make("td", { class: "deeds" },
        ...(run.comparable ? [make("button", { class: "button small", onclick: () => send("opencompare", run) }, "Compare")] : []),
        make("button", { class: "button small more", "aria-expanded": "false", "aria-label": `More about ${run.name}`, onclick: (event) => openMenu(event.currentTarget, run) }, "⋯")));
    return row;
  }

  // Base → SFT → DPO: each adapter stands on what is left of it.
  const lineage = (run) => run.line.flatMap((name, index) => [...(index ? [make("i", { "aria-label": "then" }, " → ")] : []), make("span", { class: name.toLowerCase() }, name)]);

  function sparkline(text) {
    const values = [...text].map((letter) => parseInt(letter, 36)), wide = 60, high = 16;
    const path = values.map((value, index) => `${((index * wide) / (values.length - 1)).toFixed(1)},${(high - 1 - (value / LEVELS) * (high - 2)).toFixed(1)}`);
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg"), line = document.createElementNS(picture.namespaceURI, "polyline");
    for (const [name, value] of Object.entries({ class: "spark", width: wide, height: high, "aria-hidden": "true" })) picture.setAttribute(name, value);
    line.setAttribute("points", path.join(" "));
    picture.append(line);
    return picture;
  }

  // ---- find

  const wanted = () => at("runs-find").value.trim().toLowerCase();
  const fits = (run) => [run.name, run.model, run.data, run.note, run.id, run.line.join(" ")].join(" ").toLowerCase().includes(wanted());
  document.addEventListener("input", (event) => {
    if (event.target.id !== "runs-find") return;
    room = SCREENFUL;
    redraw();
  });

  // ---- what one does with a run

  // A popover: in front of everything, gone by Escape or a click elsewhere, and made only when it is asked for.
  function openMenu(button, run) {
    const shown = run.command !== ""; // of a run that cannot be shown there is only its folder
    const item = (text, deed) => make("button", { type: "button", onclick: () => { popup.hidePopover(); deed(); } }, text);
    const popup = make("div", { class: "popup", popover: "auto", ontoggle: (event) => event.newState === "closed" && close() },
      ...(shown ? [item("Use these settings", () => send("clone", run)), item("Copy as command", () => copyCommand(run))] : []),
      item("Open folder", () => send("openfolder", run)),
      ...(shown ? [item(run.pinned ? "Unpin" : "Pin", () => send("about", run, { about: { pinned: !run.pinned } })), item("Rename or note", () => below(run, editor(run)))] : []),
      ...(shown && !run.active ? [item("Save report", () => app.report(run.id))] : []),
      ...(run.active ? [] : [item("Move to trash", () => below(run, question(run)))]));
    const close = () => {
      button.setAttribute("aria-expanded", "false");
      popup.remove();
    };
    button.setAttribute("aria-expanded", "true");
    button.after(popup);
    popup.showPopover();
    const place = button.getBoundingClientRect(), tall = popup.offsetHeight;
    popup.style.left = `${place.right - popup.offsetWidth}px`;
    popup.style.top = `${place.bottom + tall + 8 > innerHeight ? place.top - tall - 4 : place.bottom + 4}px`;
    popup.firstElementChild.focus();
  }

  async function copyCommand(run) {
    if (await copy(run.command)) return write("runs-said", `Copied: ${run.command}`);
    below(run, byHand(run));
    made.get(run.id).more.querySelector("input").select();
  }

  function byHand(run) {
    const text = make("input", { type: "text", readonly: true });
    text.value = run.command;
    return make("div", {}, make("label", {}, "The browser does not let it be copied. Press Ctrl and C: ", text),
      make("p", { class: "buttons" }, make("button", { class: "button small", onclick: () => below(run, null) }, "Done")));
  }

  // A row below a run's row, in place of what was asked there before; null takes it away.
  function below(run, content) {
    const entry = made.get(run.id);
    entry.more?.remove();
    entry.more = content && make("tr", { class: "ask" }, make("td", { colspan: COLUMNS }, content));
    if (!content) return entry.row.querySelector(".more").focus();
    entry.row.after(entry.more);
    entry.more.querySelector("input, button").focus();
  }

  function editor(run) {
    const name = make("input", { type: "text", maxlength: 64 }), note = make("textarea", { rows: 2, maxlength: 2000 });
    [name.value, note.value] = [run.name, run.note];
    const save = (event) => {
      event.preventDefault();
      send("about", run, { about: { name: name.value.trim(), note: note.value.trim() } });
      below(run, null);
    };
    return make("form", { onsubmit: save }, make("label", {}, "Name ", name), make("label", {}, "Note ", note),
      make("p", { class: "buttons" }, make("button", { class: "button small" }, "Save"), make("button", { type: "button", class: "button small", onclick: () => below(run, null) }, "Cancel")));
  }

  function question(run) {
    const away = (event) => {
      send("throwaway", run);
      working(event.currentTarget, "Moving…", made.get(run.id).row);
    };
    return make("div", {}, make("p", {}, make("b", {}, `Move ${run.name} to the trash?`), ` ${run.size}. It can be brought back until the trash is emptied.`),
      ...(run.needed ? [make("p", { class: "warn" }, `⚠ Made from this run, and of no use without it: ${run.needed}.`)] : []),
      make("p", { class: "buttons" }, make("button", { class: "button small danger", onclick: away }, run.needed ? "Move to trash all the same" : "Move to trash"), make("button", { class: "button small", onclick: () => below(run, null) }, "Keep")));
  }

  // ---- curves over each other

  function choose(run, box) {
    if (box.checked && chosen.size >= MOST) {
      box.checked = false;
      return write("runs-said", `Six runs at most can be told apart.`);
    }
    box.checked ? chosen.add(run.id) : chosen.delete(run.id);
    if (!chosen.size) at("overlay").hidden = true;
  }

  function drawOverlay({ runs, titles, differences }, place) {
    place.hidden = !runs.length;
    if (!runs.length) return;
    const there = Object.keys(titles), select = at("overlay-curve");
    const wanted = there.includes(select.value) ? select.value : there[there.length - 1];
    select.replaceChildren(...there.map((name) => make("option", { value: name, selected: name === wanted }, titles[name])));
    drawChosen();
    at("overlay-names").replaceChildren(...runs.map((run, index) => make("span", { class: `o${index}` }, make("i", {}), run.name)));
    at("overlay-differ").replaceChildren(...differing(runs, differences));
  }

  function drawChosen() {
    const { runs, titles } = app.is("overlay"), name = at("overlay-curve").value, figure = at("overlay").querySelector("figure");
    put(figure.querySelector("h3"), titles[name] ?? "");
    const lines = runs.map((run, index) => ({ name: run.name, kind: `o${index}`, points: run.curves[name] ?? [] }));
    window.drawChart(figure, lines);
    put(figure.querySelector(".says"), `${list(lines.filter((line) => line.points.length).map((line) => line.name))}.${lines.length > 1 ? " What they differ in is below." : ""}`);
  }

  new ResizeObserver(() => app.is("overlay")?.runs.length && drawChosen()).observe(document.documentElement);

  const differing = (runs, rows) => rows.length ? [
    make("caption", {}, "Settings that differ"),
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Setting"), ...runs.map((run) => make("th", { scope: "col" }, run.name)))),
    make("tbody", {}, ...rows.map(([label, values]) => make("tr", {}, make("th", { scope: "row" }, label), ...values.map((value) => make("td", {}, value || "none"))))),
  ] : [make("caption", {}, runs.length > 1 ? "Their settings are the same." : "Choose another run to see what differs.")];

  document.addEventListener("change", (event) => event.target.id === "overlay-curve" && drawChosen());
  document.addEventListener("click", (event) => {
    if (event.target.id !== "overlay-clear") return;
    chosen.clear();
    document.querySelectorAll("#runs .choose:checked").forEach((box) => (box.checked = false));
    at("overlay").hidden = true;
    at("runs-find").focus();
  });

  // ---- trash

  function drawTrash({ runs, size }, place) {
    place.hidden = !runs.length;
    put(place.querySelector("summary"), `Trash: ${runs.length} run${runs.length === 1 ? "" : "s"}, ${size}`);
    place.querySelector("ul").replaceChildren(...runs.map((run) => make("li", {}, run.name, " ", make("button", { class: "button small", onclick: () => send("restore", run) }, "Bring back", make("span", { class: "sr" }, ` ${run.name}`)))));
    const sure = make("button", { class: "button small danger", hidden: true, onclick: () => app.send("emptytrash", {}) }, `Delete ${size} for good`);
    const ask = make("button", { class: "button small", onclick: () => { ask.hidden = true; sure.hidden = false; sure.focus(); } }, "Empty the trash");
    place.querySelector(".buttons").replaceChildren(ask, sure);
  }
})();
