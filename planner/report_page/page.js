// The page around the figures: sections, tables, keyboard, theme, export. Reads the one JSON object
// of the page; everything that it shows is in there.
"use strict";

(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const F = reckonFigures, answer = content.answer, figures = content.figures;
  const main = d3.select("#main");
  const step = figures.step || answer.best || (answer.step_s !== undefined ? answer : null);
  const state = {domain: null, stage: 0};
  const drawn = [];  // {redraw} of every figure

  d3.select("#command").text(content.command);
  d3.select("#title").text(content.title);
  d3.select("#headline").text(content.headline);

  // ---- pieces ----

  function section(id, short, heading, note) {
    const s = main.append("section").attr("id", id).attr("aria-labelledby", id + "-heading");
    const head = s.append("div").attr("class", "head");
    head.append("h2").attr("id", id + "-heading").text(heading);
    s.tools = head.append("div").attr("class", "tools");
    if (note) s.append("p").attr("class", "note").text(note);
    d3.select("#sections").append("li").append("a").attr("href", "#" + id).text(short);
    return s;
  }

  // columns: [{name, value(row) for sorting, show(row), text: left-aligned, wide, mark(row): class}].
  function table(parent, caption, columns, rows, options = {}) {
    const box = parent.append("div").attr("class", "scroll").attr("tabindex", 0).attr("role", "region").attr("aria-label", caption);
    const t = box.append("table");
    t.append("caption").text(caption);
    const heads = t.append("thead").append("tr").selectAll("th").data(columns).join("th").attr("scope", "col").classed("text", (c) => c.text);
    const body = t.append("tbody");
    const fill = (sorted) => {
      const lines = body.selectAll("tr").data(sorted).join("tr").classed("chosen", options.chosen || (() => false));
      lines.selectAll("td").data((row) => columns.map((c) => ({c, row}))).join("td")
        .attr("class", ({c, row}) => [c.text ? "text" : "", c.wide ? "wide" : "", c.mark ? c.mark(row) : ""].filter(Boolean).join(" ") || null)
        .text(({c, row}) => c.show(row));
    };
    fill(rows);
    if (!options.sortable) {
      heads.text((c) => c.name);
      return;
    }
    heads.append("button").attr("type", "button").text((c) => c.name).on("click", function (c) {
      const th = d3.select(this.parentNode);
      const ascending = th.attr("aria-sort") !== "ascending";
      heads.attr("aria-sort", null);
      th.attr("aria-sort", ascending ? "ascending" : "descending");
      const empty = (v) => v === null || v === undefined;
      fill(rows.slice().sort((a, b) => {
        const [p, q] = [c.value(a), c.value(b)];
        if (empty(p) || empty(q)) return empty(p) - empty(q);  // those without a value come last
        return ascending ? d3.ascending(p, q) : d3.descending(p, q);
      }));
    });
    if (options.sorted !== undefined) heads.filter((c, i) => i === options.sorted).attr("aria-sort", "ascending");
  }
  const asTable = (parent, ...rest) => {
    const d = parent.append("details");
    d.append("summary").text("The figures as a table");
    table(d, ...rest);
  };

  function legend(parent, entries) {
    const list = parent.append("ul").attr("class", "legend");
    const items = list.selectAll("li").data(entries).join("li");
    const redraw = () => {
      items.selectAll("*").remove();
      items.each(function (e, i) {
        const svg = d3.select(this).append("svg").attr("aria-hidden", "true").attr("viewBox", "0 0 22 14").attr("data-figure", `${parent.attr("id") || "legend"}-key${i}`);
        if (e.shape) svg.append("path").attr("transform", "translate(11,7)").attr("d", d3.symbol().type(e.shape).size(80)()).attr("fill", F.colour(e.hollow ? "card" : e.colour)).attr("stroke", F.colour(e.colour));
        else svg.append("rect").attr("width", 22).attr("height", 14).attr("rx", 2).attr("fill", F.paint(svg, e));
        d3.select(this).append("span").text(e.name);
      });
    };
    redraw();
    drawn.push({redraw});
  }

  // ---- figures ----

  const tip = d3.select("#tip");
  function showTip(words, clientX, clientY) {
    if (!words) return tip.attr("hidden", true);
    tip.attr("hidden", null).text(words);
    const box = tip.node().getBoundingClientRect();
    const x = Math.min(clientX + 14, innerWidth - box.width - 8), y = clientY + 18 + box.height > innerHeight ? clientY - box.height - 12 : clientY + 18;
    tip.style("left", Math.max(8, x) + "px").style("top", Math.max(8, y) + "px");
  }

  function download(name, blob) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  const fileName = (id, ending) => `${content.title}-${id}.${ending}`.replace(/[^\w.-]+/g, "-");
  // The figure as a file of its own: with its size, its title and the page's ground.
  function standalone(svg) {
    const copy = svg.cloneNode(true);
    const [, , w, h] = svg.getAttribute("viewBox").split(" ").map(Number);
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    copy.setAttribute("width", w);
    copy.setAttribute("height", h);
    copy.removeAttribute("tabindex");
    const ground = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    ground.setAttribute("width", w);
    ground.setAttribute("height", h);
    ground.setAttribute("fill", F.colour("card"));
    copy.insertBefore(ground, copy.firstChild);
    return {text: new XMLSerializer().serializeToString(copy), w, h};
  }
  function exportButtons(tools, id, name, svg) {
    tools.append("button").attr("type", "button").attr("data-export", "svg").attr("aria-label", `${name} as an SVG file`).text("SVG")
      .on("click", () => download(fileName(id, "svg"), new Blob([standalone(svg.node()).text], {type: "image/svg+xml"})));
    tools.append("button").attr("type", "button").attr("data-export", "png").attr("aria-label", `${name} as a PNG file`).text("PNG")
      .on("click", () => {
        const {text, w, h} = standalone(svg.node());
        const image = new Image();
        image.onload = () => {
          const canvas = document.createElement("canvas");
          canvas.width = 2 * w;
          canvas.height = 2 * h;
          canvas.getContext("2d").drawImage(image, 0, 0, 2 * w, 2 * h);
          canvas.toBlob((blob) => download(fileName(id, "png"), blob), "image/png");
        };
        image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
      });
  }

  // Puts a figure into a section; says what it shows in words to those who don't see it.
  function figure(parent, id, name, draw, says) {
    const box = parent.append("figure").append("div").attr("class", "chart");
    const svg = box.append("svg").attr("id", id + "-figure").attr("data-figure", id).attr("role", "img").attr("tabindex", 0).attr("aria-label", `${name}. ${says}`);
    const me = {svg, view: null, chosen: -1};
    me.redraw = () => {
      const width = Math.max(260, Math.floor(box.node().clientWidth));
      svg.selectAll("*").remove();
      me.view = draw(svg, width, content, state);
      svg.attr("viewBox", `0 0 ${width} ${Math.ceil(me.view.height)}`);
    };
    me.redraw();
    drawn.push(me);
    exportButtons(parent.tools, id, name, svg);
    const local = (event) => {
      const r = svg.node().getBoundingClientRect(), [, , w] = svg.attr("viewBox").split(" ");
      return [(event.clientX - r.left) * w / r.width, (event.clientY - r.top) * w / r.width];
    };
    svg.on("pointermove.tip", () => {
      const [px, py] = local(d3.event), e = d3.event;
      showTip(me.says ? me.says(px, py) : nearest(me, px, py), e.clientX, e.clientY);
    }).on("pointerleave.tip", () => showTip(null)).on("blur.tip", () => showTip(null));
    // Arrow keys walk through the points of a figure that has some.
    svg.on("keydown.points", () => {
      const points = me.view.points, key = d3.event.key;
      if (key === "Escape") showTip(null);
      if (!points || (key !== "ArrowRight" && key !== "ArrowLeft")) return;
      d3.event.preventDefault();
      const sorted = points.slice().sort((a, b) => a.x - b.x);
      me.chosen = (me.chosen + (key === "ArrowRight" ? 1 : sorted.length - 1 + (me.chosen < 0))) % sorted.length;
      const p = sorted[me.chosen], r = svg.node().getBoundingClientRect(), w = svg.attr("viewBox").split(" ")[2];
      svg.selectAll(".chosen").remove();
      svg.append("circle").attr("class", "chosen").attr("cx", p.x).attr("cy", p.y).attr("r", 12).attr("fill", "none").attr("stroke", F.colour("ink")).attr("stroke-width", 2);
      showTip(p.say, r.left + p.x * r.width / w, r.top + p.y * r.width / w);
    });
    return me;
  }
  function nearest(me, px, py) {
    const points = me.view.points || [];
    let best = null, distance = 18 * 18;
    for (const p of points) {
      const d = (p.x - px) ** 2 + (p.y - py) ** 2;
      if (d < distance) [best, distance] = [p, d];
    }
    return best && best.say;
  }

  // ---- the verdict ----

  {
    const good = content.meets === true, bad = content.meets === false;
    const s = section("verdict", "Verdict", "Verdict");
    s.classed("verdict", true).classed("good", good).classed("bad", bad);
    const sentences = content.verdict.replace("THE BUDGET IS MET", "The budget is met").replace("NO PLAN MEETS THE BUDGET", "No plan meets the budget").split(/(?<=\.) /);
    s.select("h2").text((good ? "✓ " : bad ? "✗ " : "") + sentences[0].charAt(0).toUpperCase() + sentences[0].slice(1));
    s.append("p").text(sentences.slice(1).join(" "));
    const range = figures.evidence && figures.evidence.interval;
    const tiles = [];
    if (step) tiles.push(["step", F.seconds(step.step_s), range ? `4 of 5 runs like it: ${F.seconds(range[0] * step.step_s)} to ${F.seconds(range[1] * step.step_s)}` : "too few runs like it for an interval"]);
    const campaign = answer.campaign;
    if (campaign) {
      tiles.push(["GPU-hours", F.count(campaign.gpu_hours), range ? `${F.count(range[0] * campaign.gpu_hours)} to ${F.count(range[1] * campaign.gpu_hours)}` : ""]);
      tiles.push(["days", d3.format(campaign.days < 10 ? ".2f" : ".1f")(campaign.days), ""]);
      if (campaign.cost !== null) tiles.push(["cost", F.count(campaign.cost), ""]);
    }
    if (step) {
      tiles.push(["peak memory", F.gib(step.peak_memory_GiB), `of ${F.gib(step.memory_limit_GiB)}`]);
      if (step.mfu.full > 0) tiles.push(["MFU", F.share(step.mfu.causal), "of the bf16 peak, causal attention"]);
      tiles.push(["tokens a day", F.tokens(step.tokens_per_day), ""]);
    }
    const list = tiles.length > 0 ? s.append("dl").attr("class", "tiles") : null;
    for (const [name, value, small] of tiles) {
      const d = list.append("div");
      d.append("dt").text(name);
      const dd = d.append("dd").text(value);
      if (small) dd.append("small").text(small);
    }
    if (answer.budget && answer.budget.lines.length > 0)
      table(s.append("div").style("margin-top", "1rem"), "Budget", [
        {name: "", text: true, show: (l) => l.what},
        {name: "", text: true, show: (l) => (l.meets ? "met" : "not met"), mark: (l) => (l.meets ? "met" : "not-met")},
        {name: "needed", show: (l) => F.amount(l.needed)},
        {name: "limit", show: (l) => F.amount(l.limit)},
        {name: "share", show: (l) => F.share(l.needed / l.limit)},
        {name: "", text: true, show: (l) => (l.binds ? "binds" : "")},
      ], answer.budget.lines);
    if (answer.what_if && answer.what_if.length > 0)
      table(s.append("div").style("margin-top", "1rem"), "What would change that, the plan otherwise held", [
        {name: "change", text: true, show: (w) => w.change},
        {name: "GPU-hours", show: (w) => F.count(w.gpu_hours)},
        {name: "days", show: (w) => d3.format(".1f")(w.days)},
        {name: "budget", text: true, show: (w) => (w.meets_budget ? "met" : "not met"), mark: (w) => (w.meets_budget ? "met" : "not-met")},
      ], answer.what_if);
  }

  // ---- plans ----

  if (reckonAnswers[content.command]) reckonAnswers[content.command]({section, table, asTable, legend, figure, content, state});

  if (content.command === "plan" && answer.plans.length > 0) {
    const disturbed = answer.plans.some((r) => r.disturbed_step_s !== null);
    const s = section("plans", "Plans", "Plans", (disturbed ? "Fastest first, every rank simulated with the scenario's disturbances" : "Fastest first") +
      "; the column heads sort. The interval holds 4 of 5 published runs like this one, see below.");
    const range = figures.evidence && figures.evidence.interval;
    const rows = answer.plans.map((r, i) => ({...r, number: i + 1, label: String(i + 1)}));
    if (answer.given) rows.push({...answer.given, number: rows.length + 1, label: "given"});
    const number = (name, key, show) => ({name, value: (r) => r[key], show: (r) => (r[key] === null ? "" : show(r[key]))});
    const budget = (r) => (!r.fits ? "does not fit" : content.meets === null ? "" : r.meets_budget ? "met" : "not met");
    table(s, "Plans of the search" + (answer.given ? ", and the scenario's own" : ""), [
      {name: "#", value: (r) => r.number, show: (r) => r.label},
      {name: "plan", text: true, wide: true, value: (r) => r.name, show: (r) => r.name},
      number("step", "step_s", F.seconds),
      ...(disturbed ? [number("disturbed", "disturbed_step_s", F.seconds)] : []),
      ...(range ? [{name: "interval", value: (r) => r.step_s, show: (r) => `${F.seconds(range[0] * r.step_s)} – ${F.seconds(range[1] * r.step_s)}`}] : []),
      number("GPU-hours", "gpu_hours", F.count),
      number("days", "days", d3.format(".1f")),
      ...(rows.some((r) => r.cost !== null) ? [number("cost", "cost", F.count)] : []),
      number("memory", "peak_memory_GiB", F.gib),
      {name: "budget", text: true, value: budget, show: budget, mark: (r) => (budget(r) === "met" ? "met" : budget(r) ? "not-met" : "")},
    ], rows, {sortable: true, sorted: 0, chosen: (r) => r.number === 1});

    const p = section("pareto", "Front", "Time against memory", "No plan is both faster and smaller than one on the green line. Left and right arrow keys walk through the plans.");
    figure(p, "pareto", "Step time against peak memory", F.pareto, `${answer.pareto.length} plans on the front.`);
    legend(p, [{name: "on the front", colour: "green", shape: d3.symbolDiamond}, {name: "fastest plans", colour: "blue", shape: d3.symbolCircle},
      ...(answer.given ? [{name: "given", colour: "orange", shape: d3.symbolStar}] : [])]);
    asTable(p, "Plans on the front", [
      {name: "plan", text: true, wide: true, show: (r) => r.name}, {name: "step", show: (r) => F.seconds(r.step_s)}, {name: "memory", show: (r) => F.gib(r.peak_memory_GiB)},
    ], answer.pareto);
  }

  // ---- one step ----

  if (step && figures.timeline) {
    const u = section("use", "Use", "Where the step goes", `Mean over the GPUs. The largest loss: ${step.binds}.`);
    figure(u, "use", "Shares of the step", F.use, F.kUse.map((k) => `${k.name} ${F.share(step.step_use[k.key])}`).join(", "));
    legend(u, F.kUse.filter((k) => step.step_use[k.key] > 0).map((k) => ({...k, name: `${k.name} ${F.share(step.step_use[k.key])}`})));
    asTable(u, "Phases of the step", [
      {name: "phase", text: true, show: (r) => r}, {name: "rank 0", show: (r) => F.seconds(step.rank_0_phases_s[r])},
      {name: "mean", show: (r) => F.seconds(step.phases_s[r])}, {name: "share", show: (r) => F.share(step.phases_s[r] / step.step_s)},
    ], Object.keys(step.phases_s).filter((r) => step.phases_s[r] > 0));

    timelineSection();
    memorySection();

    const roof = figures.roofline;
    const r = section("roofline", "Roofline", "Roofline", `What each op of the step reaches on a ${roof.gpu}, beside what the chip could: size is time. Bytes are operands and results moved once. Left and right arrow keys walk through the ops.`);
    figure(r, "roofline", "Roofline of the ops", F.roofline, `${roof.ops.length} ops.`);
    legend(r, Object.entries(F.kOps).map(([name, k]) => ({name, ...k})));
    asTable(r, "Ops, longest first, mean over the GPUs", [
      {name: "op", text: true, value: F.opName, show: F.opName}, {name: "kind", text: true, value: (o) => o.kind, show: (o) => `${o.kind} ${o.dtype}`},
      {name: "time", value: (o) => o.seconds, show: (o) => F.seconds(o.seconds)},
      {name: "alone", value: (o) => o.alone_s, show: (o) => F.seconds(o.alone_s)},
      {name: "flop/s", value: (o) => o.flops / o.seconds, show: (o) => (o.flops > 0 ? F.si(o.flops / o.seconds, "") : "")},
      {name: "B/s", value: (o) => o.bytes / o.seconds, show: (o) => F.si(o.bytes / o.seconds, "")},
      {name: "flop/byte", value: (o) => o.flops / o.bytes, show: (o) => (o.flops > 0 ? d3.format(".3~g")(o.flops / o.bytes) : "")},
      {name: "measured", text: true, value: (o) => o.calibrated, show: (o) => (o.calibrated ? "yes" : "no")},
    ], roof.ops, {sortable: true});

    if (figures.sensitivity.length > 0) {
      const e = section("sensitivity", "Sensitivity", "What a little more would buy", "How much less the step takes with 1 % more of each, the plan held.");
      figure(e, "sensitivity", "Elasticities of the step", F.sensitivity, figures.sensitivity.map((x) => `${x.what} ${d3.format(".3f")(100 * x.less)} %`).join(", "));
      asTable(e, "The step with more and less of each", [
        {name: "resource", text: true, show: (x) => x.what}, {name: "1 % more: step less", show: (x) => d3.format(".3f")(100 * x.less) + " %"},
        ...[["half", "half_s"], ["twice", "twice_s"]].map(([name, key]) => ({name, show: (x) => (x[key] === null ? "" : F.seconds(x[key]))})),
      ], figures.sensitivity);
    }
  }

  function timelineSection() {
    const t = figures.timeline;
    const shown = t.stages.length < t.stages_in_all ? ` ${t.stages.length} of ${t.stages_in_all} stages are shown.` : "";
    const s = section("timeline", "Timeline", "One step, rank by rank", "Upper band of a stage: its passes, forward over backward where two run together; lower band: communication. Zoom in until single ops appear: buttons, + and − keys, pinch, or Ctrl and wheel." + shown);
    let me;
    const limits = [0, t.end];
    const view = () => state.domain || limits;
    const spoken = s.append("p").attr("class", "seen").attr("aria-live", "polite");
    const move = (from, to) => {
      const least = Math.max(20, t.end / 1e5), length = Math.min(t.end, Math.max(least, to - from));
      const start = Math.min(Math.max(0, (from + to - length) / 2), t.end - length);
      state.domain = length >= t.end ? null : [start, start + length];
      for (const d of drawn) if (d.timed) d.redraw();
      spoken.text(`${F.seconds(view()[0] * t.tick_s)} to ${F.seconds(view()[1] * t.tick_s)}`);
    };
    const zoom = (factor, at) => {
      const [a, b] = view(), c = at === undefined ? (a + b) / 2 : at;
      move(c - (c - a) / factor, c + (b - c) / factor);
    };
    const pan = (part) => {
      const [a, b] = view();
      move(a + part * (b - a), b + part * (b - a));
    };
    const button = (label, name, action) => s.tools.append("button").attr("type", "button").attr("data-zoom", name).attr("aria-label", name).text(label).on("click", action);
    button("+", "zoom in", () => zoom(2));
    button("−", "zoom out", () => zoom(0.5));
    button("←", "earlier", () => pan(-0.5));
    button("→", "later", () => pan(0.5));
    button("all", "whole step", () => move(...limits));
    const busiest = d3.max(t.stages, (x) => d3.sum(x.slots, (y) => y[3] - y[2]));
    me = figure(s, "timeline", "Timeline of the step", F.timeline, `${t.stages_in_all} stages, ${F.seconds(t.end * t.tick_s)}; the busiest works ${F.share(busiest / t.end)} of it.`);
    me.timed = true;
    me.says = (px, py) => F.timelineAt(content, me.view, px, py);
    const svg = me.svg.attr("aria-keyshortcuts", "+ - 0 ArrowLeft ArrowRight");
    const keys = {"+": () => zoom(2), "=": () => zoom(2), "-": () => zoom(0.5), "0": () => move(...limits), ArrowLeft: () => pan(-0.25), ArrowRight: () => pan(0.25), Home: () => move(...limits)};
    svg.on("keydown.zoom", () => {
      if (!keys[d3.event.key] || d3.event.ctrlKey || d3.event.metaKey) return;
      d3.event.preventDefault();
      keys[d3.event.key]();
    });
    const ticksAt = (clientX) => {
      const r = svg.node().getBoundingClientRect(), w = svg.attr("viewBox").split(" ")[2];
      return me.view.scale.invert((clientX - r.left) * w / r.width);
    };
    // Wheel alone scrolls the page. D3's zoom behaviour would hold a transform of its own beside
    // `state.domain`, which the memory figure shares.
    svg.node().addEventListener("wheel", (e) => {
      if (!e.ctrlKey && !e.metaKey) return;
      e.preventDefault();
      zoom(Math.exp(-e.deltaY / 300), ticksAt(e.clientX));
    }, {passive: false});
    const fingers = new Map();
    let held = null;  // ticks under the pointers when they came down
    const hold = () => (held = {at: [...fingers.values()].map(ticksAt)});
    svg.on("pointerdown.zoom", () => {
      fingers.set(d3.event.pointerId, d3.event.clientX);
      if (d3.event.pointerType === "mouse") svg.node().setPointerCapture(d3.event.pointerId);
      hold();
    }).on("pointermove.zoom", () => {
      if (!fingers.has(d3.event.pointerId)) return;
      fingers.set(d3.event.pointerId, d3.event.clientX);
      const now = [...fingers.values()].map(ticksAt), [a, b] = view();
      if (now.length === 1) move(a - (now[0] - held.at[0]), b - (now[0] - held.at[0]));
      if (now.length === 2 && Math.abs(now[1] - now[0]) > 1) {
        const factor = Math.abs((now[1] - now[0]) / (held.at[1] - held.at[0]));
        const middle = (held.at[0] + held.at[1]) / 2, shift = (now[0] + now[1]) / 2 - middle;
        move(middle - (middle - a) / factor - shift, middle + (b - middle) / factor - shift);
      }
    });
    for (const end of ["pointerup", "pointercancel"])
      svg.on(end + ".zoom", () => {
        fingers.delete(d3.event.pointerId);
        hold();
      });
    legend(s, [F.kPass[0], F.kPass[1], F.kPass[2], F.kPass[5]].map((k) => ({...k, name: k.long.charAt(0).toUpperCase() + k.long.slice(1)})).concat([{...F.kCommunication, name: "Communication"}, {name: "Waiting", colour: "idle"}]));
    const sum = (x, phases) => d3.sum(x.slots.filter((y) => phases.includes(y[1])), (y) => y[3] - y[2]) * t.tick_s;
    const time = (name, of) => ({name, value: of, show: (x) => F.seconds(of(x))});
    asTable(s, "Time of each stage", [
      {name: "stage", text: true, value: (x) => x.index, show: (x) => x.name}, {name: "GPUs", value: (x) => x.ranks, show: (x) => F.count(x.ranks)},
      time("forward", (x) => sum(x, [0])), time("backward", (x) => sum(x, [1, 3])), time("weight gradient", (x) => sum(x, [2])), time("F&B", (x) => sum(x, [4])),
      time("gradient reductions", (x) => (x.gradients[1] - x.gradients[0]) * t.tick_s), time("optimizer", (x) => (x.tail[2] - x.tail[1]) * t.tick_s),
      time("waits", (x) => (t.end - (x.gradients[1] - x.gradients[0]) - (x.tail[2] - x.tail[1])) * t.tick_s - sum(x, [0, 1, 2, 3, 4])),
    ], t.stages, {sortable: true});
  }

  function memorySection() {
    const m = figures.memory;
    const s = section("memory", "Memory", "Memory over the step", "One GPU of the chosen stage. Steps go with the timeline's zoom.");
    state.stage = d3.scan(m.stages, (a, b) => b.peak - a.peak);
    s.tools.append("label").attr("for", "stage").text("Stage");
    const select = s.tools.append("select").attr("id", "stage");
    select.selectAll("option").data(m.stages).join("option").attr("value", (x, i) => i).property("selected", (x, i) => i === state.stage)
      .text((x) => `${x.index}: peak ${F.gib(x.peak)}`);
    const me = figure(s, "memory", "Memory over time by cause", F.memory, `Peaks: ${m.stages.map((x) => `stage ${x.index} ${F.gib(x.peak)}`).join(", ")}; limit ${F.gib(m.limit)}.`);
    me.timed = true;
    me.says = (px) => me.view.at(px);
    select.on("change", function () {
      state.stage = Number(this.value);
      me.redraw();
    });
    legend(s, F.kCauses);
    const causes = ["weights", "gradients", "optimizer", "activations", "buffers", "reserve"];
    asTable(s, "Memory of each stage at its peak", [
      {name: "stage", text: true, value: (x) => x.stage, show: (x) => x.stage},
      ...["peak", ...causes].map((key) => ({name: key, value: (x) => x[key], show: (x) => F.gib(x[key])})),
      {name: "passes held", value: (x) => x.micro_batches_in_flight, show: (x) => x.micro_batches_in_flight},
    ], step.memory_GiB.map((x, i) => ({...x, stage: i})), {sortable: true});
  }

  // ---- how wrong ----

  if (figures.evidence) {
    const f = figures.evidence;
    const s = section("evidence", "Errors", "How wrong it has been", f.rows.length === 0 ? "No published run is like this one."
      : `The published runs most like this one (${f.alike}), one of each of ${f.rows.length} sources. Each was predicted with constants fitted without its source. ` +
        (f.interval ? `Measured over predicted, 4 of 5 lie between ${d3.format(".3f")(f.interval[0])} and ${d3.format(".3f")(f.interval[1])}; the interval of a step is its prediction times these.` : "They are too few for an interval."));
    if (f.rows.length > 0) {
      figure(s, "evidence", "Measured beside predicted step times of published runs", F.evidence, `${f.rows.length} runs.`);
      asTable(s, "Published runs like this one", [
        {name: "model", text: true, value: (r) => r.model, show: (r) => r.model}, {name: "GPUs", value: (r) => r.gpus, show: (r) => `${F.count(r.gpus)} ${r.gpu}`},
        {name: "software", text: true, value: (r) => r.stack, show: (r) => r.stack}, {name: "measured", value: (r) => r.measured_s, show: (r) => F.seconds(r.measured_s)},
        {name: "predicted", value: (r) => r.predicted_s, show: (r) => F.seconds(r.predicted_s)}, {name: "error", value: (r) => r.error, show: (r) => F.percent(r.error)},
        {name: "source", text: true, wide: true, value: (r) => r.source, show: (r) => r.source},
      ], f.rows, {sortable: true});
    }
  }

  if (answer.campaign) {
    const c = answer.campaign;
    const s = section("campaign", "Campaign", "Campaign");
    table(s, "Phases of the campaign", [
      {name: "phase", text: true, show: (p) => p.name}, {name: "steps", show: (p) => (p.steps > 0 ? F.count(p.steps) : "")},
      {name: "tokens", show: (p) => (p.tokens > 0 ? F.tokens(p.tokens) : "")}, {name: "step", show: (p) => (p.steps > 0 ? F.seconds(p.step_s) : "")},
      {name: "GPU-hours", show: (p) => F.count(p.gpu_hours)}, {name: "days", show: (p) => d3.format(p.days < 1 ? ".2g" : ".1f")(p.days)},
    ], c.phases);
  }

  if (answer.search) {
    const q = answer.search;
    const s = section("search", "Search", "Search", `${F.count(q.candidates)} candidates, ${F.count(q.feasible)} feasible, ${F.count(q.simulated)} simulated, ${F.count(q.pruned_by_bound)} cut by their bound. ` +
      (q.certificate.smallest_unexplored_bound_s ? `No plan that was not simulated can take less than ${d3.format(".4f")(q.certificate.smallest_unexplored_bound_s)} s; the best takes ${d3.format(".4f")(q.certificate.best_step_s)} s.` : ""));
    table(s, "Why candidates were rejected", [{name: "plans", show: (r) => F.count(r[1])}, {name: "because", text: true, wide: true, show: (r) => r[0]}],
      Object.entries(q.rejected).sort((a, b) => b[1] - a[1]));
    const d = s.append("details");
    d.append("summary").text("What was searched");
    table(d, "Searched", [{name: "dimension", text: true, show: (r) => r[0]}, {name: "values", text: true, wide: true, show: (r) => r[1].join(", ")}], Object.entries(q.searched));
    if (q.not_searched.length > 0) d.append("p").attr("class", "note").text(`Not searched: ${q.not_searched.join("; ")}.`);
  }

  if (step && step.uncalibrated.length > 0)
    d3.select("#footer").append("p").text(`No measurement of this device stands behind: ${step.uncalibrated.join(", ")}. Their times come from the nameplate.`);
  d3.select("#footer").append("p").text("Figures are drawn with D3. Rates are dense and per direction; GiB is 2^30 bytes.");

  // ---- theme and size ----

  const dark = matchMedia("(prefers-color-scheme: dark)");
  function theme(name) {
    document.documentElement.setAttribute("data-theme", name);
    d3.select("#theme").text(name === "dark" ? "Light" : "Dark").attr("aria-label", `switch to ${name === "dark" ? "light" : "dark"} colours`).attr("aria-pressed", name === "dark");
    for (const d of drawn) d.redraw();
  }
  d3.select("#theme").on("click", () => theme(document.documentElement.getAttribute("data-theme") === "dark" ? "light" : "dark"));
  dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
  theme(dark.matches ? "dark" : "light");
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    for (const d of drawn) d.redraw();
  });
})();
