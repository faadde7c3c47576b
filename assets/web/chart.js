// A curve as a small SVG: thin line as measured, thick line smoothed, a dashed line for a value worth knowing; other lines of the
// same chart (held-out rows, the rejected side) beside it. Also what one does with a chart: hover, zoom, read as a table, take away.
// Points are [x, value]. Zoom and table belong to the figure on the page, so a new point changes neither.
(() => {
  const NS = "http://www.w3.org/2000/svg", HEIGHT = 150, PAD = { left: 40, right: 10, top: 8, bottom: 20 };
  const TABLE_ROWS = 200, CLICK = 6;

  function svg(tag, attributes = {}, ...children) {
    const node = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  // Exponential mean over about a tenth of the curve; divided by its total weight, so that the first values are not pulled to 0.
  function smoothed(points) {
    const keep = 1 - 2 / (Math.min(50, Math.max(3, points.length / 10)) + 1);
    let sum = 0, weight = 0;
    return points.map(([step, value]) => {
      sum = keep * sum + (1 - keep) * value;
      weight = keep * weight + (1 - keep);
      return [step, sum / weight];
    });
  }

  // The lowest and the highest point of each column of pixels.
  function thinned(points, columns) {
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
  function ticks(low, high) {
    const rough = (high - low || Math.abs(high) || 1) / 4, power = 10 ** Math.floor(Math.log10(rough));
    const size = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough);
    const found = [];
    for (let at = Math.ceil(low / size - 1e-9) * size; at <= high + size * 1e-9; at += size) found.push(at);
    return { found, digits: Math.max(0, -Math.floor(Math.log10(size) + 1e-9) + (size / power === 2.5 ? 1 : 0)) };
  }

  // With real minus signs, and no minus before a zero.
  const typeset = (text) => text.replace(/^-(?=[0.]+$)/, "").replaceAll("-", "−");
  const fixed = (value, digits) => typeset(value.toFixed(digits));

  function short(value) {
    const size = Math.abs(value);
    if (size && size < 0.001) return typeset(value.toExponential(1));
    return fixed(value, size >= 100 ? 0 : size >= 10 ? 1 : 3);
  }

  const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const last = (points) => points[points.length - 1];

  function range(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return [low, high];
  }

  function summary(name, lines, time) {
    const told = lines.filter((line) => line.points.length).map((line) => {
      const [low, high] = range(line.points.map((point) => point[1]));
      const where = time ? `at ${clock(last(line.points)[0])}` : `${last(line.points)[0]} steps`;
      const which = line.kind === "main" && !lines.some((one) => one.kind === "second") ? "" : `${line.name} `;
      return `${which}latest ${short(last(line.points)[1])}, lowest ${short(low)}, highest ${short(high)}, ${where}`;
    });
    return told.length ? `${name}: ${told.join("; ")}` : `${name}: no steps yet`;
  }

  // The part of a line that is in sight, with one point more at each end, so that the line does not begin in the air.
  function within(points, zoom) {
    if (!zoom) return points;
    const first = points.findIndex((point) => point[0] >= zoom[0]);
    if (first < 0) return [];
    let end = first;
    while (end < points.length && points[end][0] <= zoom[1]) end += 1;
    return points.slice(Math.max(0, first - 1), end + 1);
  }

  function bounds(lines, mark) {
    const values = lines.flatMap((line) => line.seen.map((point) => point[1]));
    if (mark !== null) values.push(mark);
    const [low, high] = range(values), room = (high - low || Math.abs(high) * 0.2 || 1) * 0.06;
    return [low - room, high + room];
  }

  // lines: [{ name, kind: main | held | second, points }]; total: the last step that is planned; time: x is seconds since 1970.
  function draw(figure, lines, { total = 0, time = false, marks = [] } = {}) {
    figure.shown = { lines, total, time, marks };
    const main = lines.find((line) => line.points.length), name = figure.querySelector("h3").textContent;
    const plot = figure.querySelector(".plot"), width = plot.clientWidth || Number(figure.dataset.width) || 300;
    const key = JSON.stringify([width, total, figure.zoom, figure.brush, figure.hover, marks, lines.map((line) => [line.points.length, line.name])]);
    if (figure.key === key && lines.every((line, at) => line.points === figure.held?.[at])) return;
    [figure.key, figure.held] = [key, lines.map((line) => line.points)];
    figure.dataset.width = width;
    const value = figure.querySelector(".value"), told = main ? short(last(time ? main.points : smoothed(main.points))[1]) : "–";
    if (value.textContent !== told) value.textContent = told; // where the thick line ends; what was measured shows by pointing at it
    plot.setAttribute("aria-label", summary(name, lines, time));
    const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, "aria-hidden": "true" });
    if (main) picture.append(...curves(figure, width));
    else picture.append(svg("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, time ? "No readings yet" : "No steps yet"));
    plot.replaceChildren(picture);
    if (!figure.querySelector(".numbers").hidden) fillTable(figure);
  }

  const redraw = (figure) => draw(figure, figure.shown.lines, figure.shown);

  function extent({ lines, total, time }) {
    const ends = lines.filter((line) => line.points.length).flatMap((line) => [line.points[0][0], last(line.points)[0]]);
    const [low, high] = range(ends);
    return time ? [low, Math.max(high, low + 60)] : [1, Math.max(total, high, 2)];
  }

  function scales(figure, low, high, width) {
    const [from, to] = figure.zoom ?? extent(figure.shown);
    return {
      from, to,
      x: (at) => PAD.left + ((at - from) / (to - from || 1)) * (width - PAD.left - PAD.right),
      y: (value) => PAD.top + ((high - value) / (high - low)) * (HEIGHT - PAD.top - PAD.bottom),
      back: (pixel) => from + ((pixel - PAD.left) / (width - PAD.left - PAD.right)) * (to - from),
    };
  }

  function curves(figure, width) {
    const { time } = figure.shown, columns = Math.max(60, width - PAD.left);
    const lines = figure.shown.lines.filter((line) => line.points.length).map((line) => ({ ...line, seen: within(line.points, figure.zoom) }));
    if (!lines.some((line) => line.seen.length)) lines[0].seen = [last(lines[0].points)];
    const mark = "line" in figure.dataset ? Number(figure.dataset.line) : null;
    const [low, high] = bounds(lines, mark), scale = scales(figure, low, high, width), { x, y } = scale;
    figure.scale = scale;
    const path = (some) => "M" + some.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join("L");
    const parts = axes(scale, low, high, width, time);
    if (mark !== null) parts.push(...markLine(y(mark), figure.dataset.lineName, width));
    const inside = [];
    for (const line of lines) {
      if (!line.seen.length) continue;
      if (line.kind === "held") inside.push(...line.seen.map(([at, value]) => svg("circle", { class: "held", cx: x(at), cy: y(value), r: 2.6 })));
      const soft = line.kind === "held" ? line.seen : within(smoothed(line.points), figure.zoom);
      if (line.kind !== "held") inside.push(svg("path", { class: `raw ${line.kind}`, d: path(thinned(line.seen, columns)) }));
      if (soft.length > 1 + (line.kind !== "held")) inside.push(svg("path", { class: `soft ${line.kind}`, d: path(thinned(soft, columns)) }));
      const end = last(line.seen);
      inside.push(svg("circle", { class: `end ${line.kind}`, cx: x(end[0]), cy: y(end[1]), r: 3 }));
    }
    parts.push(svg("svg", { x: PAD.left - 4, y: 0, width: width - PAD.left - PAD.right + 8, height: HEIGHT, viewBox: `${PAD.left - 4} 0 ${width - PAD.left - PAD.right + 8} ${HEIGHT}` }, ...inside));
    for (const one of figure.shown.marks) if (one.at >= scale.from && one.at <= scale.to) parts.push(...stepMark(x(one.at), one, width));
    if (figure.brush) parts.push(svg("rect", { class: "brush", x: Math.min(...figure.brush), y: PAD.top, width: Math.abs(figure.brush[1] - figure.brush[0]), height: HEIGHT - PAD.top - PAD.bottom }));
    if (figure.hover !== undefined && !figure.brush) parts.push(...hovered(lines, figure, width));
    return parts;
  }

  function axes({ from, to, y }, low, high, width, time) {
    const { found, digits } = ticks(low, high);
    const label = (at) => (time ? clock(at) : String(Math.round(at)));
    return [
      ...found.flatMap((value) => [
        svg("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: y(value), y2: y(value) }),
        svg("text", { x: PAD.left - 6, y: y(value) + 3.5, "text-anchor": "end" }, high < 0.01 && high > 0 ? typeset(value.toExponential(0)) : fixed(value, digits)),
      ]),
      svg("text", { x: PAD.left, y: HEIGHT - 5, "text-anchor": time ? "start" : "middle" }, label(from)),
      svg("text", { x: width - PAD.right, y: HEIGHT - 5, "text-anchor": "end" }, time ? label(to) : `${label(to)} steps`),
    ];
  }

  function markLine(y, name, width) {
    const above = y > PAD.top + 14;
    return [
      svg("line", { class: "mark", x1: PAD.left, x2: width - PAD.right, y1: y, y2: y }),
      svg("text", { class: "markname", x: width - PAD.right, y: y + (above ? -4 : 12), "text-anchor": "end" }, name),
    ];
  }

  // A step worth knowing: the best one, or the one whose answers are shown below.
  function stepMark(x, { kind, name }, width) {
    const left = x > width / 2;
    return [
      svg("line", { class: `${kind}-mark`, x1: x, x2: x, y1: PAD.top, y2: HEIGHT - PAD.bottom }),
      ...(name ? [svg("text", { class: "markword", x: x + (left ? -4 : 4), y: HEIGHT - PAD.bottom - 4, "text-anchor": left ? "end" : "start" }, name)] : []),
    ];
  }

  // The point of the first line that is nearest to the pointer, in words beside it.
  function hovered(lines, figure, width) {
    const at = figure.scale.back(figure.hover), points = lines[0].seen;
    if (!points.length) return [];
    const near = points.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best));
    const x = figure.scale.x(near[0]), left = x > width / 2;
    const words = `${figure.shown.time ? clock(near[0]) : `step ${near[0]}`}: ${short(near[1])}`;
    return [
      svg("line", { class: "cross", x1: x, x2: x, y1: PAD.top, y2: HEIGHT - PAD.bottom }),
      svg("circle", { class: "end", cx: x, cy: figure.scale.y(near[1]), r: 4 }),
      svg("text", { class: "tip", x: x + (left ? -7 : 7), y: PAD.top + 10, "text-anchor": left ? "end" : "start" }, words),
    ];
  }

  // ---- zoom: drag over a part, or the menu; a double click shows all again

  function zoomBy(figure, factor) {
    const [low, high] = extent(figure.shown), [from, to] = figure.zoom ?? [low, high];
    const span = Math.max((to - from) * factor, figure.shown.time ? 10 : 3);
    figure.zoom = span >= high - low ? undefined : [Math.max(low, to - span), Math.max(low, to - span) + span];
    redraw(figure);
  }

  const figureOf = (event) => event.target.closest?.(".plot")?.closest("figure.chart");
  const pixel = (event, figure) => event.clientX - figure.querySelector(".plot").getBoundingClientRect().left;
  let dragged = null;

  document.addEventListener("pointerdown", (event) => {
    const figure = figureOf(event);
    if (!figure?.scale || event.button) return;
    dragged = figure;
    figure.start = pixel(event, figure);
  });
  document.addEventListener("pointermove", (event) => {
    if (dragged) {
      const at = pixel(event, dragged);
      dragged.brush = Math.abs(at - dragged.start) > CLICK ? [dragged.start, at] : undefined;
      return redraw(dragged);
    }
    const figure = figureOf(event);
    if (!figure?.scale) return;
    figure.hover = pixel(event, figure);
    redraw(figure);
  });
  document.addEventListener("pointerup", () => {
    const figure = dragged;
    dragged = null;
    if (!figure?.brush) return;
    const [from, to] = figure.brush.map(figure.scale.back).sort((a, b) => a - b), [low, high] = extent(figure.shown);
    figure.brush = undefined;
    if (to - from > (figure.shown.time ? 5 : 1)) figure.zoom = [Math.max(low, from), Math.min(high, to)];
    redraw(figure);
  });
  document.addEventListener("pointerout", (event) => {
    const figure = figureOf(event);
    if (!figure || figure.contains(event.relatedTarget) || figure.hover === undefined) return;
    figure.hover = undefined;
    redraw(figure);
  });
  document.addEventListener("dblclick", (event) => {
    const figure = figureOf(event);
    if (!figure?.zoom) return;
    figure.zoom = undefined;
    redraw(figure);
  });

  // ---- table, CSV, PNG

  function rows({ lines }) {
    const columns = lines.filter((line) => line.points.length), at = new Map();
    columns.forEach((line, index) => line.points.forEach(([x, value]) => at.set(x, Object.assign(at.get(x) ?? [], { [index]: value }))));
    const body = [...at.entries()].sort((a, b) => a[0] - b[0]).map(([x, values]) => [x, ...columns.map((_, index) => values[index] ?? "")]);
    return { head: columns.map((line) => line.name || "value"), body };
  }

  function fillTable(figure) {
    const { head, body } = rows(figure.shown), every = Math.max(1, Math.ceil(body.length / TABLE_ROWS));
    const { make } = window.tunebench.tools, x = figure.shown.time ? "Time" : "Step";
    const some = body.filter((_, index) => index % every === 0 || index === body.length - 1);
    const cell = (value) => make("td", {}, value === "" ? "–" : short(value));
    figure.querySelector(".numbers").replaceChildren(make("table", {},
      make("caption", {}, every > 1 ? `Every ${every}th of ${body.length} rows; the CSV has all.` : `${body.length} rows`),
      make("thead", {}, make("tr", {}, ...[x, ...head].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...some.map(([at, ...values]) => make("tr", {}, make("th", { scope: "row" }, figure.shown.time ? clock(at) : String(at)), ...values.map(cell))))));
  }

  function toggleTable(figure) {
    const table = figure.querySelector(".numbers"), plot = figure.querySelector(".plot");
    table.hidden = !table.hidden;
    plot.hidden = !table.hidden;
    figure.querySelector("[data-do=table]").textContent = table.hidden ? "Show as table" : "Show as curve";
    if (!table.hidden) fillTable(figure);
    else redraw(figure);
  }

  const take = (name, blob) => window.tunebench.tools.take(name, blob);

  function takeCsv(figure) {
    const { head, body } = rows(figure.shown);
    const lines = [[figure.shown.time ? "seconds" : "step", ...head], ...body].map((row) => row.join(","));
    take(`${fileName(figure)}.csv`, new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  }

  const fileName = (figure) => [window.tunebench.run, figure.dataset.series].filter(Boolean).join("-");

  // A picture twice as large as on the page. What CSS says of the lines is written into them, for outside the page there is none.
  function takePng(figure) {
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
      canvas.toBlob((blob) => take(`${fileName(figure)}.png`, blob));
    };
    image.src = "data:image/svg+xml," + encodeURIComponent(new XMLSerializer().serializeToString(copy));
  }

  const deeds = { in: (figure) => zoomBy(figure, 0.5), out: (figure) => zoomBy(figure, 2), table: toggleTable, csv: takeCsv, png: takePng };

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("figure.chart [data-do]");
    document.querySelectorAll("figure.chart .menu[open]").forEach((menu) => (menu.open = menu.contains(event.target) && !["table", "csv", "png"].includes(button?.dataset.do)));
    if (button) deeds[button.dataset.do](button.closest("figure"));
  });
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && event.target.closest?.(".menu[open]");
    if (!menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });

  window.drawChart = draw;
  window.smoothCurve = smoothed;
  window.fixed = fixed;
})();
