// One curve as a small SVG: thin line as measured, thick line smoothed, a dashed line for a value worth knowing.
// Points are [step, value]; everything is drawn from them, nothing is kept.
(() => {
  const NS = "http://www.w3.org/2000/svg", HEIGHT = 150, PAD = { left: 40, right: 10, top: 8, bottom: 20 };

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

  const short = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(3));

  function summary(name, points) {
    if (!points.length) return `${name}: no steps yet`;
    const values = points.map((point) => point[1]);
    const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    const steps = points[points.length - 1][0];
    return `${name}: latest ${short(values[values.length - 1])}, lowest ${short(low)}, highest ${short(high)}, ${steps} steps`;
  }

  function bounds(points, line) {
    const values = points.map((point) => point[1]);
    if (line !== null) values.push(line);
    let low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
    const room = (high - low || Math.abs(high) * 0.2 || 1) * 0.06;
    return [low - room, high + room];
  }

  function draw(figure, points, total) {
    const plot = figure.querySelector(".plot"), name = figure.querySelector("h3").textContent;
    const width = plot.clientWidth || Number(figure.dataset.width) || 300;
    figure.dataset.width = width;
    figure.querySelector(".value").textContent = points.length ? short(points[points.length - 1][1]) : "–";
    plot.setAttribute("aria-label", summary(name, points));
    const line = "line" in figure.dataset && points.length ? Number(figure.dataset.line) : null;
    const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, "aria-hidden": "true" });
    if (points.length) picture.append(...curve(points, total, line, figure.dataset.lineName, width));
    else picture.append(svg("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "No steps yet"));
    plot.replaceChildren(picture);
  }

  function curve(points, total, line, lineName, width) {
    const [low, high] = bounds(points, line), last = Math.max(total || 0, points[points.length - 1][0], 2);
    const x = (step) => PAD.left + ((step - 1) / (last - 1)) * (width - PAD.left - PAD.right);
    const y = (value) => PAD.top + ((high - value) / (high - low)) * (HEIGHT - PAD.top - PAD.bottom);
    const path = (some) => "M" + some.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join("L");
    const { found, digits } = ticks(low, high), text = (content, attributes) => svg("text", attributes, content);
    const end = points[points.length - 1], soft = smoothed(points), columns = Math.max(60, width - PAD.left);
    const parts = found.flatMap((value) => [
      svg("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: y(value), y2: y(value) }),
      text(value.toFixed(digits), { x: PAD.left - 6, y: y(value) + 3.5, "text-anchor": "end" }),
    ]);
    parts.push(text("1", { x: PAD.left, y: HEIGHT - 5, "text-anchor": "middle" }));
    parts.push(text(`${last} steps`, { x: width - PAD.right, y: HEIGHT - 5, "text-anchor": "end" }));
    if (line !== null) {
      parts.push(svg("line", { class: "mark", x1: PAD.left, x2: width - PAD.right, y1: y(line), y2: y(line) }));
      const above = y(line) > PAD.top + 14;
      parts.push(text(lineName, { class: "markname", x: width - PAD.right, y: y(line) + (above ? -4 : 12), "text-anchor": "end" }));
    }
    parts.push(svg("path", { class: "raw", d: path(thinned(points, columns)) }));
    if (points.length > 2) parts.push(svg("path", { class: "soft", d: path(thinned(soft, columns)) }));
    parts.push(svg("circle", { class: "end", cx: x(end[0]), cy: y(end[1]), r: 3 }));
    return parts;
  }

  window.drawChart = draw;
})();
