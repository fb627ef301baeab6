// The bill: each phase's step predicted at its batch and sequence length. What-ifs predict the same
// plans again on the changed scenario; they don't search.
#include "planner/bill.h"

#include <fmt/format.h>

#include <utility>

#include "sim/check.h"

namespace reckon::plan {
namespace {

// Like predicted_bill, with a predictor of its own; nothing where a plan can't run.
std::optional<Bill> bill_alone(const Scenario& s, const std::vector<Plan>& plans) {
  Predictor predictor(s.model, s.cluster, s.stack);
  auto bill = predicted_bill(s, plans, predictor);
  if (auto* b = std::get_if<Bill>(&bill)) return std::move(*b);
  return std::nullopt;
}

std::optional<WhatIf> what_if(std::string change, const Scenario& s,
                              const std::vector<Plan>& plans) {
  std::optional<Bill> bill = bill_alone(s, plans);
  if (!bill) return std::nullopt;
  const bool meets = verdict(*bill, s.budget).meets;
  return WhatIf{std::move(change), std::move(*bill), meets};
}

// Every plan in the GPU's best 8-bit recipe; nothing if they are there already or the GPU has none.
std::optional<std::vector<Plan>> in_fp8(const Scenario& s, std::vector<Plan> plans) {
  if (s.cluster.gpu.peak_fp8.si <= 0) return std::nullopt;
  const Precision recipe =
      s.cluster.gpu.architecture == "blackwell" ? Precision::Mxfp8 : Precision::Fp8DeepSeek;
  bool changed = false;
  for (Plan& p : plans)
    if (p.precision == Precision::Bf16 || p.precision == Precision::Fp16) {
      p.precision = recipe;
      changed = true;
    }
  if (!changed) return std::nullopt;
  return plans;
}

// The largest share of the searched phase's tokens or steps that the budget pays for, if any.
std::optional<WhatIf> fewer_tokens(const Scenario& s, const Bill& bill) {
  const Verdict v = verdict(bill, s.budget);
  const std::size_t phase = *searched_phase(s);
  const BudgetLine& line = v.lines[*v.binding];
  const double affordable = bill.gpu_hours * line.limit / line.needed;
  const double others = bill.gpu_hours - bill.phases[phase].gpu_hours;
  if (affordable <= others) return std::nullopt;
  // Linear in the tokens: the rest of a ramp costs what the full batch costs, within a percent.
  const double share = (affordable - others) / bill.phases[phase].gpu_hours;
  std::vector<PhaseBill> phases = bill.phases;
  phases[phase].gpu_hours *= share;
  phases[phase].tokens *= share;
  phases[phase].steps = static_cast<std::int64_t>(static_cast<double>(phases[phase].steps) * share);
  // What failures add shrinks with the rest.
  if (phases.back().failures) phases.back().gpu_hours *= affordable / bill.gpu_hours;
  return WhatIf{
      fmt::format("{:.3g}T tokens in phase \"{}\" instead of {:.3g}T", phases[phase].tokens / 1e12,
                  s.campaign[phase].name, bill.phases[phase].tokens / 1e12),
      total(std::move(phases), s.cluster), true};
}

}  // namespace

std::optional<std::size_t> searched_phase(const Scenario& s) {
  for (std::size_t i = 0; i < s.campaign.size(); ++i)
    if (s.campaign[i].gpu_hours <= 0) return i;
  return std::nullopt;
}

StepShape step_shape(const PhaseOfCampaign& phase) {
  return {.seq = phase.seq, .global_batch = phase.global_batch};
}

std::vector<Plan> plans_of_phases(const Scenario& s, const Plan& plan) {
  const std::optional<std::size_t> searched = searched_phase(s);
  std::vector<Plan> plans;
  for (std::size_t i = 0; i < s.campaign.size(); ++i)
    plans.push_back(i == searched ? plan : s.campaign[i].plan.value_or(plan));
  return plans;
}

std::variant<Bill, NoBill> predicted_bill(const Scenario& s, const std::vector<Plan>& plans,
                                          Predictor& predictor) {
  check(plans.size() == s.campaign.size(), "every phase has a plan");
  std::vector<PhaseBill> phases;
  for (std::size_t i = 0; i < s.campaign.size(); ++i) {
    const PhaseOfCampaign& phase = s.campaign[i];
    if (phase.gpu_hours > 0) {
      phases.push_back(given_bill(phase));
      continue;
    }
    const Plan& plan = plans[i];
    if (auto no = why_illegal(s.model, s.cluster, s.stack, plan, step_shape(phase)))
      return NoBill{phase.name, *no};
    const auto step_time = [&](std::int64_t batch) -> std::optional<Seconds> {
      const StepShape step{.seq = phase.seq, .global_batch = batch};
      if (why_illegal(s.model, s.cluster, s.stack, plan, step)) return std::nullopt;
      return predictor.predict(plan, step).step;
    };
    const std::int64_t quantum = static_cast<std::int64_t>(plan.dp) * plan.micro_batch;
    const auto bill = phase_bill(phase, s.cluster.gpus, quantum, step_time);
    check(bill.has_value(), "a legal plan has a step time");
    phases.push_back(*bill);
  }
  Bill bill = total(std::move(phases), s.cluster);
  if (!s.failures) return bill;
  // A checkpoint holds the bf16 weights, the master copy and both moments.
  const double parameters_of_model = static_cast<double>(parameters(s.model).total());
  return with_failures(std::move(bill), *s.failures,
                       parameters_of_model * (2.0 * byte + s.stack.optimizer_bytes), s.cluster);
}

std::vector<WhatIf> what_ifs(const Scenario& s, const std::vector<Plan>& plans, const Bill& bill) {
  std::vector<WhatIf> out;
  const auto add = [&](std::optional<WhatIf> w) {
    if (w) out.push_back(std::move(*w));
  };
  if (auto fp8 = in_fp8(s, plans)) add(what_if("8-bit matrix products", s, *fp8));
  if (s.cluster.fabric.nic.si > 0)
    for (const int times : {2, 4}) {
      Scenario faster = s;
      faster.cluster.fabric.nic *= times;
      add(what_if(fmt::format("network {} times as fast", times), faster, plans));
    }
  for (const int times : {2, 4}) {
    Scenario larger = s;
    larger.cluster.gpus *= times;
    std::vector<Plan> wider = plans;
    for (Plan& p : wider) p.dp *= times;
    add(what_if(fmt::format("{} GPUs, data parallel", larger.cluster.gpus), larger, wider));
  }
  add(fewer_tokens(s, bill));
  return out;
}

}  // namespace reckon::plan
