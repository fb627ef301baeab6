#include "planner/predict.h"

#include <algorithm>
#include <set>

#include "hw-models/cost.h"
#include "planner/schedule.h"
#include "planner/stragglers.h"

namespace reckon::plan {

Phases phases_of(const sim::RoleTime& t) {
  return {.f = sim::seconds(t.f),
          .b = sim::seconds(t.b + t.bw),
          .w = sim::seconds(t.w),
          .fb = sim::seconds(t.fb),
          .bubble = sim::seconds(t.wait + t.idle),
          .gradients = sim::seconds(t.gradients),
          .optimizer = sim::seconds(t.tail)};
}

namespace {

constexpr Seconds Phases::*kParts[] = {&Phases::f,        &Phases::b,      &Phases::w,
                                       &Phases::fb,       &Phases::bubble, &Phases::gradients,
                                       &Phases::optimizer};

Phases mean_phases(const sim::Program& program, const sim::FoldedRun& run) {
  Phases mean;
  double ranks = 0;
  for (std::size_t r = 0; r < run.roles.size(); ++r) {
    const Phases of = phases_of(run.roles[r]);
    const double n = program.roles[r].ranks;
    ranks += n;
    for (const auto part : kParts) mean.*part += n * of.*part;
  }
  for (const auto part : kParts) mean.*part /= ranks;
  return mean;
}

}  // namespace

Predictor::Predictor(const ModelShape& model, const hw::Cluster& cluster, const hw::Stack& stack)
    : model_(model),
      cluster_(cluster),
      stack_(stack),
      lowering_(model, cluster, stack),
      times_([this](const sim::Work& w) { return hw::cost(w, cluster_, stack_); },
             stack.cuda_graphs ? Seconds(0) : stack.host_per_kernel) {}

namespace {

Schedule schedule_of(const Plan& plan, const StepShape& step) {
  const auto micro_batches =
      static_cast<int>(step.global_batch / (static_cast<std::int64_t>(plan.dp) * plan.micro_batch));
  return make_schedule(plan.schedule, plan.pp, plan.vpp, micro_batches);
}

// What no engine has: the host's work between steps, and ranks that are interrupted.
Seconds between_steps(const Plan& plan, const hw::Stack& stack, Seconds end) {
  const Seconds alone = end + stack.host_per_step;
  return stack.host_per_step + straggler_wait(stack.name, plan, alone);
}

}  // namespace

Seconds Predictor::step(const Plan& plan, const StepShape& step) {
  sim::run_folded(lowering_.lower_in_place(plan, step), times_, scratch_);
  const Seconds end = sim::seconds(scratch_.end);
  return end + between_steps(plan, stack_, end);
}

Predictor::Run Predictor::run(const Plan& plan, const StepShape& step) {
  const Schedule schedule = schedule_of(plan, step);
  Run run;
  run.program = lowering_.lower(plan, step, schedule);
  run.folded = sim::run_folded(run.program, times_);
  Prediction& p = run.prediction;
  const Seconds end = sim::seconds(run.folded.end);
  const Seconds host = between_steps(plan, stack_, end);
  p.step = end + host;
  p.phases = mean_phases(run.program, run.folded);
  p.first_phases = phases_of(run.folded.roles.front());
  p.phases.host = p.first_phases.host = host;
  p.memory = memory_use(model_, plan, stack_, step, schedule);
  const double tokens = static_cast<double>(step.global_batch) * step.seq;
  const Flops capacity = p.step * cluster_.gpu.peak_bf16 * static_cast<double>(world_size(plan));
  if (capacity.si > 0) {
    p.mfu_causal = tokens * train_flops_per_token(model_, step.seq, true) / capacity;
    p.mfu_full = tokens * train_flops_per_token(model_, step.seq, false) / capacity;
  }
  std::set<std::string> missing;
  for (const auto& block : run.program.blocks)
    for (const char* label : times_.of(block).uncalibrated) missing.insert(label);
  p.uncalibrated.assign(missing.begin(), missing.end());
  p.calibrated = missing.empty();
  return run;
}

Prediction Predictor::predict(const Plan& plan, const StepShape& step) {
  return run(plan, step).prediction;
}

Prediction predict(const ModelShape& model, const hw::Cluster& cluster, const hw::Stack& stack,
                   const Plan& plan, const StepShape& step) {
  return Predictor(model, cluster, stack).predict(plan, step);
}

}  // namespace reckon::plan
