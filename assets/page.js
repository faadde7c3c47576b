// What the page has (parts, curves, answers) and how each part is drawn. Words from outside only ever become textContent.
(() => {
  const at = (id) => document.getElementById(id);
  const app = (window.tunebench = {
    parts: {}, series: {}, run: "", points: 0, ask: "", text: {}, failing: 0, finishedWhileWatching: "",
    show: sessionStorage.getItem("tunebench.show") || "",
    is: (name) => app.parts[name]?.is,
    send: () => {},
    make,
  });

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== null) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  // Only a change is written: every write wakes the observer below.
  function put(node, text) {
    if (node && node.textContent !== text) node.textContent = text;
  }

  const write = (id, text) => put(at(id), text);

  // ---- what goes to and comes from Python

  app.cursor = () => ({
    show: app.show, run: app.run, points: app.points, ask: app.ask, tab: openTab(), log: !!at("log")?.open,
    chars: Object.fromEntries(Object.entries(app.text).map(([lane, text]) => [lane, text.length])),
    marks: Object.fromEntries(Object.entries(app.parts).map(([name, part]) => [name, part.mark])),
  });

  app.take = (news) => {
    const before = app.is("run"), busyBefore = app.is("gates")?.busy;
    for (const [name, part] of Object.entries(news.parts)) app.parts[name] = part;
    if (news.run !== app.run || news.from === 0) app.series = {};
    app.run = news.run;
    app.points = news.points;
    for (const [name, points] of Object.entries(news.series)) (app.series[name] ??= []).push(...points);
    if (news.ask !== app.ask) app.text = {};
    app.ask = news.ask;
    for (const [lane, more] of Object.entries(news.text)) app.text[lane] = (app.text[lane] ?? "") + more;
    const busy = app.is("gates")?.busy;
    if (busy && busyBefore !== undefined && busy !== busyBefore) app.choose("");
    const run = app.is("run");
    if (before?.active && run && run.id === before.id && run.phase === "done" && openTab() === "train") app.finishedWhileWatching = run.id;
    rememberTab();
    drawAll("run" in news.parts || Object.keys(news.series).length > 0 || news.from === 0);
  };

  app.choose = (run) => {
    app.show = run;
    sessionStorage.setItem("tunebench.show", run);
  };

  app.lost = (lost) => {
    const banner = at("lost");
    if (banner) banner.hidden = !lost;
  };

  // ---- tabs

  const tabs = () => [...document.querySelectorAll("#tabs button[role=tab]")];
  const openTab = () => tabs().find((tab) => tab.getAttribute("aria-selected") === "true")?.textContent.trim().toLowerCase() ?? "";
  // The tab that was open before a reload is opened again; from then on the open one is remembered.
  let reopened = false;
  function rememberTab() {
    if (reopened) return sessionStorage.setItem("tunebench.tab", openTab());
    const before = sessionStorage.getItem("tunebench.tab");
    if (before && before !== openTab()) app.open(before);
    reopened = tabs().length > 0;
  }
  app.open = (name) => tabs().find((tab) => tab.textContent.trim().toLowerCase() === name)?.click();

  // ---- drawing: a part is drawn when it is new, or when its place on the page is

  const drawn = new WeakMap();

  function drawAll(newCurves) {
    for (const [name, [place, draw]] of Object.entries(draws)) {
      const node = at(place), part = app.parts[name === "train" ? "run" : name];
      if (!node || !part || drawn.get(node) === part.mark) continue;
      draw(part.is, node);
      drawn.set(node, part.mark);
    }
    const charts = at("charts");
    if (charts && app.is("run") && (newCurves || !drawn.has(charts))) {
      drawCharts(charts);
      drawn.set(charts, 1);
    }
    drawLanes();
    drawTitle();
  }

  // Gradio makes a tab's content when the tab is first opened; what is known by then is drawn at once.
  new MutationObserver(() => drawAll(false)).observe(document.documentElement, { childList: true, subtree: true });

  // part → where it is seen, and how it is drawn
  const draws = {
    device: ["device-meter", drawDevice],
    run: ["run-bar", drawRunCard],
    train: ["train-run", drawTrain],
    facts: ["proof", drawFacts],
    gates: ["trouble", drawTrouble],
    recent: ["recent", drawRecent],
    runs: ["runs", drawTable],
    log: ["log", (lines, node) => (node.querySelector("pre").textContent = lines.join("\n") || "Nothing yet.")],
  };

  function drawDevice(device, meter) {
    const percent = (share) => `${(100 * share).toFixed(1)}%`;
    write("device-kind", device.kind);
    write("device-name", device.name);
    write("device-free", device.free);
    write("device-facts", device.facts);
    at("device-ours").style.width = percent(device.ours);
    at("device-others").style.width = percent(Math.max(0, device.used - device.ours));
    meter.setAttribute("aria-valuenow", Math.round(100 * device.used));
    meter.setAttribute("aria-valuetext", device.free || device.name);
    const split = at("device-split");
    split.hidden = !device.split;
    split.querySelectorAll("b").forEach((node, index) => (node.textContent = device.split?.[index] ?? ""));
    at("device-problem").hidden = !device.problem;
    write("device-problem", device.problem);
  }

  function drawTrouble(gates, place) {
    place.hidden = !gates.trouble;
    put(place, gates.trouble && `Tunebench cannot read its runs: ${gates.trouble.trim().split("\n").pop()}`);
  }

  function drawRunCard(run, bar) {
    if (!run) return;
    const pill = at("run-pill"), percent = Math.round(100 * run.progress);
    write("run-pill", run.pill);
    pill.dataset.tone = run.tone;
    write("run-left", run.left);
    write("run-step", run.now || run.name);
    bar.setAttribute("aria-valuenow", percent);
    bar.setAttribute("aria-valuetext", `${percent} %, ${run.now}`);
    bar.dataset.tone = run.tone;
    bar.firstElementChild.style.width = `${100 * run.progress}%`;
  }

  function drawTrain(run, place) {
    at("train-empty").hidden = !!run;
    place.hidden = !run;
    if (!run) return;
    write("train-name", run.name);
    write("train-left", [run.left, run.speed].filter(Boolean).join(" · "));
    drawStages(run);
    drawVerdict(run);
    hideUnusedCharts(run);
  }

  function drawStages(run) {
    const marks = { done: "✓", failed: "!", stopped: "■", paused: "⏸" };
    const words = { done: "done", now: "now", failed: "failed here", stopped: "stopped here", paused: "paused here", todo: "to come" };
    at("stages").replaceChildren(...run.stages.map((stage, index) =>
      make("li", { class: stage.state, "aria-current": stage.state === "now" ? "step" : null },
        make("i", { "aria-hidden": "true" }, marks[stage.state] ?? String(index + 1)),
        make("span", {}, stage.word), make("span", { class: "sr" }, words[stage.state]))));
  }

  const list = (words) => (words.length > 1 ? `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}` : words[0] ?? "");

  function verdictOf(run) {
    const kept = run.adapters.length ? `The ${list(run.adapters)} adapter${run.adapters.length > 1 ? "s are" : " is"} saved.` : "";
    if (run.phase === "done") return { tone: "good", title: "Finished", text: [kept, "Next: see if you like it better than the base model."], open: true };
    if (run.phase === "stopped") return { tone: "plain", title: "Stopped at your request", text: [run.step, kept || "No step was finished, so there is no adapter."], open: run.adapters.length };
    if (run.phase === "paused") return { tone: "plain", title: "Paused", text: [run.step, run.detail, "Resume goes on exactly here, also after a restart of the computer."], open: run.adapters.length };
    const bug = run.bug ? "This is a fault of Tunebench, not of your settings; the log below has the details." : "";
    if (run.phase === "failed") return { tone: "bad", title: run.step ? `Failed after ${run.step}` : "Failed", text: [run.error, bug, ...run.offers, kept], open: run.adapters.length };
    return null;
  }

  function drawVerdict(run) {
    const verdict = verdictOf(run), place = at("verdict");
    const key = JSON.stringify([run.id, verdict, verdict ? "" : run.detail]);
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    if (!verdict) return place.replaceChildren(...(run.detail ? [make("p", { class: "detail" }, run.detail)] : []));
    const box = make("div", { class: `verdict ${verdict.tone}`, role: verdict.tone === "bad" ? "alert" : "status" }, make("h3", {}, verdict.title));
    for (const line of verdict.text.flatMap((text) => text.split("\n"))) if (line) box.append(make("p", {}, line));
    const open = make("button", { class: "button", id: "opencmp", onclick: () => app.send("opencompare", { run: run.id }) }, "Open Compare");
    const resume = make("button", { class: "button", id: "resume", onclick: () => app.send("resume", { run: run.id }) }, "Resume");
    if (run.resumable) box.append(resume, " ");
    if (verdict.open) box.append(open);
    place.replaceChildren(box);
    if (verdict.tone === "bad") at("log").open = true;
  }

  function hideUnusedCharts(run) {
    const words = run.stages.map((stage) => stage.word.toLowerCase());
    document.querySelectorAll("#charts figure").forEach((figure) => {
      figure.hidden = !words.includes(figure.dataset.series.split(".")[0]);
    });
  }

  function drawCharts(charts) {
    const planned = app.is("run")?.planned ?? {};
    for (const figure of charts.querySelectorAll("figure")) {
      const name = figure.dataset.series;
      window.drawChart(figure, app.series[name] ?? [], planned[name.split(".")[0]]);
      sizes.observe(figure);
    }
  }

  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const width = target.querySelector(".plot").clientWidth;
      if (width && width !== Number(target.dataset.width)) return drawCharts(at("charts"));
    }
  });

  function drawFacts(facts, proof) {
    if (!facts) return;
    proof.hidden = !facts.proof;
    proof.className = `proof ${facts.holds ? "good" : "bad"}`;
    proof.replaceChildren(make("b", {}, `Step 0 proof ${facts.holds ? "✓" : "✗"} `), facts.proof);
    write("rows", facts.rows);
    const notes = [...facts.reasons, ...facts.changes, ...facts.notes];
    at("notes").hidden = !notes.length;
    at("notes").replaceChildren(make("summary", {}, `What was chosen, changed or left out (${notes.length})`), make("ul", {}, ...notes.map((note) => make("li", {}, note))));
    at("settings").querySelector(".groups").replaceChildren(...facts.settings.map((group) =>
      make("section", {}, make("h3", {}, group.title),
        make("dl", {}, ...group.rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])))));
  }

  const when = (iso) => {
    if (!iso) return "";
    const date = new Date(iso), today = new Date().toDateString() === date.toDateString();
    return date.toLocaleString([], today ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
  };

  function show(run) {
    app.choose(run);
    app.open("train");
  }

  function drawRecent(runs, place) {
    if (!runs.length) return;
    place.replaceChildren(...runs.map((run) =>
      make("li", {}, make("button", { class: "plain", onclick: () => show(run.id) },
        make("i", { class: "state", "data-tone": run.tone, "aria-hidden": "true" }),
        make("b", {}, run.name), make("span", { class: "sr" }, `, ${run.pill}, `),
        make("small", { class: "quiet" }, [run.kind, when(run.when)].filter(Boolean).join(" · "))))));
  }

  function drawTable(runs, table) {
    at("runs-empty").hidden = runs.length > 0;
    table.hidden = !runs.length;
    const cell = (text, kind = "") => make("td", { class: kind }, text || "–");
    table.tBodies[0].replaceChildren(...runs.map((run) =>
      make("tr", { title: run.error || null },
        make("td", {}, make("span", { class: "pill", "data-tone": run.tone }, run.pill)),
        make("th", { scope: "row" }, make("button", { class: "plain", onclick: () => show(run.id) }, run.name),
          ...(run.model ? [make("div", { class: "quiet small" }, run.model)] : [])),
        cell(run.kind), cell(run.data), cell(run.steps, "num"), cell(run.loss, "num"), cell(run.accuracy, "num"),
        cell(when(run.when)), make("td", {}, ...(run.comparable ? [make("button", { class: "button small", onclick: () => app.send("opencompare", { run: run.id }) }, "Compare")] : [])))));
  }

  // ---- Compare: text grows in place, so that a selection or a scroll position is never lost

  function drawLanes() {
    const place = at("lanes"), compare = app.is("compare");
    if (!place) return;
    const key = JSON.stringify([compare?.run, compare?.lanes.map((lane) => lane.name)]);
    if (place.dataset.key !== key) {
      place.dataset.key = key;
      place.replaceChildren(...(compare?.lanes ?? []).map(lanePane));
    }
    write("compare-status", statusOf(compare));
    write("compare-failed", compare?.error ?? "");
    at("compare-failed").hidden = !compare?.error;
    for (const lane of compare?.lanes ?? []) fillLane(place, lane, compare);
  }

  function statusOf(compare) {
    if (!compare) return "Nothing is loaded yet. Generate loads the base and the adapters of this run side by side.";
    if (compare.phase === "failed" || compare.phase === "answering") return "";
    if (!compare.active) return "The lanes were unloaded to free the device. Generate loads them again.";
    return compare.detail;
  }

  function lanePane(lane) {
    const tone = lane.name.toLowerCase();
    return make("section", { class: "card lane", "data-lane": lane.name, "data-tone": tone, "aria-label": `Answer of ${lane.name}` },
      make("header", { class: "row" }, make("h3", {}, make("i", { class: "dot", "aria-hidden": "true" }), lane.name), make("span", { class: "quiet end" })),
      make("div", { class: "answer", tabindex: "0", dir: "auto" }), make("p", { class: "quiet cut" }), make("p", { class: "quiet proof" }));
  }

  function fillLane(place, lane, compare) {
    const pane = [...place.children].find((one) => one.dataset.lane === lane.name), answer = pane.querySelector(".answer");
    const text = app.text[lane.name] ?? "", had = answer.textContent;
    if (text !== had) {
      if (had && text.startsWith(had)) answer.append(text.slice(had.length));
      else answer.textContent = text;
      answer.normalize();
    }
    const loading = compare.active && compare.phase !== "ready" && !text;
    pane.classList.toggle("waiting", loading);
    for (const part of ["end", "cut", "proof"]) put(pane.querySelector(`.${part}`), lane[part]);
  }

  // ---- title and icon

  let icon = "";
  function drawTitle() {
    const run = app.is("run"), mine = run && (run.active || !app.show);
    let title = "Tunebench", tone = "plain";
    if (mine && run.active) [title, tone] = [`${Math.round(100 * run.progress)}% ${run.step.split(" ")[0] || run.pill} · Tunebench`, "busy"];
    else if (mine && run.phase === "done") [title, tone] = ["✓ Done · Tunebench", "good"];
    else if (mine && run.phase === "failed") [title, tone] = ["✗ Failed · Tunebench", "bad"];
    if (document.title !== title) document.title = title;
    if (tone !== icon) setIcon((icon = tone));
  }

  function setIcon(tone) {
    const colour = { busy: "#b45309", good: "#0f766e", bad: "#b91c1c", plain: "" }[tone];
    const dot = colour ? `<circle cx="24" cy="24" r="8" fill="${colour}" stroke="#fff" stroke-width="2"/>` : "";
    const picture = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><circle cx="16" cy="16" r="13" fill="none" stroke="#0f766e" stroke-width="3"/><path d="M16 3a13 13 0 0 1 0 26z" fill="#0f766e"/>${dot}</svg>`;
    document.querySelectorAll("link[rel~=icon]").forEach((link) => (link.href = "data:image/svg+xml," + encodeURIComponent(picture)));
  }
})();
