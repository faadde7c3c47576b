// The sample strip of Train: a slider over the steps at which the model was asked the same prompts or whose weights are there, its
// answers then beside the base's, and what can be done with the weights. Answers are the model's words: they only ever become textContent.
(() => {
  const app = window.tunebench, { at, make, put, write } = app.tools;
  let run = "", chosen = -1; // chosen: the point the person went to; -1: the newest, also when another one comes

  app.draws.strip = ["strip", drawStrip, ["strip", "best", "run"]];

  const index = (points) => (chosen < 0 ? points.length - 1 : Math.min(chosen, points.length - 1));

  // Marks that the charts of a stage draw: the step on the slider, and on its loss the best one.
  app.marks = (stage, series) => {
    const points = app.is("strip")?.points ?? [], now = points[index(points)], best = app.is("best")?.[stage];
    return [
      ...(best && series === `${stage}.loss` ? [{ at: best, kind: "best", name: "best" }] : []),
      ...(now?.stage === stage ? [{ at: now.step, kind: "then", name: "" }] : []),
    ];
  };

  function drawStrip(strip, place) {
    if (app.run !== run) [run, chosen] = [app.run, -1];
    place.hidden = !strip;
    if (!strip) return;
    const slider = at("strip-at"), { points } = strip;
    slider.hidden = points.length < 2;
    slider.max = Math.max(0, points.length - 1);
    slider.value = index(points);
    drawPoint(strip);
  }

  function drawPoint(strip) {
    const now = strip.points[index(strip.points)];
    at("strip-at").setAttribute("aria-valuetext", now?.where ?? "");
    write("strip-when", now?.where ?? "The base, before training");
    write("strip-says", told(now));
    at("strip-answers").replaceChildren(...strip.prompts.map((prompt, number) => card(prompt, strip.base[number], now, number)));
    const deeds = now && app.is("run") ? buttons(now, app.is("run")) : [];
    keepFocus(() => at("strip-deeds").replaceChildren(...deeds));
  }

  function keepFocus(change) {
    const id = document.activeElement?.closest("#strip-deeds") && document.activeElement.id;
    change();
    if (id) at(id)?.focus();
  }

  function told(now) {
    if (!now) return "Next answers come at the first checkpoint. The prompts can be changed on Start, under All settings.";
    const loss = now.held === null ? "" : `Held-out loss ${now.held}${now.best ? ", the lowest of this stage" : ""}. `;
    return `${loss}${now.kept ? "This step is the saved adapter. " : ""}${now.answers.length ? "The likeliest answer each time; prompts can be changed on Start, under All settings." : "The model was not asked at this step."}`;
  }

  const side = (name, tone, answer) =>
    make("div", { class: `then ${tone}` }, make("b", {}, name), make("p", { dir: "auto" }, answer[0] || "(nothing)"),
      make("small", { class: "quiet" }, `${answer[1]} token${answer[1] === 1 ? "" : "s"}${answer[2] ? "" : ", cut here"}`));

  function card(prompt, base, now, number) {
    const sides = [...(base ? [side("Base", "base", base)] : []), ...(now?.answers[number] ? [side(now.where, now.stage, now.answers[number])] : [])];
    return make("article", {}, make("h4", { dir: "auto" }, prompt), make("div", { class: "sides" }, ...sides));
  }

  function buttons(now, run) {
    if (run.active || !now.stored) return [];
    const word = now.stage.toUpperCase(), more = { run: run.id, stage: now.stage, step: now.step };
    const keep = () => {
      app.send("keepstep", more);
      write("strip-said", `${now.where} becomes the ${word} adapter.`);
    };
    return [
      ...(now.kept ? [] : [make("button", { class: "button small", id: "strip-compare", onclick: () => app.send("opencompare", more) }, "Open this step in Compare")]),
      ...(now.kept || !run.adapters.includes(word) ? [] : [make("button", { class: "button small", id: "strip-keep", onclick: keep }, `Keep this step as the ${word} adapter`)]),
    ];
  }

  document.addEventListener("input", (event) => {
    if (event.target.id !== "strip-at") return;
    const strip = app.is("strip"), value = Number(event.target.value);
    chosen = value === strip.points.length - 1 ? -1 : value;
    drawPoint(strip);
    app.drawCurves();
  });
})();
