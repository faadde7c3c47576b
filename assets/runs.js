// The Runs tab.
(() => {
  const app = window.tunebench, { at, make, when, show } = app.tools;

  app.draws.runs = ["runs", drawTable];

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
})();
