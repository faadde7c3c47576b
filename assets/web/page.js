// What the page has (parts, curves, answers) and how each part is drawn. Words from outside only ever become textContent.
(() => {
  const at = (id) => document.getElementById(id);
  // In the order in which their marks are sent.
  const QUICK = { run: "pace", active: "active_pace", device: "meter" };
  const app = (window.tunebench = {
    parts: {}, series: {}, vote: {}, run: "", points: 0, deep: 0, machine: 0, ask: "", text: {}, failing: 0, finishedWhileWatching: "", ended: null,
    show: sessionStorage.getItem("tunebench.show") || "",
    // What a part is, and on top of it what changes every second.
    is: (name) => (QUICK[name] && app.parts[name]?.is ? { ...app.parts[name].is, ...app.parts[QUICK[name]]?.is } : app.parts[name]?.is),
    // The run at work, or else the newest, whichever is looked at: title, icon, run card and what is told at the end are its.
    atWork: () => app.is("active") ?? app.is("run"),
    send: () => {},
    make, draws: {}, tools: {}, after: [], chosen: () => [],
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

  const empty = (value) => value === undefined || value === "" || value === false || (typeof value === "object" && !Object.keys(value).length);

  const marks = (names) => Object.fromEntries(names.map((name) => [name, app.parts[name]?.mark ?? 0]));

  // What the page holds and wants; what is left out has its default. `named`: each part by its own mark instead of one for all, as it
  // is where the checksum will not be right: another tab shows other parts.
  app.cursor = (named = app.whole === undefined || app.asked !== openTab()) => Object.fromEntries(Object.entries({
    show: app.show, run: named && app.run, points: app.points, ask: app.ask, tab: (app.asked = openTab()) === "runs" && "runs", log: !!at("log")?.open,
    chosen: app.chosen(), vote: openTab() === "compare" ? app.vote : {}, deep: at("deep")?.open ? app.deep : undefined, machine: at("machine")?.open ? app.machine : undefined,
    chars: Object.fromEntries(Object.entries(app.text).map(([lane, text]) => [lane, text.length])),
    ...(named ? { marks: marks(Object.keys(app.parts)) } : { whole: app.whole, quick: Object.values(marks(Object.values(QUICK))) }),
  }).filter(([, value]) => !empty(value)));

  app.take = (news) => {
    const before = app.atWork(), busyBefore = app.is("gates")?.busy;
    for (const [name, part] of Object.entries(news.parts ?? {})) app.parts[name] = part;
    app.whole = news.whole ?? app.whole;
    if ("run" in news) {
      dropCurves(news.run !== app.run);
      app.run = news.run;
    }
    app.points = news.points ?? app.points;
    addCurves(news.series ?? {});
    for (const [stage, rows] of Object.entries(news.steps ?? {})) rows.forEach((row) => addStep(stage, row));
    if (news.deep) takeDeep(news.deep);
    const since = app.machine;
    for (const [seconds, ...values] of news.machine ?? []) addReading(since + seconds, values);
    if ("ask" in news && news.ask !== app.ask) app.text = {};
    app.ask = news.ask ?? app.ask;
    for (const [lane, more] of Object.entries(news.text ?? {})) app.text[lane] = (app.text[lane] ?? "") + more;
    const busy = app.is("gates")?.busy;
    if (busy && busyBefore !== undefined && busy !== busyBefore) app.choose("");
    const run = app.atWork();
    if (before?.active && run && run.id === before.id && !run.active) app.ended = run;
    if (app.ended === run && run?.phase === "done" && run.id === app.run && openTab() === "train") app.finishedWhileWatching = run.id;
    rememberTab();
    drawAll();
    for (const then of app.after) then();
    app.ended = null;
  };

  // ---- curves: name → [[x, value], …]

  function dropCurves(another) {
    const kept = Object.entries(app.series).filter(([name]) => name.startsWith("machine.") || (name.startsWith("deep.") && !another));
    app.series = Object.fromEntries(kept);
    if (!another) return;
    app.deep = 0;
    for (const figure of document.querySelectorAll("#charts figure.chart, #deep figure.chart")) figure.zoom = undefined;
  }

  function addCurves(series) {
    for (const [name, points] of Object.entries(series)) (app.series[name] ??= []).push(...points);
  }

  function addStep(stage, [step, ...values]) {
    CURVES[stage].forEach((name, index) => values[index] !== null && addCurves({ [name]: [[step, values[index]]] }));
  }

  // A row for each new point, or, where there are many, curve by curve.
  function takeDeep(deep) {
    if (Array.isArray(deep)) return deep.forEach((row) => {
      app.deep += 1;
      DEEP.forEach((name, index) => addCurves({ [name]: [[app.deep, row[index]]] }));
    });
    if (deep.from === 0) for (const name of Object.keys(app.series)) if (name.startsWith("deep.")) delete app.series[name];
    app.deep = deep.points;
    addCurves(deep.series);
  }

  function addReading(time, [memory, celsius, watts, busy]) {
    app.machine = Math.max(app.machine, Math.round(20 * time + 1) / 20); // 0.05 more: times are rounded on the way
    for (const [name, value] of Object.entries({ memory, celsius, watts, busy })) if (value !== null) (app.series[`machine.${name}`] ??= []).push([time, value]);
  }

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
  // The tab that was open before a reload is the one that Gradio opens first, for it builds the others only when they are opened, and
  // Start is the largest; from then on the open one is remembered.
  const before = sessionStorage.getItem("tunebench.tab"), frame = window.gradio_config?.components.find((one) => one.props.elem_id === "tabs");
  if (before && frame) frame.props.selected = before;
  const rememberTab = () => openTab() && sessionStorage.setItem("tunebench.tab", openTab());
  app.open = (name) => tabs().find((tab) => tab.textContent.trim().toLowerCase() === name)?.click();

  // ---- drawing: a part is drawn when it is new, or when its place on the page is

  const drawn = new WeakMap();

  // draws: name → [id of its place, how it is drawn, the parts it shows]
  function drawAll() {
    for (const [name, [place, draw, parts = [name]]] of Object.entries(app.draws)) {
      const node = at(place), marks = parts.map((part) => app.parts[part]?.mark).join(" ");
      if (!node || parts.some((part) => !app.parts[part]) || drawn.get(node)?.[name] === marks) continue;
      drawn.set(node, { ...drawn.get(node), [name]: marks }); // first: drawing wakes the observer below
      draw(app.is(parts[0]), node);
    }
    if (!document.hidden) app.drawCurves();
    app.drawLanes();
    drawTitle();
  }
  app.drawCurves = app.drawLanes = () => {};

  // Until the choices of the last visit are back, what is typed or clicked on Start would be lost; the plan comes with them.
  const FORM = ["model", "data", "method", "goal", "go", "settings-form"], PATIENCE = 10_000;
  function holdForm() {
    const ready = at("plan")?.querySelector("li") || at("start-problem")?.querySelector("[role=alert]") || performance.now() > PATIENCE;
    for (const part of FORM.map(at)) if (part && part.inert === Boolean(ready)) part.inert = !ready;
    if (ready) seen = drawAll;
  }
  let seen = () => (holdForm(), drawAll());
  setTimeout(holdForm, PATIENCE);

  // Gradio makes a tab's content when the tab is first opened; what is known by then is drawn at once.
  new MutationObserver(() => seen()).observe(document.documentElement, { childList: true, subtree: true });

  Object.assign(app.draws, {
    device: ["device-meter", drawDevice, ["device", "meter"]],
    card: ["run-bar", drawRunCard, ["run", "pace", "active", "active_pace"]],
    gates: ["trouble", drawTrouble],
    recent: ["recent", drawRecent],
  });

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

  const NO_RUN = { progress: 0, step: "", left: "", doing: "", detail: "", pill: "Idle", tone: "plain", name: "No run yet." };

  function drawRunCard(_, bar) {
    const { progress, step, left, pill: word, tone, name, doing, detail } = app.atWork() ?? NO_RUN, now = doing || step || detail;
    const pill = at("run-pill"), percent = Math.round(100 * progress);
    write("run-pill", word);
    pill.dataset.tone = tone;
    write("run-left", left);
    write("run-step", now || name);
    bar.setAttribute("aria-valuenow", percent);
    bar.setAttribute("aria-valuetext", `${percent} %, ${now || name}`);
    bar.dataset.tone = tone;
    bar.firstElementChild.style.width = `${100 * progress}%`;
  }

  const when = (iso) => {
    if (!iso) return "";
    const date = new Date(iso), today = new Date().toDateString() === date.toDateString();
    return date.toLocaleString([], today ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
  };

  const list = (words) => (words.length > 1 ? `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}` : words[0] ?? "");

  function show(run) {
    app.choose(run);
    app.open("train");
  }

  function drawRecent(runs, place) {
    if (!runs.length) return place.replaceChildren(make("li", { class: "quiet" }, "None yet"));
    place.replaceChildren(...runs.map((run) =>
      make("li", {}, make("button", { class: "plain", onclick: () => show(run.id) },
        make("i", { class: "state", "data-tone": run.tone, "aria-hidden": "true" }),
        make("b", {}, run.name), make("span", { class: "sr" }, `, ${run.pill}, `),
        make("small", { class: "quiet" }, [run.kind, when(run.when)].filter(Boolean).join(" · "))))));
  }

  // ---- title and icon

  let icon = "";
  function drawTitle() {
    const run = app.atWork(), mine = run && (run.active || !app.show);
    let title = "Tunebench", tone = "plain";
    if (mine && run.active) [title, tone] = [`${Math.round(100 * run.progress)}% ${run.step.split(" ")[0] || run.pill} · Tunebench`, "busy"];
    else if (mine && run.phase === "done") [title, tone] = ["✓ Done · Tunebench", "good"];
    else if (mine && run.phase === "failed") [title, tone] = ["✗ Failed · Tunebench", "bad"];
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
    const link = document.querySelector("link[rel~=icon]") ?? document.head.appendChild(make("link", { rel: "icon" }));
    link.href = "data:image/svg+xml," + encodeURIComponent(picture);
  }

  // A file for the person's downloads.
  function take(name, blob) {
    const link = make("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // Into the clipboard, and whether that went well. A page over plain http to another computer has no navigator.clipboard.
  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return copySelected(text);
    }
  }

  function copySelected(text) {
    const focused = document.activeElement, area = make("textarea", { class: "sr", readonly: true, "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return done;
  }

  // A button that was pressed says so, and its place is busy, until the page has gone on, something is said to be wrong, or it
  // takes too long to be true.
  function working(button, words, place = button) {
    const before = button.textContent, tab = openTab(), end = Date.now() + 10_000;
    const wrong = () => document.querySelector(".problem .verdict"), stale = wrong();
    [button.disabled, button.textContent] = [true, words];
    place.setAttribute("aria-busy", "true");
    const timer = setInterval(() => {
      if (button.isConnected && openTab() === tab && Date.now() < end && wrong() === stale) return;
      clearInterval(timer);
      [button.disabled, button.textContent] = [false, before];
      place.removeAttribute("aria-busy");
    }, 100);
  }

  Object.assign(app.tools, { take, copy, at, make, put, write, when, list, show, openTab, working });
})();
