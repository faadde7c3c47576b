// Exports: the form below a run, and the list of exports with their progress and certificates.
(() => {
  const app = window.tunebench, { byId, makeNode, setText } = app.tools;
  const CHOSEN = "tunebench.export-forms";
  app.renderers.exports = ["exports", drawExports];

  const rememberedForms = () => JSON.parse(localStorage.getItem(CHOSEN) ?? '["gguf:q8_0"]');

  // ---- the form

  app.makeExportForm = (run, options, close) => {
    const cancel = makeNode("button", { type: "button", class: "button small", onclick: close }, pageText("exports.cancel"));
    if (options.problem) return makeNode("div", {}, makeNode("p", { class: "warn", role: "alert" }, options.problem), cancel);
    const { setting } = options, asSet = setting && pageText("exports.as_set", { lane: options.lane, strength: Math.round(100 * setting.strength) });
    const lane = makeNode("select", {}, ...[asSet, ...options.lanes].filter(Boolean).map((name) => makeNode("option", { value: name, selected: name === (asSet ?? options.lane) }, name)));
    const forms = rememberedForms();
    const boxes = options.targets.map((target) => makeNode("input", { type: "checkbox", value: target.key, checked: forms.includes(target.key) && !target.missing, disabled: target.missing }));
    const name = makeNode("input", { type: "text", maxlength: 64, required: true, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*" });
    const out = makeNode("input", { type: "text", required: true });
    [name.value, out.value] = [exportName(options.name, lane.value), options.out];
    lane.onchange = () => (name.value = exportName(options.name, lane.value));
    const repo = makeNode("input", { type: "text", maxlength: 96, placeholder: "owner/name", pattern: "[A-Za-z0-9][\\w.\\-]*/[A-Za-z0-9][\\w.\\-]*" });
    const place = makeNode("label", {}, `${pageText("exports.repo")} `, repo, makeNode("span", { class: "quiet" }, ` ${pageText("exports.repo_private")}`));
    const hub = boxes.find((box) => box.value === "hub");
    const showPlace = () => (repo.required = !(place.hidden = !hub.checked));
    hub.addEventListener("change", showPlace);
    showPlace();
    const problem = makeNode("p", { class: "warn", role: "alert" });
    const start = (event) => {
      event.preventDefault();
      const targets = boxes.filter((box) => box.checked).map((box) => box.value);
      if (!targets.length) return (problem.textContent = pageText("exports.none_chosen"));
      localStorage.setItem(CHOSEN, JSON.stringify(targets));
      app.sendEvent("exportrun", { run: run.id, targets, out: out.value, name: name.value, repo: repo.value, ...(lane.value === asSet ? { lane: options.lane, ...setting } : { lane: lane.value }) });
      close();
    };
    const makeForm = (target, index) => makeNode("label", {}, boxes[index], ` ${target.label} `, makeNode("span", { class: "quiet" }, target.missing ? pageText("exports.no_quantiser") : target.size));
    return makeNode("form", { class: "export-form", onsubmit: start },
      makeNode("label", {}, `${pageText("exports.model")} `, lane),
      makeNode("fieldset", {}, makeNode("legend", {}, pageText("exports.forms")), ...options.targets.map(makeForm)),
      makeNode("label", {}, `${pageText("exports.name")} `, name),
      makeNode("label", {}, `${pageText("exports.folder")} `, out, makeNode("span", { class: "quiet" }, ` ${pageText("exports.free", { free: options.free })}`)),
      place, problem,
      makeNode("p", { class: "buttons" }, makeNode("button", { class: "button small" }, pageText("exports.start")), cancel));
  };

  const exportName = (run, lane) => `${run}-${lane.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "")}`.slice(0, 64);

  // ---- the list

  const drawn = new Map(); // export → { key, node }: an export at work changes every second, and what a person does in it stays

  function drawExports(exports, place) {
    place.hidden = !exports.length;
    const nodes = exports.map(updateExport), list = byId("export-list");
    if (nodes.length !== list.children.length || nodes.some((node, index) => node !== list.children[index])) list.replaceChildren(...nodes);
  }

  function updateExport(one) {
    const key = JSON.stringify({ ...one, part: !!one.part, share: 0, left: "" });
    if (drawn.get(one.id)?.key !== key) drawn.set(one.id, { key, node: makeExport(one) });
    const { node } = drawn.get(one.id);
    if (one.part) showProgress(node, one);
    return node;
  }

  function makeExport(one) {
    const send = (event) => () => app.sendEvent(event, { export: one.id });
    const makeButton = (code, event) => makeNode("button", { class: "button small", onclick: send(event) }, pageText(code), makeNode("span", { class: "sr" }, ` ${one.name}`));
    return makeNode("article", { class: "export", "data-export": one.id },
      makeNode("header", { class: "row" },
        makeNode("h3", {}, one.name), makeNode("span", { class: "badge", "data-tone": one.tone }, one.badge),
        makeNode("span", { class: "buttons" },
          ...(one.active ? [makeButton("exports.stop", "stopexport")] : []),
          ...(one.resumable ? [makeButton("exports.go_on", "resumeexport")] : []),
          ...(one.forms.length ? [makeButton("exports.open_folder", "openexport")] : []))),
      ...(one.part ? [makeNode("div", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, makeNode("i", {})), makeNode("p", { class: "quiet part" })] : []),
      ...(one.error ? [makeNode("p", { class: "warn", role: "alert" }, one.error)] : []),
      ...(one.forms.length ? [makeCertificate(one)] : []));
  }

  function showProgress(node, one) {
    const bar = node.querySelector(".bar");
    bar.setAttribute("aria-label", one.part);
    bar.setAttribute("aria-valuenow", Math.round(100 * one.share));
    bar.firstChild.style.width = `${100 * one.share}%`;
    setText(node.querySelector(".part"), [one.part, one.left].filter(Boolean).join(" · "));
  }

  function makeCertificate(one) {
    const makeRow = (form) => makeNode("tr", { title: form.problem || null }, makeNode("th", { scope: "row" }, form.form),
      ...[form.size, form.answers, form.kl, form.kept].map((text) => makeNode("td", { class: "num" }, text)),
      makeNode("td", {}, makeNode("span", { class: "badge", "data-tone": form.tone }, form.verdict)));
    return makeNode("div", { class: "tablewrap", tabindex: 0, role: "region", "aria-label": one.name },
      makeNode("table", {}, makeNode("thead", {}, makeNode("tr", {}, ...columnTitles().map((title) => makeNode("th", { scope: "col" }, title)))), makeNode("tbody", {}, ...one.forms.map(makeRow))),
      ...makeChart(one.chart),
      ...(one.serving.length ? [makeNode("details", {}, makeNode("summary", {}, pageText("exports.serving")), ...one.serving.map((line) => makeNode("p", { class: "small" }, line)))] : []),
      ...[...one.programs, ...one.notes, one.folder].map((line) => makeNode("p", { class: "quiet small" }, line)));
  }

  // The picture is the app's own SVG, the one of the certificate's page.
  const makeChart = (text) => text ? [document.importNode(new DOMParser().parseFromString(text, "text/html").querySelector("svg"), true)] : [];

  const columnTitles = () => [
    pageText("exports.form"), pageText("exports.size"), pageText("exports.answers"),
    pageText("exports.divergence"), pageText("exports.kept"), pageText("exports.verdict"),
  ];
})();
