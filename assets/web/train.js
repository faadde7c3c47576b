// The Train tab: stages, how it ended, the doctor, the charts with what they mean now, the machine, and the word at the end.
(() => {
  const app = window.tunebench, { at, make, put, write, list } = app.tools;
  const EMPTY = [];

  app.draws.train = ["train-run", drawTrain, ["run", "pace", "doctor"]];
  app.draws.doctor = ["doctor", drawDoctor, ["doctor", "run"]];
  app.draws.facts = ["proof", drawFacts];
  app.draws.log = ["log", (lines, node) => (node.querySelector("pre").textContent = lines.join("\n") || "Nothing yet.")];
  app.drawCurves = drawCharts;

  function drawTrain(run, place) {
    at("train-empty").hidden = !!run;
    place.hidden = !run;
    if (!run) return;
    write("train-name", run.name);
    write("train-left", [run.left, finish(run.seconds), run.speed].filter(Boolean).join(" · "));
    drawStages(run);
    drawVerdict(run);
    hideUnusedCharts(run);
  }

  // When it will be done by the clock on the wall; the day too, where that is not today.
  function finish(seconds) {
    if (seconds === null || seconds === undefined) return "";
    const then = new Date(Date.now() + 1000 * seconds), today = then.toDateString() === new Date().toDateString();
    const time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    return `done about ${today ? "" : then.toLocaleDateString([], { weekday: "long" }) + " "}${time}`;
  }

  function drawStages(run) {
    const key = JSON.stringify(run.stages);
    if (at("stages").dataset.key === key) return;
    at("stages").dataset.key = key;
    const marks = { done: "✓", failed: "!", stopped: "■", paused: "" }; // two bars by CSS: fonts lack the sign
    const words = { done: "done", now: "now", failed: "failed here", stopped: "stopped here", paused: "paused here", todo: "to come" };
    at("stages").replaceChildren(...run.stages.map((stage, index) =>
      make("li", { class: stage.state, "aria-current": stage.state === "now" ? "step" : null },
        make("i", { "aria-hidden": "true" }, marks[stage.state] ?? String(index + 1)),
        make("span", {}, stage.word), make("span", { class: "sr" }, words[stage.state]))));
  }

  function verdictOf(run) {
    const kept = run.adapters.length ? `The ${list(run.adapters)} adapter${run.adapters.length > 1 ? "s are" : " is"} saved.` : "";
    if (run.phase === "done") return { tone: "good", title: "Finished", text: [kept, "Next: see if you like it better than the base model."], open: true };
    if (run.phase === "paused") return { tone: "plain", title: "Paused", text: [run.step, run.detail, "Resume goes on exactly here, also after a restart of the computer."], open: run.adapters.length };
    if (run.phase === "stopped") return { tone: "plain", title: "Stopped at your request", text: [run.step, run.detail, kept || (run.detail ? "" : "No step was finished, so there is no adapter.")], open: run.adapters.length };
    const bug = run.bug ? "This is a fault of Tunebench, not of your settings; the log below has the details." : "";
    if (run.phase === "failed") return { tone: "bad", title: run.step ? `Failed after ${run.step}` : "Failed", text: [run.error, bug, kept], open: run.adapters.length, offers: run.offers };
    return null;
  }

  // Is what the doctor proposes the one best next step? While a run goes on, and where it failed without a proposal of its own.
  const leads = (run, findings) => !!findings?.length && (run.active || (run.phase === "failed" && !run.offers.length));

  const retry = (run, key) => () => app.send("retry", { run, key });

  function drawVerdict(run) {
    const verdict = verdictOf(run), place = at("verdict"), led = leads(run, app.is("doctor"));
    const key = JSON.stringify([run.id, verdict, verdict ? [led, run.kept] : [run.detail, !run.step]]);
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    const waits = run.active && !run.step;
    if (!verdict) return place.replaceChildren(...(run.detail || waits ? [make("p", { class: waits ? "detail first" : "detail" }, run.detail || "Starting the worker")] : []));
    const box = make("div", { class: `verdict ${verdict.tone}`, role: verdict.tone === "bad" ? "alert" : "status" }, make("h3", {}, verdict.title));
    for (const line of verdict.text.flatMap((text) => text.split("\n"))) if (line) box.append(make("p", {}, line));
    const buttons = [];
    const button = (id, text, deed) => buttons.push(make("button", { class: buttons.length || led ? "button small" : "button", id, onclick: deed }, text));
    for (const [index, offer] of (verdict.offers ?? []).entries()) button(index ? null : "retry", offer.text, retry(run.id, offer.key));
    if (run.phase === "failed" && !run.offers.length && !run.kept) button("again", "Start again", () => app.send("clone", { run: run.id })); // resuming would do all of it once more
    if (run.resumable) button("resume", "Resume", () => app.send("resume", { run: run.id }));
    if (verdict.open) button("opencmp", "Open Compare", () => app.send("opencompare", { run: run.id }));
    if (run.phase === "done") button("longer", "One more pass", () => app.send("prolong", { run: run.id }));
    button("report", "Save report", () => app.report(run.id));
    box.append(make("p", { class: "buttons" }, ...buttons));
    place.replaceChildren(box);
    if (verdict.tone === "bad") at("log").open = true;
  }

  // ---- doctor: the weightiest finding open, the rest folded; announced only when another one comes first

  function drawDoctor(findings, place) {
    const [first, ...rest] = findings, run = app.is("run");
    place.hidden = !first;
    if (!first) return put(at("doctor-said"), "");
    put(at("doctor-said"), `Doctor: ${first.title}. ${first.says}`);
    const opened = place.querySelector("details")?.open ?? false, focused = place.contains(document.activeElement);
    place.replaceChildren(
      make("h3", {}, make("i", { "aria-hidden": "true", class: "cross" }, "✚"), first.title, make("span", { class: "quiet small" }, first.where)),
      ...body(first),
      make("p", { class: "buttons" }, make("button", { class: leads(run, findings) ? "button" : "button small", id: "try", onclick: retry(run.id, first.key) }, tryWith(first))),
      ...(rest.length ? [make("details", { open: opened }, make("summary", {}, `${rest.length} more finding${rest.length > 1 ? "s" : ""}`), ...rest.map((one) => more(one, run)))] : []));
    if (focused) at("try")?.focus();
  }

  const body = (finding) => [
    make("p", {}, finding.says),
    make("ul", { class: "evidence" }, ...finding.evidence.map((line) => make("li", {}, line))),
    make("p", { class: "quiet small" }, `Threshold: ${finding.source}`),
  ];

  const more = (finding, run) => make("section", {}, make("h4", {}, finding.title, make("span", { class: "quiet small" }, ` ${finding.where}`)), ...body(finding),
    make("button", { class: "button small", onclick: retry(run.id, finding.key) }, tryWith(finding)));

  // The proposal in mid-sentence; what is written in capitals stays.
  const tryWith = ({ offer }) => `Try again with: ${offer.replace(/^[A-Z](?=[a-z])/, (letter) => letter.toLowerCase())}`;

  // ---- charts

  function hideUnusedCharts(run) {
    const words = run.stages.filter((stage) => stage.state !== "todo").map((stage) => stage.word.toLowerCase());
    const figures = [...document.querySelectorAll("#charts figure")];
    figures.forEach((figure) => (figure.hidden = !words.includes(figure.dataset.series.split(".")[0])));
    at("look").classList.toggle("few", figures.filter((figure) => !figure.hidden).length < 2); // room for the answers beside them
    write("later", laterOf(run));
    at("later").hidden = !at("later").textContent;
  }

  const isTraining = ({ word }) => !["Load", "Compare"].includes(word);

  // What a stage that is still to come will show, as one line instead of empty charts.
  function laterOf(run) {
    const training = run.stages.filter(isTraining), coming = training.findIndex((stage) => stage.state === "todo");
    if (coming < 0) return "";
    return coming ? `${training[coming].word} charts come after ${training[coming - 1].word}.` : "Charts come with the first step.";
  }

  const end = (points) => points[points.length - 1]?.[1];
  const soft = (points) => end(window.smoothCurve(points));
  const best = (points) => points.reduce((low, point) => (point[1] < low[1] ? point : low));
  const signed = (value, digits = 2) => (Number(value.toFixed(digits)) > 0 ? "+" : "") + fixed(value, digits);
  const held = (points, words) => (points.length ? ` On held-out rows: ${words(points)}.` : "");
  const percent = (share) => `${Math.round(100 * share)} %`;
  // A share with what it is a share of; of fewer than 16 it says little, and is grey.
  const FEW = 16;
  const counted = (share, of) => make("span", { class: of < FEW ? "few" : null }, ` ${percent(share)} (${Math.round(share * of)} of ${of} held-out pairs measured).`);
  const bestHeld = (points) => `${fixed(end(points), 3)}, best ${fixed(best(points)[1], 3)} at step ${best(points)[0]}`;

  // What a chart's numbers mean now; until there are any, its standing sentence is shown.
  const says = {
    "token loss": ([train, kept]) => `${soft(train).toFixed(2)} nats per token: about ${Math.exp(soft(train)).toFixed(1)} tokens to choose from at each place; ${Math.exp(train[0][1]).toFixed(1)} at the start.${held(kept, bestHeld)}`,
    "preference loss": ([train, kept]) => `${signed(soft(train) - train[0][1])} since the start, where policy and reference were equal. Sound runs end at 0.3 to 0.5.${held(kept, bestHeld)}`,
    "margin": ([train, kept]) => `Chosen answers have ${soft(train) < 0 ? "lost" : "gained"} ${Math.abs(soft(train)).toFixed(2)} on rejected ones since the start (β × nats). Sound runs end at 1 to 3.${held(kept, (points) => fixed(end(points), 2))}`,
    "accuracy": ([train, kept], stage) => [`${percent(soft(train))} of the pairs of the latest steps (${app.is("run").batches[stage] ?? "some"} a step) have moved the right way; 50 % is a coin toss.`,
      kept.length ? counted(end(kept), end(points(`${stage}.held.rows`))) : ""],
    "loss": ([train, kept]) => `${fixed(soft(train), 3)}, ${signed(soft(train) - train[0][1], 3)} since the start.${held(kept, bestHeld)}`,
    "log-probabilities": ([chosen, rejected]) => `Chosen ${signed(soft(chosen) - chosen[0][1], 0)}, rejected ${signed(soft(rejected) - rejected[0][1], 0)} nats since the start. Rejected should fall; chosen may fall a little.`,
  };

  const points = (name) => app.series[name] ?? app.is("held")?.[name] ?? EMPTY;
  const linesOf = (figure) => JSON.parse(figure.dataset.lines).map(([name, label, kind]) => ({ name: label, kind, points: points(name) }));

  function drawCharts() {
    const run = app.is("run");
    if (!run) return;
    for (const figure of document.querySelectorAll("#charts figure.chart, #deep[open] figure.chart, #machine[open] figure.chart")) {
      const [group] = figure.dataset.series.split("."), lines = linesOf(figure), count = lines[0].points.length;
      if (group === "machine") figure.hidden = !count && figure.dataset.optional === "yes"; // until the first reading has it
      if (figure.hidden) continue;
      figure.querySelectorAll(".lines span").forEach((name, index) => (name.hidden = !lines[index].points.length));
      window.drawChart(figure, lines, { total: run.planned[group] ?? 0, time: group === "machine", marks: app.marks(group, figure.dataset.series) });
      const told = says[figure.dataset.reading];
      if (told && count > 1) say(figure.querySelector(".says"), told(lines.map((line) => line.points), group));
      else if (told && !count) put(figure.querySelector(".says"), figure.dataset.says);
      sizes.observe(figure);
    }
  }

  // Words, and parts of them that have a look of their own; drawn anew only where they have changed.
  function say(place, told) {
    if (typeof told === "string") return put(place, told);
    const text = told.map((part) => part.textContent ?? part).join("");
    if (place.textContent !== text) place.replaceChildren(...told);
  }

  const sizes = new ResizeObserver((entries) => {
    if (entries.some(({ target }) => target.querySelector(".plot").clientWidth !== Number(target.dataset.width))) drawCharts();
  });

  // ---- what was used

  function drawFacts(facts, proof) {
    if (!facts) return;
    proof.hidden = !facts.proof;
    proof.className = `proof ${facts.holds ? "good" : "bad"}`;
    proof.replaceChildren(make("b", {}, `Step 0 proof ${facts.holds ? "✓" : "✗"} `), facts.proof);
    write("rows", facts.rows);
    const notes = [...facts.reasons, ...facts.changes, ...facts.notes];
    at("notes").hidden = !notes.length;
    at("notes").replaceChildren(make("summary", {}, `What was chosen, changed or left out (${notes.length})`), make("ul", {}, ...notes.map((note) => make("li", {}, note))));
    const changed = facts.settings.flatMap((group) => group.rows).filter((row) => row[2] !== null).length;
    put(at("settings").querySelector("summary"), changed ? `Settings used (${changed} differ${changed > 1 ? "" : "s"} from the preset)` : "Settings used");
    at("settings").querySelector(".groups").replaceChildren(...facts.settings.map((group) =>
      make("section", {}, make("h3", {}, group.title),
        make("dl", {}, ...group.rows.flatMap(([name, value, preset]) => [make("dt", {}, name),
          make("dd", { class: preset === null ? null : "changed" }, value || "none", ...(preset === null ? [] : [make("small", {}, ` preset: ${preset || "none"}`)]))])))));
  }

  // ---- the end: a word to those who look elsewhere. Asked for by a click, never by itself

  const wants = (name) => localStorage.getItem(`tunebench.${name}`) === "yes";

  document.addEventListener("change", (event) => {
    const name = event.target.closest?.("#at-end input")?.name;
    if (!name) return;
    localStorage.setItem(`tunebench.${name}`, event.target.checked ? "yes" : "no");
    if (name === "notify" && event.target.checked) window.Notification?.requestPermission();
    if (name === "sound" && event.target.checked) ring(true);
  });
  app.draws.atEnd = ["at-end", (_, place) => place.querySelectorAll("input").forEach((input) => (input.checked = wants(input.name))), ["gates"]];

  function ring(good) {
    const sound = new AudioContext(), volume = sound.createGain();
    volume.connect(sound.destination);
    volume.gain.value = 0.08;
    (good ? [660, 880] : [440, 330]).forEach((pitch, index) => {
      const tone = sound.createOscillator();
      tone.frequency.value = pitch;
      tone.connect(volume);
      tone.start(sound.currentTime + 0.18 * index);
      tone.stop(sound.currentTime + 0.18 * index + 0.15);
    });
  }

  app.after.push(() => {
    const run = app.ended;
    if (!run) return;
    if (wants("sound")) ring(run.phase === "done");
    if (wants("notify") && window.Notification?.permission === "granted")
      new Notification(`${run.pill}: ${run.name}`, { body: run.phase === "failed" ? run.error : run.step, tag: run.id }); // one tag: several tabs, one note
  });
})();
