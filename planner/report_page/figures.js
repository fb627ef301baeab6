// The figures of a report. Each is a function draw(svg, width, content, state) that fills an empty
// SVG of that width with D3 and returns its height. Colours go in as attributes, so that an
// exported file looks the same without this page's style.
"use strict";

const reckonFigures = (() => {
  // ---- what all figures share ----

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const kFont = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";

  const seconds = (s) => {
    const a = Math.abs(s);
    if (a === 0) return "0 s";
    if (a < 1e-3) return d3.format(".3~g")(s * 1e6) + " µs";
    if (a < 1) return d3.format(".3~g")(s * 1e3) + " ms";
    return d3.format(".2f")(s) + " s";
  };
  const percent = (x, digits = 1) => d3.format("+." + digits + "f")(100 * x) + " %";
  const share = (x) => d3.format(".1f")(100 * x) + " %";
  const count = d3.format(",.0f");
  const amount = (x) => d3.format(Math.abs(x) < 1000 ? ",.1f" : ",.0f")(x);
  const tokens = (x) => d3.format(".3~s")(x).replace("G", "B");
  const gib = (x) => (x === 0 ? "0" : x < 1 ? d3.format(".1f")(x * 1024) + " MiB" : d3.format(".1f")(x) + " GiB");
  const si = (x, unit) => d3.format(".3~s")(x).replace("G", " G").replace("T", " T").replace("P", " P").replace("M", " M").replace("k", " k") + unit;

  // Patterns that tell marks apart without colour; `name` is of a colour.
  function hatch(svg, name, kind) {
    const id = `${svg.attr("data-figure")}-${kind}-${name}`;
    if (!svg.select("#" + id).empty()) return `url(#${id})`;
    let defs = svg.select("defs");
    if (defs.empty()) defs = svg.insert("defs", ":first-child");
    const p = defs.append("pattern").attr("id", id).attr("width", 6).attr("height", 6).attr("patternUnits", "userSpaceOnUse");
    p.append("rect").attr("width", 6).attr("height", 6).attr("fill", colour(name));
    const mark = colour("paper");
    if (kind === "lines")
      p.attr("patternTransform", "rotate(45)").append("rect").attr("width", 1.6).attr("height", 6).attr("fill", mark).attr("opacity", 0.75);
    if (kind === "dots")
      p.append("circle").attr("cx", 3).attr("cy", 3).attr("r", 1.3).attr("fill", mark).attr("opacity", 0.85);
    if (kind === "cross")
      p.append("path").attr("d", "M0 0L6 6M6 0L0 6").attr("stroke", mark).attr("stroke-width", 1).attr("opacity", 0.7);
    return `url(#${id})`;
  }
  const paint = (svg, style) => (style.pattern ? hatch(svg, style.colour, style.pattern) : colour(style.colour));

  function text(parent, x, y, words, options = {}) {
    return parent.append("text").attr("x", x).attr("y", y).attr("fill", colour(options.colour || "faint"))
      .attr("font-family", kFont).attr("font-size", options.size || 12).attr("font-weight", options.weight || 400)
      .attr("text-anchor", options.anchor || "start").text(words);
  }

  function axis(g, made) {
    g.call(made);
    g.selectAll("text").attr("fill", colour("faint")).attr("font-family", kFont).attr("font-size", 12);
    g.selectAll("line").attr("stroke", colour("line"));
    g.select(".domain").attr("stroke", colour("line"));
    return g;
  }
  function gridlines(selection, scale, ticks, across, vertical) {
    selection.append("g").selectAll("line").data(scale.ticks ? scale.ticks(ticks) : []).join("line")
      .attr(vertical ? "x1" : "y1", (t) => scale(t)).attr(vertical ? "x2" : "y2", (t) => scale(t))
      .attr(vertical ? "y1" : "x1", across[0]).attr(vertical ? "y2" : "x2", across[1])
      .attr("stroke", colour("line")).attr("stroke-width", 0.6);
  }

  // The axis of a scale in GiB, in the unit that suits it.
  function memoryAxis(y) {
    const [unit, name] = y.domain()[1] < 1 ? [1 / 1024, " MiB"] : [1, " GiB"];
    return d3.axisLeft(d3.scaleLinear().domain(y.domain().map((v) => v / unit)).range(y.range())).ticks(5)
      .tickFormat((v) => (v === 0 ? "0" : d3.format(",")(v) + name));
  }
  // Axis times in one unit, with the digits that the visible span needs.
  function timeTick(s, span) {
    const [unit, name] = span >= 1 ? [1, "s"] : span >= 1e-3 ? [1e-3, "ms"] : [1e-6, "µs"];
    const digits = Math.max(0, 1 - Math.floor(Math.log10(span / unit)));
    return d3.format(`,.${digits}f`)(s / unit) + " " + name;
  }

  // ---- Pareto: step time against memory ----

  function pareto(svg, width, content) {
    const height = Math.min(420, Math.max(300, width * 0.5));
    const m = {left: 66, right: 34, top: 22, bottom: 46};
    const a = content.answer;
    const rows = [
      ...a.pareto.map((r) => ({r, kind: "front", name: r.name})),
      ...a.plans.map((r, i) => ({r, kind: "plan", name: `${i + 1}: ${r.name}`, number: i + 1})),
      ...(a.given ? [{r: a.given, kind: "given", name: "given: " + a.given.name}] : []),
    ];
    const limit = a.best ? a.best.memory_limit_GiB : 0;
    const x = d3.scaleLinear().domain(d3.extent(rows, (p) => p.r.step_s)).nice().range([m.left, width - m.right]);
    if (x.domain()[0] === x.domain()[1]) x.domain([0, 2 * x.domain()[0]]);
    const y = d3.scaleLinear().domain([0, Math.max(limit, d3.max(rows, (p) => p.r.peak_memory_GiB)) * 1.06])
      .range([height - m.bottom, m.top]);
    gridlines(svg, x, 6, [m.top, height - m.bottom], true);
    gridlines(svg, y, 5, [m.left, width - m.right], false);
    axis(svg.append("g").attr("transform", `translate(0,${height - m.bottom})`),
      d3.axisBottom(x).ticks(Math.max(3, width / 110)).tickFormat((s) => timeTick(s, x.domain()[1] - x.domain()[0])));
    axis(svg.append("g").attr("transform", `translate(${m.left},0)`), memoryAxis(y));
    text(svg, width - m.right, height - 8, "step time →", {anchor: "end"});
    text(svg, 6, m.top - 9, "↑ peak memory");
    if (limit) {
      svg.append("line").attr("x1", m.left).attr("x2", width - m.right).attr("y1", y(limit)).attr("y2", y(limit))
        .attr("stroke", colour("red")).attr("stroke-dasharray", "6 4").attr("stroke-width", 1.5);
      text(svg, width - m.right, y(limit) - 5, `a GPU holds ${gib(limit)}`, {anchor: "end", colour: "red"});
    }
    const front = a.pareto.slice().sort((p, q) => p.step_s - q.step_s);
    svg.append("path").attr("fill", "none").attr("stroke", colour("green")).attr("stroke-width", 2)
      .attr("d", d3.line().x((r) => x(r.step_s)).y((r) => y(r.peak_memory_GiB)).curve(d3.curveStepAfter)(front));
    const shape = {front: d3.symbolDiamond, plan: d3.symbolCircle, given: d3.symbolStar};
    const fill = {front: "green", plan: "blue", given: "orange"};
    svg.append("g").selectAll("path").data(rows).join("path")
      .attr("transform", (p) => `translate(${x(p.r.step_s)},${y(p.r.peak_memory_GiB)})`)
      .attr("d", (p) => d3.symbol().type(shape[p.kind]).size(p.kind === "given" ? 160 : 90)())
      .attr("fill", (p) => colour(fill[p.kind])).attr("fill-opacity", 0.85).attr("stroke", colour("paper"));
    return {height, points: rows.map((p) => ({
      x: x(p.r.step_s), y: y(p.r.peak_memory_GiB),
      say: `${p.name}\n${seconds(p.r.step_s)} a step, ${gib(p.r.peak_memory_GiB)}`}))};
  }

  // ---- timeline ----

  // Phases as sim::Phase numbers them: F, B, W, BW, FB, optimizer. Streams: 2 and up communicate.
  const kPass = [
    {name: "F", long: "forward", colour: "blue"},
    {name: "B", long: "backward (input gradient)", colour: "orange", pattern: "lines"},
    {name: "W", long: "weight gradient", colour: "green", pattern: "dots"},
    {name: "B", long: "backward", colour: "orange", pattern: "lines"},
    {name: "F&B", long: "forward beside a backward", colour: "blue"},
    {name: "optimizer", long: "optimizer", colour: "pink", pattern: "cross"},
  ];
  const kCommunication = {name: "communication", colour: "red"};
  const kStreams = ["compute", "compute 2", "expert exchange", "model-parallel", "data-parallel", "pipeline"];

  // Parts of a block in which its communication streams are at work: [start, end], merged.
  function communication(block) {
    if (block.communication) return block.communication;
    const spans = block.ops.filter((o) => o[1] >= 2 && o[5] > o[4]).map((o) => [o[4], o[5]]).sort((a, b) => a[0] - b[0]);
    const merged = [];
    for (const [start, end] of spans) {
      const last = merged[merged.length - 1];
      if (last && start <= last[1]) last[1] = Math.max(last[1], end);
      else merged.push([start, end]);
    }
    return (block.communication = merged);
  }

  function timelineScale(t, width, state) {
    const left = 66, right = 12;
    return d3.scaleLinear().domain(state.domain || [0, t.end]).range([left, width - right]);
  }

  function timeline(svg, width, content, state) {
    const t = content.figures.timeline;
    const lane = t.stages.length > 24 ? 16 : t.stages.length > 8 ? 24 : 34;
    const top = 8, height = top + lane * t.stages.length + 34;
    const x = timelineScale(t, width, state);
    const [from, to] = x.domain();
    const clipId = svg.attr("data-figure") + "-clip";
    svg.append("clipPath").attr("id", clipId).append("rect").attr("x", x.range()[0]).attr("y", 0)
      .attr("width", x.range()[1] - x.range()[0]).attr("height", height);
    const body = svg.append("g").attr("clip-path", `url(#${clipId})`);
    const names = svg.append("g"), words = svg.append("g").attr("clip-path", `url(#${clipId})`);
    const px = (v) => Math.round(v * 10) / 10;

    t.stages.forEach((stage, i) => {
      const y = top + i * lane, passHeight = Math.round(lane * 0.68), commY = y + passHeight + 1;
      const commHeight = lane - passHeight - 4;
      body.append("rect").attr("x", x.range()[0]).attr("y", y).attr("width", x.range()[1] - x.range()[0])
        .attr("height", passHeight).attr("fill", colour("idle"));
      text(names, x.range()[0] - 6, y + passHeight / 2 + 4, stage.name, {anchor: "end", size: lane < 20 ? 10 : 12});
      const paths = new Map();  // one path per paint and lane, whatever the number of passes
      const box = (b) => `M${px(b.x0)} ${px(b.y)}H${px(Math.max(b.x1, b.x0 + 0.4))}v${px(b.h)}H${px(b.x0)}z`;
      const add = (style, x0, x1, y, h) => {
        const key = style.colour + (style.pattern || "");
        if (!paths.has(key)) paths.set(key, {style, boxes: []});
        const boxes = paths.get(key).boxes, last = boxes[boxes.length - 1];
        // What is narrower than two pixels and touches the box before becomes one with it.
        if (last && last.y === y && x1 - x0 < 2 && x0 - last.x1 < 0.7 && x0 >= last.x0) last.x1 = Math.max(last.x1, x1);
        else boxes.push({x0, x1: x1 - (x1 - x0 > 3 ? 0.6 : 0), y, h});
      };
      const half = passHeight / 2;
      const pass = (slot) => {
        const [index, phase, start, end] = slot;
        if (end < from || start > to) return;
        const x0 = x(start), x1 = x(end), block = t.blocks[index];
        const detailed = block.ops.length > 0 && x1 - x0 > 160;
        if (detailed) {
          const stretch = block.duration > 0 ? (end - start) / block.duration : 1;
          for (const op of block.ops) {
            const o0 = start + op[4] * stretch, o1 = start + op[5] * stretch;
            if (o1 < from || o0 > to || o1 <= o0) continue;
            if (op[1] >= 2) {
              add(kCommunication, x(o0), x(o1), commY, commHeight);
              continue;
            }
            const forward = op[2] === 0 && !op[3];
            const yTop = phase === 4 && !forward ? y + half : y, h = phase === 4 ? half : passHeight;
            add(kPass[op[2]], x(o0), x(o1), yTop, h);
            const wide = x(Math.min(o1, to)) - x(Math.max(o0, from));
            const label = t.labels[op[0]];
            if (wide > 7 * label.length + 6 && h > 10)
              text(words, x(Math.max(o0, from)) + 4, yTop + h / 2 + 4, label, {colour: "ink", size: 11})
                .attr("paint-order", "stroke").attr("stroke", colour("paper")).attr("stroke-width", 3);
          }
          return;
        }
        if (phase === 4) {
          add(kPass[0], x0, x1, y, half);
          add(kPass[1], x0, x1, y + half, half);
        } else {
          add(kPass[phase], x0, x1, y, passHeight);
        }
        const stretch = block.duration > 0 ? (end - start) / block.duration : 1;
        for (const [c0, c1] of communication(block))
          add(kCommunication, x(start + c0 * stretch), x(start + c1 * stretch), commY, commHeight);
        if (x1 - x0 > 34 && lane >= 20) {
          const name = `${kPass[phase].name} ${slot[4]}` + (phase === 4 ? `/${slot[5]}` : "");
          if (x1 - x0 > 7.5 * name.length)
            text(words, (Math.max(x0, x.range()[0]) + Math.min(x1, x.range()[1])) / 2, y + passHeight / 2 + 4, name,
              {anchor: "middle", colour: "ink", size: 11}).attr("paint-order", "stroke").attr("stroke", colour("paper")).attr("stroke-width", 3);
        }
      };
      stage.slots.forEach(pass);
      pass([stage.tail[0], 5, stage.tail[1], stage.tail[2]]);
      const [g0, g1] = stage.gradients;
      if (g1 > g0 && g1 > from && g0 < to) add(kCommunication, x(g0), x(g1), y, passHeight);
      for (const {style, boxes} of paths.values())
        body.append("path").attr("d", boxes.map(box).join("")).attr("fill", paint(svg, style));
    });

    const toSeconds = d3.scaleLinear().domain([from * t.tick_s, to * t.tick_s]).range(x.range());
    axis(svg.append("g").attr("transform", `translate(0,${height - 28})`),
      d3.axisBottom(toSeconds).ticks(Math.max(3, width / 120)).tickFormat((s) => timeTick(s, (to - from) * t.tick_s)));
    return {height, scale: x, top, lane};
  }
  // What lies at a point of the timeline, in words.
  function timelineAt(content, view, px, py) {
    const t = content.figures.timeline;
    const stage = t.stages[Math.floor((py - view.top) / view.lane)];
    if (!stage) return null;
    const at = view.scale.invert(px);
    const when = (a, b) => `${seconds((b - a) * t.tick_s)} from ${seconds(a * t.tick_s)}`;
    const opsAt = (index, start, end) => {
      const block = t.blocks[index];
      const stretch = block.duration > 0 ? (end - start) / block.duration : 1;
      const here = block.ops.filter((o) => start + o[4] * stretch <= at && at < start + o[5] * stretch);
      return here.slice(0, 6).map((o) => `\n· ${t.labels[o[0]]} (${kStreams[o[1]]}), ${seconds((o[5] - o[4]) * stretch * t.tick_s)}`).join("");
    };
    for (const s of stage.slots)
      if (s[2] <= at && at < s[3])
        return `${stage.name}: ${kPass[s[1]].long}, micro-batch ${s[4]}` + (s[5] !== undefined ? ` beside ${s[5]}` : "") +
          `\n${when(s[2], s[3])}` + opsAt(s[0], s[2], s[3]);
    if (stage.gradients[0] <= at && at < stage.gradients[1])
      return `${stage.name}: gradient reductions that nothing hides\n${when(...stage.gradients)}`;
    if (stage.tail[1] <= at && at < stage.tail[2])
      return `${stage.name}: optimizer\n${when(stage.tail[1], stage.tail[2])}` + opsAt(...stage.tail);
    return at >= 0 && at <= t.end ? `${stage.name}: waits for other stages` : null;
  }

  // ---- memory over time ----

  const kCauses = [
    {key: "weights", name: "weights", colour: "blue"},
    {key: "optimizer", name: "optimizer", colour: "pink", pattern: "cross"},
    {key: "gradients", name: "gradients", colour: "green", pattern: "dots"},
    {key: "buffers", name: "buffers", colour: "grey"},
    {key: "reserve", name: "reserve", colour: "yellow", pattern: "dots"},
    {key: "activations", name: "activations", colour: "orange", pattern: "lines"},
    {key: "transient", name: "inside a pass", colour: "red"},
  ];

  // Memory of a stage as steps: [{at, activations, transient}] in ticks and GiB.
  function memorySteps(content, index) {
    const stage = content.figures.timeline.stages[index], points = content.figures.memory.stages[index].points;
    const out = [{at: 0, activations: 0, transient: 0}];
    let before = 0;
    stage.slots.forEach((slot, i) => {
      const [after, highest] = points[i].map((v) => v / 1024);
      out.push({at: slot[2], activations: before, transient: 0}, {at: slot[2], activations: before, transient: Math.max(0, highest - before)});
      out.push({at: slot[3], activations: before, transient: Math.max(0, highest - before)}, {at: slot[3], activations: after, transient: 0});
      before = after;
    });
    out.push({at: content.figures.timeline.end, activations: before, transient: 0});
    return out;
  }

  function memory(svg, width, content, state) {
    const height = Math.min(400, Math.max(280, width * 0.42));
    const m = {left: 66, right: 12, top: 18, bottom: 30};
    const f = content.figures.memory, t = content.figures.timeline;
    const index = state.stage, stage = f.stages[index];
    const x = timelineScale(t, width, state);
    const rows = memorySteps(content, index).map((p) => ({...stage, ...p}));
    const y = d3.scaleLinear().domain([0, Math.max(stage.peak, f.limit) * 1.08]).range([height - m.bottom, m.top]);
    const clipId = svg.attr("data-figure") + "-clip";
    svg.append("clipPath").attr("id", clipId).append("rect").attr("x", m.left).attr("y", 0)
      .attr("width", Math.max(0, width - m.left - m.right)).attr("height", height);
    gridlines(svg, y, 5, [m.left, width - m.right], false);
    const series = d3.stack().keys(kCauses.map((c) => c.key))(rows);
    const body = svg.append("g").attr("clip-path", `url(#${clipId})`);
    const area = d3.area().x((p) => x(p.data.at)).y0((p) => y(p[0])).y1((p) => y(p[1]));
    series.forEach((s, i) => {
      body.append("path").attr("d", area(s)).attr("fill", paint(svg, kCauses[i]));
      body.append("path").attr("d", d3.line().x((p) => x(p.data.at)).y((p) => y(p[1]))(s)).attr("fill", "none")
        .attr("stroke", colour("paper")).attr("stroke-width", 0.7);
    });
    svg.append("line").attr("x1", m.left).attr("x2", width - m.right).attr("y1", y(f.limit)).attr("y2", y(f.limit))
      .attr("stroke", colour("red")).attr("stroke-dasharray", "6 4").attr("stroke-width", 1.5);
    text(svg, width - m.right, y(f.limit) - 5, `limit ${gib(f.limit)}`, {anchor: "end", colour: "ink"});
    axis(svg.append("g").attr("transform", `translate(${m.left},0)`), memoryAxis(y));
    const [from, to] = x.domain().map((v) => v * t.tick_s);
    axis(svg.append("g").attr("transform", `translate(0,${height - m.bottom})`),
      d3.axisBottom(d3.scaleLinear().domain([from, to]).range(x.range())).ticks(Math.max(3, width / 120)).tickFormat((s) => timeTick(s, to - from)));
    const at = d3.bisector((p) => p.at).right;
    return {height, at: (px) => {
      const p = rows[Math.max(0, at(rows, x.invert(px)) - 1)];
      return `${seconds(x.invert(px) * t.tick_s)}: ${gib(d3.sum(kCauses, (c) => p[c.key]))}` +
        kCauses.filter((c) => p[c.key] > 0).reverse().map((c) => `\n· ${c.name} ${gib(p[c.key])}`).join("");
    }};
  }

  // ---- where the step goes ----

  const kUse = [
    {key: "compute", name: "compute", colour: "blue"},
    {key: "exposed", name: "communication not hidden", colour: "red"},
    {key: "bubble", name: "bubble", colour: "grey", pattern: "lines"},
    {key: "gradients", name: "gradient reductions", colour: "green", pattern: "dots"},
    {key: "optimizer", name: "optimizer", colour: "pink", pattern: "cross"},
    {key: "host", name: "host", colour: "yellow"},
  ];
  function use(svg, width, content) {
    const parts = (content.figures.step || content.answer.best || content.answer).step_use;
    const x = d3.scaleLinear().domain([0, 1]).range([0, width]);
    let done = 0;
    for (const u of kUse) {
      const part = parts[u.key];
      if (!(part > 0)) continue;
      svg.append("rect").attr("x", x(done)).attr("y", 0).attr("width", Math.max(0.5, x(part) - 1)).attr("height", 34).attr("fill", paint(svg, u));
      if (x(part) > 52)
        text(svg, x(done + part / 2), 22, share(part), {anchor: "middle", colour: "ink", weight: 600}).attr("paint-order", "stroke")
          .attr("stroke", colour("paper")).attr("stroke-width", 3.5);
      done += part;
    }
    return {height: 36};
  }

  // ---- roofline ----

  const kOps = {
    "matrix product": {colour: "blue", shape: d3.symbolCircle},
    "grouped product": {colour: "green", shape: d3.symbolSquare},
    "attention": {colour: "orange", shape: d3.symbolTriangle},
    "memory-bound": {colour: "pink", shape: d3.symbolDiamond},
  };
  const opName = (o) => `${o.label} ${o.phase}${o.recompute ? ", again" : ""}`;

  function roofline(svg, width, content) {
    const f = content.figures.roofline;
    const height = Math.min(460, Math.max(340, width * 0.52));
    const m = {left: 66, right: 20, top: 22, bottom: 44}, strip = Math.min(90, width * 0.16);
    const products = f.ops.filter((o) => o.flops > 0 && o.seconds > 0), plain = f.ops.filter((o) => o.flops === 0 && o.seconds > 0);
    const top = d3.max(Object.values(f.peaks)) || d3.max(products, (o) => o.flops / o.seconds);
    const intensity = (o) => o.flops / o.bytes;
    const lowest = Math.min(top / f.memory_rate / 30, d3.min(products, intensity) || 1);
    const highest = Math.max(top / f.memory_rate * 12, d3.max(products, intensity) || 1);
    const x = d3.scaleLog().domain([lowest * 0.7, highest * 1.5]).range([m.left + strip, width - m.right]);
    const slowest = d3.min([...products.map((o) => o.flops / o.seconds), ...plain.map((o) => o.bytes / o.seconds * x.domain()[0]), x.domain()[0] * f.memory_rate]);
    const y = d3.scaleLog().domain([slowest * 0.6, top * 1.7]).range([height - m.bottom, m.top]);
    const left = x.domain()[0];  // a kernel without products stands where its bytes/s meet the roof's left end
    svg.append("rect").attr("x", m.left).attr("y", m.top).attr("width", strip - 6).attr("height", height - m.top - m.bottom).attr("fill", colour("idle"));
    text(svg, m.left + 4, m.top + 13, strip > 70 ? "bytes only" : "bytes", {size: 11});
    gridlines(svg, x, 4, [m.top, height - m.bottom], true);
    axis(svg.append("g").attr("transform", `translate(0,${height - m.bottom})`), d3.axisBottom(x).ticks(Math.max(2, width / 140), "~g"));
    axis(svg.append("g").attr("transform", `translate(${m.left},0)`), d3.axisLeft(y).ticks(4, (v) => "").tickFormat((v) => si(v, "")).tickValues(y.ticks().filter((v) => /^[15]/.test(v.toExponential()))));
    text(svg, width - m.right, height - 8, "flop per byte moved →", {anchor: "end"});
    text(svg, 6, m.top - 8, "↑ flop/s");
    const roof = (peak) => [[left, left * f.memory_rate], [peak / f.memory_rate, peak], [x.domain()[1], peak]];
    const line = d3.line().x((p) => x(p[0])).y((p) => y(p[1]));
    Object.entries(f.peaks).forEach(([name, peak]) => {
      svg.append("path").attr("d", line(roof(peak))).attr("fill", "none").attr("stroke", colour("faint")).attr("stroke-width", 1.6);
    });
    svg.append("line").attr("x1", m.left).attr("x2", m.left + strip - 6).attr("y1", y(left * f.memory_rate)).attr("y2", y(left * f.memory_rate))
      .attr("stroke", colour("faint")).attr("stroke-width", 1.6);
    text(svg, m.left + 4, y(left * f.memory_rate) - 5, si(f.memory_rate, "B/s"), {size: 11, colour: "ink"});
    const size = d3.scaleLinear().domain([0, d3.max(f.ops, (o) => o.seconds)]).range([25, 520]);
    const placed = [
      ...plain.map((o, i) => ({o, x: m.left + 10 + ((i * 0.618) % 1) * (strip - 26), y: y(o.bytes / o.seconds * left)})),
      ...products.map((o) => ({o, x: x(intensity(o)), y: y(o.flops / o.seconds)})),
    ];
    svg.append("g").selectAll("path").data(placed.slice().sort((a, b) => b.o.seconds - a.o.seconds)).join("path")
      .attr("transform", (p) => `translate(${p.x},${p.y})`)
      .attr("d", (p) => d3.symbol().type(kOps[p.o.kind].shape).size(size(p.o.seconds))())
      .attr("fill", (p) => colour(kOps[p.o.kind].colour)).attr("fill-opacity", 0.7).attr("stroke", colour("ink")).attr("stroke-width", 0.7);
    // Over the marks, which may lie on the roof.
    Object.entries(f.peaks).forEach(([name, peak]) =>
      text(svg, width - m.right, y(peak) - 5, `${name} ${si(peak, "flop/s")}`, {anchor: "end", colour: "ink", size: 11})
        .attr("paint-order", "stroke").attr("stroke", colour("card")).attr("stroke-width", 3.5));
    return {height, points: placed.map((p) => ({x: p.x, y: p.y, say: `${opName(p.o)}: ${p.o.kind}\n${seconds(p.o.seconds)} of the step, ` +
      (p.o.flops > 0 ? `${si(p.o.flops / p.o.seconds, "flop/s")}, ${d3.format(".3~g")(intensity(p.o))} flop/byte` : si(p.o.bytes / p.o.seconds, "B/s"))}))};
  }

  // ---- sensitivity ----

  function sensitivity(svg, width, content) {
    const rows = content.figures.sensitivity.slice().sort((a, b) => b.less - a.less);
    const bar = 26, top = 8, height = top + rows.length * (bar + 22) + 34;
    const limits = [Math.min(0, d3.min(rows, (r) => r.less)), Math.max(1e-4, d3.max(rows, (r) => r.less))];
    const x = d3.scaleLinear().domain(limits).nice().range([24, width - 70]);
    gridlines(svg, x, 5, [top, height - 28], true);
    rows.forEach((r, i) => {
      const y = top + i * (bar + 22);
      text(svg, 10, y + 13, r.what, {colour: "ink", size: 13});
      const [a, b] = [x(Math.min(0, r.less)), x(Math.max(0, r.less))];
      svg.append("rect").attr("x", a).attr("y", y + 18).attr("width", Math.max(1, b - a)).attr("height", bar - 6)
        .attr("rx", 2).attr("fill", r.less < 0 ? hatch(svg, "red", "lines") : colour("blue"));
      text(svg, b + 6, y + 33, d3.format(".3f")(100 * r.less) + " %", {colour: "ink"});
    });
    axis(svg.append("g").attr("transform", `translate(0,${height - 28})`), d3.axisBottom(x).ticks(Math.max(3, width / 150)).tickFormat((v) => d3.format(".2~f")(100 * v) + " %"));
    return {height};
  }

  // ---- published runs ----

  function evidence(svg, width, content) {
    const f = content.figures.evidence;
    const narrow = width < 560, row = 20, top = 26;
    const left = narrow ? 26 : 250, right = 30;
    const rows = f.rows.map((r) => ({...r, off: r.measured_s / r.predicted_s - 1}));
    const height = top + rows.length * row + 40;
    const widest = Math.max(0.05, d3.max(rows, (r) => Math.abs(r.off)));
    const x = d3.scaleLinear().domain([-widest, widest]).nice().range([left, width - right]);
    if (f.interval) {
      const [low, high] = f.interval.map((v) => x(v - 1));
      svg.append("rect").attr("x", low).attr("y", top - 6).attr("width", Math.max(1, high - low)).attr("height", height - top - 28)
        .attr("fill", colour("sky")).attr("opacity", 0.28);
      text(svg, (low + high) / 2, top - 11, "4 of 5 runs", {anchor: "middle", colour: "ink"});
    }
    gridlines(svg, x, 6, [top - 6, height - 34], true);
    svg.append("line").attr("x1", x(0)).attr("x2", x(0)).attr("y1", top - 6).attr("y2", height - 34).attr("stroke", colour("ink")).attr("stroke-width", 1.2);
    const placed = rows.map((r, i) => ({r, x: x(r.off), y: top + 6 + i * row}));
    placed.forEach((p) => {
      svg.append("line").attr("x1", x(0)).attr("x2", p.x).attr("y1", p.y).attr("y2", p.y).attr("stroke", colour("blue")).attr("stroke-width", 2);
      svg.append("circle").attr("cx", p.x).attr("cy", p.y).attr("r", 4.5).attr("fill", colour("blue")).attr("stroke", colour("paper"));
      if (!narrow) {
        const words = `${p.r.model}, ${count(p.r.gpus)} ${p.r.gpu}`;
        text(svg, left - 10, p.y + 4, words.length > 36 ? words.slice(0, 35) + "…" : words, {anchor: "end", size: 11});
      }
    });
    axis(svg.append("g").attr("transform", `translate(0,${height - 34})`), d3.axisBottom(x).ticks(Math.max(3, width / 130)).tickFormat((v) => percent(v, 0)));
    text(svg, width - right, height - 3, "measured step beside the predicted one", {anchor: "end"});
    return {height, points: placed.map((p) => ({x: p.x, y: p.y,
      say: `${p.r.model} on ${count(p.r.gpus)} ${p.r.gpu}, ${p.r.stack}\nmeasured ${seconds(p.r.measured_s)}, predicted ${seconds(p.r.predicted_s)} (${percent(p.r.predicted_s / p.r.measured_s - 1)})\n${p.r.source}`}))};
  }

  return {pareto, timeline, timelineAt, memory, use, roofline, sensitivity, evidence, kPass, kCommunication, kCauses, kUse, kOps, opName,
    colour, paint, hatch, text, axis, gridlines, seconds, percent, share, count, amount, tokens, gib, si};
})();
