// The bill of a campaign: steps of each phase times the predicted step, in GPU-hours, days and
// money, held against the budget.
//
// Failures and checkpoints are in a bill where the scenario states them. Not modelled: evaluation.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "planner/goodput.h"
#include "planner/scenario.h"
#include "sim/units.h"

namespace reckon::plan {

// Predicted seconds of one step at a global batch (sequences); nothing if the plan can't run at it.
using StepTime = std::function<std::optional<Seconds>(std::int64_t global_batch)>;

struct PhaseBill {
  std::string name;
  std::int64_t steps = 0;  // 0: the phase is a given bill
  double tokens = 0;
  Seconds step;  // at the full batch
  double gpu_hours = 0;
  bool failures = false;  // what failures and checkpoints add to the others
};

struct Bill {
  std::vector<PhaseBill> phases;
  double gpu_hours = 0;
  double days = 0;                 // wall clock on all GPUs of the cluster
  std::optional<double> money;     // nothing: the cluster has no price
  std::optional<Goodput> goodput;  // nothing: the scenario states no failures
};

// Tokens and steps of a phase. While the batch ramps from b0 to b1 over R tokens it is
// b(T) = b0 + (b1 - b0) T / R, so that dn/dT = 1 / (seq b(T)) and the ramp takes
// n = R / (seq (b1 - b0)) ln(b1 / b0) steps.
struct PhaseLength {
  std::int64_t steps = 0;
  double tokens = 0;
};
PhaseLength length(const PhaseOfCampaign& phase);

// A predicted phase. Without a ramp: steps x t(batch). With one: t(b) = a + c b, the line through
// the full batch and the smallest batch of the ramp that the plan can run (multiples of
// `batch_quantum` sequences), summed over all steps: a steps + c tokens / seq. Nothing if the plan
// can't run the full batch.
std::optional<PhaseBill> phase_bill(const PhaseOfCampaign& phase, int gpus,
                                    std::int64_t batch_quantum, const StepTime& step_time);

// A phase whose GPU-hours are given.
PhaseBill given_bill(const PhaseOfCampaign& phase);

Bill total(std::vector<PhaseBill> phases, const hw::Cluster& cluster);

// The bill with a last line for what failures add, at the length that the spec's percentile asks
// for. Spare hosts are paid for as long as the campaign runs. `checkpoint`: size.
Bill with_failures(Bill bill, const FailureSpec& spec, Bytes checkpoint,
                   const hw::Cluster& cluster);

// One line of the budget held against a bill.
struct BudgetLine {
  enum class What { GpuHours, Days, Money } what = What::GpuHours;
  double limit = 0, needed = 0;
  bool meets() const { return needed <= limit; }
};

// Lines in the order GPU-hours, days, money; only those that the budget states. REQUIRES: a price
// if the budget states money.
struct Verdict {
  std::vector<BudgetLine> lines;
  std::optional<std::size_t> binding;  // line with the largest needed / limit; nothing: no budget
  bool meets = true;                   // every line
};
Verdict verdict(const Bill& bill, const Budget& budget);

}  // namespace reckon::plan
