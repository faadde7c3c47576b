// The Train tab: stages, how the run ended, findings, charts with captions, hardware, and notifications.
(() => {
  const app = window.tunebench, { byId, makeNode, setText, writeText, joinNames } = app.tools;
  const EMPTY = [];

  app.renderers.train = ["train-run", drawTrain, ["run", "progress", "findings"]];
  app.renderers.findings = ["doctor", drawFindings, ["findings", "run"]];
  app.renderers.facts = ["reference-check", drawFacts];
  app.renderers.log = ["log", (lines, node) => (node.querySelector("pre").textContent = lines.join("\n") || pageText("train_tab.empty_log"))];
  app.drawCurves = drawCharts;

  function drawTrain(run, place) {
    byId("train-empty").hidden = !!run;
    place.hidden = !run;
    if (!run) return;
    writeText("train-name", run.name);
    writeText("train-left", [run.left, finishTime(run.seconds), run.speed].filter(Boolean).join(" · "));
    drawStages(run);
    drawVerdict(run);
    hideUnusedCharts(run);
  }

  // When it will be done by the clock on the wall; the day too, where that is not today.
  function finishTime(seconds) {
    if (seconds === null || seconds === undefined) return "";
    const then = new Date(Date.now() + 1000 * seconds), today = then.toDateString() === new Date().toDateString();
    const time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    return today ? pageText("train_tab.done_at", { time }) : pageText("train_tab.done_on_day", { day: then.toLocaleDateString([], { weekday: "long" }), time });
  }

  function drawStages(run) {
    const key = JSON.stringify(run.stages);
    if (byId("stages").dataset.key === key) return;
    byId("stages").dataset.key = key;
    const marks = { done: "✓", failed: "!", stopped: "■", paused: "" }; // two bars by CSS: fonts lack the sign
    const words = { done: "train_tab.stage_done", now: "train_tab.stage_now", failed: "train_tab.stage_failed", stopped: "train_tab.stage_stopped", paused: "train_tab.stage_paused", todo: "train_tab.stage_to_come" };
    byId("stages").replaceChildren(...run.stages.map((stage, index) =>
      makeNode("li", { class: stage.state, "aria-current": stage.state === "now" ? "step" : null },
        makeNode("i", { "aria-hidden": "true" }, marks[stage.state] ?? String(index + 1)),
        makeNode("span", {}, stage.word), makeNode("span", { class: "sr" }, pageText(words[stage.state])))));
  }

  function describeEnd(run) {
    const saved = run.adapters.length ? pageText("train_tab.adapters_saved", { names: joinNames(run.adapters), adapters: run.adapters.length }) : "";
    if (run.phase === "done") return { tone: "good", title: pageText("run.finished"), text: [saved, pageText("train_tab.compare_next")], open: true };
    if (run.phase === "paused") return { tone: "plain", title: pageText("run.paused"), text: [run.step, run.detail, pageText("train_tab.resume_continues")], open: run.adapters.length };
    if (run.phase === "stopped") return { tone: "plain", title: pageText("train_tab.stopped"), text: [run.step, run.detail, saved || (run.detail ? "" : pageText("train_tab.no_adapter"))], open: run.adapters.length };
    const bug = run.bug ? pageText("train_tab.bug") : "";
    if (run.phase === "failed") return { tone: "bad", title: run.step ? pageText("train_tab.failed_after", { step: run.step }) : pageText("run.failed"), text: [run.error, bug, saved], open: run.adapters.length, offers: run.offers };
    return null;
  }

  // Is what the doctor proposes the one best next step? While a run goes on, and where it failed without a proposal of its own.
  const leadsWithFinding = (run, findings) => !!findings?.length && (run.active || (run.phase === "failed" && !run.offers.length));

  const makeRetry = (run, key) => () => app.sendEvent("retry", { run, key });

  function drawVerdict(run) {
    const verdict = describeEnd(run), place = byId("verdict"), led = leadsWithFinding(run, app.getPart("findings"));
    const key = JSON.stringify([run.id, verdict, verdict ? [led, run.kept] : [run.detail, !run.step]]);
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    const waits = run.active && !run.step;
    if (!verdict) return place.replaceChildren(...(run.detail || waits ? [makeNode("p", { class: waits ? "detail first" : "detail" }, run.detail || pageText("train_tab.starting"))] : []));
    const box = makeNode("div", { class: `verdict ${verdict.tone}`, role: verdict.tone === "bad" ? "alert" : "status" }, makeNode("h3", {}, verdict.title));
    for (const line of verdict.text.flatMap((text) => text.split("\n"))) if (line) box.append(makeNode("p", {}, line));
    const buttons = [];
    const addButton = (id, text, action) => buttons.push(makeNode("button", { class: buttons.length || led ? "button small" : "button", id, onclick: action }, text));
    for (const [index, offer] of (verdict.offers ?? []).entries()) addButton(index ? null : "retry", offer.text, makeRetry(run.id, offer.key));
    if (run.phase === "failed" && !run.offers.length && !run.kept) addButton("start-again", pageText("train_tab.start_again"), () => app.sendEvent("clone", { run: run.id })); // resuming would do all of it once more
    if (run.resumable) addButton("resume", pageText("train_tab.resume"), () => app.sendEvent("resume", { run: run.id }));
    if (verdict.open) addButton("open-compare", pageText("train_tab.open_compare"), () => app.sendEvent("opencompare", { run: run.id }));
    if (run.phase === "done") addButton("extend", pageText("train_tab.one_more_epoch"), () => app.sendEvent("extend", { run: run.id }));
    addButton("report", pageText("common.save_report"), () => app.saveReport(run.id));
    box.append(makeNode("p", { class: "buttons" }, ...buttons));
    place.replaceChildren(box);
    if (verdict.tone === "bad") byId("log").open = true;
  }

  // ---- findings: the weightiest finding open, the rest folded; announced only when another one comes first

  function drawFindings(findings, place) {
    const [first, ...rest] = findings, run = app.getPart("run");
    place.hidden = !first;
    if (!first) return setText(byId("doctor-status"), "");
    setText(byId("doctor-status"), pageText("train_tab.doctor_finding", { title: first.title, says: first.says }));
    const opened = place.querySelector("details")?.open ?? false, focused = place.contains(document.activeElement);
    place.replaceChildren(
      makeNode("h3", {}, makeNode("i", { "aria-hidden": "true", class: "cross" }, "✚"), first.title, makeNode("span", { class: "quiet small" }, first.where)),
      ...makeBody(first),
      makeNode("p", { class: "buttons" }, makeNode("button", { class: leadsWithFinding(run, findings) ? "button" : "button small", id: "try-again", onclick: makeRetry(run.id, first.key) }, retryLabel(first))),
      ...(rest.length ? [makeNode("details", { open: opened }, makeNode("summary", {}, pageText("train_tab.more_findings", { findings: rest.length })), ...rest.map((one) => makeFinding(one, run)))] : []));
    if (focused) byId("try-again")?.focus();
  }

  const makeBody = (finding) => [
    makeNode("p", {}, finding.says),
    makeNode("ul", { class: "evidence" }, ...finding.evidence.map((line) => makeNode("li", {}, line))),
    makeNode("p", { class: "quiet small" }, pageText("train_tab.threshold", { source: finding.source })),
  ];

  const makeFinding = (finding, run) => makeNode("section", {}, makeNode("h4", {}, finding.title, makeNode("span", { class: "quiet small" }, ` ${finding.where}`)), ...makeBody(finding),
    makeNode("button", { class: "button small", onclick: makeRetry(run.id, finding.key) }, retryLabel(finding)));

  // The proposal in mid-sentence; what is written in capitals stays.
  const retryLabel = ({ offer }) => pageText("train_tab.try_again", { offer: offer.replace(/^[A-Z](?=[a-z])/, (letter) => letter.toLowerCase()) });

  // ---- charts

  function hideUnusedCharts(run) {
    const words = run.stages.filter((stage) => stage.state !== "todo").map((stage) => stage.word.toLowerCase());
    const figures = [...document.querySelectorAll("#charts figure")];
    figures.forEach((figure) => (figure.hidden = !words.includes(figure.dataset.series.split(".")[0])));
    byId("charts-and-samples").classList.toggle("few", figures.filter((figure) => !figure.hidden).length < 2); // room for the answers beside them
    writeText("later", describeLater(run));
    byId("later").hidden = !byId("later").textContent;
  }

  const isTraining = ({ word }) => !["Load", "Compare"].includes(word);

  // What a stage that is still to come will show, as one line instead of empty charts.
  function describeLater(run) {
    const training = run.stages.filter(isTraining), coming = training.findIndex((stage) => stage.state === "todo");
    if (coming < 0) return "";
    return coming ? pageText("train_tab.charts_after", { stage: training[coming].word, before: training[coming - 1].word }) : pageText("train_tab.charts_first");
  }

  const lastValue = (points) => points[points.length - 1]?.[1];
  const lastSmooth = (points) => lastValue(window.smoothCurve(points));
  const findLowest = (points) => points.reduce((low, point) => (point[1] < low[1] ? point : low));
  const formatSigned = (value, digits = 2) => (Number(value.toFixed(digits)) > 0 ? "+" : "") + formatFixed(value, digits);
  const addHeldOut = (caption, points, describe) => (points.length ? `${caption} ${describe(points)}` : caption);
  const formatPercent = (share) => `${Math.round(100 * share)} %`;
  // A share with what it is a share of; of fewer than 16 it says little, and is grey.
  const FEW = 16;
  const makeCount = (share, of) => makeNode("span", { class: of < FEW ? "few" : null }, ` ${pageText("train_tab.held_out_share", { share: formatPercent(share), pairs: Math.round(share * of), of })}`);
  const describeLast = (points) => pageText("train_tab.held_out", { value: formatFixed(lastValue(points), 2) });
  const describeBest = (points) => pageText("train_tab.held_out_best", { value: formatFixed(lastValue(points), 3), best: formatFixed(findLowest(points)[1], 3), step: findLowest(points)[0] });
  const describeAccuracy = (share, pairs) => (pairs ? pageText("train_tab.accuracy", { share, pairs }) : pageText("train_tab.accuracy_of_some", { share }));

  // What a chart's numbers mean now; until there are any, its standing sentence is shown.
  const CAPTIONS = {
    "token loss": ([train, heldOut]) => addHeldOut(pageText("train_tab.perplexity", { now: Math.exp(lastSmooth(train)).toFixed(1), first: Math.exp(train[0][1]).toFixed(1) }), heldOut, describeBest),
    "preference loss": ([train, heldOut]) => addHeldOut(pageText("train_tab.preference_loss", { change: formatSigned(lastSmooth(train) - train[0][1]) }), heldOut, describeBest),
    "margin": ([train, heldOut]) => addHeldOut(pageText(lastSmooth(train) < 0 ? "train_tab.margin_lost" : "train_tab.margin_gained", { margin: Math.abs(lastSmooth(train)).toFixed(2) }), heldOut, describeLast),
    "accuracy": ([train, heldOut], stage) => [describeAccuracy(formatPercent(lastSmooth(train)), app.getPart("run").batches[stage]),
      heldOut.length ? makeCount(lastValue(heldOut), lastValue(seriesPoints(`${stage}.held.rows`))) : ""],
    "loss": ([train, heldOut]) => addHeldOut(pageText("train_tab.loss", { loss: formatFixed(lastSmooth(train), 3), change: formatSigned(lastSmooth(train) - train[0][1], 3) }), heldOut, describeBest),
    "log-probabilities": ([chosen, rejected]) => pageText("train_tab.log_probabilities", { chosen: formatSigned(lastSmooth(chosen) - chosen[0][1], 0), rejected: formatSigned(lastSmooth(rejected) - rejected[0][1], 0) }),
  };

  const seriesPoints = (name) => app.series[name] ?? app.getPart("held_out")?.[name] ?? EMPTY;
  const readLines = (figure) => JSON.parse(figure.dataset.lines).map(([name, label, kind]) => ({ name: label, kind, points: seriesPoints(name) }));

  function drawCharts() {
    const run = app.getPart("run");
    if (!run) return;
    for (const figure of document.querySelectorAll("#charts figure.chart, #detail-charts[open] figure.chart, #hardware-charts[open] figure.chart")) {
      const [group] = figure.dataset.series.split("."), lines = readLines(figure), count = lines[0].points.length;
      if (group === "hardware") figure.hidden = !count && figure.dataset.optional === "yes"; // until the first reading has it
      if (figure.hidden) continue;
      figure.querySelectorAll(".lines span").forEach((name, index) => (name.hidden = !lines[index].points.length));
      window.drawChart(figure, lines, { total: run.planned[group] ?? 0, time: group === "hardware", marks: app.stepMarks(group, figure.dataset.series) });
      const caption = CAPTIONS[figure.dataset.reading];
      if (caption && count > 1) setCaption(figure.querySelector(".caption"), caption(lines.map((line) => line.points), group));
      else if (caption && !count) setText(figure.querySelector(".caption"), figure.dataset.caption);
      sizes.observe(figure);
    }
  }

  // Words, and parts of them that have a look of their own; drawn anew only where they have changed.
  function setCaption(place, caption) {
    if (typeof caption === "string") return setText(place, caption);
    const text = caption.map((part) => part.textContent ?? part).join("");
    if (place.textContent !== text) place.replaceChildren(...caption);
  }

  const sizes = new ResizeObserver((entries) => {
    if (entries.some(({ target }) => target.querySelector(".plot").clientWidth !== Number(target.dataset.width))) drawCharts();
  });

  // ---- what was used

  function drawFacts(facts, place) {
    if (!facts) return;
    place.hidden = !facts.proof;
    place.className = `reference-check ${facts.holds ? "good" : "bad"}`;
    place.replaceChildren(makeNode("b", {}, `${pageText("train_tab.reference_check")} ${facts.holds ? "✓" : "✗"} `), facts.proof);
    writeText("rows", facts.rows);
    const notes = [...facts.reasons, ...facts.changes, ...facts.notes];
    byId("notes").hidden = !notes.length;
    byId("notes").replaceChildren(makeNode("summary", {}, pageText("train_tab.notes_counted", { notes: notes.length })), makeNode("ul", {}, ...notes.map((note) => makeNode("li", {}, note))));
    const changed = facts.settings.flatMap((group) => group.rows).filter((row) => row[2] !== null).length;
    setText(byId("settings").querySelector("summary"), changed ? pageText("train_tab.settings_changed", { changed }) : pageText("train_tab.settings"));
    byId("settings").querySelector(".groups").replaceChildren(...facts.settings.map((group) =>
      makeNode("section", {}, makeNode("h3", {}, group.title),
        makeNode("dl", {}, ...group.rows.flatMap(([name, value, preset]) => [makeNode("dt", {}, name),
          makeNode("dd", { class: preset === null ? null : "changed" }, value || pageText("common.no_value"), ...(preset === null ? [] : [makeNode("small", {}, ` ${pageText("train_tab.preset", { value: preset || pageText("common.no_value") })}`)]))])))));
  }

  // ---- notifications when a run ends; only those the user turned on

  const isWanted = (name) => localStorage.getItem(`tunebench.${name}`) === "yes";

  document.addEventListener("change", (event) => {
    const name = event.target.closest?.("#notifications input")?.name;
    if (!name) return;
    localStorage.setItem(`tunebench.${name}`, event.target.checked ? "yes" : "no");
    if (name === "notify" && event.target.checked) window.Notification?.requestPermission();
    if (name === "sound" && event.target.checked) playSound(true);
  });
  app.renderers.notifications = ["notifications", (_, place) => place.querySelectorAll("input").forEach((input) => (input.checked = isWanted(input.name))), ["buttons"]];

  function playSound(good) {
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

  app.afterUpdate.push(() => {
    const run = app.ended;
    if (!run) return;
    if (isWanted("sound")) playSound(run.phase === "done");
    if (isWanted("notify") && window.Notification?.permission === "granted")
      new Notification(`${run.badge}: ${run.name}`, { body: run.phase === "failed" ? run.error : run.step, tag: run.id }); // one tag: several tabs, one note
  });
})();
