// The Compare tab: lanes and their answers, the blind vote and its keys, the tally, differences, scores. Everything drawn follows
// from the live channel and from `state`, the page's own choices. Text from outside only ever becomes textContent.
(() => {
  const byId = (id) => document.getElementById(id);
  const app = window.tunebench;
  const { makeNode } = app;
  const { setText, writeText, findOpenTab, saveFile, replyOf } = app.tools;
  const REVEAL_MS = 800; // how long names are shown after a vote before the next question comes
  const LONG_DIFF = 1500; // words; a longer answer is not compared word by word
  const VOTE_KEYS = { ArrowLeft: "vote-a", ArrowRight: "vote-b", ArrowDown: "vote-tie", x: "vote-bad", s: "vote-skip", u: "vote-undo", n: "vote-next", r: "vote-again", b: "vote-end" };
  const FORM_KEYS = { n: "next-prompt", r: "new-seed", b: "blind-vote" };
  const VOTE_LABELS = { left: "votes.first_better", right: "votes.second_better", tie: "votes.voted_tie", bad: "votes.voted_both_bad", skip: "votes.skipped" };
  let server;
  const state = { reveal: 0, voting: false, heatmap: "", heatmapLane: "", heatmapAsk: "" };

  app.initCompare = (element, endpoints) => {
    server = endpoints;
    for (const button of byId("vote-bar").querySelectorAll("[data-choice]")) button.addEventListener("click", () => castVote(button.dataset.choice));
    onClick("compare-start", () => app.openTab("start"));
    onClick("vote-next", showNext);
    onClick("vote-undo", () => { stopReveal(); callEndpoint("undo_vote"); });
    onClick("vote-again", () => { stopReveal(); callEndpoint("retry_with_new_seed"); });
    onClick("vote-end", () => { stopReveal(); callEndpoint("end_voting"); });
    for (const id of ["compare-reload", "vote-reload"]) onClick(id, () => callEndpoint("reload_lanes"));
    onClick("export-pairs", exportPairs);
    onClick("download-votes", async () => { const { text } = await callEndpoint("download_votes"); saveFile("votes.jsonl", new Blob([text ?? ""], { type: "application/jsonl" })); });
    onClick("score-go", () => callEndpoint("score_lanes"));
    onClick("score-stop", () => callEndpoint("stop"));
    onClick("heatmap-first", () => showHeatmap(byId("lane-first").value));
    onClick("heatmap-second", () => showHeatmap(byId("lane-second").value));
    for (const id of ["lane-first", "lane-second", "diff"]) byId(id).addEventListener("change", () => { state.heatmap = ""; app.drawLanes(); });
    byId("vote-better").addEventListener("submit", saveBetterAnswer);
    initJudge();
    drawAll();
  };

  // The run and the two lanes whose votes are counted, as chosen in the form above the answers.
  app.setVotePair = (choice) => {
    app.votePair = Object.fromEntries(Object.entries(choice).map(([name, value]) => [name, value ?? ""]));
    app.pollSoon?.(0);
  };

  const onClick = (id, act) => byId(id).addEventListener("click", act);

  // Calls an endpoint, shows its problem, and polls at once for what has changed.
  async function callEndpoint(name, request = {}) {
    const reply = await replyOf(server[name](request));
    setText(byId("compare-error"), reply.problem ?? "");
    byId("compare-error").hidden = !reply.problem;
    app.pollSoon(0);
    return reply;
  }

  // ---- voting

  async function castVote(choice) {
    const question = app.getPart("question");
    if (state.voting || !question) return;
    if (question.voted) return showNext();
    if (!question.ready && choice !== "skip") return;
    state.voting = true;
    drawQuestion();
    const reply = await callEndpoint("vote", { choice });
    state.voting = false;
    if (!reply.problem) state.reveal = -1; // the next question comes a moment after the names are drawn
    drawQuestion();
  }

  function showNext() {
    stopReveal();
    if (app.getPart("question")?.can_continue) callEndpoint("show_next_question");
  }

  function stopReveal() {
    clearTimeout(state.reveal);
    state.reveal = 0;
  }

  function saveBetterAnswer(event) {
    event.preventDefault();
    callEndpoint("save_better_answer", { text: byId("vote-text").value }).then((reply) => {
      if (reply.problem) return;
      byId("vote-text").value = "";
      showNext();
    });
  }

  async function exportPairs() {
    const { run, first, second } = app.getPart("tally"), reply = await callEndpoint("export_pairs", { run, first, second });
    if (reply.problem) return;
    const use = { source: reply.source, kind: "pairs", columns: {}, steps: [] };
    byId("pairs-status").replaceChildren(`${pageText("votes.pairs_saved", { pairs: reply.count, name: reply.name })} `,
      makeNode("button", { type: "button", class: "link", id: "train-on-them", onclick: () => app.sendEvent("usedata", use) }, pageText("votes.train_on_them")));
  }

  document.addEventListener("keydown", (event) => {
    if (findOpenTab() !== "compare" || !server) return;
    if (event.key === "Enter" && event.ctrlKey && event.target.closest?.("#prompt")) return byId("generate")?.click();
    if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey || event.repeat || ownsKey(event.target, event.key)) return;
    const question = app.getPart("question");
    const button = byId((question ? VOTE_KEYS : FORM_KEYS)[event.key.length === 1 ? event.key.toLowerCase() : event.key]);
    if (!button || button.closest("[hidden]")) return;
    event.preventDefault();
    if (question?.voted && button.dataset.choice) showNext(); // the names were looked at long enough
    else button.click();
  });

  // Wherever a key has a meaning of its own: any key where one types or chooses from a list, arrows where they move something.
  const TYPE_SELECTOR = "textarea, select, input:not([type=checkbox], [type=radio], [type=range], [type=button], [type=submit]), [role=listbox], [role=combobox]";
  const MOVE_SELECTOR = "[role=tab], [role=slider], [role=radio], input[type=radio], input[type=range]";
  const ownsKey = (node, key) => node.isContentEditable || !!node.closest?.(key.startsWith("Arrow") ? `${TYPE_SELECTOR}, ${MOVE_SELECTOR}` : TYPE_SELECTOR);

  // A tab that was clicked with the mouse would keep the arrows, which vote.
  document.addEventListener("click", (event) => {
    const tab = event.target.closest?.("[role=tab]");
    if (tab && event.detail > 0 && tab === document.activeElement) tab.blur();
  });

  function drawQuestion() {
    const question = app.getPart("question"), bar = byId("vote-bar");
    if (!bar) return;
    const opens = question && byId("vote-question").hidden;
    document.documentElement.toggleAttribute("data-blind", !!question);
    for (const id of ["vote-question", "vote-bar"]) byId(id).hidden = !question;
    if (opens) byId("vote-question").scrollIntoView({ block: "nearest" });
    byId("vote-better").hidden = !question?.wants_answer;
    writeText("vote-status", describeQuestion(question));
    if (!question) return;
    const { number, tag, first, second } = question;
    writeText("vote-number", tag ? pageText("votes.tagged_question", { number, tag, first, second }) : pageText("votes.question_number", { number, first, second }));
    drawPrompt(question.prompt);
    for (const button of bar.querySelectorAll("[data-choice]")) {
      button.disabled = state.voting || (!question.voted && !question.ready && button.dataset.choice !== "skip") || !!question.voted;
      button.classList.toggle("suggested", button.dataset.choice === "tie" && question.identical && !question.voted);
      button.toggleAttribute("data-given", question.voted === button.dataset.choice);
    }
    byId("vote-next").hidden = !question.voted || !question.can_continue;
    byId("vote-next").disabled = state.voting;
    byId("vote-again").disabled = !!question.absence;
    byId("vote-reload").hidden = !question.absence || !question.can_reload;
    if (question.voted && state.reveal === -1 && !question.wants_answer && question.can_continue) state.reveal = setTimeout(showNext, REVEAL_MS);
  }

  function drawPrompt(messages) {
    const place = byId("vote-prompt"), key = JSON.stringify(messages);
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    place.replaceChildren(...messages.map((one) => makeNode("p", { class: one.role === "user" ? "message" : "message quiet", dir: "auto" }, one.text)));
  }

  function describeQuestion(question) {
    if (!question) return "";
    return [voteHint(question), question.absence].filter(Boolean).join(" ");
  }

  function voteHint(question) {
    if (question.voted) return describeVote(pageText(VOTE_LABELS[question.voted]), question);
    if (question.identical) return pageText("votes.identical");
    if (question.ready) return pageText("votes.which_better");
    return question.absence ? "" : pageText("votes.wait");
  }

  function describeVote(vote, { wants_answer, can_continue }) {
    if (!wants_answer) return pageText("votes.voted", { vote });
    return pageText(can_continue ? "votes.write_or_continue" : "votes.write_better_below", { vote });
  }

  // ---- the tally

  function drawTally(tally) {
    if (!byId("tally")) return;
    byId("tally").hidden = !tally || !!tally.problem;
    setText(byId("votes-error"), tally?.problem ?? "");
    byId("votes-error").hidden = !tally?.problem;
    if (byId("tally").hidden) return;
    const pair = JSON.stringify([tally.run, tally.first, tally.second]);
    if (byId("pairs-status").dataset.pair !== pair) byId("pairs-status").replaceChildren(); // it was about other votes
    byId("pairs-status").dataset.pair = pair;
    writeText("tally-head", pageText("votes.tally", { run: tally.name, first: tally.first, second: tally.second }));
    writeText("tally-empty", tally.empty);
    byId("tally-empty").hidden = !tally.empty;
    for (const part of ["numbers", "share", "verdict"]) byId(`tally-${part}`).hidden = !!tally.empty;
    writeText("tally-numbers", `${tally.first} ${tally.wins[0]} – ${tally.wins[1]} ${tally.second}${tally.undecided ? ` · ${tally.undecided}` : ""}`);
    drawInterval(byId("tally-interval"), tally);
    writeText("tally-share", tally.share_text);
    writeText("tally-verdict", tally.verdict);
    byId("tally-verdict").dataset.word = tally.word;
    drawTable(byId("tally-kinds"), [pageText("votes.kind"), tally.first, pageText("votes.voted_tie"), tally.second], tally.kinds);
    byId("tally-kinds").hidden = !tally.kinds.length;
    const strengths = tally.strengths.length ? [pageText("votes.strengths", { strengths: tally.strengths.join("; ") })] : [];
    byId("tally-checks").replaceChildren(...[...tally.checks, ...strengths, tally.advice].filter(Boolean).map((line) => makeNode("li", {}, line)));
    writeText("export-pairs", pageText("votes.save_pairs", { pairs: tally.pairs }));
    byId("export-pairs").hidden = !tally.pairs;
    byId("vote-undo").disabled = !app.getPart("question");
  }

  // The interval of the second lane's share, with a mark at one half.
  function drawInterval(place, { share, first, second }) {
    place.hidden = !share;
    if (!share) return;
    const [value, low, high] = share, [bar, mark] = place.children;
    bar.style.left = `${100 * low}%`;
    bar.style.width = `${100 * (high - low)}%`;
    mark.style.left = `${100 * value}%`;
    const [won, lowest, highest] = share.map((part) => Math.round(100 * part));
    place.setAttribute("aria-label", pageText("votes.interval", { first, second, won, low: lowest, high: highest }));
  }

  function drawTable(table, titles, rows) {
    table.tHead.replaceChildren(makeNode("tr", {}, ...titles.map((title) => (title ? makeNode("th", { scope: "col" }, title) : makeNode("td", {})))));
    table.tBodies[0].replaceChildren(...rows.map(([title, ...cells]) =>
      makeNode("tr", {}, makeNode("th", { scope: "row" }, title), ...cells.map((cell) => makeNode("td", {}, String(cell))))));
  }

  // ---- scores

  function drawScores(scores) {
    if (!byId("scored")) return;
    const compare = app.getPart("compare"), progress = scores?.progress;
    byId("scored").hidden = !compare;
    byId("score-go").hidden = !!progress;
    byId("score-go").disabled = !compare?.active;
    byId("score-stop").hidden = byId("score-progress").hidden = !progress;
    byId("score-progress").querySelector("i").style.width = `${100 * (scores?.done ?? 0)}%`;
    setText(byId("score-progress").querySelector("p"), progress || "");
    const table = scores?.table;
    byId("score-wrap").hidden = !table;
    byId("score-hint").hidden = !!table;
    byId("score-all").hidden = !table?.rest.length;
    drawMeasures(table);
    const warnings = [...(scores?.problem ? [scores.problem] : []), ...(table?.warnings ?? [])];
    byId("score-warnings").replaceChildren(...warnings.map((line) => makeNode("p", { class: "verdict bad", role: "alert" }, line)));
    writeText("score-legend", table?.legend ?? "");
  }

  // Only new figures are drawn: what is read, selected or scrolled to stays while the lanes go on.
  function drawMeasures(table) {
    const key = JSON.stringify(table ?? null), place = byId("score-wrap");
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    for (const part of ["first", "rest"]) byId(`score-${part}`).replaceChildren(...(table?.[part] ?? []).map((one) => makeMeasure(one, table)));
  }

  // One measure as a small table: a row for each lane with its dot and interval, all on one scale, and its figure.
  function makeMeasure({ title, cells, spans, zero }, { lanes, harmed }) {
    const makeFlag = (lane) => (title === "General questions" && harmed.includes(lane) ? [makeNode("b", { class: "flag" }, ` ${pageText("compare_tab.forgot")}`)] : []);
    return makeNode("table", { class: "measure" }, makeNode("caption", {}, title), makeNode("tbody", {}, ...lanes.map((lane, index) =>
      makeNode("tr", { "data-tone": lane.toLowerCase() }, makeNode("th", { scope: "row" }, lane, ...makeFlag(lane)),
        makeNode("td", { class: "span", "aria-hidden": "true", style: `--zero: ${100 * zero}%` }, ...makeInterval(spans[index])), makeNode("td", { class: "figure" }, cells[index].replaceAll("-", "−"))))));
  }

  function makeInterval(span) {
    if (!span) return [];
    const [value, low, high] = span.map((part) => 100 * part);
    return [makeNode("div", {}, makeNode("i", { style: `left: ${low}%; width: ${high - low}%` }), makeNode("b", { style: `left: ${value}%` }))];
  }

  // ---- a model as judge; what was typed is kept in this browser, and the key is never typed

  const JUDGE_FIELDS = ["url", "model", "variable", "cases"];

  function initJudge() {
    const saved = JSON.parse(localStorage.getItem("tunebench.judge") || "{}");
    for (const name of JUDGE_FIELDS) if (saved[name]) byId(`judge-${name}`).value = saved[name];
    byId("judge-lane").addEventListener("change", drawJudge);
    onClick("judge-stop", () => callEndpoint("stop_judge"));
    byId("judge-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const [url, model, variable, cases] = JUDGE_FIELDS.map((name) => byId(`judge-${name}`).value.trim());
      localStorage.setItem("tunebench.judge", JSON.stringify({ url, model, variable, cases }));
      callEndpoint("start_judge", { lanes: [byId("lane-first").value, byId("lane-second").value], lane: byId("judge-lane").value, endpoint: { url, model, variable }, source: byId("judge-set").value, cases: cases || 20 });
    });
  }

  function drawJudge() {
    const judge = app.getPart("judge");
    if (!byId("judge")) return;
    for (const field of byId("judge").querySelectorAll(".endpoint-field")) field.hidden = !!byId("judge-lane").value;
    byId("judge-stop").hidden = !judge?.progress;
    byId("judge-go").hidden = !!judge?.progress;
    writeText("judge-status", judge?.progress || judge?.problem || "");
    byId("judge-results").replaceChildren(...(judge?.opinions ?? []).map((line) => makeNode("li", {}, line)));
  }

  // ---- lanes: text grows in place, so that a selection or a scroll position is never lost

  app.drawLanes = () => {
    const place = byId("lanes"), compare = app.getPart("compare") ?? expectedLanes();
    if (!place) return;
    const key = JSON.stringify([compare?.run, compare?.lanes.map((lane) => [lane.name, !!lane.strength])]);
    if (place.dataset.key !== key) {
      place.dataset.key = key;
      place.replaceChildren(...(compare?.lanes ?? []).map(makeLane));
      fillSides(compare);
    }
    writeText("compare-status", describeStatus(compare));
    setText(byId("compare-failed").querySelector("p"), compare?.error ?? "");
    byId("compare-failed").hidden = !compare?.error;
    byId("compare-reload").hidden = !compare?.dead;
    writeText("judge-go", pageText("judge.judge_lanes", { first: byId("lane-first").value, second: byId("lane-second").value }));
    byId("judge").hidden = byId("differences").hidden = !compare || !!app.getPart("question") || compare.lanes.length < 2;
    const marks = findMarks(compare);
    for (const lane of compare?.lanes ?? []) fillLane(place, lane, compare, marks[lane.name]);
  };

  // The lanes of a run that was just opened, until the worker that loads them is known.
  function expectedLanes() {
    const run = app.getPart("run");
    if (!run || run.id !== app.opening) return null;
    const lanes = ["Base", ...run.adapters].map((name) => ({ name, stats: "", truncated: "", adapter: "", hash: "" }));
    return { run: run.id, active: true, prompt: "the first prompt", detail: pageText("compare_tab.loading"), lanes };
  }

  function describeStatus(compare) {
    if (!compare) return pageText("compare_tab.not_loaded");
    if (compare.phase === "failed" || compare.answering) return "";
    if (app.getPart("question")) return ""; // its bar says the same
    if (!compare.active) return pageText("compare_tab.unloaded");
    return compare.detail;
  }

  function makeLane(lane) {
    return makeNode("section", { class: "card lane", "data-lane": lane.name, "data-tone": lane.name.toLowerCase(), "aria-label": pageText("compare_tab.answer_of", { lane: lane.name }) },
      makeNode("header", { class: "row" }, makeNode("h3", {}, makeNode("i", { class: "dot", "aria-hidden": "true" }), makeNode("span", {})), makeNode("span", { class: "quiet stats" })),
      makeNode("div", { class: "turns" }), makeNode("div", { class: "answer", tabindex: "0", dir: "auto" }), makeNode("p", { class: "quiet truncated" }),
      makeNode("p", { class: "quiet adapter" }), ...(lane.strength ? [makeStrength(lane.name), makeUseButton(lane.name)] : []));
  }

  const makeUseButton = (lane) => makeNode("p", { class: "buttons" }, makeNode("button", { class: "button small use-model", onclick: (event) => app.openExport(app.getPart("compare").run, lane, readStrength(event.currentTarget.closest("[data-lane]"))) }, pageText("exports.use_model"), makeNode("span", { class: "sr" }, ` ${lane}`)));

  // What the sliders say, unless it is the adapter as trained.
  function readStrength(pane) {
    const [strength, share] = pane.querySelectorAll(".strength input"), other = pane.querySelector(".strength select");
    const mixed = share.value > 0 ? { other: other.value, share: share.value / 100 } : {};
    return strength.value === "100" && !mixed.other ? null : { strength: strength.value / 100, ...mixed };
  }

  function fillLane(place, lane, compare, marks) {
    const pane = [...place.children].find((one) => one.dataset.lane === lane.name), answer = pane.querySelector(".answer");
    const text = app.text[lane.name] ?? "";
    setText(pane.querySelector("h3 span"), laneTitle(lane));
    pane.toggleAttribute("data-won", !!lane.revealed && findWinner(app.getPart("question")) === lane.name);
    fillTurns(pane.querySelector(".turns"), lane.turns ?? []);
    if (marks) drawMarks(answer, marks);
    else growText(answer, text);
    const prompt = compare.prompt || app.getPart("question");
    pane.classList.toggle("waiting", compare.active && !compare.done && !text && !!prompt);
    pane.classList.toggle("idle", compare.active && !text && !prompt);
    for (const part of ["stats", "truncated", "adapter"]) setText(pane.querySelector(`.${part}`), lane[part]);
    pane.querySelector(".adapter").title = lane.hash;
    const strength = pane.querySelector(".strength");
    if (strength && lane.strength && !strength.open) showStrength(strength, lane.strength);
  }

  const findWinner = (question) => ({ left: "A", right: "B" })[question?.voted] ?? "";

  function laneTitle(lane) {
    if (!lane.revealed) return lane.name;
    const won = findWinner(app.getPart("question")) === lane.name;
    return pageText(won ? "votes.lane_was_winner" : "votes.lane_was", { lane: lane.name, model: lane.revealed });
  }

  function fillTurns(place, turns) {
    const key = JSON.stringify(turns);
    if ((place.dataset.key ?? "[]") === key) return;
    place.dataset.key = key;
    place.replaceChildren(...turns.flatMap((turn) => [makeNode("p", { class: "message", dir: "auto" }, turn.prompt), makeNode("p", { class: "turn", dir: "auto" }, turn.text)]));
  }

  function growText(answer, text) {
    const had = answer.dataset.marks ? "" : answer.textContent;
    if (text === had && !answer.dataset.marks) return;
    if (had && text.startsWith(had)) answer.append(text.slice(had.length));
    else answer.textContent = text;
    delete answer.dataset.marks;
    answer.normalize();
  }

  // ---- adapter strength: how much of its adapter a lane uses, and of another's

  function makeStrength(name) {
    const strength = makeNode("input", { type: "range", min: 0, max: 150, step: 5, value: 100, name: "strength" });
    const share = makeNode("input", { type: "range", min: 0, max: 100, step: 5, value: 0, name: "share" });
    const other = makeNode("select", { name: "other" });
    const box = makeNode("details", { class: "strength" }, makeNode("summary", {}, pageText("compare_tab.adapter_strength")),
      makeNode("label", {}, `${pageText("compare_tab.strength")} `, makeNode("b", {}), strength),
      makeNode("label", {}, `${pageText("compare_tab.blend_with")} `, other), makeNode("label", {}, `${pageText("compare_tab.mix")} `, makeNode("b", {}), share),
      makeNode("p", { class: "quiet" }, pageText("compare_tab.next_answer")));
    let last = Promise.resolve(); // one call after another: the server answers calls side by side, and the newest must win
    const send = () => callEndpoint("adjust_lane", { lane: name, strength: strength.value / 100, other: share.value > 0 ? other.value : "", share: share.value / 100 });
    const adjust = () => (last = last.then(send));
    for (const input of [strength, share, other]) {
      input.addEventListener("input", () => labelStrength(box));
      input.addEventListener("change", adjust);
    }
    return box;
  }

  function labelStrength(box) {
    const [strength, share] = box.querySelectorAll("input"), [first, second] = box.querySelectorAll("b");
    setText(first, `${strength.value} %`);
    setText(second, `${share.value} %`);
  }

  function showStrength(box, { strength, share }) {
    const [first, second] = box.querySelectorAll("input");
    first.value = Math.round(100 * strength);
    second.value = Math.round(100 * share);
    labelStrength(box);
  }

  function fillSides(compare) {
    const names = compare && !app.getPart("question") ? compare.lanes.map((lane) => lane.name) : [];
    const tuned = (compare?.lanes ?? []).filter((lane) => lane.strength).map((lane) => lane.name);
    fillSelect(byId("lane-first"), names, names[0]);
    fillSelect(byId("lane-second"), names, names[names.length - 1]);
    byId("judge-lane").replaceChildren(makeNode("option", { value: "" }, pageText("judge.api")), ...names.map((name) => makeNode("option", { value: name }, pageText("judge.model_named", { name }))));
    for (const pane of byId("lanes").children) {
      const box = pane.querySelector(".strength"), others = tuned.filter((name) => name !== pane.dataset.lane);
      if (!box) continue;
      fillSelect(box.querySelector("select"), others, others[0]);
      for (const label of [...box.querySelectorAll("label")].slice(1)) label.hidden = !others.length;
      labelStrength(box);
    }
  }

  function fillSelect(select, names, chosen) {
    select.replaceChildren(...names.map((name) => makeNode("option", {}, name)));
    if (chosen !== undefined) select.value = chosen;
  }

  // ---- differences: words that differ, and the heat map. Marks: [[text, class or colour, title], …] for a lane

  function findMarks(compare) {
    const first = byId("lane-first").value, second = byId("lane-second").value, heatmap = app.getPart("heatmap"), still = compare?.done && !app.getPart("question");
    if (still && state.heatmap && heatmap?.ask === state.heatmap && state.heatmapAsk === app.ask) return { [state.heatmapLane]: markHeatmap(heatmap) };
    writeText("heatmap-legend", "");
    if (!still) return {};
    if (!byId("diff").checked || first === second) return {};
    return markDifferences(first, second);
  }

  function drawMarks(answer, marks) {
    const key = JSON.stringify(marks);
    if (answer.dataset.marks === key) return;
    answer.dataset.marks = key;
    answer.replaceChildren(...marks.map(([text, how, title]) => (how ? makeNode("mark", typeof how === "string" ? { class: how } : { style: how.style, title }, text) : text)));
  }

  function markDifferences(first, second) {
    const [one, other] = [first, second].map((lane) => (app.text[lane] ?? "").split(/(?<=\s)(?=\S)/));
    if (Math.max(one.length, other.length) > LONG_DIFF) return {};
    const same = commonWords(one.map((word) => word.trim()), other.map((word) => word.trim()));
    const markWords = (words, side) => words.map((word, index) => [word, !same[side].has(index) && word.trim() ? "differs" : ""]);
    return { [first]: markWords(one, 0), [second]: markWords(other, 1) };
  }

  // Which words of both belong to their longest common subsequence.
  function commonWords(one, other) {
    const width = other.length + 1, best = new Uint16Array((one.length + 1) * width);
    for (let i = one.length - 1; i >= 0; i--) for (let j = other.length - 1; j >= 0; j--)
      best[i * width + j] = one[i] === other[j] ? best[(i + 1) * width + j + 1] + 1 : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    const found = [new Set(), new Set()];
    for (let i = 0, j = 0; i < one.length && j < other.length;) {
      if (one[i] === other[j]) { found[0].add(i++); found[1].add(j++); }
      else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) i++;
      else j++;
    }
    return found;
  }

  async function showHeatmap(lane) {
    const { ask } = await callEndpoint("show_heatmap", { answer: lane, lanes: [byId("lane-first").value, byId("lane-second").value] });
    if (!ask) return;
    Object.assign(state, { heatmap: ask, heatmapLane: lane, heatmapAsk: app.ask });
    app.drawLanes();
  }

  function markHeatmap({ lanes: [first, second], pieces }) {
    const total = pieces.reduce((sum, [, one, other]) => sum + one - other, 0);
    writeText("heatmap-legend", pageText(total >= 0 ? "compare_tab.heatmap_ahead" : "compare_tab.heatmap_behind", { first, second, nats: Math.abs(total).toFixed(1) }));
    return pieces.map(([text, one, other]) => {
      const apart = one - other, depth = Math.round(45 * Math.min(1, Math.abs(apart) / 3));
      const colour = apart > 0 ? "var(--good)" : "var(--busy)";
      return [text, { style: `background: color-mix(in srgb, ${colour} ${depth}%, transparent)` }, pageText("compare_tab.heatmap_token", { first, second, first_nats: one.toFixed(2), second_nats: other.toFixed(2) })];
    });
  }

  // Without an adapter there is nothing to ask.
  function drawEmpty({ comparable }, place) {
    place.hidden = comparable;
    document.documentElement.toggleAttribute("data-nothing", !comparable);
  }

  function drawAll() {
    drawQuestion();
    drawTally(app.getPart("tally"));
    drawScores(app.getPart("scores"));
    app.drawLanes();
  }

  Object.assign(app.renderers, {
    question: ["vote-bar", drawQuestion, ["question", "compare"]],
    tally: ["tally", drawTally, ["tally", "question"]],
    scores: ["scored", drawScores, ["scores", "compare"]],
    judge: ["judge", drawJudge, ["judge", "compare", "question"]],
    empty: ["compare-empty", drawEmpty, ["buttons"]],
  });
})();
