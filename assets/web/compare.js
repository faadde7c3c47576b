// The Compare tab: lanes and their answers, the blind vote and its keys, the tally, the closer look, scores. Everything drawn
// follows from what the bus brings and from `now`, the page's own choices. Words from outside only ever become textContent.
(() => {
  const at = (id) => document.getElementById(id);
  const app = window.tunebench;
  const { make } = app;
  const { put, write, openTab, take } = app.tools;
  const REVEAL_MS = 800; // how long names are shown after a vote before the next question comes
  const LONG_DIFF = 1500; // words; a longer answer is not compared word by word
  const KEYS = { ArrowLeft: "vote-a", ArrowRight: "vote-b", ArrowDown: "vote-tie", x: "vote-bad", s: "vote-skip", u: "vote-undo", n: "vote-next", r: "vote-again", b: "vote-end" };
  const OPEN_KEYS = { n: "next", r: "again", b: "blind" };
  const WORDS = { left: "A is better", right: "B is better", tie: "Tie", bad: "Both bad", skip: "Skipped" };
  let server;
  const now = { reveal: 0, voting: false, heat: "", heatOf: "", heatAsk: "" };

  app.beginCompare = (element, itsServer) => {
    server = itsServer;
    for (const button of at("vote-bar").querySelectorAll("[data-choice]")) button.addEventListener("click", () => vote(button.dataset.choice));
    press("compare-start", () => app.open("start"));
    press("vote-next", onward);
    press("vote-undo", () => { stopReveal(); wish("undo_vote"); });
    press("vote-again", () => { stopReveal(); wish("retry_with_new_seed"); });
    press("vote-end", () => { stopReveal(); wish("end_voting"); });
    for (const id of ["compare-reload", "vote-reload"]) press(id, () => wish("reload_lanes"));
    press("topairs", makePairs);
    press("dlvotes", async () => { const { text } = await wish("download_votes"); take("votes.jsonl", new Blob([text ?? ""], { type: "application/jsonl" })); });
    press("score-go", () => wish("score_lanes"));
    press("score-stop", () => wish("stop"));
    press("heat-near", () => look(at("near").value));
    press("heat-far", () => look(at("far").value));
    for (const id of ["near", "far", "diff"]) at(id).addEventListener("change", () => { now.heat = ""; app.drawLanes(); });
    at("vote-better").addEventListener("submit", keepBetter);
    beginJudge();
    drawAll();
  };

  // The run, and the two lanes whose votes are counted, as the form above the answers has them.
  app.chose = (chosen) => {
    app.vote = Object.fromEntries(Object.entries(chosen).map(([name, value]) => [name, value ?? ""]));
    app.hurry?.(0);
  };

  const press = (id, act) => at(id).addEventListener("click", act);

  // Asks Python for something; what a person can mend is shown, and the bus is asked at once for what has changed.
  async function wish(name, asked = {}) {
    const told = (await server[name](asked)) ?? { problem: "No answer from Tunebench." };
    put(at("compare-wrong"), told.problem ?? "");
    at("compare-wrong").hidden = !told.problem;
    app.hurry(0);
    return told;
  }

  // ---- voting

  async function vote(choice) {
    const ballot = app.is("ballot");
    if (now.voting || !ballot) return;
    if (ballot.voted) return onward();
    if (!ballot.ready && choice !== "skip") return;
    now.voting = true;
    drawBallot();
    const told = await wish("vote", { choice });
    now.voting = false;
    if (!told.problem) now.reveal = -1; // the next question comes a moment after the names are drawn
    drawBallot();
  }

  function onward() {
    stopReveal();
    if (app.is("ballot")?.goes_on) wish("show_next_question");
  }

  function stopReveal() {
    clearTimeout(now.reveal);
    now.reveal = 0;
  }

  function keepBetter(event) {
    event.preventDefault();
    wish("save_better_answer", { text: at("vote-text").value }).then((told) => {
      if (told.problem) return;
      at("vote-text").value = "";
      onward();
    });
  }

  async function makePairs() {
    const { run, first, second } = app.is("tally"), told = await wish("export_pairs", { run, first, second });
    if (told.problem) return;
    const use = { source: told.source, kind: "pairs", columns: {}, steps: [] };
    at("pairs-said").replaceChildren(`${told.count} pair${told.count === 1 ? "" : "s"} saved to ${told.name}. `,
      make("button", { type: "button", class: "link", id: "train-on-them", onclick: () => app.send("usedata", use) }, "Train on them"));
  }

  document.addEventListener("keydown", (event) => {
    if (openTab() !== "compare" || !server) return;
    if (event.key === "Enter" && event.ctrlKey && event.target.closest?.("#prompt")) return at("gen")?.click();
    if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey || event.repeat || takes(event.target, event.key)) return;
    const ballot = app.is("ballot");
    const button = at((ballot ? KEYS : OPEN_KEYS)[event.key.length === 1 ? event.key.toLowerCase() : event.key]);
    if (!button || button.closest("[hidden]")) return;
    event.preventDefault();
    if (ballot?.voted && button.dataset.choice) onward(); // the names were looked at long enough
    else button.click();
  });

  // Wherever a key has a meaning of its own: any key where one types or chooses from a list, arrows where they move something.
  const TYPED = "textarea, select, input:not([type=checkbox], [type=radio], [type=range], [type=button], [type=submit]), [role=listbox], [role=combobox]";
  const MOVED = "[role=tab], [role=slider], [role=radio], input[type=radio], input[type=range]";
  const takes = (node, key) => node.isContentEditable || !!node.closest?.(key.startsWith("Arrow") ? `${TYPED}, ${MOVED}` : TYPED);

  // A tab that was clicked with the mouse would keep the arrows, which vote.
  document.addEventListener("click", (event) => {
    const tab = event.target.closest?.("[role=tab]");
    if (tab && event.detail > 0 && tab === document.activeElement) tab.blur();
  });

  function drawBallot() {
    const ballot = app.is("ballot"), place = at("vote-bar");
    if (!place) return;
    const begins = ballot && at("vote-question").hidden;
    document.documentElement.toggleAttribute("data-blind", !!ballot);
    for (const id of ["vote-question", "vote-bar"]) at(id).hidden = !ballot;
    if (begins) at("vote-question").scrollIntoView({ block: "nearest" });
    at("vote-better").hidden = !ballot?.better;
    write("vote-said", saidOf(ballot));
    if (!ballot) return;
    write("vote-number", `Question ${ballot.number}${ballot.tag ? ` · ${ballot.tag}` : ""}: ${ballot.first} and ${ballot.second}, in an order you do not know`);
    drawPrompt(ballot.prompt);
    for (const button of place.querySelectorAll("[data-choice]")) {
      button.disabled = now.voting || (!ballot.voted && !ballot.ready && button.dataset.choice !== "skip") || !!ballot.voted;
      button.classList.toggle("offered", button.dataset.choice === "tie" && ballot.same && !ballot.voted);
      button.toggleAttribute("data-given", ballot.voted === button.dataset.choice);
    }
    at("vote-next").hidden = !ballot.voted || !ballot.goes_on;
    at("vote-next").disabled = now.voting;
    at("vote-again").disabled = !!ballot.away;
    at("vote-reload").hidden = !ballot.away || !ballot.loadable;
    if (ballot.voted && now.reveal === -1 && !ballot.better && ballot.goes_on) now.reveal = setTimeout(onward, REVEAL_MS);
  }

  function drawPrompt(messages) {
    const place = at("vote-prompt"), key = JSON.stringify(messages);
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    place.replaceChildren(...messages.map((one) => make("p", { class: one.role === "user" ? "said" : "said quiet", dir: "auto" }, one.text)));
  }

  function saidOf(ballot) {
    if (!ballot) return "";
    return [askOf(ballot), ballot.away].filter(Boolean).join(" ");
  }

  function askOf(ballot) {
    if (ballot.voted) return `${WORDS[ballot.voted]}.${ballot.better ? ` Write a better answer below${ballot.goes_on ? ", or press N" : ""}.` : ""}`;
    if (ballot.same) return "Both answers are identical. ↓ counts them as a tie.";
    if (ballot.ready) return "Which answer is better?";
    return ballot.away ? "" : "Read on; you can vote when both answers are there.";
  }

  // ---- the tally

  function drawTally(tally) {
    if (!at("tally")) return;
    at("tally").hidden = !tally || !!tally.problem;
    put(at("votes-wrong"), tally?.problem ?? "");
    at("votes-wrong").hidden = !tally?.problem;
    if (at("tally").hidden) return;
    const of = JSON.stringify([tally.run, tally.first, tally.second]);
    if (at("pairs-said").dataset.of !== of) at("pairs-said").replaceChildren(); // it spoke of other votes
    at("pairs-said").dataset.of = of;
    write("tally-head", `Votes for ${tally.name}: ${tally.first} and ${tally.second}`);
    write("tally-none", tally.none);
    at("tally-none").hidden = !tally.none;
    for (const part of ["numbers", "odds", "verdict"]) at(`tally-${part}`).hidden = !!tally.none;
    write("tally-numbers", `${tally.first} ${tally.wins[0]} – ${tally.wins[1]} ${tally.second}${tally.others ? ` · ${tally.others}` : ""}`);
    drawSpan(at("tally-span"), tally);
    write("tally-odds", tally.odds);
    write("tally-verdict", tally.verdict);
    at("tally-verdict").dataset.word = tally.word;
    drawTable(at("tally-kinds"), ["Kind", tally.first, "Tie", tally.second], tally.kinds);
    at("tally-kinds").hidden = !tally.kinds.length;
    const strengths = tally.strengths.length ? [`All lanes voted on (Bradley-Terry, mean 0): ${tally.strengths.join("; ")}.`] : [];
    at("tally-checks").replaceChildren(...[...tally.checks, ...strengths, tally.few].filter(Boolean).map((line) => make("li", {}, line)));
    write("topairs", `Turn ${tally.pairs} vote${tally.pairs === 1 ? "" : "s"} into DPO pairs`);
    at("topairs").hidden = !tally.pairs;
    at("vote-undo").disabled = !app.is("ballot");
  }

  // The interval of the second lane's share, with a mark at one half.
  function drawSpan(place, { share, first, second }) {
    place.hidden = !share;
    if (!share) return;
    const [value, low, high] = share, [bar, mark] = place.children;
    bar.style.left = `${100 * low}%`;
    bar.style.width = `${100 * (high - low)}%`;
    mark.style.left = `${100 * value}%`;
    place.setAttribute("aria-label", `${second} won ${Math.round(100 * value)} % against ${first}; 95 % interval ${Math.round(100 * low)} to ${Math.round(100 * high)} %`);
  }

  function drawTable(table, titles, rows) {
    table.tHead.replaceChildren(make("tr", {}, ...titles.map((title) => (title ? make("th", { scope: "col" }, title) : make("td", {})))));
    table.tBodies[0].replaceChildren(...rows.map(([title, ...cells]) =>
      make("tr", {}, make("th", { scope: "row" }, title), ...cells.map((cell) => make("td", {}, String(cell))))));
  }

  // ---- scores

  function drawScores(scores) {
    if (!at("scored")) return;
    const compare = app.is("compare"), going = scores?.going;
    at("scored").hidden = !compare;
    at("score-go").hidden = !!going;
    at("score-go").disabled = !compare?.active;
    at("score-stop").hidden = at("score-progress").hidden = !going;
    at("score-progress").querySelector("i").style.width = `${100 * (scores?.done ?? 0)}%`;
    put(at("score-progress").querySelector("p"), going || "");
    const table = scores?.table;
    at("score-wrap").hidden = !table;
    at("score-hint").hidden = !!table;
    at("score-all").hidden = !table?.rest.length;
    drawMeasures(table);
    const warnings = [...(scores?.problem ? [scores.problem] : []), ...(table?.warnings ?? [])];
    at("score-warnings").replaceChildren(...warnings.map((line) => make("p", { class: "verdict bad", role: "alert" }, line)));
    write("score-legend", table?.legend ?? "");
  }

  // Only new figures are drawn: what is read, selected or scrolled to stays while the lanes go on.
  function drawMeasures(table) {
    const key = JSON.stringify(table ?? null), place = at("score-wrap");
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    for (const part of ["first", "rest"]) at(`score-${part}`).replaceChildren(...(table?.[part] ?? []).map((one) => measureOf(one, table)));
  }

  // One measure as a small table: a row for each lane with its dot and interval, all on one scale, and its figure.
  function measureOf({ title, cells, spans, zero }, { lanes, harmed }) {
    const flag = (lane) => (title === "General questions" && harmed.includes(lane) ? [make("b", { class: "flag" }, " ⚑ forgot")] : []);
    return make("table", { class: "measure" }, make("caption", {}, title), make("tbody", {}, ...lanes.map((lane, index) =>
      make("tr", { "data-tone": lane.toLowerCase() }, make("th", { scope: "row" }, lane, ...flag(lane)),
        make("td", { class: "span", "aria-hidden": "true", style: `--zero: ${100 * zero}%` }, ...whisker(spans[index])), make("td", { class: "figure" }, cells[index].replaceAll("-", "−"))))));
  }

  function whisker(span) {
    if (!span) return [];
    const [value, low, high] = span.map((part) => 100 * part);
    return [make("div", {}, make("i", { style: `left: ${low}%; width: ${high - low}%` }), make("b", { style: `left: ${value}%` }))];
  }

  // ---- a model as judge; what was typed is kept in this browser, and the key is never typed

  const JUDGE_FIELDS = ["url", "model", "variable", "cases"];

  function beginJudge() {
    const kept = JSON.parse(localStorage.getItem("tunebench.judge") || "{}");
    for (const name of JUDGE_FIELDS) if (kept[name]) at(`judge-${name}`).value = kept[name];
    at("judge-lane").addEventListener("change", drawJudge);
    press("judge-stop", () => wish("stop_judge"));
    at("judge-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const [url, model, variable, cases] = JUDGE_FIELDS.map((name) => at(`judge-${name}`).value.trim());
      localStorage.setItem("tunebench.judge", JSON.stringify({ url, model, variable, cases }));
      wish("start_judge", { lanes: [at("near").value, at("far").value], lane: at("judge-lane").value, endpoint: { url, model, variable }, source: at("judge-set").value, cases: cases || 20 });
    });
  }

  function drawJudge() {
    const told = app.is("judge");
    if (!at("judge")) return;
    for (const field of at("judge").querySelectorAll(".far")) field.hidden = !!at("judge-lane").value;
    at("judge-stop").hidden = !told?.going;
    at("judge-go").hidden = !!told?.going;
    write("judge-said", told?.going || told?.problem || "");
    at("judge-found").replaceChildren(...(told?.opinions ?? []).map((line) => make("li", {}, line)));
  }

  // ---- lanes: text grows in place, so that a selection or a scroll position is never lost

  app.drawLanes = () => {
    const place = at("lanes"), compare = app.is("compare") ?? expected();
    if (!place) return;
    const key = JSON.stringify([compare?.run, compare?.lanes.map((lane) => [lane.name, !!lane.dial])]);
    if (place.dataset.key !== key) {
      place.dataset.key = key;
      place.replaceChildren(...(compare?.lanes ?? []).map(lanePane));
      fillSides(compare);
    }
    write("compare-status", statusOf(compare));
    put(at("compare-failed").querySelector("p"), compare?.error ?? "");
    at("compare-failed").hidden = !compare?.error;
    at("compare-reload").hidden = !compare?.dead;
    at("judge").hidden = at("closer").hidden = !compare || !!app.is("ballot") || compare.lanes.length < 2;
    const marks = marked(compare);
    for (const lane of compare?.lanes ?? []) fillLane(place, lane, compare, marks[lane.name]);
  };

  // The lanes of a run that was just opened, until the worker that loads them is known.
  function expected() {
    const run = app.is("run");
    if (!run || run.id !== app.opening) return null;
    const lanes = ["Base", ...run.adapters].map((name) => ({ name, end: "", cut: "", proof: "", hash: "" }));
    return { run: run.id, active: true, asked: "the first prompt", detail: "Loading the base and its adapters…", lanes };
  }

  function statusOf(compare) {
    if (!compare) return "Generate loads the base and the adapters of this run side by side.";
    if (compare.phase === "failed" || compare.answering) return "";
    if (app.is("ballot")) return ""; // its bar says the same
    if (!compare.active) return "The lanes were unloaded to free the device. Generate loads them again.";
    return compare.detail;
  }

  function lanePane(lane) {
    return make("section", { class: "card lane", "data-lane": lane.name, "data-tone": lane.name.toLowerCase(), "aria-label": `Answer of ${lane.name}` },
      make("header", { class: "row" }, make("h3", {}, make("i", { class: "dot", "aria-hidden": "true" }), make("span", {})), make("span", { class: "quiet end" })),
      make("div", { class: "before" }), make("div", { class: "answer", tabindex: "0", dir: "auto" }), make("p", { class: "quiet cut" }),
      make("p", { class: "quiet proof" }), ...(lane.dial ? [dialOf(lane.name)] : []));
  }

  function fillLane(place, lane, compare, marks) {
    const pane = [...place.children].find((one) => one.dataset.lane === lane.name), answer = pane.querySelector(".answer");
    const text = app.text[lane.name] ?? "";
    put(pane.querySelector("h3 span"), titleOf(lane));
    pane.toggleAttribute("data-won", !!lane.was && winnerOf(app.is("ballot")) === lane.name);
    fillBefore(pane.querySelector(".before"), lane.before ?? []);
    if (marks) drawMarks(answer, marks);
    else growText(answer, text);
    const asked = compare.asked || app.is("ballot");
    pane.classList.toggle("waiting", compare.active && !compare.done && !text && !!asked);
    pane.classList.toggle("unasked", compare.active && !text && !asked);
    for (const part of ["end", "cut", "proof"]) put(pane.querySelector(`.${part}`), lane[part]);
    pane.querySelector(".proof").title = lane.hash;
    const dial = pane.querySelector(".dial");
    if (dial && lane.dial && !dial.open) showDial(dial, lane.dial);
  }

  const winnerOf = (ballot) => ({ left: "A", right: "B" })[ballot?.voted] ?? "";

  function titleOf(lane) {
    if (!lane.was) return lane.name;
    return `${lane.name} was ${lane.was}${winnerOf(app.is("ballot")) === lane.name ? ", the winner" : ""}`;
  }

  function fillBefore(place, turns) {
    const key = JSON.stringify(turns);
    if ((place.dataset.key ?? "[]") === key) return;
    place.dataset.key = key;
    place.replaceChildren(...turns.flatMap((turn) => [make("p", { class: "said", dir: "auto" }, turn.prompt), make("p", { class: "turn", dir: "auto" }, turn.text)]));
  }

  function growText(answer, text) {
    const had = answer.dataset.marks ? "" : answer.textContent;
    if (text === had && !answer.dataset.marks) return;
    if (had && text.startsWith(had)) answer.append(text.slice(had.length));
    else answer.textContent = text;
    delete answer.dataset.marks;
    answer.normalize();
  }

  // ---- dials: how much of its adapter a lane uses, and of another's

  function dialOf(name) {
    const strength = make("input", { type: "range", min: 0, max: 150, step: 5, value: 100, name: "strength" });
    const share = make("input", { type: "range", min: 0, max: 100, step: 5, value: 0, name: "share" });
    const other = make("select", { name: "other" });
    const box = make("details", { class: "dial" }, make("summary", {}, "Dial"),
      make("label", {}, "Strength ", make("b", {}), strength),
      make("label", {}, "Blend with ", other), make("label", {}, "Share of it ", make("b", {}), share),
      make("p", { class: "quiet" }, "Holds from the next answer on; nothing is loaded anew."));
    const turn = () => wish("adjust_lane", { lane: name, strength: strength.value / 100, other: share.value > 0 ? other.value : "", share: share.value / 100 });
    for (const input of [strength, share, other]) {
      input.addEventListener("input", () => nameDial(box));
      input.addEventListener("change", turn);
    }
    return box;
  }

  function nameDial(box) {
    const [strength, share] = box.querySelectorAll("input"), [first, second] = box.querySelectorAll("b");
    put(first, `${strength.value} %`);
    put(second, `${share.value} %`);
  }

  function showDial(box, { strength, share }) {
    const [first, second] = box.querySelectorAll("input");
    first.value = Math.round(100 * strength);
    second.value = Math.round(100 * share);
    nameDial(box);
  }

  function fillSides(compare) {
    const names = compare && !app.is("ballot") ? compare.lanes.map((lane) => lane.name) : [];
    const tuned = (compare?.lanes ?? []).filter((lane) => lane.dial).map((lane) => lane.name);
    fillSelect(at("near"), names, names[0]);
    fillSelect(at("far"), names, names[names.length - 1]);
    at("judge-lane").replaceChildren(make("option", { value: "" }, "An endpoint (OpenAI's protocol)"), ...names.map((name) => make("option", { value: name }, `The lane ${name}`)));
    for (const pane of at("lanes").children) {
      const box = pane.querySelector(".dial"), others = tuned.filter((name) => name !== pane.dataset.lane);
      if (!box) continue;
      fillSelect(box.querySelector("select"), others, others[0]);
      for (const label of [...box.querySelectorAll("label")].slice(1)) label.hidden = !others.length;
      nameDial(box);
    }
  }

  function fillSelect(select, names, chosen) {
    select.replaceChildren(...names.map((name) => make("option", {}, name)));
    if (chosen !== undefined) select.value = chosen;
  }

  // ---- looking closer: words that differ, and the heat map. Marks: [[text, class or colour, title], …] for a lane

  function marked(compare) {
    const near = at("near").value, far = at("far").value, heat = app.is("heat"), still = compare?.done && !app.is("ballot");
    if (still && now.heat && heat?.ask === now.heat && now.heatAsk === app.ask) return { [now.heatOf]: heated(heat) };
    write("heat-legend", "");
    if (!still) return {};
    if (!at("diff").checked || near === far) return {};
    return differing(near, far);
  }

  function drawMarks(answer, marks) {
    const key = JSON.stringify(marks);
    if (answer.dataset.marks === key) return;
    answer.dataset.marks = key;
    answer.replaceChildren(...marks.map(([text, how, title]) => (how ? make("mark", typeof how === "string" ? { class: how } : { style: how.style, title }, text) : text)));
  }

  function differing(near, far) {
    const [one, other] = [near, far].map((lane) => (app.text[lane] ?? "").split(/(?<=\s)(?=\S)/));
    if (Math.max(one.length, other.length) > LONG_DIFF) return {};
    const same = common(one.map((word) => word.trim()), other.map((word) => word.trim()));
    const marks = (words, side) => words.map((word, index) => [word, !same[side].has(index) && word.trim() ? "differs" : ""]);
    return { [near]: marks(one, 0), [far]: marks(other, 1) };
  }

  // Which words of both belong to their longest common subsequence.
  function common(one, other) {
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

  async function look(lane) {
    const { ask } = await wish("show_heatmap", { answer: lane, lanes: [at("near").value, at("far").value] });
    if (!ask) return;
    Object.assign(now, { heat: ask, heatOf: lane, heatAsk: app.ask });
    app.drawLanes();
  }

  function heated({ lanes: [first, second], pieces }) {
    const total = pieces.reduce((sum, [, one, other]) => sum + one - other, 0);
    write("heat-legend", `Green: ${first} finds the token likelier; amber: ${second} does. Over the whole answer ${first} is ${total >= 0 ? "ahead" : "behind"} by ${Math.abs(total).toFixed(1)} nats.`);
    return pieces.map(([text, one, other]) => {
      const apart = one - other, depth = Math.round(45 * Math.min(1, Math.abs(apart) / 3));
      const colour = apart > 0 ? "var(--good)" : "var(--busy)";
      return [text, { style: `background: color-mix(in srgb, ${colour} ${depth}%, transparent)` }, `${first} ${one.toFixed(2)}, ${second} ${other.toFixed(2)} nats`];
    });
  }

  // Without an adapter there is nothing to ask.
  function drawNone({ comparable }, place) {
    place.hidden = comparable;
    document.documentElement.toggleAttribute("data-nothing", !comparable);
  }

  function drawAll() {
    drawBallot();
    drawTally(app.is("tally"));
    drawScores(app.is("scores"));
    app.drawLanes();
  }

  Object.assign(app.draws, {
    ballot: ["vote-bar", drawBallot, ["ballot", "compare"]],
    tally: ["tally", drawTally, ["tally", "ballot"]],
    scores: ["scored", drawScores, ["scores", "compare"]],
    judge: ["judge", drawJudge, ["judge", "compare", "ballot"]],
    none: ["compare-none", drawNone, ["gates"]],
  });
})();
