// The Data tab. One object says what is looked at (path, columns, steps, row); everything drawn follows from it and from the
// server's last answers. Words from outside only ever become textContent.
(() => {
  const at = (id) => document.getElementById(id);
  const { make } = window.tunebench;
  const PAIR_PARTS = ["prompt", "chosen", "rejected"], CHAT_PARTS = ["prompt", "answer"];
  const MORE_PARTS = ["messages", "system", "input", "history", "reasoning", "scored", "text"];
  const SAMPLES = ["sample", "sample chats"];
  const LEVELS = { error: "!", warning: "⚠", notice: "i" };
  let server, upload, now = fresh("");

  function fresh(source) {
    return { source, file: "", glimpse: null, columns: {}, byHand: false, kind: "pairs", steps: [], report: null, ticket: "", began: 0, mapped: false,
      row: 0, seen: null, asTokens: false, measured: null, length: 0, template: "", problem: "" };
  }

  window.tunebench.beginData = (element, itsServer, itsUpload) => {
    [server, upload] = [itsServer, itsUpload];
    const drop = at("data-drop");
    at("data-form").addEventListener("submit", (event) => { event.preventDefault(); open(at("data-path").value); });
    at("data-file").addEventListener("change", (event) => take(event.target.files[0]));
    at("data-choose").addEventListener("keydown", (event) => { if (["Enter", " "].includes(event.key)) at("data-file").click(); });
    at("data-samples").addEventListener("click", (event) => event.target.dataset.path && open(event.target.dataset.path));
    at("data-stop").addEventListener("click", () => server.stop_check({ ticket: now.ticket }));
    at("data-use").addEventListener("click", use);
    for (const kind of ["dragover", "dragleave", "drop"]) drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files[0]);
    });
    nameCurrent();
    new MutationObserver(nameCurrent).observe(at("chosen"), { childList: true, subtree: true });
    if (wanted) openCurrent();
  };

  // What Start uses is one click away, here and from Start. The tab's content is only made when the tab is first opened.
  let wanted = false;
  function openCurrent() {
    wanted = !at("data-form");
    if (wanted) return;
    const { source, columns, steps } = chosen();
    at("data-path").value = SAMPLES.includes(source) ? "" : source;
    open(source, { columns, steps });
  }

  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("[data-look]")) return;
    window.tunebench.open("data");
    openCurrent();
  });

  function nameCurrent() {
    const { source } = chosen();
    at("data-current").hidden = !source;
    at("data-current").querySelector("button").textContent = source ? nameOf(source) : "";
  }

  // A dropped file has no path a program could open later, so the workspace keeps a copy.
  async function take(file) {
    if (!file) return;
    begin(file.name);
    const mine = now;
    say(`Copying ${file.name} into the workspace`);
    const sent = await upload(file), kept = await server.keep_upload({ source: sent.path });
    if (mine !== now) return;
    if (kept.problem) return fail(kept.problem);
    at("data-path").value = kept.source;
    open(kept.source);
  }

  function begin(path) {
    if (now.ticket) server.stop_check({ ticket: now.ticket });
    now = fresh(path.trim());
    at("data-found").hidden = true;
    at("data-problem").hidden = true;
    at("data-parts").hidden = true;
    window.tunebench.data = now;
  }

  async function open(path, before = { columns: {}, steps: [] }) {
    begin(path);
    const mine = now;
    if (!now.source) return fail("Type a path first, or drop a file.");
    say(`Looking at ${nameOf(now.source)}`);
    const glimpse = await server.inspect_file({ source: now.source });
    if (mine !== now) return;
    if (glimpse.problem && !glimpse.columns) return fail(glimpse.problem);
    if (glimpse.parts && !glimpse.columns) return drawParts(glimpse.parts);
    now.glimpse = glimpse;
    now.file = glimpse.source;
    const mapped = Object.keys(before.columns).length ? before.columns : glimpse.remembered;
    now.mapped = !!mapped;
    now.byHand = !!(glimpse.problem || mapped);
    now.columns = { ...(mapped ?? glimpse.parts) };
    now.steps = [...before.steps];
    now.kind = Object.keys(now.columns).length && !now.columns.rejected && !now.columns.scored ? "chat" : "pairs";
    drawHead();
    drawColumns();
    at("data-found").hidden = false;
    await check();
  }

  // A data set of the Hub: which part, then it becomes a file in the workspace.
  function drawParts(parts) {
    const name = now.source, place = at("data-parts");
    if (parts.length === 1) return fetchPart(name, parts[0]);
    at("data-progress").hidden = true;
    place.hidden = false;
    const select = make("select", { id: "data-part" }, ...parts.map((part, index) => make("option", { value: index }, `${part.config} · ${part.split}`)));
    place.replaceChildren(make("label", { class: "parts" }, make("span", {}, `${name} has ${count(parts.length, "part")}. Which one?`), select), make("button", { class: "button" }, "Fetch"));
    place.onsubmit = (event) => { event.preventDefault(); fetchPart(name, parts[select.value]); };
  }

  async function fetchPart(name, part) {
    begin(name);
    const mine = now;
    say(`Fetching ${name}, ${part.config} · ${part.split}`);
    const kept = await server.fetch_part({ source: name, ...part });
    if (mine !== now) return;
    if (kept.problem) return fail(kept.problem);
    open(kept.source);
  }

  // ---- checking: the first rows at once for the preview, then all of them

  async function check() {
    const mine = now, ticket = String(Math.random()).slice(2);
    if (now.ticket) server.stop_check({ ticket: now.ticket });
    now.ticket = ticket;
    now.began = Date.now();
    const question = { ...asked(), held_out: heldOut() };
    [now.seen, now.measured, now.report, now.question, now.sizing] = [null, null, null, "", ""]; // answers under way are dropped
    at("data-lengths").hidden = true;
    const stale = () => mine !== now || ticket !== now.ticket;
    if (now.byHand && !Object.keys(now.columns).length) return settle({ problem: now.glimpse.problem });
    say("Reading");
    const first = await server.check_file({ ...question, rows: 50 });
    if (stale()) return;
    if (first.problem) return settle(first);
    drawReport(first, true);
    follow(mine, ticket);
    const report = await server.check_file({ ...question, ticket });
    if (stale()) return;
    settle(report);
    if (!report.problem && now.byHand) server.remember_columns({ names: now.glimpse.columns.map((one) => one.name), columns: now.columns });
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
      const done = await server.check_progress({ ticket });
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
    const files = report.files;
    const more = files.length > 1 ? ` in ${files.length} files` : "";
    at("data-shape").textContent = files.length ? `${files[0].shape}, ${files[0].format.toUpperCase()}${more}` : "";
    drawRows(report, partly);
    if (partly) return;
    drawNumbers(report);
    at("data-blocked").hidden = !report.blocked.length;
    at("data-blocked").replaceChildren(...report.blocked.map((line) => make("p", {}, line)));
    at("data-use").hidden = report.blocked.length > 0 || !report.usable;
    at("data-use").textContent = report.kind === "chat" ? "Use this data for SFT" : "Use this data";
    drawSteps();
    drawHealth(report);
    measure();
  }

  // How many rows there are to train on. Once their lengths are known, those that the length leaves nothing of do not count.
  const LOST = ["masked", "prompt_too_long", "cut_equal"];
  function drawNumbers(report) {
    const kind = report.kind === "pairs" ? "pair" : "conversation", found = now.measured?.findings ?? [];
    const hits = (codes) => found.filter((one) => codes.includes(one.code)).reduce((sum, one) => sum + one.count / one.of, 0);
    const usable = Math.round(report.usable * (1 - hits(LOST))), cut = Math.round(report.usable * hits(["cut"]));
    const lost = usable < report.usable, train = Math.round(report.train * usable / Math.max(1, report.usable));
    at("data-numbers").textContent = [
      `${usable.toLocaleString("en")} of ${count(report.rows, "row")} usable${lost ? ` at ${length().toLocaleString("en")} tokens` : ""}`,
      cut ? `${cut.toLocaleString("en")} of them cut short` : "",
      ...(now.source === "sample" || heldOut() ? ["held-out pairs lie in a file of their own"] : [`${lost ? "about " : ""}${count(train, kind)} to train on`, `${report.held_out} held out for Compare`]),
      report.kind === "chat" ? "no rejected answers: good for SFT alone" : "",
    ].filter(Boolean).join(" · ");
  }

  // ---- columns: which one plays which part

  function drawColumns() {
    const place = at("data-columns"), told = now.mapped
      ? "Mapped as before, for a file with these columns. Change what is wrong; the preview follows." : now.glimpse.problem
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
      make("div", { class: "parts" }, ...main.map(partChoice)), more, make("details", { open: !Object.keys(now.columns).length }, make("summary", {}, `All ${count(now.glimpse.columns.length, "column")} of the file`), samples));
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

  // ---- rows: at first those of the report, then any row, as the lens sees it

  function chosen() {
    const told = document.querySelector("#chosen [data-chosen]")?.dataset.chosen;
    return told ? JSON.parse(told) : { model: "starter", name: "the starter model", lengths: { pairs: 1024, chat: 1024 }, template: "own", source: "sample", columns: {}, steps: [], held_out: null };
  }

  const length = () => now.length || chosen().lengths[now.report?.kind ?? now.kind];
  const heldOut = () => ([now.source, now.file].includes(chosen().source) ? chosen().held_out : null); // the recipe's, for the recipe's own data
  const asked = () => ({ source: now.source, columns: now.byHand ? now.columns : {}, steps: now.steps });
  const eyes = () => ({ ...asked(), model: chosen().model, template: now.template || chosen().template, length: length() });

  // Any row through the lens. An answer to an older question is dropped.
  async function look(row) {
    const mine = now, question = JSON.stringify([row, now.steps, now.columns, now.template, length()]);
    now.question = question;
    const seen = await server.preview_row({ ...eyes(), kind: "look", at: row });
    if (mine !== now || now.question !== question) return;
    if (seen.problem || seen.examples) return;
    now.row = seen.at;
    now.seen = seen;
    drawRows(now.report, false);
  }

  async function measure() {
    const mine = now, question = JSON.stringify(eyes());
    now.sizing = question;
    drawLengths({ waiting: true });
    const measured = await server.measure_lengths({ ...eyes(), kind: "measure" });
    if (mine !== now || now.sizing !== question) return;
    now.measured = measured;
    drawLengths(measured);
    if (!measured.findings) return;
    drawHealth(now.report);
    drawNumbers(now.report);
    look(now.row);
  }

  function drawRows(report, partly) {
    const place = at("data-rows"), seen = now.seen, total = seen ? seen.rows : report.preview.length;
    place.hidden = !total;
    if (!total) return;
    now.row = Math.min(now.row, total - 1);
    const item = seen ? seen.item : report.preview[now.row];
    const step = (by) => { const row = (now.row + by + total) % total; if (seen) look(row); else { now.row = row; drawRows(report, partly); } };
    const focused = document.activeElement?.id;
    const button = (id, words, by) => make("button", { class: "button small", id, onclick: () => step(by) }, words);
    const views = make("div", { class: "choice", role: "radiogroup", "aria-label": "How to show a row" },
      ...[[false, "As messages"], [true, "As the model sees it"]].map(([tokens, words]) => make("label", {}, make("input", {
        type: "radio", name: "data-view", id: tokens ? "view-tokens" : "view-messages", checked: now.asTokens === tokens, disabled: tokens && !seen,
        onchange: () => { now.asTokens = tokens; drawRows(report, partly); } }), words)));
    const jump = make("input", { id: "row-number", type: "number", min: 1, max: total, value: now.row + 1, "aria-label": "Row number", disabled: !seen,
      onchange: (event) => look(Math.max(1, Math.min(total, Number(event.target.value) || 1)) - 1) });
    place.replaceChildren(make("header", { class: "row" }, make("h3", { id: "data-rows-head" }, "Row ", jump, seen ? ` of ${total.toLocaleString("en")}` : ` of the first ${total}`),
      views, make("span", {}, button("row-back", "‹ Previous", -1), " ", button("row-next", "Next ›", 1))),
      ...(now.asTokens && seen ? drawTokens(seen) : drawItem(item)));
    if (focused) at(focused)?.focus();
  }

  function drawTokens(seen) {
    const legend = make("p", { class: "legend-tokens quiet" }, make("span", { class: "tok trained" }, "trained"), " learned · ", make("span", { class: "tok masked" }, "masked"),
      " only read · ", make("span", { class: "tok special trained" }, "special"), " control token",
      ...(seen.differ === null ? [] : [" · ", make("span", { class: "tok differs trained" }, "differs"), " first difference"]), ` · written by the template of ${chosen().name}`);
    const out = seen.left_out ? [make("p", { class: "verdict bad" }, `Training leaves this row out: ${seen.left_out}.`)] : [];
    if (seen.sides.length === 1) return [legend, ...out, ...sideOf(seen.sides[0], 0, null)];
    const [one, other] = seen.sides, shared = Math.min(one.trained.indexOf(true), other.trained.indexOf(true));
    const prompt = shared < 0 ? one.ids.length : shared;
    return [legend, ...out, make("h4", {}, `Prompt, ${count(prompt, "token")} in both`), line(one, 0, prompt, null),
      make("div", { class: "sides" }, ...seen.sides.map((side) => make("section", { class: side.name, "aria-label": side.name }, ...sideOf(side, prompt, seen.differ))))];
  }

  function sideOf(side, from, differ) {
    const trained = side.trained.slice(0, side.cut).filter(Boolean).length, lost = side.ids.length - side.cut;
    const head = make("p", { class: "quiet" }, `${side.name === "row" ? "" : side.name + ": "}${count(side.ids.length, "token")}, ${trained.toLocaleString("en")} trained${lost ? `, ${lost.toLocaleString("en")} cut off` : ""}`);
    return [head, line(side, from, side.ids.length, differ)];
  }

  const MOST = 4000;
  function line(side, from, to, differ) {
    const special = new Set(side.special), nodes = [];
    for (let place = from; place < Math.min(to, from + MOST); place++) {
      if (place === side.cut) nodes.push(make("strong", { class: "cut-here" }, `✂ cut here at ${length().toLocaleString("en")} tokens`));
      const kind = ["tok", side.trained[place] ? "trained" : "masked"];
      if (special.has(place)) kind.push("special");
      if (place >= side.cut) kind.push("beyond");
      if (place === differ) kind.push("differs");
      nodes.push(make("span", { class: kind.join(" "), "data-id": side.ids[place], title: `token ${place + 1}, id ${side.ids[place]}` }, side.texts[place].replaceAll("\n", "⏎\n") || "·"));
    }
    if (to - from > MOST) nodes.push(make("em", {}, ` … ${(to - from - MOST).toLocaleString("en")} more tokens`));
    return make("p", { class: "tokens", dir: "auto", tabindex: "0", role: "group", "aria-label": `${side.name}: tokens` }, ...nodes);
  }

  function drawItem(item) {
    if (item.messages) return item.messages.map(turn);
    return [...item.prompt.map(turn), make("div", { class: "sides" },
      ...["chosen", "rejected"].map((side) => make("section", { class: side, "aria-label": side }, make("h4", {}, `${side === "chosen" ? "✓" : "✗"} ${side}`), ...item[side].map(turn))))];
  }

  function turn(message) {
    const thought = message.reasoning ? [make("p", { class: "quiet", dir: "auto" }, `${message.learn_reasoning ? "Reasoning" : "Reasoning, not learned"}: ${message.reasoning}`)] : [];
    const weight = message.learned === false ? [make("span", { class: "quiet" }, " not learned (weight 0)")] : [];
    return make("div", { class: `turn ${message.role}` }, make("b", {}, message.role), ...weight, ...thought, make("p", { dir: "auto" }, message.content));
  }

  // ---- health

  function drawHealth(report) {
    const place = at("data-health"), order = Object.keys(LEVELS);
    const all = [...report.findings, ...(now.measured?.findings ?? [])].sort((one, other) => order.indexOf(one.level) - order.indexOf(other.level));
    place.hidden = false;
    place.replaceChildren(make("h3", { id: "data-health-head" }, all.length ? "Health" : "Health: nothing found that is wrong"),
      make("div", { class: "findings" }, ...all.map(card)));
  }

  function card(finding) {
    const examples = finding.examples.map((one) => make("li", {}, make("span", { class: "quiet" }, `${one.file}, ${one.line ? `line ${one.line}` : `row ${one.row}`}${one.snippet ? ": " : ""}`), one.snippet));
    return make("article", { class: `card finding ${finding.level}`, "data-code": finding.code },
      make("h4", {}, make("i", { "aria-hidden": "true" }, LEVELS[finding.level]), make("span", { class: "sr" }, `${finding.level}: `), finding.title, make("b", { class: "count" }, finding.count.toLocaleString("en"))),
      make("p", {}, finding.sentence),
      ...(examples.length ? [make("details", {}, make("summary", {}, `Examples (${examples.length})`), make("ul", {}, ...examples))] : []),
      make("p", { class: "remedies" }, ...longer(finding), ...finding.remedies.filter((one) => !now.steps.includes(one.step)).map((one) => make("button", { class: "button small", "data-step": one.step, onclick: () => mend([...now.steps, one.step]) }, one.label))));
  }

  // What the length does is mended by a greater length.
  function longer(finding) {
    if (!["cut", "cut_equal", "prompt_too_long", "masked"].includes(finding.code)) return [];
    const needed = fitting(now.measured.lengths);
    if (needed <= length()) return [];
    return [make("button", { class: "button small", "data-length": needed, onclick: () => setLength(needed) }, `Set the length to ${needed.toLocaleString("en")} (95 % fit)`)];
  }

  // The next multiple of 64 that holds 95 % of the rows in full: a single long row would take memory for all the others.
  const fitting = (lengths) => Math.ceil(lengths[Math.ceil(0.95 * lengths.length) - 1] / 64) * 64;

  function setLength(tokens) {
    now.length = Math.max(32, Math.min(1048576, Math.round(tokens) || 32));
    measure();
  }

  // ---- lengths

  function drawLengths(measured) {
    const place = at("data-lengths"), head = make("h3", { id: "data-lengths-head" }, "Length in tokens");
    place.hidden = false;
    if (measured.waiting && now.lengthsDrawn) return place.setAttribute("aria-busy", "true");
    place.removeAttribute("aria-busy");
    now.lengthsDrawn = !!measured.lengths;
    if (measured.waiting) return place.replaceChildren(head, make("p", { class: "quiet", role: "status" }, `Loading the tokenizer of ${chosen().name} …`));
    if (measured.problem) return place.replaceChildren(head, make("p", { class: "verdict bad" }, measured.problem));
    if (measured.examples) return place.replaceChildren(head, ...drawTemplates(measured.examples));
    const { lengths } = measured, over = lengths.filter((one) => one > length()).length;
    const at50 = lengths[Math.floor(lengths.length / 2)], at95 = lengths[Math.floor(lengths.length * 0.95)], most = lengths[lengths.length - 1];
    const number = (value) => value.toLocaleString("en"), share = `${(100 * over / lengths.length).toFixed(over && over < lengths.length ? 1 : 0)} % of the rows are cut`;
    const input = make("input", { id: "data-length", type: "number", min: 32, step: 32, value: length(), onchange: (event) => setLength(Number(event.target.value)) });
    const part = lengths.length < measured.of ? ` ${number(lengths.length)} of ${number(measured.of)} rows measured.` : "";
    const words = `${share} at ${number(length())}; the median is ${number(at50)}, 95 % have ${number(at95)} or fewer, the longest has ${number(most)}.${part}`;
    place.replaceChildren(make("header", { class: "row" }, head, make("label", { class: "row" }, make("span", {}, "Cut at"), input)),
      make("div", { class: "plot", role: "img", "aria-label": `Token lengths: ${words}` }), make("p", { class: "quiet", id: "data-cut" }, words));
    sizes.disconnect();
    sizes.observe(place.querySelector(".plot"));
  }

  const sizes = new ResizeObserver(([{ target, contentRect }]) => contentRect.width && now.measured?.lengths && target.replaceChildren(histogram(now.measured.lengths, length(), contentRect.width)));

  function svg(tag, attributes, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  // Rows by length in up to 48 bins of a round width; the line is where rows are cut.
  function histogram(lengths, cut, WIDTH) {
    const HEIGHT = 130, BASE = 108, end = Math.max(lengths[lengths.length - 1], Math.min(cut, 3 * lengths[lengths.length - 1])) * 1.02;
    const width = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768].find((one) => end / one <= 48) ?? end / 48;
    const bins = Array(Math.ceil(end / width)).fill(0), x = (tokens) => (WIDTH * tokens) / (bins.length * width);
    for (const one of lengths) bins[Math.floor(one / width)] += 1;
    const tallest = Math.max(...bins), picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, "aria-hidden": "true" });
    bins.forEach((rows, bin) => rows && picture.append(svg("rect", { class: (bin + 0.5) * width > cut ? "over" : "fits", x: x(bin * width) + 1,
      y: BASE - (90 * rows) / tallest, width: Math.max(1, x(width) - 2), height: (90 * rows) / tallest })));
    picture.append(svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: BASE, y2: BASE }));
    const power = 10 ** Math.floor(Math.log10(end / 4)), step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= end / 6);
    for (let tokens = step; x(tokens) < WIDTH - 20; tokens += step) {
      picture.append(svg("text", { x: x(tokens), y: HEIGHT - 6, "text-anchor": "middle" }, tokens.toLocaleString("en")));
    }
    const line = Math.min(x(cut), WIDTH - 1), right = line > WIDTH - 120;
    picture.append(svg("line", { class: "cutline", x1: line, x2: line, y1: 4, y2: BASE }),
      svg("text", { class: "cutname", x: line + (right ? -6 : 6), y: 13, "text-anchor": right ? "end" : "start" }, `${x(cut) > WIDTH ? "→ " : ""}cut at ${cut.toLocaleString("en")}`));
    return picture;
  }

  function drawTemplates(examples) {
    return [make("p", {}, `${chosen().name} has no chat template of its own. Choose how conversations are written for it; this is your first row:`),
      make("div", { class: "sides" }, ...Object.entries(examples).map(([name, text]) => make("section", { class: "card" },
        make("button", { class: "button small", "data-template": name, onclick: () => { now.template = name; measure(); } }, `Use ${name}`), make("pre", { tabindex: "0" }, text))))];
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
    window.tunebench.tools.working(at("data-use"), "Using…");
    window.tunebench.send("usedata", { source: SAMPLES.includes(now.source) ? now.source : now.file, columns: now.byHand ? now.columns : {}, steps: now.steps, kind: now.report.kind,
      template: now.template || chosen().template, held_out: heldOut(), length: now.length || null });
  }
})();
