// Sections of the commands that answer with something else than one plan and its step. Each is a
// function of the pieces of page.js.
"use strict";

const reckonAnswers = (() => {
  const F = reckonFigures, P = reckonPointFigures;

  function choice(tools, id, name, entries, chosen, act) {
    tools.append("label").attr("for", id).text(name);
    const select = tools.append("select").attr("id", id);
    select.selectAll("option").data(entries).join("option").attr("value", (e, i) => i).property("selected", (e) => e === chosen).text((e) => e.name);
    select.on("change", function () {
      act(entries[Number(this.value)]);
    });
  }

  // Columns that sweeps and co-designs share: the varied parts before, the answer behind.
  function pointColumns(content, between = []) {
    const a = content.figures.axes;
    const number = (name, key, show) => ({name, value: (r) => P.figureOf(r, key), show: (r) => (P.figureOf(r, key) === null ? "" : show(P.figureOf(r, key)))});
    const any = (key) => content.answer.points.some((p) => p.answer && p.answer[key] !== undefined);
    return [
      ...a.titles.map((t, k) => ({name: t, value: (r) => (a.numbers[r.i][k] === null ? a.labels[r.i][k] : a.numbers[r.i][k]), show: (r) => a.labels[r.i][k]})),
      ...between,
      {name: "plan", text: true, wide: true, value: (r) => r.answer.plan || "", show: (r) => r.answer.plan || "no: " + r.answer.reason},
      ...P.kMetrics.filter((m) => any(m.key)).map((m) => (m.key === "peak_memory_GiB"
        ? {name: "memory", value: (r) => P.figureOf(r, m.key), show: (r) => (P.figureOf(r, m.key) === null ? "" : m.show(P.figureOf(r, m.key)) + (r.answer.fits === false ? ", too much" : ""))}
        : number(m.name, m.key, m.show))),
      ...(any("meets_budget") ? [{name: "budget", text: true, value: (r) => r.answer.meets_budget,
        show: (r) => (r.answer.meets_budget === undefined ? "" : r.answer.meets_budget ? "met" : "not met"), mark: (r) => (r.answer.meets_budget === undefined ? "" : r.answer.meets_budget ? "met" : "not-met")}] : []),
    ];
  }

  function sweep({section, figure, legend, table, content, state}) {
    const a = content.figures.axes, points = content.answer.points.map((p, i) => ({...p, i}));
    const metrics = P.kMetrics.filter((m) => points.some((p) => P.figureOf(p, m.key) !== null));
    if (metrics.length > 0) {
      state.metric = (metrics.find((m) => m.key === content.figures.metric) || metrics[0]).key;
      const lines = P.numeric(content);
      const s = section("sweep", "Chart", "What each point takes", (a.one_at_a_time ? "Each part varied alone; bars go from the scenario as it is."
        : lines ? "Along the axis the first varied part, a line for each combination of the others; hollow where the plan does not fit." : "A bar for each point.") +
        (!lines && points.length > P.kMostRows ? ` The first ${P.kMostRows} points; the table has all.` : "") + " Left and right arrow keys walk through the points.");
      let me = null;
      choice(s.tools, "metric", "Shown", metrics, P.metricOf(state.metric), (m) => {
        state.metric = m.key;
        me.redraw();
      });
      me = figure(s, "sweep", "Points of the sweep", P.sweep, `${points.length} points over ${a.titles.join(", ")}.`);
      const all = P.series(content);
      if (lines && P.styled(all) && all.length > 1) legend(s, all.map((l, i) => ({...P.kSeries[i], name: l.name})));
    }
    const t = section("points", "Points", "Points", "The column heads sort.");
    table(t, "Every point of the sweep", pointColumns(content), points, {sortable: true});
  }

  function codesign({section, figure, legend, table, content, state}) {
    const points = content.answer.points.map((p, i) => ({...p, i})), fronts = content.answer.fronts;
    state.shapeValue = P.kShapeValues[0].key;
    const s = section("front", "Front", "What a shape costs", "No point has more of what is shown for less cost than one on the green line. Left and right arrow keys walk through the points.");
    let me = null;
    choice(s.tools, "value", "Shown", P.kShapeValues, P.kShapeValues[0], (v) => {
      state.shapeValue = v.key;
      me.redraw();
    });
    me = figure(s, "front", "Model against cost", P.codesign, `${points.length} points, ${fronts.flops.length} on the front of training flops per token.`);
    const kinds = new Set(points.filter((p) => P.figureOf(p, content.figures.cost) !== null).map((p) => P.kindOfPoint(fronts.flops.includes(p.i), p.answer)));
    legend(s, P.kPoint.filter((k, i) => kinds.has(i)));
    const marks = (r) => P.kShapeValues.filter((v) => fronts[v.front].includes(r.i)).map((v) => v.front).join(", ");
    const t = section("points", "Points", "Points", "The column heads sort; on a front, no other point has more for less.");
    table(t, "Every shape on every machine", [
      ...pointColumns(content, P.kShapeValues.map((v) => ({name: v.front === "flops" ? "flops/token" : v.front, value: (r) => r[v.key], show: (r) => F.tokens(r[v.key])}))),
      {name: "fronts", text: true, value: marks, show: marks},
    ], points, {sortable: true});
    const dropped = Object.entries(content.answer.dropped);
    if (dropped.length > 0) {
      const d = section("dropped", "Dropped", "Shapes that were dropped");
      table(d, "Why", [{name: "shapes", show: (r) => F.count(r[1])}, {name: "because", text: true, wide: true, show: (r) => r[0]}], dropped);
    }
  }

  function explain({section, figure, legend, table, asTable, content}) {
    const answer = content.answer;
    if (!content.figures.causes) return;
    const rows = P.present(content), total = answer.step_s;
    const s = section("causes", "Causes", "What the step waits for", "The critical path is the chain that the end of the step waited for: it has to get faster for the step to. The mean over the GPUs is where GPU-hours go. Both add up to the step.");
    figure(s, "causes", "Time of the step by cause", P.causes, rows.map((r) => `${r.what} ${F.seconds(r.path_s)} of the critical path`).join(", ") + ".");
    legend(s, P.kAccounts);
    asTable(s, "Time of the step by cause", [
      {name: "cause", text: true, value: (r) => r.what, show: (r) => r.what}, {name: "", text: true, value: (r) => r.waits, show: (r) => (r.waits ? "waits" : "works")},
      ...P.kAccounts.flatMap((k) => [{name: k.name, value: (r) => r[k.key], show: (r) => F.seconds(r[k.key])}, {name: "share", value: (r) => r[k.key], show: (r) => F.share(r[k.key] / total)}]),
    ], rows, {sortable: true});

    const l = section("ladder", "Ladder", "Each optimisation switched off in turn", "How much longer the step takes without it, everything else as it is. * or dots: it would not fit in memory without it.");
    if (answer.ladder.length > 0) {
      figure(l, "ladder", "What each optimisation saves", P.ladder, answer.ladder.map((r) => `${r.what} ${r.saves_s === undefined ? "can't be switched off" : F.seconds(r.saves_s)}`).join(", ") + ".");
      asTable(l, "The step without each", [
        {name: "without", text: true, show: (r) => r.what}, {name: "", text: true, wide: true, show: (r) => `${r.from} → ${r.to}`},
        {name: "step", show: (r) => (r.step_s === undefined ? "" : F.seconds(r.step_s))}, {name: "it saves", show: (r) => (r.saves_s === undefined ? "" : F.seconds(r.saves_s))},
        {name: "GPU-hours", show: (r) => (typeof r.saves_gpu_hours === "number" ? F.count(r.saves_gpu_hours) : "")},
        {name: "memory", show: (r) => (r.step_s === undefined ? "" : F.gib(r.peak_memory_GiB))}, {name: "", text: true, show: (r) => (r.reason ? "can't run: " + r.reason : r.fits ? "" : "does not fit")},
      ], answer.ladder);
    }
    if (answer.rivals.length > 0) {
      const v = section("rivals", "Rivals", "Beside other plans");
      table(v, "Plans", [
        {name: "", text: true, show: (r) => r.label}, {name: "plan", text: true, wide: true, show: (r) => r.name}, {name: "step", show: (r) => F.seconds(r.step_s)},
        {name: "memory", show: (r) => F.gib(r.peak_memory_GiB) + (r.fits ? "" : ", too much")},
      ], [{label: "this plan", ...answer}, ...answer.rivals]);
      const differing = content.figures.causes.filter((c) => answer.rivals.some((r) => Math.abs(r.difference_s[c.key]) > 1e-6 * total));  // less is rounding
      table(v.append("div").style("margin-top", "1rem"), "How much longer they take, by cause, mean over the GPUs", [
        {name: "cause", text: true, show: (c) => c.what},
        ...answer.rivals.map((r) => ({name: r.label, show: (c) => (r.difference_s[c.key] > 0 ? "+" : "") + F.seconds(r.difference_s[c.key]).replace("-", "−")})),
      ], differing);
    }
  }

  function validate({section, figure, legend, table, asTable, content, state}) {
    const ran = content.answer.plans.filter((p) => p.step_s), not = content.answer.plans.filter((p) => !p.step_s);
    const mib = (x) => d3.format(",.1f")(x / 1048576) + " MiB", gap = (e) => (e === null ? "" : F.percent(e));
    if (ran.length > 0) {
      const s = section("plans", "Plans", "Predicted beside measured steps", "The measured step is the median of several.");
      figure(s, "plans", "Step times, predicted and measured", P.plansBeside, ran.map((r) => `${r.name}: ${gap(r.step_s.error)}`).join(", ") + ".");
      legend(s, P.kSides);
      table(s.append("div").style("margin-top", "1rem"), "Plans", [
        {name: "plan", text: true, wide: true, value: (r) => r.name, show: (r) => r.name},
        ...["step_s", "compute_s", "exposed_communication_s", "bubble_s"].flatMap((key) => [
          {name: key.replace(/_s$/, "").replace(/_/g, " "), value: (r) => r[key].predicted, show: (r) => F.seconds(r[key].predicted)},
          {name: "measured", value: (r) => r[key].measured, show: (r) => F.seconds(r[key].measured)},
          ...(key === "step_s" ? [{name: "error", value: (r) => r[key].error, show: (r) => gap(r[key].error)}] : [])]),
        {name: "memory", value: (r) => r.peak_memory_bytes.predicted, show: (r) => mib(r.peak_memory_bytes.predicted)},
        {name: "measured", value: (r) => r.peak_memory_bytes.measured, show: (r) => mib(r.peak_memory_bytes.measured)},
        {name: "error", value: (r) => r.peak_memory_bytes.error, show: (r) => gap(r.peak_memory_bytes.error)},
      ], ran, {sortable: true});

      state.plan = 0;
      const o = section("ops", "Ops", "Op by op", "Seconds a step, mean over the ranks. On the line an op takes as long as predicted, to the right of it longer. Left and right arrow keys walk through the ops.");
      const me = {};
      const rows = () => ran[state.plan].ops;
      if (ran.length > 1)
        choice(o.tools, "plan", "Plan", ran, ran[0], (p) => {
          state.plan = ran.indexOf(p);
          me.figure.redraw();
          list();
        });
      me.figure = figure(o, "ops", "Ops, predicted and measured", P.ops, `${rows().length} ops.`);
      legend(o, Object.values(P.kPhases));
      const box = o.append("div");
      const list = () => {
        box.selectAll("*").remove();
        asTable(box, `Ops of ${ran[state.plan].name}`, [
          {name: "op", text: true, value: (r) => r.op, show: (r) => r.op + (r.recompute ? ", again" : "")}, {name: "phase", text: true, value: (r) => r.phase, show: (r) => r.phase},
          {name: "predicted", value: (r) => r.predicted, show: (r) => F.seconds(r.predicted)}, {name: "measured", value: (r) => r.measured, show: (r) => F.seconds(r.measured)},
          {name: "error", value: (r) => r.error, show: (r) => gap(r.error)},
        ], rows(), {sortable: true});
      };
      list();
    }
    if (not.length > 0) {
      const n = section("not-run", "Not run", "Plans that were not run");
      table(n, "Why", [{name: "plan", text: true, wide: true, show: (r) => r.name}, {name: "because", text: true, wide: true, show: (r) => r.why_not}], not);
    }
  }

  return {sweep, codesign, explain, validate};
})();
