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
      ...(best && series === `${stage}.loss` ? [{ at: best, kind: "best", name: "best" }] : []),
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
    writeText("samples-step", point?.where ?? "Base model, before training");
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
    if (!point) return "The next answers come at the first checkpoint. Change prompts on Start, under All settings.";
    const loss = point.held === null ? "" : `Held-out loss ${point.held}${point.best ? ", the lowest of this stage" : ""}. `;
    return `${loss}${point.kept ? "This step is the saved adapter. " : ""}${point.answers.length ? "Greedy answers. Change prompts on Start, under All settings." : "No samples at this step."}`;
  }

  const makeSide = (name, tone, answer) =>
    makeNode("div", { class: `sample ${tone}` }, makeNode("b", {}, name), makeNode("p", { dir: "auto" }, answer[0] || "(empty)"),
      makeNode("small", { class: "quiet" }, `${answer[1]} token${answer[1] === 1 ? "" : "s"}${answer[2] ? "" : ", truncated"}`));

  function makeCard(prompt, base, point, number) {
    const sides = [...(base ? [makeSide("Base", "base", base)] : []), ...(point?.answers[number] ? [makeSide(point.where, point.stage, point.answers[number])] : [])];
    return makeNode("article", {}, makeNode("h4", { dir: "auto" }, prompt), makeNode("div", { class: "sides" }, ...sides));
  }

  function makeButtons(point, run) {
    if (run.active || !point.stored) return [];
    const word = point.stage.toUpperCase(), event = { run: run.id, stage: point.stage, step: point.step };
    const useStep = () => {
      app.sendEvent("usestep", event);
      writeText("samples-status", `${point.where} becomes the ${word} adapter.`);
    };
    return [
      ...(point.kept ? [] : [makeNode("button", { class: "button small", id: "samples-compare", onclick: () => app.sendEvent("opencompare", event) }, "Open this step in Compare")]),
      ...(point.kept || !run.adapters.includes(word) ? [] : [makeNode("button", { class: "button small", id: "samples-keep", onclick: useStep }, `Use this step as the ${word} adapter`)]),
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
