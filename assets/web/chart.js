// A curve as a small SVG: thin line as measured, thick line smoothed, a dashed line for a value worth knowing; other lines of the
// same chart (held-out rows, the rejected side) beside it. Also what one does with a chart: hover, zoom, read as a table, take away.
// Points are [x, value]. Zoom and table belong to the figure on the page, so a new point changes neither.
(() => {
  const NS = "http://www.w3.org/2000/svg", HEIGHT = 150, MIN_WIDTH = 100, PAD = { left: 40, right: 10, top: 8, bottom: 20 };
  const TABLE_ROWS = 200, CLICK = 6;

  function makeSvg(tag, attributes = {}, ...children) {
    const node = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  // Exponential mean over about a tenth of the curve; divided by its total weight, so that the first values are not pulled to 0.
  function smoothCurve(points) {
    const keep = 1 - 2 / (Math.min(50, Math.max(3, points.length / 10)) + 1);
    let sum = 0, weight = 0;
    return points.map(([step, value]) => {
      sum = keep * sum + (1 - keep) * value;
      weight = keep * weight + (1 - keep);
      return [step, sum / weight];
    });
  }

  // The lowest and the highest point of each column of pixels.
  function thinCurve(points, columns) {
    if (points.length <= 2 * columns) return points;
    const bins = new Map();
    const first = points[0][0], span = points[points.length - 1][0] - first || 1;
    for (const point of points) {
      const at = Math.min(columns - 1, Math.floor(((point[0] - first) / span) * columns));
      const bin = bins.get(at);
      if (!bin) bins.set(at, [point, point]);
      else if (point[1] < bin[0][1]) bin[0] = point;
      else if (point[1] > bin[1][1]) bin[1] = point;
    }
    return [...bins.values()].flatMap(([low, high]) => (low === high ? [low] : [low, high].sort((a, b) => a[0] - b[0])));
  }

  // Round numbers that cover low..high in two to five steps.
  function findTicks(low, high) {
    const rough = (high - low || Math.abs(high) || 1) / 4, power = 10 ** Math.floor(Math.log10(rough));
    const size = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough);
    const found = [];
    for (let at = Math.ceil(low / size - 1e-9) * size; at <= high + size * 1e-9; at += size) found.push(at);
    return { found, digits: Math.max(0, -Math.floor(Math.log10(size) + 1e-9) + (size / power === 2.5 ? 1 : 0)) };
  }

  // With real minus signs, and no minus before a zero.
  const withMinusSigns = (text) => text.replace(/^-(?=[0.]+$)/, "").replaceAll("-", "−");
  const formatFixed = (value, digits) => withMinusSigns(value.toFixed(digits));

  function formatShort(value) {
    const size = Math.abs(value);
    if (size && size < 0.001) return withMinusSigns(value.toExponential(1));
    return formatFixed(value, size >= 100 ? 0 : size >= 10 ? 1 : 3);
  }

  const formatClock = (seconds) => new Date(1000 * seconds).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const lastOf = (points) => points[points.length - 1];

  function findRange(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return [low, high];
  }

  function describeLines(name, lines, time) {
    const texts = lines.filter((line) => line.points.length).map((line) => {
      const [low, high] = findRange(line.points.map((point) => point[1]));
      const [x, value] = lastOf(line.points), values = { latest: formatShort(value), lowest: formatShort(low), highest: formatShort(high) };
      const text = time ? pageText("charts.values_at_time", { ...values, time: formatClock(x) }) : pageText("charts.values_after_steps", { ...values, steps: x });
      return line.kind === "main" && !lines.some((one) => one.kind === "second") ? text : pageText("charts.line", { name: line.name, values: text });
    });
    return texts.length ? `${name}: ${texts.join("; ")}` : pageText("charts.chart_without_steps", { name });
  }

  // The part of a line that is in sight, with one point more at each end, so that the line does not begin in the air.
  function pointsInView(points, zoom) {
    if (!zoom) return points;
    const first = points.findIndex((point) => point[0] >= zoom[0]);
    if (first < 0) return [];
    let end = first;
    while (end < points.length && points[end][0] <= zoom[1]) end += 1;
    return points.slice(Math.max(0, first - 1), end + 1);
  }

  function valueRange(lines, mark) {
    const values = lines.flatMap((line) => line.inView.map((point) => point[1]));
    if (mark !== null) values.push(mark);
    const [low, high] = findRange(values), room = (high - low || Math.abs(high) * 0.2 || 1) * 0.06;
    return [low - room, high + room];
  }

  // lines: [{ name, kind: main | held | second, points }]; total: the last step that is planned; time: x is seconds since 1970.
  function drawChart(figure, lines, { total = 0, time = false, marks = [] } = {}) {
    figure.shown = { lines, total, time, marks };
    const main = lines.find((line) => line.points.length), name = figure.querySelector("h3").textContent;
    const plot = figure.querySelector(".plot"), width = Math.max(MIN_WIDTH, plot.clientWidth || Number(figure.dataset.width) || 300);
    const key = JSON.stringify([width, total, figure.zoom, figure.brush, figure.hover, marks, lines.map((line) => [line.points.length, line.name])]);
    if (figure.key === key && lines.every((line, at) => line.points === figure.held?.[at])) return;
    [figure.key, figure.held] = [key, lines.map((line) => line.points)];
    figure.dataset.width = width;
    const value = figure.querySelector(".value"), latest = main ? formatShort(lastOf(time ? main.points : smoothCurve(main.points))[1]) : "–";
    if (value.textContent !== latest) value.textContent = latest; // where the thick line ends; what was measured shows by pointing at it
    plot.setAttribute("aria-label", describeLines(name, lines, time));
    const picture = makeSvg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, "aria-hidden": "true" });
    if (main) picture.append(...drawCurves(figure, width));
    else picture.append(makeSvg("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, pageText(time ? "charts.no_readings" : "charts.no_steps_yet")));
    plot.replaceChildren(picture);
    if (!figure.querySelector(".numbers").hidden) fillTable(figure);
  }

  const redrawChart = (figure) => drawChart(figure, figure.shown.lines, figure.shown);

  function xRange({ lines, total, time }) {
    const ends = lines.filter((line) => line.points.length).flatMap((line) => [line.points[0][0], lastOf(line.points)[0]]);
    const [low, high] = findRange(ends);
    return time ? [low, Math.max(high, low + 60)] : [1, Math.max(total, high, 2)];
  }

  function makeScale(figure, low, high, width) {
    const [from, to] = figure.zoom ?? xRange(figure.shown);
    return {
      from, to,
      x: (at) => PAD.left + ((at - from) / (to - from || 1)) * (width - PAD.left - PAD.right),
      y: (value) => PAD.top + ((high - value) / (high - low)) * (HEIGHT - PAD.top - PAD.bottom),
      back: (pixel) => from + ((pixel - PAD.left) / (width - PAD.left - PAD.right)) * (to - from),
    };
  }

  function drawCurves(figure, width) {
    const { time } = figure.shown, columns = Math.max(60, width - PAD.left);
    const lines = figure.shown.lines.filter((line) => line.points.length).map((line) => ({ ...line, inView: pointsInView(line.points, figure.zoom) }));
    if (!lines.some((line) => line.inView.length)) lines[0].inView = [lastOf(lines[0].points)];
    const mark = "line" in figure.dataset ? Number(figure.dataset.line) : null;
    const [low, high] = valueRange(lines, mark), scale = makeScale(figure, low, high, width), { x, y } = scale;
    figure.scale = scale;
    const makePath = (some) => "M" + some.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join("L");
    const parts = drawAxes(scale, low, high, width, time);
    if (mark !== null) parts.push(...drawReferenceLine(y(mark), figure.dataset.lineName, width));
    const inside = [];
    for (const line of lines) {
      if (!line.inView.length) continue;
      if (line.kind === "held") inside.push(...line.inView.map(([at, value]) => makeSvg("circle", { class: "held", cx: x(at), cy: y(value), r: 2.6 })));
      const soft = line.kind === "held" ? line.inView : pointsInView(smoothCurve(line.points), figure.zoom);
      if (line.kind !== "held") inside.push(makeSvg("path", { class: `raw ${line.kind}`, d: makePath(thinCurve(line.inView, columns)) }));
      if (soft.length > 1 + (line.kind !== "held")) inside.push(makeSvg("path", { class: `soft ${line.kind}`, d: makePath(thinCurve(soft, columns)) }));
      const end = lastOf(line.inView);
      inside.push(makeSvg("circle", { class: `end ${line.kind}`, cx: x(end[0]), cy: y(end[1]), r: 3 }));
    }
    parts.push(makeSvg("svg", { x: PAD.left - 4, y: 0, width: width - PAD.left - PAD.right + 8, height: HEIGHT, viewBox: `${PAD.left - 4} 0 ${width - PAD.left - PAD.right + 8} ${HEIGHT}` }, ...inside));
    for (const one of figure.shown.marks) if (one.at >= scale.from && one.at <= scale.to) parts.push(...drawStepMark(x(one.at), one, width));
    if (figure.brush) parts.push(makeSvg("rect", { class: "brush", x: Math.min(...figure.brush), y: PAD.top, width: Math.abs(figure.brush[1] - figure.brush[0]), height: HEIGHT - PAD.top - PAD.bottom }));
    if (figure.hover !== undefined && !figure.brush) parts.push(...drawHover(lines, figure, width));
    return parts;
  }

  function drawAxes({ from, to, y }, low, high, width, time) {
    const { found, digits } = findTicks(low, high);
    const formatX = (at) => (time ? formatClock(at) : String(Math.round(at)));
    return [
      ...found.flatMap((value) => [
        makeSvg("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: y(value), y2: y(value) }),
        makeSvg("text", { x: PAD.left - 6, y: y(value) + 3.5, "text-anchor": "end" }, high < 0.01 && high > 0 ? withMinusSigns(value.toExponential(0)) : formatFixed(value, digits)),
      ]),
      makeSvg("text", { x: PAD.left, y: HEIGHT - 5, "text-anchor": time ? "start" : "middle" }, formatX(from)),
      makeSvg("text", { x: width - PAD.right, y: HEIGHT - 5, "text-anchor": "end" }, time ? formatX(to) : pageText("charts.steps", { steps: formatX(to) })),
    ];
  }

  function drawReferenceLine(y, name, width) {
    const above = y > PAD.top + 14;
    return [
      makeSvg("line", { class: "mark", x1: PAD.left, x2: width - PAD.right, y1: y, y2: y }),
      makeSvg("text", { class: "markname", x: width - PAD.right, y: y + (above ? -4 : 12), "text-anchor": "end" }, name),
    ];
  }

  // A step worth knowing: the best one, or the one whose answers are shown below.
  function drawStepMark(x, { kind, name }, width) {
    const left = x > width / 2;
    return [
      makeSvg("line", { class: `${kind}-mark`, x1: x, x2: x, y1: PAD.top, y2: HEIGHT - PAD.bottom }),
      ...(name ? [makeSvg("text", { class: "markword", x: x + (left ? -4 : 4), y: HEIGHT - PAD.bottom - 4, "text-anchor": left ? "end" : "start" }, name)] : []),
    ];
  }

  // The point of the first line that is nearest to the pointer, in words beside it.
  function drawHover(lines, figure, width) {
    const at = figure.scale.back(figure.hover), points = lines[0].inView;
    if (!points.length) return [];
    const near = points.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best));
    const x = figure.scale.x(near[0]), left = x > width / 2;
    const value = formatShort(near[1]), words = figure.shown.time ? `${formatClock(near[0])}: ${value}` : pageText("charts.at_step", { step: near[0], value });
    return [
      makeSvg("line", { class: "crosshair", x1: x, x2: x, y1: PAD.top, y2: HEIGHT - PAD.bottom }),
      makeSvg("circle", { class: "end", cx: x, cy: figure.scale.y(near[1]), r: 4 }),
      makeSvg("text", { class: "tip", x: x + (left ? -7 : 7), y: PAD.top + 10, "text-anchor": left ? "end" : "start" }, words),
    ];
  }

  // ---- zoom: drag over a part, or the menu; a double click shows all again

  function zoomBy(figure, factor) {
    const [low, high] = xRange(figure.shown), [from, to] = figure.zoom ?? [low, high];
    const span = Math.max((to - from) * factor, figure.shown.time ? 10 : 3);
    figure.zoom = span >= high - low ? undefined : [Math.max(low, to - span), Math.max(low, to - span) + span];
    redrawChart(figure);
  }

  const findFigure = (event) => event.target.closest?.(".plot")?.closest("figure.chart");
  const pixelX = (event, figure) => event.clientX - figure.querySelector(".plot").getBoundingClientRect().left;
  let dragged = null;

  document.addEventListener("pointerdown", (event) => {
    const figure = findFigure(event);
    if (!figure?.scale || event.button) return;
    dragged = figure;
    figure.start = pixelX(event, figure);
  });
  document.addEventListener("pointermove", (event) => {
    if (dragged) {
      const at = pixelX(event, dragged);
      dragged.brush = Math.abs(at - dragged.start) > CLICK ? [dragged.start, at] : undefined;
      return redrawChart(dragged);
    }
    const figure = findFigure(event);
    if (!figure?.scale) return;
    figure.hover = pixelX(event, figure);
    redrawChart(figure);
  });
  document.addEventListener("pointerup", () => {
    const figure = dragged;
    dragged = null;
    if (!figure?.brush) return;
    const [from, to] = figure.brush.map(figure.scale.back).sort((a, b) => a - b), [low, high] = xRange(figure.shown);
    figure.brush = undefined;
    if (to - from > (figure.shown.time ? 5 : 1)) figure.zoom = [Math.max(low, from), Math.min(high, to)];
    redrawChart(figure);
  });
  document.addEventListener("pointerout", (event) => {
    const figure = findFigure(event);
    if (!figure || figure.contains(event.relatedTarget) || figure.hover === undefined) return;
    figure.hover = undefined;
    redrawChart(figure);
  });
  document.addEventListener("dblclick", (event) => {
    const figure = findFigure(event);
    if (!figure?.zoom) return;
    figure.zoom = undefined;
    redrawChart(figure);
  });

  // ---- table, CSV, PNG

  function tableRows({ lines }) {
    const columns = lines.filter((line) => line.points.length), at = new Map();
    columns.forEach((line, index) => line.points.forEach(([x, value]) => at.set(x, Object.assign(at.get(x) ?? [], { [index]: value }))));
    const body = [...at.entries()].sort((a, b) => a[0] - b[0]).map(([x, values]) => [x, ...columns.map((_, index) => values[index] ?? "")]);
    return { head: columns.map((line) => line.name || pageText("charts.value")), body };
  }

  function fillTable(figure) {
    const { head, body } = tableRows(figure.shown), every = Math.max(1, Math.ceil(body.length / TABLE_ROWS));
    const { makeNode } = window.tunebench.tools, x = pageText(figure.shown.time ? "charts.time" : "charts.step");
    const some = body.filter((_, index) => index % every === 0 || index === body.length - 1);
    const makeCell = (value) => makeNode("td", {}, value === "" ? "–" : formatShort(value));
    figure.querySelector(".numbers").replaceChildren(makeNode("table", {},
      makeNode("caption", {}, every > 1 ? pageText("charts.some_rows", { every, rows: body.length }) : pageText("charts.rows", { rows: body.length })),
      makeNode("thead", {}, makeNode("tr", {}, ...[x, ...head].map((name) => makeNode("th", { scope: "col" }, name)))),
      makeNode("tbody", {}, ...some.map(([at, ...values]) => makeNode("tr", {}, makeNode("th", { scope: "row" }, figure.shown.time ? formatClock(at) : String(at)), ...values.map(makeCell))))));
  }

  function toggleTable(figure) {
    const table = figure.querySelector(".numbers"), plot = figure.querySelector(".plot");
    table.hidden = !table.hidden;
    plot.hidden = !table.hidden;
    figure.querySelector("[data-do=table]").textContent = pageText(table.hidden ? "charts.show_table" : "charts.show_curve");
    if (!table.hidden) fillTable(figure);
    else redrawChart(figure);
  }

  function saveCsv(figure) {
    const { head, body } = tableRows(figure.shown);
    const lines = [[figure.shown.time ? "seconds" : "step", ...head], ...body].map((row) => row.join(","));
    window.tunebench.tools.saveFile(`${fileName(figure)}.csv`, new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  }

  const fileName = (figure) => [window.tunebench.run, figure.dataset.series].filter(Boolean).join("-");

  // A picture twice as large as on the page. What CSS says of the lines is written into them, for outside the page there is none.
  function savePng(figure) {
    const shown = figure.querySelector(".plot svg");
    if (!shown) return;
    const copy = shown.cloneNode(true), width = Number(shown.getAttribute("width"));
    const originals = shown.querySelectorAll("*");
    copy.querySelectorAll("*").forEach((node, at) => {
      const style = getComputedStyle(originals[at]);
      for (const name of ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family"]) node.style.setProperty(name, style.getPropertyValue(name));
    });
    copy.setAttribute("xmlns", NS);
    const image = new Image(), canvas = document.createElement("canvas");
    image.onload = () => {
      [canvas.width, canvas.height] = [2 * width, 2 * HEIGHT];
      const pen = canvas.getContext("2d");
      pen.fillStyle = getComputedStyle(figure).backgroundColor;
      pen.fillRect(0, 0, canvas.width, canvas.height);
      pen.drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => window.tunebench.tools.saveFile(`${fileName(figure)}.png`, blob));
    };
    image.src = "data:image/svg+xml," + encodeURIComponent(new XMLSerializer().serializeToString(copy));
  }

  const ACTIONS = { in: (figure) => zoomBy(figure, 0.5), out: (figure) => zoomBy(figure, 2), table: toggleTable, csv: saveCsv, png: savePng };

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("figure.chart [data-do]");
    document.querySelectorAll("figure.chart .menu[open]").forEach((menu) => (menu.open = menu.contains(event.target) && !["table", "csv", "png"].includes(button?.dataset.do)));
    if (button) ACTIONS[button.dataset.do](button.closest("figure"));
  });
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && event.target.closest?.(".menu[open]");
    if (!menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });

  window.drawChart = drawChart;
  window.smoothCurve = smoothCurve;
  window.formatFixed = formatFixed;
})();
