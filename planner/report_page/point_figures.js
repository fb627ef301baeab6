// Figures of answers that are not one step: points of a sweep or of a co-design, causes and rungs of
// an explanation, predictions beside measurements. As in figures.js, draw(svg, width, content,
// state) fills an empty SVG of that width and returns its height.
"use strict";

const reckonPointFigures = (() => {
  const F = reckonFigures, {colour, text, axis, gridlines, hatch} = F;

  const kMetrics = [
    {key: "gpu_hours", name: "GPU-hours", show: F.count}, {key: "days", name: "days", show: (x) => d3.format(x < 10 ? ".2f" : ".1f")(x)},
    {key: "money", name: "cost", show: F.count}, {key: "step_s", name: "step time", show: F.seconds},
    {key: "peak_memory_GiB", name: "peak memory", show: F.gib}, {key: "mfu", name: "MFU", show: F.share},
  ];
  const metricOf = (key) => kMetrics.find((m) => m.key === key);
  const figureOf = (point, key) => (point.answer && typeof point.answer[key] === "number" ? point.answer[key] : null);
  // Ticks of a metric are short: 2.4M, 19 s, 40 %.
  const shortTick = (key) => (v) => (key === "mfu" ? d3.format(".3~g")(100 * v) + " %" : key === "peak_memory_GiB" ? d3.format("~g")(v) + " GiB"
    : key === "step_s" ? d3.format(".3~g")(v) + " s" : d3.format(".3~s")(v).replace("G", "B"));

  const kSeries = [
    {colour: "blue", shape: d3.symbolCircle, dash: null}, {colour: "orange", shape: d3.symbolSquare, dash: "7 3"},
    {colour: "green", shape: d3.symbolTriangle, dash: "2 3"}, {colour: "pink", shape: d3.symbolDiamond, dash: "9 3 2 3"},
    {colour: "red", shape: d3.symbolStar, dash: "4 3"}, {colour: "grey", shape: d3.symbolCross, dash: "1 3"},
  ];
  const isDark = () => document.documentElement.getAttribute("data-theme") === "dark";

  // The name of a point: "nic 50 GB/s, gpus 2048".
  const pointName = (a, labels) => a.titles.map((t, k) => (labels[k] === "-" ? null : `${t} ${labels[k]}`)).filter(Boolean).join(", ") || "as given";

  // Lines of a sweep: points of equal values but for the first varied part.
  function series(content) {
    const a = content.figures.axes, lines = new Map();
    content.answer.points.forEach((p, i) => {
      const name = a.titles.slice(1).map((t, k) => `${t} ${a.labels[i][k + 1]}`).join(", ");
      if (!lines.has(name)) lines.set(name, {name, points: []});
      lines.get(name).points.push({p, i, x: a.numbers[i][0]});
    });
    return [...lines.values()];
  }
  const numeric = (content) => !content.figures.axes.one_at_a_time && content.figures.axes.numbers.every((n) => n[0] !== null);
  // Up to so many lines have a style each and a legend; more are coloured in their order and named at their ends.
  const styled = (lines) => lines.length <= kSeries.length;

  function sweep(svg, width, content, state) {
    return numeric(content) ? sweepLines(svg, width, content, state) : sweepRows(svg, width, content, state);
  }

  function sweepLines(svg, width, content, state) {
    const a = content.figures.axes, metric = metricOf(state.metric), lines = series(content);
    const height = Math.min(440, Math.max(300, width * 0.5));
    const named = !styled(lines), longest = d3.max(lines, (l) => l.name.length);
    const m = {left: 62, right: named ? Math.min(width * 0.38, 12 + 6.4 * longest) : 20, top: 22, bottom: 46};
    const all = lines.flatMap((l) => l.points), values = all.map((q) => figureOf(q.p, metric.key)).filter((v) => v !== null);
    const [low, high] = d3.extent(all, (q) => q.x);
    const log = low > 0 && high / low >= 8;
    const x = (log ? d3.scaleLog().base(2) : d3.scaleLinear()).domain(low === high ? [0, 2 * high || 1] : [low, high]).range([m.left + 8, width - m.right - 8]);
    const y = d3.scaleLinear().domain([0, (d3.max(values) || 1) * 1.05]).nice().range([height - m.bottom, m.top]);
    gridlines(svg, y, 5, [m.left, width - m.right], false);
    axis(svg.append("g").attr("transform", `translate(${m.left},0)`), d3.axisLeft(y).ticks(5).tickFormat(shortTick(metric.key)));
    const ticks = d3.axisBottom(x).tickFormat(d3.format("~g"));
    const stops = [...new Set(all.map((q) => q.x))].sort((p, q) => p - q), most = Math.max(2, Math.floor(width / 70));
    axis(svg.append("g").attr("transform", `translate(0,${height - m.bottom})`),
      stops.length <= most ? ticks.tickValues(stops) : ticks.ticks(most));
    const unit = a.labels[0][0].match(/^[0-9.e+-]+ (.*)$/i);
    text(svg, width - m.right, height - 8, `${a.paths[0]}${unit ? ` (${unit[1]})` : ""} →`, {anchor: "end"});
    text(svg, 6, m.top - 9, "↑ " + metric.name);
    const ramp = (i) => d3.interpolateViridis(isDark() ? 0.3 + 0.7 * i / (lines.length - 1) : 0.88 * i / (lines.length - 1));
    const placed = [], ends = [];
    lines.forEach((line, i) => {
      const style = kSeries[i % kSeries.length], paint = named ? ramp(i) : colour(style.colour);
      const points = line.points.filter((q) => figureOf(q.p, metric.key) !== null).sort((p, q) => p.x - q.x)
        .map((q) => ({px: x(q.x), py: y(figureOf(q.p, metric.key)), q}));
      if (points.length === 0) return;
      svg.append("path").attr("fill", "none").attr("stroke", paint).attr("stroke-width", 2).attr("stroke-dasharray", named ? null : style.dash)
        .attr("d", d3.line().x((p) => p.px).y((p) => p.py)(points));
      // Hollow where the plan does not fit in memory.
      svg.append("g").selectAll("path").data(points).join("path").attr("transform", (p) => `translate(${p.px},${p.py})`)
        .attr("d", d3.symbol().type(named ? d3.symbolCircle : style.shape).size(named ? 28 : 62)())
        .attr("fill", (p) => (p.q.p.answer.fits === false ? colour("card") : paint)).attr("stroke", (p) => (p.q.p.answer.fits === false ? paint : colour("card")));
      const last = points[points.length - 1];
      ends.push({name: line.name, y: last.py, x: last.px, paint});
      for (const p of points)
        placed.push({x: p.px, y: p.py, say: `${pointName(a, a.labels[p.q.i])}\n${metric.name} ${metric.show(figureOf(p.q.p, metric.key))}\n${p.q.p.answer.plan}`});
    });
    if (named) {
      ends.sort((p, q) => p.y - q.y);
      ends.forEach((e, i) => (e.at = Math.max(e.y + 4, i > 0 ? ends[i - 1].at + 12 : 0)));
      for (let i = ends.length - 1, below = height - m.bottom; i >= 0; --i, below = ends[i + 1].at - 12) ends[i].at = Math.min(ends[i].at, below);
      for (const e of ends) text(svg, width - m.right + 6, e.at, e.name, {size: 11, colour: "ink"});
    }
    return {height, points: placed};
  }

  const kMostRows = 150;
  const shorten = (words, pixels) => (words.length * 6.4 > pixels ? words.slice(0, Math.max(3, Math.floor(pixels / 6.4) - 1)) + "…" : words);

  // A row for each point, from the scenario as it is or from 0.
  function sweepRows(svg, width, content, state) {
    const a = content.figures.axes, metric = metricOf(state.metric);
    const rows = content.answer.points.map((p, i) => ({p, name: pointName(a, a.labels[i]), v: figureOf(p, metric.key)})).slice(0, kMostRows);
    const narrow = width < 560, row = narrow ? 36 : 24, top = 8, left = narrow ? 10 : Math.min(width * 0.4, 16 + 6.4 * d3.max(rows, (r) => r.name.length)), right = 84;
    const height = top + rows.length * row + 48;
    const base = a.one_at_a_time ? rows[0].v : 0, values = rows.map((r) => r.v).filter((v) => v !== null);
    const x = d3.scaleLinear().domain(d3.extent([...values, base === null ? 0 : base])).nice().range([left, width - right]);
    if (x.domain()[0] === x.domain()[1]) x.domain([0, 2 * x.domain()[1] || 1]);
    gridlines(svg, x, 5, [top, height - 42], true);
    const placed = [];
    rows.forEach((r, i) => {
      const y = top + i * row + (narrow ? 26 : row / 2);
      if (narrow) text(svg, left, y - 12, shorten(r.name, width - 20), {size: 11});
      else text(svg, left - 8, y + 4, shorten(r.name, left - 16), {anchor: "end", size: 12});
      if (r.v === null) {
        text(svg, left + 4, y + 4, shorten("no plan: " + ((r.p.answer && r.p.answer.reason) || ""), width - left - 12), {size: 11});
        return;
      }
      const from = x(base === null ? x.domain()[0] : base), to = x(r.v);
      svg.append("rect").attr("x", Math.min(from, to)).attr("width", Math.max(1, Math.abs(to - from))).attr("y", y - 6).attr("height", 12).attr("rx", 2)
        .attr("fill", a.one_at_a_time && r.v > base ? hatch(svg, "orange", "lines") : colour("blue"));
      text(svg, Math.max(from, to) + 6, y + 4, metric.show(r.v), {colour: "ink", size: 12});
      placed.push({x: to, y, say: `${r.name}\n${metric.name} ${metric.show(r.v)}\n${r.p.answer.plan}`});
    });
    if (base) svg.append("line").attr("x1", x(base)).attr("x2", x(base)).attr("y1", top).attr("y2", height - 42).attr("stroke", colour("ink")).attr("stroke-width", 1.2);
    axis(svg.append("g").attr("transform", `translate(0,${height - 42})`), d3.axisBottom(x).ticks(Math.max(2, width / 150)).tickFormat(shortTick(metric.key)));
    text(svg, width - 8, height - 6, metric.name + " →", {anchor: "end"});
    return {height, points: placed};
  }

  // ---- co-design ----

  const kShapeValues = [
    {key: "train_flops_per_token", front: "flops", name: "training flops per token"},
    {key: "activated_parameters", front: "activated", name: "activated parameters"},
    {key: "total_parameters", front: "total", name: "total parameters"},
  ];
  function codesign(svg, width, content, state) {
    const value = kShapeValues.find((v) => v.key === state.shapeValue), cost = metricOf(content.figures.cost), a = content.figures.axes;
    const height = Math.min(440, Math.max(300, width * 0.5)), m = {left: 62, right: 24, top: 22, bottom: 46};
    const front = new Set(content.answer.fronts[value.front]);
    const rows = content.answer.points.map((p, i) => ({p, i, on: front.has(i), c: figureOf(p, cost.key), v: p[value.key]})).filter((r) => r.c !== null);
    if (rows.length === 0) {
      text(svg, 8, 24, "No shape has a plan.");
      return {height: 40, points: []};
    }
    const pad = ([p, q]) => (p === q ? [p * 0.9, p * 1.1] : [p - 0.04 * (q - p), q + 0.04 * (q - p)]);
    const x = d3.scaleLinear().domain(pad(d3.extent(rows, (r) => r.c))).nice().range([m.left, width - m.right]);
    const y = d3.scaleLinear().domain(pad(d3.extent(rows, (r) => r.v))).nice().range([height - m.bottom, m.top]);
    gridlines(svg, x, 6, [m.top, height - m.bottom], true);
    gridlines(svg, y, 5, [m.left, width - m.right], false);
    axis(svg.append("g").attr("transform", `translate(0,${height - m.bottom})`), d3.axisBottom(x).ticks(Math.max(3, width / 120)).tickFormat(shortTick(cost.key)));
    axis(svg.append("g").attr("transform", `translate(${m.left},0)`), d3.axisLeft(y).ticks(5).tickFormat(F.tokens));
    text(svg, width - m.right, height - 8, cost.name + " of the campaign →", {anchor: "end"});
    text(svg, 6, m.top - 9, "↑ " + value.name);
    const line = rows.filter((r) => r.on).sort((p, q) => p.c - q.c);
    svg.append("path").attr("fill", "none").attr("stroke", colour("green")).attr("stroke-width", 2)
      .attr("d", d3.line().x((r) => x(r.c)).y((r) => y(r.v)).curve(d3.curveStepAfter)(line));
    const style = (r) => kPoint[kindOfPoint(r.on, r.p.answer)];
    svg.append("g").selectAll("path").data(rows.slice().sort((p, q) => p.on - q.on)).join("path")
      .attr("transform", (r) => `translate(${x(r.c)},${y(r.v)})`).attr("d", (r) => d3.symbol().type(style(r).shape).size(r.on ? 100 : 56)())
      .attr("fill", (r) => (style(r).hollow ? colour("card") : colour(style(r).colour))).attr("stroke", (r) => colour(style(r).hollow ? style(r).colour : "card")).attr("stroke-width", 1.4);
    return {height, points: rows.map((r) => ({x: x(r.c), y: y(r.v),
      say: `${pointName(a, a.labels[r.i])}\n${F.tokens(r.v)} ${value.name}, ${cost.show(r.c)} ${cost.name}` +
        (r.p.answer.meets_budget === undefined ? "" : r.p.answer.meets_budget ? ", within the budget" : ", over the budget") + `\n${r.p.answer.plan}`}))};
  }
  const kindOfPoint = (on, answer) => (on ? 0 : 2) + (answer.meets_budget === false ? 1 : 0);
  const kPoint = [
    {name: "on the front", colour: "green", shape: d3.symbolDiamond}, {name: "on the front, over the budget", colour: "green", shape: d3.symbolDiamond, hollow: true},
    {name: "other", colour: "blue", shape: d3.symbolCircle}, {name: "other, over the budget", colour: "blue", shape: d3.symbolCircle, hollow: true},
  ];

  // ---- explanations ----

  const kAccounts = [{key: "path_s", name: "critical path", colour: "blue"}, {key: "mean_s", name: "mean over the GPUs", colour: "orange", pattern: "lines"}];
  const present = (content) => content.figures.causes.filter((c) => c.path_s > 0 || c.mean_s > 0).sort((p, q) => Math.max(q.path_s, q.mean_s) - Math.max(p.path_s, p.mean_s));
  function causes(svg, width, content) {
    const rows = present(content), narrow = width < 560, row = narrow ? 44 : 28, top = 6, left = narrow ? 10 : 220, right = 64;
    const height = top + rows.length * row + 32;
    const x = d3.scaleLinear().domain([0, d3.max(rows, (r) => Math.max(r.path_s, r.mean_s))]).nice().range([left, width - right]);
    gridlines(svg, x, 5, [top, height - 28], true);
    const placed = [];
    rows.forEach((r, i) => {
      const y = top + i * row + (narrow ? 16 : 0);
      if (narrow) text(svg, left, y - 2, r.what, {size: 12, colour: "ink"});
      else text(svg, left - 8, y + 17, shorten(r.what, left - 16), {anchor: "end", size: 12, colour: "ink"});
      kAccounts.forEach((k, j) => {
        if (!(r[k.key] > 0)) return;
        const yy = y + 4 + 10 * j;
        svg.append("rect").attr("x", left).attr("y", yy).attr("width", Math.max(1, x(r[k.key]) - left)).attr("height", 9).attr("fill", F.paint(svg, k));
        text(svg, x(r[k.key]) + 5, yy + 8, F.seconds(r[k.key]), {size: 10});
      });
      placed.push({x: x(Math.max(r.path_s, r.mean_s)), y: y + 14, say: `${r.what}\n` + kAccounts.map((k) => `${k.name} ${F.seconds(r[k.key])}`).join("\n")});
    });
    axis(svg.append("g").attr("transform", `translate(0,${height - 28})`), d3.axisBottom(x).ticks(Math.max(3, width / 130)).tickFormat(F.seconds));
    return {height, points: placed};
  }

  const rungName = (r) => `${r.what}: ${r.from} → ${r.to}`;
  function ladder(svg, width, content) {
    const rows = content.answer.ladder, row = 44, top = 4, height = top + rows.length * row + 32;
    const values = rows.filter((r) => r.saves_s !== undefined).map((r) => r.saves_s);
    const x = d3.scaleLinear().domain([Math.min(0, d3.min(values) || 0), Math.max(1e-9, d3.max(values) || 1)]).nice().range([24, width - 90]);
    gridlines(svg, x, 5, [top, height - 28], true);
    const placed = [];
    rows.forEach((r, i) => {
      const y = top + i * row;
      text(svg, 10, y + 14, shorten(rungName(r), width - 20), {colour: "ink", size: 12});
      if (r.saves_s === undefined) {
        text(svg, 24, y + 33, shorten("can't run: " + r.reason, width - 40), {size: 11});
        return;
      }
      const [p, q] = [x(Math.min(0, r.saves_s)), x(Math.max(0, r.saves_s))];
      svg.append("line").attr("x1", x(0)).attr("x2", x(0)).attr("y1", y + 18).attr("y2", y + 38).attr("stroke", colour("ink")).attr("stroke-width", 1.2);
      svg.append("rect").attr("x", p).attr("y", y + 20).attr("width", Math.max(1, q - p)).attr("height", 16).attr("rx", 2)
        .attr("fill", r.saves_s < 0 ? hatch(svg, "red", "lines") : r.fits ? colour("blue") : hatch(svg, "blue", "dots"));
      text(svg, q + 6, y + 33, (r.saves_s > 0 ? "+" : "") + F.seconds(r.saves_s).replace("-", "−") + (r.fits ? "" : "*"), {colour: "ink", size: 12});
      placed.push({x: r.saves_s < 0 ? p : q, y: y + 28, say: `${rungName(r)}\n${F.seconds(r.step_s)} a step without it, ${F.gib(r.peak_memory_GiB)}${r.fits ? "" : ": does not fit"}`});
    });
    axis(svg.append("g").attr("transform", `translate(0,${height - 28})`), d3.axisBottom(x).ticks(Math.max(3, width / 130)).tickFormat(F.seconds));
    return {height, points: placed};
  }

  // ---- predictions beside measurements ----

  const kSides = [{key: "predicted", name: "predicted", colour: "blue", shape: d3.symbolCircle}, {key: "measured", name: "measured", colour: "orange", shape: d3.symbolDiamond}];
  function plansBeside(svg, width, content) {
    const rows = content.answer.plans.filter((p) => p.step_s), narrow = width < 640, row = narrow ? 40 : 24, top = 6;
    const left = narrow ? 10 : Math.min(width * 0.42, 16 + 6.4 * d3.max(rows, (r) => r.name.length)), right = 70, height = top + rows.length * row + 32;
    const x = d3.scaleLinear().domain([0, d3.max(rows, (r) => Math.max(r.step_s.predicted, r.step_s.measured))]).nice().range([left, width - right]);
    gridlines(svg, x, 5, [top, height - 28], true);
    const placed = [];
    rows.forEach((r, i) => {
      const y = top + i * row + (narrow ? 26 : row / 2), t = r.step_s;
      if (narrow) text(svg, left, y - 11, shorten(r.name, width - 20), {size: 11});
      else text(svg, left - 8, y + 4, shorten(r.name, left - 16), {anchor: "end", size: 12});
      svg.append("line").attr("x1", x(t.predicted)).attr("x2", x(t.measured)).attr("y1", y).attr("y2", y).attr("stroke", colour("faint")).attr("stroke-width", 2);
      for (const k of kSides)
        svg.append("path").attr("transform", `translate(${x(t[k.key])},${y})`).attr("d", d3.symbol().type(k.shape).size(70)()).attr("fill", colour(k.colour)).attr("stroke", colour("card"));
      text(svg, x(Math.max(t.predicted, t.measured)) + 9, y + 4, F.percent(t.error), {size: 12, colour: "ink"});
      placed.push({x: x(t.measured), y, say: `${r.name}\npredicted ${F.seconds(t.predicted)}, measured ${F.seconds(t.measured)} (${F.percent(t.error)})`});
    });
    axis(svg.append("g").attr("transform", `translate(0,${height - 28})`), d3.axisBottom(x).ticks(Math.max(3, width / 130)).tickFormat(F.seconds));
    return {height, points: placed};
  }

  // Ops of one plan: as long as predicted on the diagonal, longer below it.
  const opsOf = (content, state) => content.answer.plans.filter((p) => p.step_s)[state.plan].ops.filter((o) => o.predicted > 0 && o.measured > 0);
  const kPhases = {F: {colour: "blue", shape: d3.symbolCircle, name: "forward"}, B: {colour: "orange", shape: d3.symbolSquare, name: "backward"},
    W: {colour: "green", shape: d3.symbolTriangle, name: "weight gradient"}, optimizer: {colour: "pink", shape: d3.symbolDiamond, name: "optimizer"}};
  const phaseOf = (o) => kPhases[o.phase] || kPhases.B;
  function ops(svg, width, content, state) {
    const rows = opsOf(content, state), height = Math.min(460, Math.max(300, width * 0.6)), m = {left: 66, right: 20, top: 22, bottom: 46};
    const both = d3.extent(rows.flatMap((o) => [o.predicted, o.measured]));
    const domain = [both[0] * 0.7, both[1] * 1.4];
    const x = d3.scaleLog().domain(domain).range([m.left, width - m.right]), y = d3.scaleLog().domain(domain).range([height - m.bottom, m.top]);
    const decades = x.ticks().filter((v) => /^1e/.test(v.toExponential()));
    for (const [scale, across, vertical] of [[x, [m.top, height - m.bottom], true], [y, [m.left, width - m.right], false]])
      gridlines(svg, Object.assign((v) => scale(v), {ticks: () => decades}), 0, across, vertical);
    axis(svg.append("g").attr("transform", `translate(0,${height - m.bottom})`), d3.axisBottom(x).tickValues(decades).tickFormat(F.seconds));
    axis(svg.append("g").attr("transform", `translate(${m.left},0)`), d3.axisLeft(y).tickValues(decades).tickFormat(F.seconds));
    svg.append("line").attr("x1", x(domain[0])).attr("y1", y(domain[0])).attr("x2", x(domain[1])).attr("y2", y(domain[1])).attr("stroke", colour("faint")).attr("stroke-width", 1.6);
    text(svg, width - m.right, height - 8, "measured →", {anchor: "end"});
    text(svg, 6, m.top - 9, "↑ predicted");
    svg.append("g").selectAll("path").data(rows).join("path").attr("transform", (o) => `translate(${x(o.measured)},${y(o.predicted)})`)
      .attr("d", (o) => d3.symbol().type(phaseOf(o).shape).size(80)()).attr("fill", (o) => colour(phaseOf(o).colour)).attr("fill-opacity", 0.8).attr("stroke", colour("card"));
    return {height, points: rows.map((o) => ({x: x(o.measured), y: y(o.predicted),
      say: `${o.op} ${o.phase}${o.recompute ? ", again" : ""}\npredicted ${F.seconds(o.predicted)}, measured ${F.seconds(o.measured)} (${F.percent(o.error)})`}))};
  }

  return {sweep, codesign, causes, ladder, plansBeside, ops, kMetrics, kSeries, kShapeValues, kPoint, kindOfPoint, kAccounts, kSides, kPhases, metricOf, figureOf, series, numeric, styled, present, rungName, opsOf, kMostRows};
})();
