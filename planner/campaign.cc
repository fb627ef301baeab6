// Campaign arithmetic: phase lengths in closed form, step times from the caller.
#include "planner/campaign.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "sim/check.h"

namespace reckon::plan {
namespace {

bool has_ramp(const PhaseOfCampaign& p) {
  return p.batch_ramp_tokens > 0 && p.batch_ramp_from > 0 && p.batch_ramp_from < p.global_batch;
}

// A count that is whole but for rounding, such as 4.194304e9 tokens / (1024 x 4096), must not gain
// a step.
std::int64_t whole_steps(double steps) {
  return static_cast<std::int64_t>(std::ceil(steps * (1 - 1e-12)));
}

double hours(Seconds t) {
  return t / hour;
}

}  // namespace

PhaseLength length(const PhaseOfCampaign& p) {
  check(p.seq > 0 && p.global_batch > 0, "a predicted phase has a sequence length and a batch");
  const double seq = p.seq, b1 = static_cast<double>(p.global_batch);
  if (!has_ramp(p)) {
    const std::int64_t steps = p.tokens > 0 ? whole_steps(p.tokens / (b1 * seq)) : p.steps;
    return {steps, p.tokens > 0 ? p.tokens : static_cast<double>(steps) * b1 * seq};
  }
  const double b0 = static_cast<double>(p.batch_ramp_from), ramp = p.batch_ramp_tokens;
  const double growth = seq * (b1 - b0) / ramp;  // d ln b / dn during the ramp
  const double ramp_steps = std::log(b1 / b0) / growth;
  if (p.tokens > 0) {
    const double ramped = std::min(p.tokens, ramp);
    const double last = b0 + (b1 - b0) * ramped / ramp;
    const double steps = std::log(last / b0) / growth + (p.tokens - ramped) / (b1 * seq);
    return {whole_steps(steps), p.tokens};
  }
  const double steps = static_cast<double>(p.steps);
  if (steps >= ramp_steps) return {p.steps, ramp + (steps - ramp_steps) * b1 * seq};
  return {p.steps, ramp * b0 * (std::exp(growth * steps) - 1) / (b1 - b0)};
}

std::optional<PhaseBill> phase_bill(const PhaseOfCampaign& phase, int gpus,
                                    std::int64_t batch_quantum, const StepTime& step_time) {
  check(batch_quantum > 0, "a batch comes in multiples of at least one sequence");
  const std::optional<Seconds> full = step_time(phase.global_batch);
  if (!full) return std::nullopt;
  const PhaseLength n = length(phase);
  Seconds wall = static_cast<double>(n.steps) * *full;
  if (has_ramp(phase)) {
    const std::int64_t start =
        (phase.batch_ramp_from + batch_quantum - 1) / batch_quantum * batch_quantum;
    for (std::int64_t b = start; b < phase.global_batch; b += batch_quantum)
      if (const std::optional<Seconds> small = step_time(b)) {
        const Seconds slope = (*full - *small) / static_cast<double>(phase.global_batch - b);
        const Seconds fixed = *full - slope * static_cast<double>(phase.global_batch);
        wall = fixed * static_cast<double>(n.steps) + slope * (n.tokens / phase.seq);
        break;
      }
  }
  return PhaseBill{.name = phase.name,
                   .steps = n.steps,
                   .tokens = n.tokens,
                   .step = *full,
                   .gpu_hours = hours(wall) * gpus};
}

PhaseBill given_bill(const PhaseOfCampaign& phase) {
  return {.name = phase.name, .gpu_hours = phase.gpu_hours};
}

Bill total(std::vector<PhaseBill> phases, const hw::Cluster& cluster) {
  Bill bill;
  for (const PhaseBill& p : phases) bill.gpu_hours += p.gpu_hours;
  bill.phases = std::move(phases);
  bill.days = bill.gpu_hours / cluster.gpus / 24;
  if (cluster.price_per_gpu_hour > 0) bill.money = bill.gpu_hours * cluster.price_per_gpu_hour;
  return bill;
}

Bill with_failures(Bill bill, const FailureSpec& spec, Bytes checkpoint,
                   const hw::Cluster& cluster) {
  const Goodput g =
      goodput(spec, {.gpus = cluster.gpus, .training = bill.days * day, .checkpoint = checkpoint});
  const double hosts_gpus = static_cast<double>(spec.spare_hosts) * cluster.node.gpus;
  const double hours = g.budgeted / hour;
  std::vector<PhaseBill> phases = std::move(bill.phases);
  phases.push_back({.name = "failures",
                    .gpu_hours = hours * (cluster.gpus + hosts_gpus) - bill.gpu_hours,
                    .failures = true});
  bill = total(std::move(phases), cluster);
  bill.days = hours / 24;
  bill.goodput = g;
  return bill;
}

Verdict verdict(const Bill& bill, const Budget& budget) {
  Verdict v;
  if (budget.gpu_hours)
    v.lines.push_back({BudgetLine::What::GpuHours, *budget.gpu_hours, bill.gpu_hours});
  if (budget.days) v.lines.push_back({BudgetLine::What::Days, *budget.days, bill.days});
  if (budget.money) {
    check(bill.money.has_value(), "a budget in money comes with a price");
    v.lines.push_back({BudgetLine::What::Money, *budget.money, *bill.money});
  }
  for (std::size_t i = 0; i < v.lines.size(); ++i) {
    v.meets = v.meets && v.lines[i].meets();
    const auto ratio = [&](std::size_t line) { return v.lines[line].needed / v.lines[line].limit; };
    if (!v.binding || ratio(i) > ratio(*v.binding)) v.binding = i;
  }
  return v;
}

}  // namespace reckon::plan
