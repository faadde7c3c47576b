// What the page has (parts, curves, answers) and how each part is drawn. Words from outside only ever become textContent.
(() => {
  const byId = (id) => document.getElementById(id);
  // In the order in which their marks are sent.
  const QUICK = { run: "progress", active: "active_progress", device: "meter" };
  const app = (window.tunebench = {
    parts: {}, series: {}, votePair: {}, run: "", points: 0, detail: 0, hardware: 0, ask: "", text: {}, failing: 0, finishedWhileWatching: "", ended: null,
    selectedRun: sessionStorage.getItem("tunebench.run") || "",
    // The value of a part, and on top of it what changes every second.
    getPart: (name) => (QUICK[name] && app.parts[name]?.value ? { ...app.parts[name].value, ...app.parts[QUICK[name]]?.value } : app.parts[name]?.value),
    // The active run, or else the newest, whichever is shown: title, icon, run card and notifications are about it.
    currentRun: () => app.getPart("active") ?? app.getPart("run"),
    sendEvent: () => {},
    makeNode, renderers: {}, tools: {}, afterUpdate: [], selectedRuns: () => [],
  });

  function makeNode(tag, attributes = {}, ...children) {
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
  function setText(node, text) {
    if (node && node.textContent !== text) node.textContent = text;
  }

  const writeText = (id, text) => setText(byId(id), text);

  // ---- what goes to and comes from Python

  const isEmpty = (value) => value === undefined || value === "" || value === false || (typeof value === "object" && !Object.keys(value).length);

  const collectMarks = (names) => Object.fromEntries(names.map((name) => [name, app.parts[name]?.mark ?? 0]));

  // What the page holds and wants; what is left out has its default. `named`: each part by its own mark instead of one for all, as it
  // is where the checksum will not be right: another tab shows other parts.
  app.buildCursor = (named = app.whole === undefined || app.polledTab !== findOpenTab()) => Object.fromEntries(Object.entries({
    show: app.selectedRun, run: named && app.run, points: app.points, ask: app.ask, tab: (app.polledTab = findOpenTab()) === "runs" && "runs", log: !!byId("log")?.open,
    chosen: app.selectedRuns(), pair: findOpenTab() === "compare" ? app.votePair : {}, detail: byId("detail-charts")?.open ? app.detail : undefined, hardware: byId("hardware-charts")?.open ? app.hardware : undefined,
    chars: Object.fromEntries(Object.entries(app.text).map(([lane, text]) => [lane, text.length])),
    ...(named ? { marks: collectMarks(Object.keys(app.parts)) } : { whole: app.whole, quick: Object.values(collectMarks(Object.values(QUICK))) }),
  }).filter(([, value]) => !isEmpty(value)));

  app.applyUpdate = (update) => {
    const before = app.currentRun(), busyBefore = app.getPart("buttons")?.busy;
    for (const [name, part] of Object.entries(update.parts ?? {})) app.parts[name] = part;
    app.whole = update.whole ?? app.whole;
    if ("run" in update) {
      dropCurves(update.run !== app.run);
      app.run = update.run;
    }
    app.points = update.points ?? app.points;
    addCurves(update.series ?? {});
    for (const [stage, rows] of Object.entries(update.steps ?? {})) rows.forEach((row) => addStep(stage, row));
    if (update.detail) addDetail(update.detail);
    const since = app.hardware;
    for (const [seconds, ...values] of update.hardware ?? []) addReading(since + seconds, values);
    if ("ask" in update && update.ask !== app.ask) app.text = {};
    app.ask = update.ask ?? app.ask;
    for (const [lane, more] of Object.entries(update.text ?? {})) app.text[lane] = (app.text[lane] ?? "") + more;
    const busy = app.getPart("buttons")?.busy;
    if (busy && busyBefore !== undefined && busy !== busyBefore) app.selectRun("");
    const run = app.currentRun();
    if (before?.active && run && run.id === before.id && !run.active) app.ended = run;
    if (app.ended === run && run?.phase === "done" && run.id === app.run && findOpenTab() === "train") app.finishedWhileWatching = run.id;
    rememberTab();
    drawAll();
    for (const callback of app.afterUpdate) callback();
    app.ended = null;
  };

  // ---- curves: name → [[x, value], …]

  function dropCurves(another) {
    const kept = Object.entries(app.series).filter(([name]) => name.startsWith("hardware.") || (name.startsWith("detail.") && !another));
    app.series = Object.fromEntries(kept);
    if (!another) return;
    app.detail = 0;
    for (const figure of document.querySelectorAll("#charts figure.chart, #detail-charts figure.chart")) figure.zoom = undefined;
  }

  function addCurves(series) {
    for (const [name, points] of Object.entries(series)) (app.series[name] ??= []).push(...points);
  }

  function addStep(stage, [step, ...values]) {
    CURVES[stage].forEach((name, index) => values[index] !== null && addCurves({ [name]: [[step, values[index]]] }));
  }

  // A row for each new point, or, where there are many, curve by curve.
  function addDetail(detail) {
    if (Array.isArray(detail)) return detail.forEach((row) => {
      app.detail += 1;
      DETAIL.forEach((name, index) => addCurves({ [name]: [[app.detail, row[index]]] }));
    });
    if (detail.from === 0) for (const name of Object.keys(app.series)) if (name.startsWith("detail.")) delete app.series[name];
    app.detail = detail.points;
    addCurves(detail.series);
  }

  function addReading(time, [memory, celsius, watts, busy]) {
    app.hardware = Math.max(app.hardware, Math.round(20 * time + 1) / 20); // 0.05 more: times are rounded on the way
    for (const [name, value] of Object.entries({ memory, celsius, watts, busy })) if (value !== null) (app.series[`hardware.${name}`] ??= []).push([time, value]);
  }

  app.selectRun = (run) => {
    app.selectedRun = run;
    sessionStorage.setItem("tunebench.run", run);
  };

  app.showLostConnection = (lost) => {
    const banner = byId("lost-connection");
    if (banner) banner.hidden = !lost;
  };

  // ---- tabs

  const findTabs = () => [...document.querySelectorAll("#tabs button[role=tab]")];
  const findOpenTab = () => findTabs().find((tab) => tab.getAttribute("aria-selected") === "true")?.textContent.trim().toLowerCase() ?? "";
  // The tab that was open before a reload is the one that Gradio opens first, for it builds the others only when they are opened, and
  // Start is the largest; from then on the open one is remembered.
  const before = sessionStorage.getItem("tunebench.tab"), frame = window.gradio_config?.components.find((one) => one.props.elem_id === "tabs");
  if (before && frame) frame.props.selected = before;
  const rememberTab = () => findOpenTab() && sessionStorage.setItem("tunebench.tab", findOpenTab());
  app.openTab = (name) => findTabs().find((tab) => tab.textContent.trim().toLowerCase() === name)?.click();

  // ---- drawing: a part is drawn when it is new, or when its place on the page is

  const drawn = new WeakMap();

  // renderers: name → [id of its place, how it is drawn, the parts it shows]
  function drawAll() {
    for (const [name, [place, draw, parts = [name]]] of Object.entries(app.renderers)) {
      const node = byId(place), marks = parts.map((part) => app.parts[part]?.mark).join(" ");
      if (!node || parts.some((part) => !app.parts[part]) || drawn.get(node)?.[name] === marks) continue;
      drawn.set(node, { ...drawn.get(node), [name]: marks }); // first: drawing wakes the observer below
      draw(app.getPart(parts[0]), node);
    }
    if (!document.hidden) app.drawCurves();
    app.drawLanes();
    drawTitle();
  }
  app.drawCurves = app.drawLanes = () => {};

  // Until the choices of the last visit are back, what is typed or clicked on Start would be lost; the plan comes with them.
  const FORM = ["model", "data", "method", "goal", "go", "settings-form"], PATIENCE = 10_000;
  function holdForm() {
    const ready = byId("plan")?.querySelector("li") || byId("start-problem")?.querySelector("[role=alert]") || performance.now() > PATIENCE;
    for (const part of FORM.map(byId)) if (part && part.inert === Boolean(ready)) part.inert = !ready;
    if (ready) onMutation = drawAll;
  }
  let onMutation = () => (holdForm(), drawAll());
  setTimeout(holdForm, PATIENCE);

  // Gradio makes a tab's content when the tab is first opened; what is known by then is drawn at once.
  new MutationObserver(() => onMutation()).observe(document.documentElement, { childList: true, subtree: true });

  Object.assign(app.renderers, {
    device: ["device-meter", drawDevice, ["device", "meter"]],
    card: ["run-bar", drawRunCard, ["run", "progress", "active", "active_progress"]],
    buttons: ["app-error", drawAppError],
    recent: ["recent", drawRecent],
  });

  function drawDevice(device, meter) {
    const percent = (share) => `${(100 * share).toFixed(1)}%`;
    writeText("device-kind", device.kind);
    writeText("device-name", device.name);
    writeText("device-free", device.free);
    writeText("device-facts", device.facts);
    byId("device-ours").style.width = percent(device.ours);
    byId("device-others").style.width = percent(Math.max(0, device.used - device.ours));
    meter.setAttribute("aria-valuenow", Math.round(100 * device.used));
    meter.setAttribute("aria-valuetext", device.free || device.name);
    const split = byId("device-split");
    split.hidden = !device.split;
    split.querySelectorAll("b").forEach((node, index) => (node.textContent = device.split?.[index] ?? ""));
    byId("device-problem").hidden = !device.problem;
    writeText("device-problem", device.problem);
  }

  function drawAppError({ error }, place) {
    place.hidden = !error;
    setText(place, error && pageText("sidebar.unreadable_runs", { error: error.trim().split("\n").pop() }));
  }

  const makeNoRun = () => ({ progress: 0, step: "", left: "", doing: "", detail: "", badge: pageText("sidebar.idle"), tone: "plain", name: pageText("sidebar.no_run_yet") });

  function drawRunCard(_, bar) {
    const { progress, step, left, badge: word, tone, name, doing, detail } = app.currentRun() ?? makeNoRun(), activity = doing || step || detail;
    const badge = byId("run-badge"), percent = Math.round(100 * progress);
    writeText("run-badge", word);
    badge.dataset.tone = tone;
    writeText("run-left", left);
    writeText("run-step", activity || name);
    bar.setAttribute("aria-valuenow", percent);
    bar.setAttribute("aria-valuetext", `${percent} %, ${activity || name}`);
    bar.dataset.tone = tone;
    bar.firstElementChild.style.width = `${100 * progress}%`;
  }

  const formatDate = (iso) => {
    if (!iso) return "";
    const date = new Date(iso), today = new Date().toDateString() === date.toDateString();
    return date.toLocaleString([], today ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
  };

  const joinNames = (words) => (words.length > 1 ? pageText("common.names", { names: words.slice(0, -1).join(", "), last: words[words.length - 1] }) : words[0] ?? "");

  function showRun(run) {
    app.selectRun(run);
    app.openTab("train");
  }

  function drawRecent(runs, place) {
    if (!runs.length) return place.replaceChildren(makeNode("li", { class: "quiet" }, pageText("sidebar.no_recent_run")));
    place.replaceChildren(...runs.map((run) =>
      makeNode("li", {}, makeNode("button", { class: "plain", onclick: () => showRun(run.id) },
        makeNode("i", { class: "state", "data-tone": run.tone, "aria-hidden": "true" }),
        makeNode("b", {}, run.name), makeNode("span", { class: "sr" }, `, ${run.badge}, `),
        makeNode("small", { class: "quiet" }, [run.kind, formatDate(run.when)].filter(Boolean).join(" · "))))));
  }

  // ---- title and icon

  let icon = "";
  function drawTitle() {
    const run = app.currentRun(), mine = run && (run.active || !app.selectedRun);
    let title = "Tunebench", tone = "plain";
    if (mine && run.active) [title, tone] = [`${Math.round(100 * run.progress)}% ${run.step.split(" ")[0] || run.badge} · Tunebench`, "busy"];
    else if (mine && run.phase === "done") [title, tone] = [pageText("sidebar.title_done"), "good"];
    else if (mine && run.phase === "failed") [title, tone] = [pageText("sidebar.title_failed"), "bad"];
    if (document.title !== title) document.title = title;
    const key = `${tone} ${tone === "busy" ? Math.round(50 * run.progress) : ""}`;
    if (key !== icon) setIcon(tone, run?.progress ?? 0);
    icon = key;
  }

  // The disc fills as the run goes; a dot tells how it ended.
  function setIcon(tone, progress) {
    const colour = { good: "#0f766e", bad: "#b91c1c" }[tone];
    const dot = colour ? `<circle cx="24" cy="24" r="8" fill="${colour}" stroke="#fff" stroke-width="2"/>` : "";
    const round = 2 * Math.PI * 6.5, done = tone === "busy" ? progress : 0.5;
    const disc = `<circle cx="16" cy="16" r="6.5" fill="none" stroke="${tone === "busy" ? "#b45309" : "#0f766e"}" stroke-width="13" stroke-dasharray="${(done * round).toFixed(2)} ${round.toFixed(2)}" transform="rotate(-90 16 16)"/>`;
    const picture = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><circle cx="16" cy="16" r="13" fill="none" stroke="#0f766e" stroke-width="3"/>${disc}${dot}</svg>`;
    const link = document.querySelector("link[rel~=icon]") ?? document.head.appendChild(makeNode("link", { rel: "icon" }));
    link.href = "data:image/svg+xml," + encodeURIComponent(picture);
  }

  // Saves a file in the downloads folder.
  function saveFile(name, blob) {
    const link = makeNode("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // Into the clipboard, and whether that went well. A page over plain http to another computer has no navigator.clipboard.
  async function copyText(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return copySelected(text);
    }
  }

  function copySelected(text) {
    const focused = document.activeElement, area = makeNode("textarea", { class: "sr", readonly: true, "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return done;
  }

  // Shows that a pressed button is at work, until another tab opens, an error appears, or 10 seconds have passed.
  // The reply of an endpoint. Gradio gives none where the contact is lost, as while the page reloads.
  const replyOf = async (call) => (await call) ?? { problem: pageText("sidebar.lost_connection") };

  function showBusy(button, words, place = button) {
    const before = button.textContent, tab = findOpenTab(), end = Date.now() + 10_000;
    const findError = () => document.querySelector(".problem .verdict"), stale = findError();
    [button.disabled, button.textContent] = [true, words];
    place.setAttribute("aria-busy", "true");
    const timer = setInterval(() => {
      if (button.isConnected && findOpenTab() === tab && Date.now() < end && findError() === stale) return;
      clearInterval(timer);
      [button.disabled, button.textContent] = [false, before];
      place.removeAttribute("aria-busy");
    }, 100);
  }

  Object.assign(app.tools, { saveFile, copyText, byId, makeNode, setText, writeText, formatDate, joinNames, showRun, findOpenTab, showBusy, replyOf });
})();
