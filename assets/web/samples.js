// The sample answers of Train: a slider over the steps that have answers or saved weights, the answers of that step beside the
// base model's, and buttons for the weights. Answers only ever become textContent.
(() => {
  const app = window.tunebench, { byId, makeNode, setText, writeText } = app.tools;
  let run = "", selected = -1; // the index of the point on the slider; -1: the newest, also when another one comes

  app.renderers.samples = ["samples", drawSamples, ["samples", "best", "run"]];

  const selectedIndex = (points) => (selected < 0 ? points.length - 1 : Math.min(selected, points.length - 1));

  // Marks that the charts of a stage draw: the step on the slider, and on its loss the best one.
  app.stepMarks = (stage, series) => {
    const points = app.getPart("samples")?.points ?? [], point = points[selectedIndex(points)], best = app.getPart("best")?.[stage];
    return [
      ...(best && series === `${stage}.loss` ? [{ at: best, kind: "best", name: pageText("charts.best") }] : []),
      ...(point?.stage === stage ? [{ at: point.step, kind: "shown", name: "" }] : []),
    ];
  };

  function drawSamples(samples, place) {
    if (app.run !== run) [run, selected] = [app.run, -1];
    place.hidden = !samples;
    if (!samples) return;
    const slider = byId("samples-slider"), { points } = samples;
    slider.hidden = points.length < 2;
    slider.max = Math.max(0, points.length - 1);
    slider.value = selectedIndex(points);
    drawPoint(samples);
  }

  function drawPoint(samples) {
    const point = samples.points[selectedIndex(samples.points)];
    byId("samples-slider").setAttribute("aria-valuetext", point?.where ?? "");
    writeText("samples-step", point?.where ?? pageText("samples.base_model"));
    writeText("samples-note", describePoint(point));
    byId("samples-answers").replaceChildren(...samples.prompts.map((prompt, number) => makeCard(prompt, samples.base[number], point, number)));
    const buttons = point && app.getPart("run") ? makeButtons(point, app.getPart("run")) : [];
    keepFocus(() => byId("samples-buttons").replaceChildren(...buttons));
  }

  function keepFocus(change) {
    const id = document.activeElement?.closest("#samples-buttons") && document.activeElement.id;
    change();
    if (id) byId(id)?.focus();
  }

  function describePoint(point) {
    if (!point) return pageText("samples.none_yet");
    return [
      point.held === null ? "" : pageText(point.best ? "samples.lowest_loss" : "samples.loss", { loss: point.held }),
      point.kept ? pageText("samples.kept") : "",
      pageText(point.answers.length ? "samples.greedy" : "samples.none_here"),
    ].filter(Boolean).join(" ");
  }

  const makeSide = (name, tone, answer) =>
    makeNode("div", { class: `sample ${tone}` }, makeNode("b", {}, name), makeNode("p", { dir: "auto" }, answer[0] || pageText("common.empty")),
      makeNode("small", { class: "quiet" }, pageText(answer[2] ? "comparison.answer_tokens" : "samples.tokens_truncated", { tokens: answer[1] })));

  function makeCard(prompt, base, point, number) {
    const sides = [...(base ? [makeSide(pageText("samples.base"), "base", base)] : []), ...(point?.answers[number] ? [makeSide(point.where, point.stage, point.answers[number])] : [])];
    return makeNode("article", {}, makeNode("h4", { dir: "auto" }, prompt), makeNode("div", { class: "sides" }, ...sides));
  }

  function makeButtons(point, run) {
    if (run.active || !point.stored) return [];
    const word = point.stage.toUpperCase(), event = { run: run.id, stage: point.stage, step: point.step };
    const useStep = () => {
      app.sendEvent("usestep", event);
      writeText("samples-status", pageText("samples.becomes_adapter", { where: point.where, stage: word }));
    };
    return [
      ...(point.kept ? [] : [makeNode("button", { class: "button small", id: "samples-compare", onclick: () => app.sendEvent("opencompare", event) }, pageText("samples.open_in_compare"))]),
      ...(point.kept || !run.adapters.includes(word) ? [] : [makeNode("button", { class: "button small", id: "samples-keep", onclick: useStep }, pageText("samples.use_step", { stage: word }))]),
    ];
  }

  document.addEventListener("input", (event) => {
    if (event.target.id !== "samples-slider") return;
    const samples = app.getPart("samples"), value = Number(event.target.value);
    selected = value === samples.points.length - 1 ? -1 : value;
    drawPoint(samples);
    app.drawCurves();
  });
})();
