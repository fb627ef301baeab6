#include "planner/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "planner/plan_json.h"
#include "planner/table.h"

namespace reckon::plan {
namespace {

struct PhaseRow {
  const char* key;
  Seconds time;
  const char* meaning;
};

std::array<PhaseRow, 7> phase_table(const Phases& p) {
  return {{
      {"F", p.f, "forward passes that run alone"},
      {"B", p.b, "backward passes that run alone (input gradients, or all where W is not split)"},
      {"W", p.w, "weight-gradient passes that run alone"},
      {"FB", p.fb, "a forward overlapped with the backward of another micro-batch"},
      {"bubble", p.bubble, "waiting for other stages"},
      {"optimizer", p.gradients + p.optimizer,
       "after the last pass: gradient reductions and gathers that nothing hides, norm, update"},
      {"host", p.host,
       "work of the host between steps, and waiting for ranks that are interrupted"},
  }};
}

std::size_t fullest(const MemoryUse& m) {
  const auto it =
      std::max_element(m.ranks.begin(), m.ranks.end(),
                       [](const RankMemory& a, const RankMemory& b) { return a.peak < b.peak; });
  return static_cast<std::size_t>(it - m.ranks.begin());
}

constexpr std::array<Cause, kCauses> kAllCauses = {Cause::Weights,   Cause::Gradients,
                                                   Cause::Optimizer, Cause::Activations,
                                                   Cause::Buffers,   Cause::Reserve};

const char* unit(BudgetLine::What what) {
  switch (what) {
    case BudgetLine::What::GpuHours: return "GPU-hours";
    case BudgetLine::What::Days: return "days";
    case BudgetLine::What::Money: return "money";
  }
  return "";
}

std::string amount(BudgetLine::What what, double value, const std::string& currency) {
  switch (what) {
    case BudgetLine::What::GpuHours: return grouped(value);
    case BudgetLine::What::Days: return days_text(value);
    case BudgetLine::What::Money: return grouped(value) + " " + currency;
  }
  return "";
}

}  // namespace

std::string grouped(double value) {
  if (value != 0 && std::abs(value) < 10) return fmt::format("{:.2g}", value);
  std::string digits = fmt::format("{:.0f}", std::abs(value));
  for (int i = static_cast<int>(digits.size()) - 3; i > 0; i -= 3)
    digits.insert(static_cast<std::size_t>(i), ",");
  return (value <= -0.5 ? "-" : "") + digits;
}

std::string days_text(double days) {
  return days != 0 && days < 1 ? fmt::format("{:.2g}", days) : fmt::format("{:.1f}", days);
}

std::string short_count(double value) {
  static constexpr std::array<const char*, 6> kSuffix = {"", "K", "M", "B", "T", "Q"};
  std::size_t i = 0;
  while (std::abs(value) >= 999.5 && i + 1 < kSuffix.size()) value /= 1000, ++i;
  return fmt::format("{:.3g}{}", value, kSuffix[i]);
}

std::string duration(Seconds t) {
  const double a = std::abs(t.si);
  if (a == 0) return "0 s";
  if (a < 1e-3) return fmt::format("{:.3g} us", t / us);
  if (a < 1) return fmt::format("{:.3g} ms", t / ms);
  return fmt::format("{:.2f} s", t.si);
}

std::string gibibytes(Bytes b) {
  return b < GiB ? fmt::format("{:.1f} MiB", b / MiB) : fmt::format("{:.1f} GiB", b / GiB);
}

std::string percent(double share) {
  return fmt::format("{:.1f} %", 100 * share);
}

const char* name(Cause cause) {
  switch (cause) {
    case Cause::Weights: return "weights";
    case Cause::Gradients: return "gradients";
    case Cause::Optimizer: return "optimizer";
    case Cause::Activations: return "activations";
    case Cause::Buffers: return "buffers";
    case Cause::Reserve: return "reserve";
  }
  return "";
}

Bytes memory_limit(const Scenario& s) {
  return s.cluster.gpu.memory - s.constraints.memory_margin;
}

std::string headline(const Scenario& s, const StepShape& step) {
  return fmt::format("{} on {} {}, software {}; {} x {} tokens a step", s.model.name,
                     grouped(s.cluster.gpus), s.cluster.gpu.name, s.stack.name,
                     grouped(static_cast<double>(step.global_batch)), grouped(step.seq));
}

bool fits(const StepAnswer& a) {
  return a.prediction.memory.peak <= a.memory_limit;
}

double tokens_per_day(const StepAnswer& a) {
  return static_cast<double>(a.step.global_batch) * a.step.seq * (day / a.prediction.step);
}

ordered_json to_json(const StepAnswer& a) {
  const Prediction& p = a.prediction;
  ordered_json out = {{"plan", plan_to_json(a.plan)}, {"step_s", p.step.si}};
  for (const PhaseRow& r : phase_table(p.phases)) out["phases_s"][r.key] = r.time.si;
  for (const PhaseRow& r : phase_table(p.first_phases)) out["rank_0_phases_s"][r.key] = r.time.si;
  out["mfu"] = {{"causal", p.mfu_causal}, {"full", p.mfu_full}};
  out["peak_memory_GiB"] = p.memory.peak / GiB;
  out["memory_limit_GiB"] = a.memory_limit / GiB;
  out["fits"] = fits(a);
  out["tokens_per_day"] = tokens_per_day(a);
  out["step_use"] = {{"compute", a.use.compute},     {"exposed", a.use.exposed},
                     {"bubble", a.use.bubble},       {"gradients", a.use.gradients},
                     {"optimizer", a.use.optimizer}, {"host", a.use.host}};
  out["binds"] = largest_loss(a.use);
  out["memory_GiB"] = ordered_json::array();
  for (const RankMemory& r : p.memory.ranks) {
    ordered_json stage = {{"peak", r.peak / GiB}};
    for (const Cause c : kAllCauses) stage[name(c)] = r.at_peak[static_cast<int>(c)] / GiB;
    stage["micro_batches_in_flight"] = r.micro_batches_in_flight;
    out["memory_GiB"].push_back(std::move(stage));
  }
  out["uncalibrated"] = p.uncalibrated;
  return out;
}

std::string to_text(const StepAnswer& a) {
  const Prediction& p = a.prediction;
  std::string out =
      fmt::format("Step {}: {} tokens a day", duration(p.step), short_count(tokens_per_day(a)));
  if (p.mfu_full > 0)
    out += fmt::format(", MFU {} of the bf16 peak ({} with the full attention square)",
                       percent(p.mfu_causal), percent(p.mfu_full));
  out += '\n';
  Table phases{.columns = {{"", Align::Left}, {"rank 0"}, {"mean rank"}, {""}, {"", Align::Left}}};
  const auto first = phase_table(p.first_phases), mean = phase_table(p.phases);
  for (std::size_t i = 0; i < first.size(); ++i)
    if (first[i].time.si != 0 || mean[i].time.si != 0)
      phases.rows.push_back({first[i].key, duration(first[i].time), duration(mean[i].time),
                             percent(mean[i].time / p.step), first[i].meaning});
  out += text(phases);
  out += wrapped(fmt::format("Compute is at work for {} of the step; the largest loss is {}.",
                             percent(a.use.compute), largest_loss(a.use)));

  const std::size_t stage = fullest(p.memory);
  out += fmt::format("\nMemory: peak {} of {} ({}){}\n", gibibytes(p.memory.peak),
                     gibibytes(a.memory_limit), percent(p.memory.peak / a.memory_limit),
                     fits(a) ? "" : ": DOES NOT FIT");
  Table memory{.columns = {{fmt::format("stage {}", stage), Align::Left}, {""}}};
  for (const Cause c : kAllCauses) {
    const Bytes b = p.memory.ranks[stage].at_peak[static_cast<int>(c)];
    if (b.si != 0) memory.rows.push_back({name(c), gibibytes(b)});
  }
  out += text(memory);
  if (p.memory.ranks.size() > 1) {
    const bool small = p.memory.peak < GiB;
    std::string peaks = fmt::format("peak of each stage, {}:", small ? "MiB" : "GiB");
    for (const RankMemory& r : p.memory.ranks)
      peaks += fmt::format(" {:.1f}", r.peak / (small ? MiB : GiB));
    out += wrapped(peaks);
  }
  if (!p.uncalibrated.empty())
    out += "\n" + wrapped(fmt::format("No measurement of this device stands behind: {}. Their "
                                      "times come from the nameplate.",
                                      fmt::join(p.uncalibrated, ", ")),
                          0);
  return out;
}

ordered_json to_json(const Bill& bill) {
  ordered_json out;
  out["phases"] = ordered_json::array();
  for (const PhaseBill& p : bill.phases)
    out["phases"].push_back(
        {{"name", p.name},
         {"gpu_hours", p.gpu_hours},
         {"days", bill.gpu_hours > 0 ? bill.days * p.gpu_hours / bill.gpu_hours : 0},
         {"steps", p.steps},
         {"tokens", p.tokens},
         {"step_s", p.step.si}});
  out["gpu_hours"] = bill.gpu_hours;
  out["days"] = bill.days;
  if (bill.goodput) out["failures"] = to_json(*bill.goodput);
  out["cost"] = bill.money ? ordered_json(*bill.money) : ordered_json(nullptr);
  return out;
}

std::string to_text(const Bill& bill, const std::string& currency) {
  Table t{.columns = {
              {"phase", Align::Left}, {"steps"}, {"tokens"}, {"step"}, {"GPU-hours"}, {"days"}}};
  if (bill.money) t.columns.push_back({currency});
  const auto row = [&](std::vector<std::string> cells, double gpu_hours) {
    const double share = bill.gpu_hours > 0 ? gpu_hours / bill.gpu_hours : 0;
    cells.push_back(grouped(gpu_hours));
    cells.push_back(days_text(bill.days * share));
    if (bill.money) cells.push_back(grouped(*bill.money * share));
    t.rows.push_back(std::move(cells));
  };
  for (const PhaseBill& p : bill.phases)
    row(p.steps > 0 ? std::vector<std::string>{p.name, grouped(static_cast<double>(p.steps)),
                                               short_count(p.tokens), duration(p.step)}
                    : std::vector<std::string>{p.name, "", "", p.failures ? "" : "given"},
        p.gpu_hours);
  if (bill.phases.size() > 1) row({"total", "", "", ""}, bill.gpu_hours);
  return text(t) + (bill.goodput ? to_text(*bill.goodput) : std::string());
}

ordered_json to_json(const Verdict& v) {
  ordered_json out = {{"meets", v.meets}, {"lines", ordered_json::array()}};
  for (std::size_t i = 0; i < v.lines.size(); ++i)
    out["lines"].push_back({{"what", unit(v.lines[i].what)},
                            {"limit", v.lines[i].limit},
                            {"needed", v.lines[i].needed},
                            {"meets", v.lines[i].meets()},
                            {"binds", v.binding == i}});
  return out;
}

std::string to_text(const Verdict& v, const std::string& currency) {
  Table t{.columns = {{"", Align::Left},
                      {"", Align::Left},
                      {""},
                      {"", Align::Left},
                      {""},
                      {""},
                      {"", Align::Left}},
          .header = false};
  for (std::size_t i = 0; i < v.lines.size(); ++i) {
    const BudgetLine& l = v.lines[i];
    t.rows.push_back({unit(l.what), l.meets() ? "met" : "NOT MET",
                      amount(l.what, l.needed, currency), "of", amount(l.what, l.limit, currency),
                      percent(l.needed / l.limit), v.binding == i ? "binds" : ""});
  }
  return text(t);
}

}  // namespace reckon::plan
