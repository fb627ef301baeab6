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

constexpr const char* kMemoryCauses[kCauses] = {"weights",     "gradients", "optimizer states",
                                                "activations", "buffers",   "reserve"};

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
  if (c.slowdown > 0)
    time("step, at the machine's speed now", c.predicted_at_speed(), c.measured_step);
  time("compute at work", c.predicted_time.compute, c.measured_time.compute);
  time("exposed communication", c.predicted_time.exchange, c.measured_time.exchange);
  time("bubble and waiting", c.predicted_time.idle, c.measured_time.idle);
  for (const sim::Phase p : kPhases)
    time(std::string("ops of ") + sim::name(p), c.predicted_phase[static_cast<int>(p)],
         c.measured_phase[static_cast<int>(p)]);
  t.rows.push_back({"peak memory", mebibytes(c.predicted_peak), mebibytes(c.measured_peak),
                    signed_percent(c.predicted_peak.si, c.measured_peak.si)});
  for (int i = 0; i < kCauses; ++i) {
    const Bytes predicted = c.predicted_memory[i], held = c.measured_memory[i];
    if (predicted.si > 0 || held.si > 0)
      t.rows.push_back({std::string("  ") + kMemoryCauses[i], mebibytes(predicted), mebibytes(held),
                        signed_percent(predicted.si, held.si)});
  }
  out += text(t);
  out += fmt::format("  measured steps: {} to {}\n", duration(Seconds(c.fastest_step)),
                     duration(Seconds(c.slowest_step)));
  if (c.slowdown > 0)
    out += fmt::format(
        "  speed: a fixed piece of work takes {:.3f} of its time when the tables were made\n",
        c.slowdown);
  out += "\n";
  Table ops{
      .columns = {
          {"op", Align::Left}, {"phase", Align::Left}, {"predicted"}, {"measured"}, {"error"}}};
  for (const OpComparison& o : c.ops)
    ops.rows.push_back({o.label + (o.recompute ? " (again)" : ""), sim::name(o.phase),
                        duration(Seconds(o.predicted)), duration(Seconds(o.measured)),
                        signed_percent(o.predicted, o.measured)});
  return out + text(ops);
}

std::string verdict_sentence(const std::vector<PlanComparison>& plans) {
  const ValidationSummary s = summary(plans);
  if (s.plans == 0) return "No plan was run: " + plans.front().why_not + ".";
  if (s.plans == 1) {
    const PlanComparison& c = *std::find_if(
        plans.begin(), plans.end(), [](const PlanComparison& p) { return p.why_not.empty(); });
    return fmt::format("A step was predicted to take {} and took {} ({}).",
                       duration(Seconds(c.predicted_step)), duration(Seconds(c.measured_step)),
                       signed_percent(c.predicted_step, c.measured_step));
  }
  return fmt::format(
      "The median of {} plans' step times is {:.1f} % off, the worst {:.1f} %. Rank correlation "
      "{:.2f}; peak memory at worst {:.1f} % off.",
      s.plans, 100 * s.median_error, 100 * s.worst_error, s.spearman, 100 * s.worst_memory_error);
}

// Two predictions of the step where the machine's speed is known: as the tables have it, and at
// the speed beside the steps.
std::string overview(const std::vector<PlanComparison>& plans) {
  const ValidationSummary s = summary(plans);
  Table t{.columns = {{"plan", Align::Left}, {"measured"}, {"predicted"}, {"error"}}};
  if (s.at_speed) t.columns.insert(t.columns.end(), {{"speed"}, {"at speed"}, {"error"}});
  t.columns.insert(t.columns.end(), {{"memory"}, {"measured"}, {"error"}});
  for (const PlanComparison& c : plans) {
    std::vector<std::string> row = {describe(c.plan)};
    if (!c.why_not.empty()) {
      row.push_back(c.why_not);
      row.resize(t.columns.size());
      t.rows.push_back(std::move(row));
      continue;
    }
    row.insert(row.end(), {duration(Seconds(c.measured_step)), duration(Seconds(c.predicted_step)),
                           signed_percent(c.predicted_step, c.measured_step)});
    if (s.at_speed)
      row.insert(row.end(),
                 {fmt::format("{:.3f}", 1 / c.slowdown), duration(Seconds(c.predicted_at_speed())),
                  signed_percent(c.predicted_at_speed(), c.measured_step)});
    row.insert(row.end(), {mebibytes(c.predicted_peak), mebibytes(c.measured_peak),
                           signed_percent(c.predicted_peak.si, c.measured_peak.si)});
    t.rows.push_back(std::move(row));
  }
  const auto line = [](const char* what, double median, double worst, double rank) {
    return fmt::format("{}: median error {:.1f} %, worst {:.1f} %; rank correlation {:.2f}\n", what,
                       100 * median, 100 * worst, rank);
  };
  std::string out = text(t, 0) + "\n";
  out += line("Step time", s.median_error, s.worst_error, s.spearman);
  if (s.at_speed)
    out += line("Step time, predicted for the machine's speed beside each run",
                s.median_error_at_speed, s.worst_error_at_speed, s.spearman_at_speed);
  return out + fmt::format("Peak memory: worst error {:.1f} %\n", 100 * s.worst_memory_error);
}

ordered_json to_json(const PlanComparison& c) {
  ordered_json j = {{"name", describe(c.plan)}, {"plan", plan_to_json(c.plan)}};
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
  if (c.slowdown > 0) {
    j["slowdown"] = c.slowdown;
    j["step_at_speed_s"] = both(c.predicted_at_speed(), c.measured_step);
  }
  j["measured_range_s"] = {c.fastest_step, c.slowest_step};
  j["compute_s"] = both(c.predicted_time.compute, c.measured_time.compute);
  j["exposed_communication_s"] = both(c.predicted_time.exchange, c.measured_time.exchange);
  j["bubble_s"] = both(c.predicted_time.idle, c.measured_time.idle);
  for (const sim::Phase p : kPhases)
    j["phases_s"][sim::name(p)] =
        both(c.predicted_phase[static_cast<int>(p)], c.measured_phase[static_cast<int>(p)]);
  j["peak_memory_bytes"] = both(c.predicted_peak.si, c.measured_peak.si);
  for (int i = 0; i < kCauses; ++i)
    if (c.predicted_memory[i].si > 0 || c.measured_memory[i].si > 0)
      j["memory_bytes"][kMemoryCauses[i]] = both(c.predicted_memory[i].si, c.measured_memory[i].si);
  for (const OpComparison& o : c.ops) {
    ordered_json op = {{"op", o.label}, {"phase", sim::name(o.phase)}, {"recompute", o.recompute}};
    op.update(both(o.predicted, o.measured));
    j["ops"].push_back(std::move(op));
  }
  return j;
}

ordered_json to_json(const ValidationSummary& s) {
  ordered_json j = {{"plans", s.plans},
                    {"median_error", s.median_error},
                    {"worst_error", s.worst_error},
                    {"spearman", s.spearman},
                    {"worst_memory_error", s.worst_memory_error}};
  if (s.at_speed)
    j["at_speed"] = {{"median_error", s.median_error_at_speed},
                     {"worst_error", s.worst_error_at_speed},
                     {"spearman", s.spearman_at_speed}};
  return j;
}

}  // namespace reckon::plan
