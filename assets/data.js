// The Data tab. One object says what is looked at (path, columns, steps, row); everything drawn follows from it and from the
// server's last answers. Words from outside only ever become textContent.
(() => {
  const at = (id) => document.getElementById(id);
  const { make } = window.tunebench;
  const PAIR_PARTS = ["prompt", "chosen", "rejected"], CHAT_PARTS = ["prompt", "answer"];
  const MORE_PARTS = ["messages", "system", "input", "history", "scored", "text"];
  const LEVELS = { error: "!", warning: "⚠", notice: "i" };
  let server, upload, now = fresh("");

  function fresh(source) {
    return { source, file: "", glimpse: null, columns: {}, byHand: false, kind: "pairs", steps: [], report: null, row: 0, ticket: "", began: 0 };
  }

  window.tunebench.beginData = (element, itsServer, itsUpload) => {
    [server, upload] = [itsServer, itsUpload];
    const drop = at("data-drop");
    at("data-form").addEventListener("submit", (event) => { event.preventDefault(); open(at("data-path").value); });
    at("data-file").addEventListener("change", (event) => take(event.target.files[0]));
    at("data-choose").addEventListener("keydown", (event) => { if (["Enter", " "].includes(event.key)) at("data-file").click(); });
    at("data-samples").addEventListener("click", (event) => event.target.dataset.path && open(event.target.dataset.path));
    at("data-stop").addEventListener("click", () => server.stop({ ticket: now.ticket }));
    at("data-use").addEventListener("click", use);
    for (const kind of ["dragover", "dragleave", "drop"]) drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files[0]);
    });
  };

  // A dropped file has no path a program could open later, so the workspace keeps a copy.
  async function take(file) {
    if (!file) return;
    begin(file.name);
    const mine = now;
    say(`Copying ${file.name} into the workspace`);
    const sent = await upload(file), kept = await server.keep({ source: sent.path });
    if (mine !== now) return;
    if (kept.problem) return fail(kept.problem);
    at("data-path").value = kept.source;
    open(kept.source);
  }

  function begin(path) {
    if (now.ticket) server.stop({ ticket: now.ticket });
    now = fresh(path.trim());
    at("data-found").hidden = true;
    at("data-problem").hidden = true;
    window.tunebench.data = now;
  }

  async function open(path) {
    begin(path);
    const mine = now;
    if (!now.source) return fail("Type a path first, or drop a file.");
    say("Looking at the columns");
    const glimpse = await server.glance({ source: now.source });
    if (mine !== now) return;
    if (glimpse.problem && !glimpse.columns) return fail(glimpse.problem);
    now.glimpse = glimpse;
    now.file = glimpse.source;
    now.byHand = !!(glimpse.problem || glimpse.remembered);
    now.columns = { ...(glimpse.remembered ?? glimpse.parts) };
    now.kind = now.byHand && !now.columns.rejected && Object.keys(now.columns).length ? "chat" : "pairs";
    drawHead();
    drawColumns();
    at("data-found").hidden = false;
    await check();
  }

  // ---- checking: the first rows at once for the preview, then all of them

  async function check() {
    const mine = now, ticket = String(Math.random()).slice(2);
    if (now.ticket) server.stop({ ticket: now.ticket });
    now.ticket = ticket;
    now.began = Date.now();
    const asked = { source: now.source, columns: now.byHand ? now.columns : {}, steps: now.steps };
    const stale = () => mine !== now || ticket !== now.ticket;
    if (now.byHand && !Object.keys(now.columns).length) return settle({ problem: now.glimpse.problem });
    say("Reading");
    const first = await server.check({ ...asked, rows: 50 });
    if (stale()) return;
    if (first.problem) return settle(first);
    drawReport(first, true);
    follow(mine, ticket);
    const report = await server.check({ ...asked, ticket });
    if (stale()) return;
    settle(report);
    if (!report.problem && now.byHand) server.remember({ names: now.glimpse.columns.map((one) => one.name), columns: now.columns });
  }

  function settle(report) {
    now.ticket = "";
    at("data-progress").hidden = true;
    now.report = report.problem ? null : report;
    if (!report.problem) return drawReport(report, false);
    for (const id of ["data-rows", "data-health", "data-lengths"]) at(id).hidden = true;
    at("data-numbers").textContent = "";
    at("data-use").hidden = true;
    fail(report.problem);
  }

  async function follow(mine, ticket) {
    while (mine === now && now.ticket === ticket) {
      const done = await server.progress({ ticket });
      if (mine === now && now.ticket === ticket && done.of) {
        const share = done.bytes / done.of, seconds = (Date.now() - now.began) / 1000, left = Math.round(seconds / share - seconds);
        say(`${done.rows.toLocaleString("en")} rows, ${Math.round(100 * share)} % of ${done.file}, ${left} s left`, share);
      }
      await new Promise((after) => setTimeout(after, 300));
    }
  }

  function say(words, share = 0) {
    const place = at("data-progress");
    place.hidden = false;
    place.querySelector("span").textContent = words;
    place.querySelector("i").style.width = `${100 * share}%`;
  }

  function fail(problem) {
    at("data-progress").hidden = true;
    at("data-problem").hidden = false;
    at("data-problem").replaceChildren(...problem.split("\n").map((line) => make("p", {}, line)));
  }

  // ---- what was found

  const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
  const nameOf = (path) => path.split(/[\\/]/).pop();

  function drawHead() {
    at("data-name").textContent = nameOf(now.file);
    at("data-shape").textContent = now.glimpse.problem ? "Its columns are not ones Tunebench knows." : now.glimpse.shape;
    at("data-use").hidden = true;
    for (const id of ["data-blocked", "data-steps", "data-rows", "data-health", "data-lengths"]) at(id).hidden = true;
    at("data-numbers").textContent = "";
  }

  function drawReport(report, partly) {
    at("data-problem").hidden = true;
    const kind = report.kind === "pairs" ? "pair" : "conversation", files = report.files;
    const more = files.length > 1 ? ` in ${files.length} files` : "";
    at("data-shape").textContent = files.length ? `${files[0].shape}, ${files[0].format.toUpperCase()}${more}` : "";
    drawRows(report, partly);
    if (partly) return;
    at("data-numbers").textContent = [
      `${report.usable.toLocaleString("en")} of ${count(report.rows, "row")} usable`,
      `${count(report.train, kind)} to train on`, `${report.held_out} held out for Compare`,
      report.kind === "chat" ? "no rejected answers: good for SFT alone" : "",
    ].filter(Boolean).join(" · ");
    at("data-blocked").hidden = !report.blocked.length;
    at("data-blocked").replaceChildren(...report.blocked.map((line) => make("p", {}, line)));
    at("data-use").hidden = report.blocked.length > 0 || !report.usable;
    at("data-use").textContent = report.kind === "chat" ? "Use this data for SFT" : "Use this data";
    drawSteps();
    drawHealth(report);
  }

  // ---- columns: which one plays which part

  function drawColumns() {
    const place = at("data-columns"), told = now.glimpse.problem
      ? Object.keys(now.columns).length ? "Guessed from the names. Put right what is wrong; the preview follows." : "Say which column is which; the preview follows."
      : "Found by what is in the columns. Change one only if it is wrong.";
    const kinds = make("div", { class: "choice", role: "radiogroup", "aria-label": "What a row is" },
      ...[["pairs", "Pairs: a better and a worse answer"], ["chat", "Conversations: one answer"]].map(([kind, words]) =>
        make("label", {}, make("input", { type: "radio", name: "data-kind", value: kind, checked: kind === now.kind, onchange: () => { now.kind = kind; drawColumns(); } }), words)));
    const main = now.kind === "pairs" ? PAIR_PARTS : CHAT_PARTS, used = MORE_PARTS.filter((part) => now.columns[part]);
    const more = make("details", { open: used.length > 0 }, make("summary", {}, "More parts"), make("div", { class: "parts" }, ...MORE_PARTS.map(partChoice)));
    const samples = make("dl", { class: "samples" }, ...now.glimpse.columns.flatMap((column) =>
      [make("dt", {}, column.name || "(no name)"), make("dd", { dir: "auto" }, column.samples[0] ?? "(empty)")]));
    place.replaceChildren(make("h3", { id: "data-columns-head" }, "Columns"), make("p", { class: "quiet" }, told), kinds,
      make("div", { class: "parts" }, ...main.map(partChoice)), more, make("details", {}, make("summary", {}, `All ${count(now.glimpse.columns.length, "column")} of the file`), samples));
  }

  function partChoice(part) {
    const names = now.glimpse.columns.map((one) => one.name);
    const select = make("select", { id: `part-${part}`, onchange: (event) => map(part, event.target.value) },
      make("option", { value: "" }, "(none)"), ...names.map((name) => make("option", { value: name, selected: now.columns[part] === name }, name)));
    return make("label", {}, make("span", {}, part), select);
  }

  function map(part, column) {
    const others = now.kind === "pairs" ? ["answer", "text"] : ["chosen", "rejected", "scored"];
    now.columns = Object.fromEntries(Object.entries({ ...now.columns, [part]: column }).filter(([one, name]) => name && !others.includes(one)));
    now.byHand = true;
    now.steps = [];
    now.row = 0;
    check();
  }

  // ---- rows

  function drawRows(report, partly) {
    const place = at("data-rows"), total = report.preview.length;
    place.hidden = !total;
    if (!total) return;
    now.row = Math.min(now.row, total - 1);
    const item = report.preview[now.row];
    const step = (by) => () => { now.row = (now.row + by + total) % total; drawRows(report, partly); };
    place.replaceChildren(make("header", { class: "row" }, make("h3", { id: "data-rows-head" }, `Row ${now.row + 1} of the first ${total}`),
      make("span", {}, make("button", { class: "button small", onclick: step(-1) }, "‹ Previous"), " ", make("button", { class: "button small", onclick: step(1) }, "Next ›"))),
      ...drawItem(item));
  }

  function drawItem(item) {
    if (item.messages) return item.messages.map(turn);
    return [...item.prompt.map(turn), make("div", { class: "sides" },
      ...["chosen", "rejected"].map((side) => make("section", { class: side, "aria-label": side }, make("h4", {}, `${side === "chosen" ? "✓" : "✗"} ${side}`), ...item[side].map(turn))))];
  }

  function turn(message) {
    return make("div", { class: `turn ${message.role}` }, make("b", {}, message.role), make("p", { dir: "auto" }, message.content));
  }

  // ---- health

  function drawHealth(report) {
    const place = at("data-health");
    place.hidden = false;
    place.replaceChildren(make("h3", { id: "data-health-head" }, report.findings.length ? "Health" : "Health: nothing found that is wrong"),
      make("div", { class: "findings" }, ...report.findings.map(card)));
  }

  function card(finding) {
    const examples = finding.examples.map((one) => make("li", {}, make("span", { class: "quiet" }, one.line ? `${one.file}, line ${one.line}: ` : `${one.file}, row ${one.row}: `), one.snippet));
    return make("article", { class: `card finding ${finding.level}`, "data-code": finding.code },
      make("h4", {}, make("i", { "aria-hidden": "true" }, LEVELS[finding.level]), make("span", { class: "sr" }, `${finding.level}: `), finding.title, make("b", { class: "count" }, finding.count.toLocaleString("en"))),
      make("p", {}, finding.sentence),
      ...(examples.length ? [make("details", {}, make("summary", {}, `Examples (${examples.length})`), make("ul", {}, ...examples))] : []),
      make("p", { class: "remedies" }, ...finding.remedies.map((one) => make("button", { class: "button small", "data-step": one.step, onclick: () => mend([...now.steps, one.step]) }, one.label))));
  }

  function drawSteps() {
    const place = at("data-steps");
    place.hidden = !now.steps.length;
    place.replaceChildren(make("b", {}, "Applied, your file is unchanged: "), ...now.steps.map((step) =>
      make("button", { class: "chip", "data-undo": step, title: `Undo ${step}`, onclick: () => mend(now.steps.filter((one) => one !== step)) }, `${step.replaceAll("_", " ")} `, make("span", { "aria-hidden": "true" }, "×"), make("span", { class: "sr" }, "undo"))),
      ...(now.report?.notes ?? []).map((note) => make("p", { class: "quiet" }, note)));
  }

  function mend(steps) {
    now.steps = [...new Set(steps)];
    check();
  }

  function use() {
    window.tunebench.send("usedata", { source: now.source.startsWith("sample") ? now.source : now.file, columns: now.byHand ? now.columns : {}, steps: now.steps, kind: now.report.kind });
  }
})();
