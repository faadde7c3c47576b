// The Data tab. `state` holds the open source (path, columns, steps, row) and the server's last replies; everything drawn follows
// from it. Text from outside only ever becomes textContent.
(() => {
  const byId = (id) => document.getElementById(id);
  const { makeNode } = window.tunebench;
  const PAIR_PARTS = ["prompt", "chosen", "rejected"], CHAT_PARTS = ["prompt", "answer"];
  const MORE_PARTS = ["messages", "system", "input", "history", "reasoning", "scored", "text"];
  const SAMPLES = ["sample", "sample chats"];
  const PART_LABELS = { prompt: "data_tab.part_prompt", chosen: "data_tab.part_chosen", rejected: "data_tab.part_rejected", answer: "data_tab.part_answer", messages: "data_tab.part_messages", system: "data_tab.part_system",
    input: "data_tab.part_input", history: "data_tab.part_history", reasoning: "data_tab.part_reasoning", scored: "data_tab.part_scored", text: "data_tab.part_text" };
  const SIDE_LABELS = { row: "data_tab.side_row", chosen: "data_tab.part_chosen", rejected: "data_tab.part_rejected" };
  const { replyOf } = window.tunebench.tools;
  const LEVELS = { error: "!", warning: "⚠", notice: "i" };
  const LEVEL_LABELS = { error: "data_tab.level_error", warning: "data_tab.level_warning", notice: "data_tab.level_notice" };
  let server, upload, state = makeState("");

  function makeState(source) {
    return { source, file: "", inspected: null, columns: {}, encoding: "", isManual: false, kind: "pairs", steps: [], report: null, ticket: "", began: 0, mapped: false,
      row: 0, preview: null, showTokens: false, measured: null, length: 0, template: "", problem: "" };
  }

  window.tunebench.initData = (element, endpoints, uploadFile) => {
    [server, upload] = [endpoints, uploadFile];
    const drop = byId("data-drop");
    byId("data-form").addEventListener("submit", (event) => { event.preventDefault(); openSource(byId("data-path").value); });
    byId("data-file").addEventListener("change", (event) => storeFile(event.target.files[0]));
    byId("data-choose").addEventListener("keydown", (event) => { if (["Enter", " "].includes(event.key)) byId("data-file").click(); });
    byId("data-samples").addEventListener("click", (event) => event.target.dataset.path && openSource(event.target.dataset.path));
    byId("data-stop").addEventListener("click", () => server.stop_check({ ticket: state.ticket }));
    byId("data-use").addEventListener("click", useData);
    for (const kind of ["dragover", "dragleave", "drop"]) drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") storeFile(event.dataTransfer.files[0]);
    });
    showCurrent();
    new MutationObserver(showCurrent).observe(byId("start-choices"), { childList: true, subtree: true });
    if (openWhenBuilt) openCurrent();
  };

  // What Start uses is one click away, here and from Start. The tab's content is only made when the tab is first opened.
  let openWhenBuilt = false;
  function openCurrent() {
    openWhenBuilt = !byId("data-form");
    if (openWhenBuilt) return;
    const { source, columns, steps, encoding } = startChoices();
    byId("data-path").value = SAMPLES.includes(source) ? "" : source;
    openSource(source, { columns, steps, encoding });
  }

  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("[data-preview]")) return;
    window.tunebench.openTab("data");
    openCurrent();
  });

  function showCurrent() {
    const { source } = startChoices();
    byId("data-current").hidden = !source;
    byId("data-current").querySelector("button").textContent = source ? baseName(source) : "";
  }

  // A dropped file has no path a program could open later, so the workspace keeps a copy.
  async function storeFile(file) {
    if (!file) return;
    resetState(file.name);
    const opened = state;
    showProgress(pageText("data_tab.copying", { file: file.name }));
    const sent = await upload(file), saved = await replyOf(server.keep_upload({ source: sent.path }));
    if (opened !== state) return;
    if (saved.problem) return showError(saved.problem);
    byId("data-path").value = saved.source;
    openSource(saved.source);
  }

  function resetState(path) {
    if (state.ticket) server.stop_check({ ticket: state.ticket });
    state = makeState(path.trim());
    byId("data-result").hidden = true;
    byId("data-problem").hidden = true;
    byId("data-parts").hidden = true;
    window.tunebench.data = state;
  }

  async function openSource(path, before = { columns: {}, steps: [] }) {
    resetState(path);
    const opened = state;
    if (!state.source) return showError(pageText("data_tab.no_path"));
    showProgress(pageText("data_tab.opening", { file: baseName(state.source) }));
    state.encoding = before.encoding ?? "";
    const inspected = await replyOf(server.inspect_file({ source: state.source, encoding: state.encoding }));
    if (opened !== state) return;
    if (inspected.encodings) return drawEncodings(inspected.encodings);
    if (inspected.problem && !inspected.columns) return showError(inspected.problem);
    if (inspected.parts && !inspected.columns) return drawParts(inspected.parts);
    state.inspected = inspected;
    state.file = inspected.source;
    const mapped = Object.keys(before.columns).length ? before.columns : inspected.remembered;
    state.mapped = !!mapped;
    state.isManual = !!(inspected.problem || mapped);
    state.columns = { ...(mapped ?? inspected.parts) };
    state.steps = [...before.steps];
    state.kind = Object.keys(state.columns).length && !state.columns.rejected && !state.columns.scored ? "chat" : "pairs";
    drawHead();
    drawColumns();
    byId("data-result").hidden = false;
    await checkData();
  }

  // A data set of the Hub: which part, then it becomes a file in the workspace.
  function drawParts(parts) {
    const name = state.source, place = byId("data-parts");
    if (parts.length === 1) return fetchPart(name, parts[0]);
    byId("data-progress").hidden = true;
    place.hidden = false;
    const select = makeNode("select", { id: "data-part" }, ...parts.map((part, index) => makeNode("option", { value: index }, `${part.config} · ${part.split}`)));
    place.replaceChildren(makeNode("label", { class: "parts" }, makeNode("span", {}, pageText("data_tab.which_part", { name, parts: parts.length })), select), makeNode("button", { class: "button" }, pageText("data_tab.download")));
    place.onsubmit = (event) => { event.preventDefault(); fetchPart(name, parts[select.value]); };
  }

  // A file whose bytes make sense in several encodings: the user sees how each reads it, and chooses.
  function drawEncodings(encodings) {
    const file = state.source, place = byId("data-parts");
    byId("data-progress").hidden = true;
    place.hidden = false;
    const makeChoice = ({ name, rows }) => makeNode("button", { class: "button", type: "submit", value: name, "data-encoding": name }, makeNode("b", {}, name), ...rows.map((row) => makeNode("span", { class: "reading" }, row)));
    place.replaceChildren(makeNode("p", {}, pageText("data_tab.which_encoding", { file: baseName(file) })), ...encodings.map(makeChoice));
    place.onsubmit = (event) => { event.preventDefault(); openSource(file, { columns: {}, steps: [], encoding: event.submitter.value }); };
  }

  async function fetchPart(name, part) {
    resetState(name);
    const opened = state;
    showProgress(pageText("data_tab.downloading", { name, part: `${part.config} · ${part.split}` }));
    const saved = await replyOf(server.fetch_part({ source: name, ...part }));
    if (opened !== state) return;
    if (saved.problem) return showError(saved.problem);
    openSource(saved.source);
  }

  // ---- checking: the first rows at once for the preview, then all of them

  async function checkData() {
    const opened = state, ticket = String(Math.random()).slice(2);
    if (state.ticket) server.stop_check({ ticket: state.ticket });
    state.ticket = ticket;
    state.began = Date.now();
    const question = { ...buildQuery(), held_out: findHeldOut() };
    [state.preview, state.measured, state.report, state.question, state.sizing] = [null, null, null, "", ""]; // answers under way are dropped
    byId("data-lengths").hidden = true;
    byId("data-use").disabled = true; // what it would use is being checked
    const isStale = () => opened !== state || ticket !== state.ticket;
    if (state.isManual && !Object.keys(state.columns).length) return finishCheck({ problem: state.inspected.problem });
    showProgress(pageText("data_tab.reading"));
    const first = await replyOf(server.check_file({ ...question, rows: 50 }));
    if (isStale()) return;
    if (first.problem) return finishCheck(first);
    drawReport(first, true);
    pollProgress(opened, ticket);
    const report = await replyOf(server.check_file({ ...question, ticket }));
    if (isStale()) return;
    finishCheck(report);
    if (!report.problem && state.isManual) server.remember_columns({ names: state.inspected.columns.map((one) => one.name), columns: state.columns });
  }

  function finishCheck(report) {
    state.ticket = "";
    byId("data-progress").hidden = true;
    state.report = report.problem ? null : report;
    if (!report.problem) return drawReport(report, false);
    for (const id of ["data-rows", "data-health", "data-lengths"]) byId(id).hidden = true;
    byId("data-numbers").textContent = "";
    byId("data-use").hidden = true;
    showError(report.problem);
  }

  async function pollProgress(opened, ticket) {
    while (opened === state && state.ticket === ticket) {
      const done = await replyOf(server.check_progress({ ticket }));
      if (opened === state && state.ticket === ticket && done.of) {
        const share = done.bytes / done.of, seconds = (Date.now() - state.began) / 1000, left = Math.round(seconds / share - seconds);
        showProgress(pageText("data_tab.progress", { rows: formatCount(done.rows), percent: Math.round(100 * share), file: done.file, seconds: left }), share);
      }
      await new Promise((after) => setTimeout(after, 300));
    }
  }

  function showProgress(words, share = 0) {
    const place = byId("data-progress");
    place.hidden = false;
    place.querySelector("span").textContent = words;
    place.querySelector("i").style.width = `${100 * share}%`;
  }

  function showError(problem) {
    byId("data-progress").hidden = true;
    byId("data-problem").hidden = false;
    byId("data-problem").replaceChildren(...problem.split("\n").map((line) => makeNode("p", {}, line)));
  }

  // ---- what was found

  const formatCount = (number) => number.toLocaleString("en");
  const baseName = (path) => path.split(/[\\/]/).pop();

  function drawHead() {
    byId("data-name").textContent = baseName(state.file);
    byId("data-shape").textContent = state.inspected.problem ? pageText("data_tab.unknown_columns") : state.inspected.shape;
    byId("data-use").hidden = true;
    for (const id of ["data-blocked", "data-steps", "data-rows", "data-health", "data-lengths"]) byId(id).hidden = true;
    byId("data-numbers").textContent = "";
  }

  function drawReport(report, partly) {
    byId("data-problem").hidden = true;
    const files = report.files;
    byId("data-shape").textContent = files.length ? describeFiles(files) : "";
    drawRows(report, partly);
    if (partly) return;
    drawNumbers(report);
    byId("data-blocked").hidden = !report.blocked.length;
    byId("data-blocked").replaceChildren(...report.blocked.map((line) => makeNode("p", {}, line)));
    byId("data-use").hidden = report.blocked.length > 0 || !report.usable;
    byId("data-use").disabled = false;
    byId("data-use").textContent = pageText(report.kind === "chat" ? "data_tab.use_for_sft" : "data_tab.use_data");
    drawSteps();
    drawHealth(report);
    measureLengths();
  }

  function describeFiles(files) {
    const shape = files[0].shape, format = files[0].format.toUpperCase();
    return files.length > 1 ? pageText("data_tab.files", { shape, format, files: files.length }) : `${shape}, ${format}`;
  }

  // How many rows there are to train on. Once their lengths are known, those that the length leaves nothing of do not count.
  const LOST = ["masked", "prompt_too_long", "cut_equal"];
  function drawNumbers(report) {
    const found = state.measured?.findings ?? [];
    const shareOf = (codes) => found.filter((one) => codes.includes(one.code)).reduce((sum, one) => sum + one.count / one.of, 0);
    const usable = Math.round(report.usable * (1 - shareOf(LOST))), cut = Math.round(report.usable * shareOf(["cut"]));
    const lost = usable < report.usable, train = Math.round(report.train * usable / Math.max(1, report.usable));
    byId("data-numbers").textContent = [
      lost ? pageText("data_tab.usable_at", { usable: formatCount(usable), rows: report.rows, tokens: formatCount(currentLength()) }) : pageText("data_tab.usable", { usable: formatCount(usable), rows: report.rows }),
      cut ? pageText("data_tab.truncated", { rows: formatCount(cut) }) : "",
      ...(state.source === "sample" || findHeldOut() ? [pageText("data_tab.separate_held_out")] : [describeTraining(report.kind, train, lost), pageText("data_tab.held_out", { rows: report.held_out })]),
      report.kind === "chat" ? pageText("data_tab.sft_only") : "",
    ].filter(Boolean).join(" · ");
  }

  function describeTraining(kind, rows, roughly) {
    if (kind === "pairs") return pageText(roughly ? "data_tab.about_pairs" : "data_tab.pairs", { pairs: rows });
    return pageText(roughly ? "data_tab.about_conversations" : "data_tab.conversations", { conversations: rows });
  }

  // ---- columns: which one plays which part

  function drawColumns() {
    const place = byId("data-columns"), hint = state.mapped
      ? "data_tab.mapped" : state.inspected.problem
      ? Object.keys(state.columns).length ? "data_tab.guessed" : "data_tab.not_mapped"
      : "data_tab.detected";
    const kinds = makeNode("div", { class: "choice", role: "radiogroup", "aria-label": pageText("data_tab.row_kind") },
      ...[["pairs", pageText("data_tab.kind_pairs")], ["chat", pageText("data_tab.kind_chat")]].map(([kind, words]) =>
        makeNode("label", {}, makeNode("input", { type: "radio", name: "data-kind", value: kind, checked: kind === state.kind, onchange: () => { state.kind = kind; drawColumns(); } }), words)));
    const main = state.kind === "pairs" ? PAIR_PARTS : CHAT_PARTS, used = MORE_PARTS.filter((part) => state.columns[part]);
    const more = makeNode("details", { open: used.length > 0 }, makeNode("summary", {}, pageText("data_tab.more_fields")), makeNode("div", { class: "parts" }, ...MORE_PARTS.map(makePartSelect)));
    const samples = makeNode("dl", { class: "samples" }, ...state.inspected.columns.flatMap((column) =>
      [makeNode("dt", {}, column.name || pageText("data_tab.no_name")), makeNode("dd", { dir: "auto" }, column.samples[0] ?? pageText("common.empty"))]));
    place.replaceChildren(makeNode("h3", { id: "data-columns-head" }, pageText("data_tab.columns")), makeNode("p", { class: "quiet" }, pageText(hint)), kinds,
      makeNode("div", { class: "parts" }, ...main.map(makePartSelect)), more, makeNode("details", { open: !Object.keys(state.columns).length }, makeNode("summary", {}, pageText("data_tab.all_columns", { columns: state.inspected.columns.length })), samples));
  }

  function makePartSelect(part) {
    const names = state.inspected.columns.map((one) => one.name);
    const select = makeNode("select", { id: `part-${part}`, onchange: (event) => mapColumn(part, event.target.value) },
      makeNode("option", { value: "" }, pageText("data_tab.no_column")), ...names.map((name) => makeNode("option", { value: name, selected: state.columns[part] === name }, name)));
    return makeNode("label", {}, makeNode("span", {}, pageText(PART_LABELS[part])), select);
  }

  function mapColumn(part, column) {
    const others = state.kind === "pairs" ? ["answer", "text"] : ["chosen", "rejected", "scored"];
    state.columns = Object.fromEntries(Object.entries({ ...state.columns, [part]: column }).filter(([one, name]) => name && !others.includes(one)));
    state.isManual = true;
    state.steps = [];
    state.row = 0;
    checkData();
  }

  // ---- rows: at first those of the report, then any row, as the lens sees it

  function startChoices() {
    const choices = document.querySelector("#start-choices [data-choices]")?.dataset.choices;
    return choices ? JSON.parse(choices) : { model: "starter", name: pageText("data_tab.starter"), lengths: { pairs: 1024, chat: 1024 }, template: "own", source: "sample", columns: {}, encoding: "", steps: [], held_out: null };
  }

  const currentLength = () => state.length || startChoices().lengths[state.report?.kind ?? state.kind];
  const findHeldOut = () => ([state.source, state.file].includes(startChoices().source) ? startChoices().held_out : null); // the recipe's, for the recipe's own data
  const buildQuery = () => ({ source: state.source, columns: state.isManual ? state.columns : {}, encoding: state.encoding, steps: state.steps });
  const buildPreviewRequest = () => ({ ...buildQuery(), model: startChoices().model, template: state.template || startChoices().template, length: currentLength() });

  // Any row through the lens. An answer to an older question is dropped.
  async function showRow(row) {
    const opened = state, question = JSON.stringify([row, state.steps, state.columns, state.template, currentLength()]);
    state.question = question;
    const preview = await replyOf(server.preview_row({ ...buildPreviewRequest(), kind: "look", at: row }));
    if (opened !== state || state.question !== question) return;
    if (preview.problem || preview.examples) return;
    state.row = preview.at;
    state.preview = preview;
    drawRows(state.report, false);
  }

  async function measureLengths() {
    const opened = state, question = JSON.stringify(buildPreviewRequest());
    state.sizing = question;
    drawLengths({ waiting: true });
    const measured = await replyOf(server.measure_lengths({ ...buildPreviewRequest(), kind: "measure" }));
    if (opened !== state || state.sizing !== question) return;
    state.measured = measured;
    drawLengths(measured);
    if (!measured.findings) return;
    drawHealth(state.report);
    drawNumbers(state.report);
    showRow(state.row);
  }

  function drawRows(report, partly) {
    const place = byId("data-rows"), preview = state.preview, total = preview ? preview.rows : report.preview.length;
    place.hidden = !total;
    if (!total) return;
    state.row = Math.min(state.row, total - 1);
    const item = preview ? preview.item : report.preview[state.row];
    const moveBy = (by) => { const row = (state.row + by + total) % total; if (preview) showRow(row); else { state.row = row; drawRows(report, partly); } };
    const focused = document.activeElement?.id;
    const makeButton = (id, words, by) => makeNode("button", { class: "button small", id, onclick: () => moveBy(by) }, words);
    const views = makeNode("div", { class: "choice", role: "radiogroup", "aria-label": pageText("data_tab.view") },
      ...[[false, pageText("data_tab.as_messages")], [true, pageText("data_tab.as_tokens")]].map(([tokens, words]) => makeNode("label", {}, makeNode("input", {
        type: "radio", name: "data-view", id: tokens ? "view-tokens" : "view-messages", checked: state.showTokens === tokens, disabled: tokens && !preview,
        onchange: () => { state.showTokens = tokens; drawRows(report, partly); } }), words)));
    const jump = makeNode("input", { id: "row-number", type: "number", min: 1, max: total, value: state.row + 1, "aria-label": pageText("data_tab.row_number"), disabled: !preview,
      onchange: (event) => showRow(Math.max(1, Math.min(total, Number(event.target.value) || 1)) - 1) });
    const [before, after] = (preview ? pageText("data_tab.row_of", { row: "\n", rows: formatCount(total) }) : pageText("data_tab.row_of_first", { row: "\n", rows: total })).split("\n"); // the input stands between
    place.replaceChildren(makeNode("header", { class: "row" }, makeNode("h3", { id: "data-rows-head" }, before, jump, after),
      views, makeNode("span", {}, makeButton("row-back", pageText("common.previous"), -1), " ", makeButton("row-next", pageText("common.next"), 1))),
      ...(state.showTokens && preview ? drawTokens(preview) : drawItem(item)));
    if (focused) byId(focused)?.focus();
  }

  function drawTokens(preview) {
    const legend = makeNode("p", { class: "legend-tokens quiet" }, makeNode("span", { class: "tok trained" }, pageText("data_tab.trained")), " · ", makeNode("span", { class: "tok masked" }, pageText("data_tab.context_only")),
      " · ", makeNode("span", { class: "tok special trained" }, pageText("data_tab.special_token")),
      ...(preview.differ === null ? [] : [" · ", makeNode("span", { class: "tok differs trained" }, pageText("data_tab.first_difference"))]), ` · ${pageText("data_tab.template_of", { name: startChoices().name })}`);
    const out = preview.left_out ? [makeNode("p", { class: "verdict bad" }, pageText("data_tab.left_out", { reason: preview.left_out }))] : [];
    if (preview.sides.length === 1) return [legend, ...out, ...makeSide(preview.sides[0], 0, null)];
    const [one, other] = preview.sides, shared = Math.min(one.trained.indexOf(true), other.trained.indexOf(true));
    const prompt = shared < 0 ? one.ids.length : shared;
    return [legend, ...out, makeNode("h4", {}, pageText("data_tab.shared_prompt", { tokens: prompt })), makeTokenLine(one, 0, prompt, null),
      makeNode("div", { class: "sides" }, ...preview.sides.map((side) => makeNode("section", { class: side.name, "aria-label": pageText(SIDE_LABELS[side.name]) }, ...makeSide(side, prompt, preview.differ))))];
  }

  function makeSide(side, from, differ) {
    const trained = side.trained.slice(0, side.cut).filter(Boolean).length, lost = side.ids.length - side.cut;
    const tokens = side.ids.length, counts = lost ? pageText("data_tab.side_truncated", { tokens, trained: formatCount(trained), truncated: formatCount(lost) }) : pageText("data_tab.side_tokens", { tokens, trained: formatCount(trained) });
    const head = makeNode("p", { class: "quiet" }, side.name === "row" ? counts : `${pageText(SIDE_LABELS[side.name])}: ${counts}`);
    return [head, makeTokenLine(side, from, side.ids.length, differ)];
  }

  const MAX_TOKENS = 4000;
  function makeTokenLine(side, from, to, differ) {
    const special = new Set(side.special), nodes = [];
    for (let place = from; place < Math.min(to, from + MAX_TOKENS); place++) {
      if (place === side.cut) nodes.push(makeNode("strong", { class: "cut-here" }, pageText("data_tab.truncated_here", { tokens: formatCount(currentLength()) })));
      const kind = ["tok", side.trained[place] ? "trained" : "masked"];
      if (special.has(place)) kind.push("special");
      if (place >= side.cut) kind.push("beyond");
      if (place === differ) kind.push("differs");
      nodes.push(makeNode("span", { class: kind.join(" "), "data-id": side.ids[place], title: `token ${place + 1}, id ${side.ids[place]}` }, side.texts[place].replaceAll("\n", "⏎\n") || "·"));
    }
    if (to - from > MAX_TOKENS) nodes.push(makeNode("em", {}, ` ${pageText("data_tab.more_tokens", { tokens: formatCount(to - from - MAX_TOKENS) })}`));
    return makeNode("p", { class: "tokens", dir: "auto", tabindex: "0", role: "group", "aria-label": pageText("data_tab.tokens_of", { side: pageText(SIDE_LABELS[side.name]) }) }, ...nodes);
  }

  function drawItem(item) {
    if (item.messages) return item.messages.map(makeMessage);
    return [...item.prompt.map(makeMessage), makeNode("div", { class: "sides" },
      ...["chosen", "rejected"].map((side) => makeNode("section", { class: side, "aria-label": pageText(SIDE_LABELS[side]) }, makeNode("h4", {}, `${side === "chosen" ? "✓" : "✗"} ${pageText(SIDE_LABELS[side])}`), ...item[side].map(makeMessage))))];
  }

  function makeMessage(message) {
    const thought = message.reasoning ? [makeNode("p", { class: "quiet", dir: "auto" }, pageText(message.learn_reasoning ? "data_tab.reasoning" : "data_tab.reasoning_not_learned", { reasoning: message.reasoning }))] : [];
    const weight = message.learned === false ? [makeNode("span", { class: "quiet" }, ` ${pageText("data_tab.weight_zero")}`)] : [];
    return makeNode("div", { class: `turn ${message.role}` }, makeNode("b", {}, message.role), ...weight, ...thought, makeNode("p", { dir: "auto" }, message.content));
  }

  // ---- health

  function drawHealth(report) {
    const place = byId("data-health"), order = Object.keys(LEVELS);
    const all = [...report.findings, ...(state.measured?.findings ?? [])].sort((one, other) => order.indexOf(one.level) - order.indexOf(other.level));
    place.hidden = false;
    place.replaceChildren(makeNode("h3", { id: "data-health-head" }, pageText(all.length ? "data_tab.health" : "data_tab.healthy")),
      makeNode("div", { class: "findings" }, ...all.map(makeFinding)));
  }

  function makeFinding(finding) {
    const examples = finding.examples.map((one) => makeNode("li", {}, makeNode("span", { class: "quiet" }, `${one.line ? pageText("data_tab.line", { file: one.file, line: one.line }) : pageText("data_tab.row", { file: one.file, row: one.row })}${one.snippet ? ": " : ""}`), one.snippet));
    return makeNode("article", { class: `card finding ${finding.level}`, "data-code": finding.code },
      makeNode("h4", {}, makeNode("i", { "aria-hidden": "true" }, LEVELS[finding.level]), makeNode("span", { class: "sr" }, `${pageText(LEVEL_LABELS[finding.level])}: `), finding.title, makeNode("b", { class: "count" }, formatCount(finding.count))),
      makeNode("p", {}, finding.sentence),
      ...(examples.length ? [makeNode("details", {}, makeNode("summary", {}, pageText("data_tab.examples", { examples: examples.length })), makeNode("ul", {}, ...examples))] : []),
      makeNode("p", { class: "remedies" }, ...makeLengthButton(finding), ...finding.remedies.filter((one) => !state.steps.includes(one.step)).map((one) => makeNode("button", { class: "button small", "data-step": one.step, onclick: () => applySteps([...state.steps, one.step]) }, one.label))));
  }

  // What the length does is mended by a greater length.
  function makeLengthButton(finding) {
    if (!["cut", "cut_equal", "prompt_too_long", "masked"].includes(finding.code)) return [];
    const needed = findFittingLength(state.measured.lengths);
    if (needed <= currentLength()) return [];
    return [makeNode("button", { class: "button small", "data-length": needed, onclick: () => setLength(needed) }, pageText("data_tab.set_length", { tokens: formatCount(needed) }))];
  }

  // The next multiple of 64 that holds 95 % of the rows in full: a single long row would take memory for all the others.
  const findFittingLength = (lengths) => Math.ceil(lengths[Math.ceil(0.95 * lengths.length) - 1] / 64) * 64;

  function setLength(tokens) {
    state.length = Math.max(32, Math.min(1048576, Math.round(tokens) || 32));
    measureLengths();
  }

  // ---- lengths

  function drawLengths(measured) {
    const place = byId("data-lengths"), head = makeNode("h3", { id: "data-lengths-head" }, pageText("data_tab.lengths"));
    place.hidden = false;
    if (measured.waiting && state.lengthsDrawn) return place.setAttribute("aria-busy", "true");
    place.removeAttribute("aria-busy");
    state.lengthsDrawn = !!measured.lengths;
    if (measured.waiting) return place.replaceChildren(head, makeNode("p", { class: "quiet", role: "status" }, pageText("data_tab.loading_tokenizer", { name: startChoices().name })));
    if (measured.problem) return place.replaceChildren(head, makeNode("p", { class: "verdict bad" }, measured.problem));
    if (measured.examples) return place.replaceChildren(head, ...drawTemplates(measured.examples));
    const { lengths } = measured, over = lengths.filter((one) => one > currentLength()).length;
    const at50 = lengths[Math.floor(lengths.length / 2)], at95 = lengths[Math.floor(lengths.length * 0.95)], most = lengths[lengths.length - 1];
    const share = (100 * over / lengths.length).toFixed(over && over < lengths.length ? 1 : 0);
    const input = makeNode("input", { id: "data-length", type: "number", min: 32, step: 32, value: currentLength(), onchange: (event) => setLength(Number(event.target.value)) });
    const part = lengths.length < measured.of ? ` ${pageText("data_tab.rows_measured", { measured: formatCount(lengths.length), rows: formatCount(measured.of) })}` : "";
    const words = pageText("data_tab.lengths_found", { share, tokens: formatCount(currentLength()), median: formatCount(at50), p95: formatCount(at95), longest: formatCount(most) }) + part;
    place.replaceChildren(makeNode("header", { class: "row" }, head, makeNode("label", { class: "row" }, makeNode("span", {}, pageText("data_tab.max_length")), input)),
      makeNode("div", { class: "plot", role: "img", "aria-label": `${pageText("data_tab.lengths")}: ${words}` }), makeNode("p", { class: "quiet", id: "data-cut" }, words));
    sizes.disconnect();
    sizes.observe(place.querySelector(".plot"));
  }

  const sizes = new ResizeObserver(([{ target, contentRect }]) => contentRect.width && state.measured?.lengths && target.replaceChildren(drawHistogram(state.measured.lengths, currentLength(), contentRect.width)));

  function makeSvg(tag, attributes, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  // Rows by length in up to 48 bins of a round width; the line is where rows are cut.
  function drawHistogram(lengths, cut, WIDTH) {
    const HEIGHT = 130, BASE = 108, end = Math.max(lengths[lengths.length - 1], Math.min(cut, 3 * lengths[lengths.length - 1])) * 1.02;
    const width = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768].find((one) => end / one <= 48) ?? end / 48;
    const bins = Array(Math.ceil(end / width)).fill(0), x = (tokens) => (WIDTH * tokens) / (bins.length * width);
    for (const one of lengths) bins[Math.floor(one / width)] += 1;
    const tallest = Math.max(...bins), picture = makeSvg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, "aria-hidden": "true" });
    bins.forEach((rows, bin) => rows && picture.append(makeSvg("rect", { class: (bin + 0.5) * width > cut ? "over" : "fits", x: x(bin * width) + 1,
      y: BASE - (90 * rows) / tallest, width: Math.max(1, x(width) - 2), height: (90 * rows) / tallest })));
    picture.append(makeSvg("line", { class: "grid", x1: 0, x2: WIDTH, y1: BASE, y2: BASE }));
    const power = 10 ** Math.floor(Math.log10(end / 4)), step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= end / 6);
    for (let tokens = step; x(tokens) < WIDTH - 20; tokens += step) {
      picture.append(makeSvg("text", { x: x(tokens), y: HEIGHT - 6, "text-anchor": "middle" }, formatCount(tokens)));
    }
    const line = Math.min(x(cut), WIDTH - 1), right = line > WIDTH - 120;
    picture.append(makeSvg("line", { class: "cutline", x1: line, x2: line, y1: 4, y2: BASE }),
      makeSvg("text", { class: "cutname", x: line + (right ? -6 : 6), y: 13, "text-anchor": right ? "end" : "start" }, `${x(cut) > WIDTH ? "→ " : ""}${pageText("data_tab.cut_at", { tokens: formatCount(cut) })}`));
    return picture;
  }

  function drawTemplates(examples) {
    return [makeNode("p", {}, pageText("data_tab.no_template", { name: startChoices().name })),
      makeNode("div", { class: "sides" }, ...Object.entries(examples).map(([name, text]) => makeNode("section", { class: "card" },
        makeNode("button", { class: "button small", "data-template": name, onclick: () => { state.template = name; measureLengths(); } }, pageText("data_tab.use_template", { name })), makeNode("pre", { tabindex: "0" }, text))))];
  }

  function drawSteps() {
    const place = byId("data-steps");
    place.hidden = !state.steps.length;
    place.replaceChildren(makeNode("b", {}, `${pageText("data_tab.applied")} `), ...state.steps.map((step) =>
      makeNode("button", { class: "chip", "data-undo": step, title: pageText("data_tab.undo_step", { step }), onclick: () => applySteps(state.steps.filter((one) => one !== step)) }, `${step.replaceAll("_", " ")} `, makeNode("span", { "aria-hidden": "true" }, "×"), makeNode("span", { class: "sr" }, pageText("data_tab.undo")))),
      ...(state.report?.notes ?? []).map((note) => makeNode("p", { class: "quiet" }, note)));
  }

  function applySteps(steps) {
    state.steps = [...new Set(steps)];
    checkData();
  }

  function useData() {
    window.tunebench.tools.showBusy(byId("data-use"), pageText("data_tab.using"));
    window.tunebench.sendEvent("usedata", { source: SAMPLES.includes(state.source) ? state.source : state.file, columns: state.isManual ? state.columns : {}, encoding: state.encoding, steps: state.steps, kind: state.report.kind,
      template: state.template || startChoices().template, held_out: findHeldOut(), length: state.length || null });
  }
})();
