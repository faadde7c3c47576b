// The Runs tab: the table, what one does with a run, curves of chosen runs over each other, and the trash.
(() => {
  const app = window.tunebench, { byId, makeNode, setText, writeText, formatDate, joinNames, showRun, showBusy, copyText } = app.tools;
  const MAX_SELECTED = 6, COLUMNS = 10, LEVELS = 35, PAGE_ROWS = 100;
  const selected = new Set(), entries = new Map(); // entries: run → { key, row, more: the row below it with a question or a form }
  let shownRows = PAGE_ROWS; // grows when the last row comes into view

  app.selectedRuns = () => [...selected];
  app.renderers.runs = ["runs", drawTable, ["runs", "active_runs", "trash"]];
  app.renderers.trash = ["trash", drawTrash];
  app.renderers.overlay = ["overlay", drawOverlay];

  const sendRunEvent = (event, run, more = {}) => app.sendEvent(event, { run: run.id, ...more });

  // ---- the table: a row is made when it comes into sight, and only touched when its run has changed, so that nothing a person
  // is doing in it is lost

  function drawTable(_, table) {
    const runs = [...app.getPart("active_runs"), ...app.getPart("runs")].sort((a, b) => b.pinned - a.pinned || (a.id < b.id ? 1 : -1));
    byId("runs-empty").hidden = runs.length > 0;
    writeText("runs-empty", pageText(app.getPart("trash").runs.length ? "runs_tab.all_in_trash" : "runs_tab.no_run"));
    byId("runs-tools").hidden = !runs.length;
    table.hidden = !runs.length;
    const known = new Set(runs.map((run) => run.id));
    for (const id of entries.keys()) if (!known.has(id)) removeEntry(id);
    const found = runs.filter(matchesSearch), rows = found.slice(0, shownRows).flatMap((run) => updateRows(run)), body = table.tBodies[0];
    const from = rows.findIndex((row, index) => row !== body.rows[index]);
    if (from >= 0 && from === body.rows.length) body.append(...rows.slice(from));
    else if (rows.length !== body.rows.length || from >= 0) body.replaceChildren(...rows);
    setText(byId("runs-count"), searchText() ? pageText("runs_tab.found", { found: found.length, runs: runs.length }) : pageText("runs_tab.run_count", { runs: runs.length }));
    table.setAttribute("aria-rowcount", found.length + 1);
    endObserver.disconnect();
    if (found.length > shownRows) endObserver.observe(rows[rows.length - 1]);
  }

  const redrawTable = () => drawTable(null, byId("runs"));
  const endObserver = new IntersectionObserver((visible) => {
    if (!visible.some((one) => one.isIntersecting)) return;
    shownRows += PAGE_ROWS;
    redrawTable();
  });

  function removeEntry(id) {
    entries.delete(id);
    selected.delete(id);
  }

  function updateRows(run) {
    const key = JSON.stringify(run), old = entries.get(run.id);
    if (old?.key !== key) entries.set(run.id, { key, run, row: makeRow(run), more: old?.more });
    const { row, more } = entries.get(run.id);
    return more ? [row, more] : [row];
  }

  function makeRow(run) {
    const makeCell = (text, kind = "") => makeNode("td", { class: kind }, text || "–");
    const row = makeNode("tr", { title: run.error || null, "data-run": run.id },
      makeNode("td", {}, makeNode("input", { type: "checkbox", class: "choose", "aria-label": pageText("runs_tab.overlay", { run: run.name }), checked: selected.has(run.id), disabled: !run.sparkline, onchange: (event) => selectRow(run, event.target) })),
      makeNode("td", {}, makeNode("span", { class: "badge", "data-tone": run.tone }, run.badge)),
      makeNode("th", { scope: "row" }, makeNode("button", { class: "plain", onclick: () => showRun(run.id) }, run.name),
        ...(run.pinned ? [makeNode("span", { class: "pin", title: pageText("runs_tab.pinned_title") }, " ★"), makeNode("span", { class: "sr" }, ` ${pageText("runs_tab.pinned")}`)] : []),
        makeNode("div", { class: "quiet small lineage" }, ...makeLineage(run)),
        ...(run.problem ? [makeNode("div", { class: "small warn" }, run.problem)] : []),
        ...(run.note ? [makeNode("div", { class: "small note" }, run.note)] : [])),
      makeCell(run.data, "minor"), makeCell(run.steps, "num minor"),
      makeNode("td", { class: "num lesser" }, ...(run.sparkline ? [drawSparkline(run.sparkline)] : []), run.loss || "–"),
      makeCell(run.accuracy, "num lesser"), makeCell(run.size, "num minor"), makeCell(formatDate(run.when), "minor"),
      makeNode("td", { class: "actions" },
        ...(run.comparable ? [makeNode("button", { class: "button small", onclick: () => sendRunEvent("opencompare", run) }, pageText("runs_tab.compare"))] : []),
        makeNode("button", { class: "button small more", "aria-expanded": "false", "aria-label": pageText("runs_tab.options", { run: run.name }), onclick: (event) => openMenu(event.currentTarget, run) }, "⋯")));
    return row;
  }

  // Base → SFT → DPO: each adapter stands on what is left of it.
  const makeLineage = (run) => run.line.flatMap((name, index) => [...(index ? [makeNode("i", { "aria-label": pageText("runs_tab.then") }, " → ")] : []), makeNode("span", { class: name.toLowerCase() }, name)]);

  function drawSparkline(text) {
    const values = [...text].map((letter) => parseInt(letter, 36)), wide = 60, high = 16;
    const path = values.map((value, index) => `${((index * wide) / (values.length - 1)).toFixed(1)},${(high - 1 - (value / LEVELS) * (high - 2)).toFixed(1)}`);
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg"), line = document.createElementNS(picture.namespaceURI, "polyline");
    for (const [name, value] of Object.entries({ class: "sparkline", width: wide, height: high, "aria-hidden": "true" })) picture.setAttribute(name, value);
    line.setAttribute("points", path.join(" "));
    picture.append(line);
    return picture;
  }

  // ---- find

  const searchText = () => byId("runs-find").value.trim().toLowerCase();
  const matchesSearch = (run) => [run.name, run.model, run.data, run.note, run.id, run.line.join(" ")].join(" ").toLowerCase().includes(searchText());
  document.addEventListener("input", (event) => {
    if (event.target.id !== "runs-find") return;
    shownRows = PAGE_ROWS;
    redrawTable();
  });

  // ---- what one does with a run

  // A popover: in front of everything, gone by Escape or a click elsewhere, and made only when it is asked for.
  function openMenu(button, run) {
    const shown = run.command !== ""; // of a run that cannot be shown there is only its folder
    const makeItem = (text, action) => makeNode("button", { type: "button", onclick: () => { popup.hidePopover(); action(); } }, text);
    const popup = makeNode("div", { class: "popup", popover: "auto", ontoggle: (event) => event.newState === "closed" && closeMenu() },
      ...(shown ? [makeItem(pageText("runs_tab.use_settings"), () => sendRunEvent("clone", run)), makeItem(pageText("runs_tab.copy_command"), () => copyCommand(run))] : []),
      makeItem(pageText("runs_tab.open_folder"), () => sendRunEvent("openfolder", run)),
      ...(shown ? [makeItem(pageText(run.pinned ? "runs_tab.unpin" : "runs_tab.pin"), () => sendRunEvent("editrun", run, { about: { pinned: !run.pinned } })), makeItem(pageText("runs_tab.rename"), () => showBelow(run, makeEditor(run)))] : []),
      ...(shown && !run.active ? [makeItem(pageText("common.save_report"), () => app.saveReport(run.id))] : []),
      ...(run.comparable && !run.active ? [makeItem(pageText("exports.export"), () => openExport(run))] : []),
      ...(run.active ? [] : [makeItem(pageText("runs_tab.move_to_trash"), () => showBelow(run, makeTrashQuestion(run)))]));
    const closeMenu = () => {
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

  async function openExport(run, lane, setting) {
    const options = await app.loadExportOptions(run.id);
    if (!options) return; // the app is gone, which the page says elsewhere
    const chosen = options.lanes?.includes(lane) ? { ...options, lane, setting } : options;
    showBelow(run, app.makeExportForm(run, chosen, () => showBelow(run, null)));
    entries.get(run.id).more.scrollIntoView({ block: "center" });
  }

  // From another tab: the table of runs may have to be made first.
  app.openExport = (id, lane, setting) => {
    app.openTab("runs");
    const end = performance.now() + 10_000;
    const look = () => entries.has(id) ? openExport(entries.get(id).run, lane, setting) : performance.now() < end && setTimeout(look, 50);
    look();
  };

  async function copyCommand(run) {
    if (await copyText(run.command)) return writeText("runs-status", pageText("runs_tab.copied", { command: run.command }));
    showBelow(run, makeCopyField(run));
    entries.get(run.id).more.querySelector("input").select();
  }

  function makeCopyField(run) {
    const text = makeNode("input", { type: "text", readonly: true });
    text.value = run.command;
    return makeNode("div", {}, makeNode("label", {}, `${pageText("runs_tab.copy_yourself")} `, text),
      makeNode("p", { class: "buttons" }, makeNode("button", { class: "button small", onclick: () => showBelow(run, null) }, pageText("runs_tab.done"))));
  }

  // A row below a run's row, in place of what was asked there before; null takes it away.
  function showBelow(run, content) {
    const entry = entries.get(run.id);
    entry.more?.remove();
    entry.more = content && makeNode("tr", { class: "run-form" }, makeNode("td", { colspan: COLUMNS }, content));
    if (!content) return entry.row.querySelector(".more").focus();
    entry.row.after(entry.more);
    entry.more.querySelector("input, button").focus();
  }

  function makeEditor(run) {
    const name = makeNode("input", { type: "text", maxlength: 64 }), note = makeNode("textarea", { rows: 2, maxlength: 2000 });
    [name.value, note.value] = [run.name, run.note];
    const save = (event) => {
      event.preventDefault();
      sendRunEvent("editrun", run, { about: { name: name.value.trim(), note: note.value.trim() } });
      showBelow(run, null);
    };
    return makeNode("form", { onsubmit: save }, makeNode("label", {}, `${pageText("runs_tab.name")} `, name), makeNode("label", {}, `${pageText("runs_tab.note")} `, note),
      makeNode("p", { class: "buttons" }, makeNode("button", { class: "button small" }, pageText("runs_tab.save")), makeNode("button", { type: "button", class: "button small", onclick: () => showBelow(run, null) }, pageText("runs_tab.cancel"))));
  }

  function makeTrashQuestion(run) {
    const moveToTrash = (event) => {
      sendRunEvent("trashrun", run);
      showBusy(event.currentTarget, pageText("runs_tab.moving"), entries.get(run.id).row);
    };
    return makeNode("div", {}, makeNode("p", {}, makeNode("b", {}, pageText("runs_tab.trash_question", { run: run.name })), ` ${pageText("runs_tab.trash_kept", { size: run.size })}`),
      ...(run.needed ? [makeNode("p", { class: "warn" }, pageText("runs_tab.needed", { runs: run.needed }))] : []),
      makeNode("p", { class: "buttons" }, makeNode("button", { class: "button small danger", onclick: moveToTrash }, pageText(run.needed ? "runs_tab.move_anyway" : "runs_tab.move_to_trash")), makeNode("button", { class: "button small", onclick: () => showBelow(run, null) }, pageText("runs_tab.cancel"))));
  }

  // ---- curves over each other

  function selectRow(run, box) {
    if (box.checked && selected.size >= MAX_SELECTED) {
      box.checked = false;
      return writeText("runs-status", pageText("runs_tab.most_selected"));
    }
    box.checked ? selected.add(run.id) : selected.delete(run.id);
    if (!selected.size) byId("overlay").hidden = true;
  }

  function drawOverlay({ runs, titles, differences }, place) {
    place.hidden = !runs.length;
    if (!runs.length) return;
    const names = Object.keys(titles), select = byId("overlay-curve");
    const current = names.includes(select.value) ? select.value : names[names.length - 1];
    select.replaceChildren(...names.map((name) => makeNode("option", { value: name, selected: name === current }, titles[name])));
    drawSelected();
    byId("overlay-names").replaceChildren(...runs.map((run, index) => makeNode("span", { class: `o${index}` }, makeNode("i", {}), run.name)));
    byId("overlay-differ").replaceChildren(...makeDifferences(runs, differences));
  }

  function drawSelected() {
    const { runs, titles } = app.getPart("overlay"), name = byId("overlay-curve").value, figure = byId("overlay").querySelector("figure");
    setText(figure.querySelector("h3"), titles[name] ?? "");
    const lines = runs.map((run, index) => ({ name: run.name, kind: `o${index}`, points: run.curves[name] ?? [] }));
    window.drawChart(figure, lines);
    setText(figure.querySelector(".caption"), `${joinNames(lines.filter((line) => line.points.length).map((line) => line.name))}.`);
  }

  new ResizeObserver(() => app.getPart("overlay")?.runs.length && drawSelected()).observe(document.documentElement);

  const makeDifferences = (runs, rows) => rows.length ? [
    makeNode("caption", {}, pageText("runs_tab.different_settings")),
    makeNode("thead", {}, makeNode("tr", {}, makeNode("th", { scope: "col" }, pageText("runs_tab.setting")), ...runs.map((run) => makeNode("th", { scope: "col" }, run.name)))),
    makeNode("tbody", {}, ...rows.map(([label, values]) => makeNode("tr", {}, makeNode("th", { scope: "row" }, label), ...values.map((value) => makeNode("td", {}, value || pageText("common.no_value")))))),
  ] : [makeNode("caption", {}, pageText(runs.length > 1 ? "runs_tab.settings_same" : "runs_tab.select_another"))];

  document.addEventListener("change", (event) => event.target.id === "overlay-curve" && drawSelected());
  document.addEventListener("click", (event) => {
    if (event.target.id !== "overlay-clear") return;
    selected.clear();
    document.querySelectorAll("#runs .choose:checked").forEach((box) => (box.checked = false));
    byId("overlay").hidden = true;
    byId("runs-find").focus();
  });

  // ---- trash

  function drawTrash({ runs, size }, place) {
    place.hidden = !runs.length;
    setText(place.querySelector("summary"), pageText("runs_tab.trash_size", { runs: runs.length, size }));
    place.querySelector("ul").replaceChildren(...runs.map((run) => makeNode("li", {}, run.name, " ", makeNode("button", { class: "button small", onclick: () => sendRunEvent("restore", run) }, pageText("runs_tab.restore"), makeNode("span", { class: "sr" }, ` ${run.name}`)))));
    const confirm = makeNode("button", { class: "button small danger", hidden: true, onclick: () => app.sendEvent("emptytrash", {}) }, pageText("runs_tab.delete_all", { size }));
    const ask = makeNode("button", { class: "button small", onclick: () => { ask.hidden = true; confirm.hidden = false; confirm.focus(); } }, pageText("runs_tab.empty_trash"));
    place.querySelector(".buttons").replaceChildren(ask, confirm);
  }
})();
