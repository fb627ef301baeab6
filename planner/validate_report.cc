#include <fmt/format.h>

#include <algorithm>

#include "planner/plan_json.h"
#include "planner/table.h"
#include "planner/validate.h"
#include "sim/trace.h"

namespace reckon::plan {

namespace {

std::string signed_percent(double predicted, double measured) {
  if (measured <= 0) return predicted > 0 ? "only predicted" : "";
  if (predicted <= 0) return "only measured";
  return fmt::format("{:+.1f} %", 100 * (predicted / measured - 1));
}

std::string mebibytes(Bytes b) {
  return fmt::format("{:.1f} MiB", b.si / (1024.0 * 1024));
}

constexpr sim::Phase kPhases[] = {sim::Phase::F, sim::Phase::B, sim::Phase::W,
                                  sim::Phase::Optimizer};

}  // namespace

std::string to_text(const PlanComparison& c) {
  std::string out = describe(c.plan) + "\n";
  if (!c.why_not.empty()) return out + "  not run: " + c.why_not + "\n";
  Table t{.columns = {{"", Align::Left}, {"predicted"}, {"measured"}, {"error"}}};
  const auto time = [&](const std::string& what, double predicted, double measured) {
    if (predicted <= 0 && measured <= 0) return;
    t.rows.push_back({what, duration(Seconds(predicted)), duration(Seconds(measured)),
                      signed_percent(predicted, measured)});
  };
  time("step", c.predicted_step, c.measured_step);
  time("compute at work", c.predicted_time.compute, c.measured_time.compute);
  time("exposed communication", c.predicted_time.exchange, c.measured_time.exchange);
  time("bubble and waiting", c.predicted_time.idle, c.measured_time.idle);
  for (const sim::Phase p : kPhases)
    time(std::string("ops of ") + sim::name(p), c.predicted_phase[static_cast<int>(p)],
         c.measured_phase[static_cast<int>(p)]);
  t.rows.push_back({"peak memory", mebibytes(c.predicted_peak), mebibytes(c.measured_peak),
                    signed_percent(c.predicted_peak.si, c.measured_peak.si)});
  out += text(t);
  out += fmt::format("  measured steps: {} to {}\n\n", duration(Seconds(c.fastest_step)),
                     duration(Seconds(c.slowest_step)));
  Table ops{
      .columns = {
          {"op", Align::Left}, {"phase", Align::Left}, {"predicted"}, {"measured"}, {"error"}}};
  for (const OpComparison& o : c.ops)
    ops.rows.push_back({o.label + (o.recompute ? " (again)" : ""), sim::name(o.phase),
                        duration(Seconds(o.predicted)), duration(Seconds(o.measured)),
                        signed_percent(o.predicted, o.measured)});
  return out + text(ops);
}

std::string overview(const std::vector<PlanComparison>& plans) {
  Table t{.columns = {{"plan", Align::Left},
                      {"predicted"},
                      {"measured"},
                      {"error"},
                      {"memory"},
                      {"measured"},
                      {"error"}}};
  for (const PlanComparison& c : plans) {
    if (!c.why_not.empty()) {
      t.rows.push_back({describe(c.plan), "", "", c.why_not, "", "", ""});
      continue;
    }
    t.rows.push_back(
        {describe(c.plan), duration(Seconds(c.predicted_step)), duration(Seconds(c.measured_step)),
         signed_percent(c.predicted_step, c.measured_step), mebibytes(c.predicted_peak),
         mebibytes(c.measured_peak), signed_percent(c.predicted_peak.si, c.measured_peak.si)});
  }
  const ValidationSummary s = summary(plans);
  return text(t, 0) +
         fmt::format(
             "\nStep time: median error {:.1f} %, worst {:.1f} %; rank correlation {:.2f}. Peak "
             "memory: worst {:.1f} %.\n",
             100 * s.median_error, 100 * s.worst_error, s.spearman, 100 * s.worst_memory_error);
}

ordered_json to_json(const PlanComparison& c) {
  ordered_json j = {{"plan", plan_to_json(c.plan)}};
  if (!c.why_not.empty()) {
    j["why_not"] = c.why_not;
    return j;
  }
  const auto both = [](double predicted, double measured) {
    return ordered_json{{"predicted", predicted},
                        {"measured", measured},
                        {"error", measured > 0 ? ordered_json(predicted / measured - 1) : nullptr}};
  };
  j["step_s"] = both(c.predicted_step, c.measured_step);
  j["measured_range_s"] = {c.fastest_step, c.slowest_step};
  j["compute_s"] = both(c.predicted_time.compute, c.measured_time.compute);
  j["exposed_communication_s"] = both(c.predicted_time.exchange, c.measured_time.exchange);
  j["bubble_s"] = both(c.predicted_time.idle, c.measured_time.idle);
  for (const sim::Phase p : kPhases)
    j["phases_s"][sim::name(p)] =
        both(c.predicted_phase[static_cast<int>(p)], c.measured_phase[static_cast<int>(p)]);
  j["peak_memory_bytes"] = both(c.predicted_peak.si, c.measured_peak.si);
  for (const OpComparison& o : c.ops) {
    ordered_json op = {{"op", o.label}, {"phase", sim::name(o.phase)}, {"recompute", o.recompute}};
    op.update(both(o.predicted, o.measured));
    j["ops"].push_back(std::move(op));
  }
  return j;
}

ordered_json to_json(const ValidationSummary& s) {
  return {{"plans", s.plans},
          {"median_error", s.median_error},
          {"worst_error", s.worst_error},
          {"spearman", s.spearman},
          {"worst_memory_error", s.worst_memory_error}};
}

}  // namespace reckon::plan
