#include "planner/validate.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <set>

#include "hw-models/measured.h"
#include "planner/backtest.h"
#include "planner/feasible.h"
#include "real/calibrate.h"
#include "real/machine.h"
#include "sim/folded_timeline.h"

namespace reckon::plan {

namespace {

bool computes(const sim::Event& e) {
  return sim::is_compute(e.stream);
}

// Total length of the union of spans, in seconds.
double covered(std::vector<std::pair<std::int64_t, std::int64_t>> spans) {
  std::sort(spans.begin(), spans.end());
  std::int64_t total = 0, end = 0;
  for (const auto& [from, to] : spans) {
    total += std::max<std::int64_t>(0, to - std::max(from, end));
    end = std::max(end, to);
  }
  return static_cast<double>(total) * 1e-12;
}

RankTime rank_time(const std::vector<sim::Event>& events, std::uint32_t role, double step) {
  std::vector<std::pair<std::int64_t, std::int64_t>> compute, all;
  for (const sim::Event& e : events) {
    if (e.role != role) continue;
    all.push_back({e.start.ps, e.end.ps});
    if (computes(e)) compute.push_back({e.start.ps, e.end.ps});
  }
  RankTime t;
  t.compute = covered(std::move(compute));
  const double busy = covered(std::move(all));
  t.exchange = busy - t.compute;
  t.idle = std::max(0.0, step - busy);
  return t;
}

// What the ranks of a run measured.
struct Measured {
  std::vector<double> steps;
  std::vector<std::vector<sim::Event>> events;  // per recorded step: one rank of each role
  std::vector<std::string> labels;              // that the events count
  double peak = 0;
  real::Meter::ByHolds at_peak{};
  std::int64_t working = 0;
  double reference = 0;  // seconds of it between the steps, mean over the ranks
};

// `look`: run the reference behind each step.
Measured run(const real::Job& job, const ValidationOptions& options, std::size_t roles, bool look) {
  Measured out;
  std::mutex mutex;
  std::map<std::string, std::uint32_t> label_index;
  out.events.resize(static_cast<std::size_t>(options.steps));
  const auto measure = [&](real::Transport& transport, real::Reference* reference) {
    real::Trainer trainer(job, transport, nullptr, real::equipment(options.device, transport));
    for (int i = 0; i < options.warm_steps; ++i) trainer.step();
    const real::Place& at = trainer.place();
    const bool speaks = at.tp == 0 && at.cp == 0 && at.dp == 0 && at.pp < static_cast<int>(roles);
    for (int i = 0; i < options.steps; ++i) {
      if (transport.rank() == 0 && options.progress) options.progress(i, options.steps);
      trainer.world().barrier();
      const real::StepResult r = trainer.step(true);
      if (reference != nullptr) reference->run();
      const std::lock_guard lock(mutex);
      if (transport.rank() == 0) out.steps.push_back(r.seconds);
      const std::int64_t working = trainer.device().overhead();
      if (const auto peak = static_cast<double>(r.peak + working); peak > out.peak) {
        out.peak = peak;
        out.at_peak = r.at_peak;
        out.working = working;
      }
      if (!speaks) continue;
      const real::Executor& e = trainer.executor();
      for (sim::Event event : e.events()) {
        const std::string& label = e.labels()[event.label];
        const auto [it, added] =
            label_index.emplace(label, static_cast<std::uint32_t>(out.labels.size()));
        if (added) out.labels.push_back(label);
        event.label = it->second;
        out.events[static_cast<std::size_t>(i)].push_back(event);
      }
    }
    if (reference == nullptr) return;
    const std::lock_guard lock(mutex);
    out.reference += reference->seconds() / transport.size();
  };
  real::run_local(world_size(job.plan), [&](real::Transport& transport) {
    if (!options.device.cuda) real::stay_on_core(transport.rank(), transport.size());
    if (!look) return measure(transport, nullptr);
    real::beside_reference(options.device, transport,
                           [&](real::Reference& r) { measure(transport, &r); });
  });
  return out;
}

using OpKey = std::tuple<std::string, sim::Phase, bool>;

// Ops of a block alone: the engines do not record messages and syncs.
void add_ops(const std::vector<sim::Event>& events, const std::vector<std::string>& labels,
             double weight, double OpComparison::*side, std::map<OpKey, OpComparison>& ops) {
  for (const sim::Event& e : events) {
    const OpKey key{labels[e.label], e.phase, e.recompute};
    OpComparison& o = ops[key];
    o.label = labels[e.label], o.phase = e.phase, o.recompute = e.recompute;
    o.*side += weight * sim::seconds(e.end - e.start).si;
  }
}

}  // namespace

PlanComparison compare_plan(const real::Job& job, const ValidationOptions& options) {
  PlanComparison c;
  c.plan = job.plan;
  Predictor predictor(job.model, job.cluster, job.stack);
  const Predictor::Run predicted = predictor.run(job.plan, job.step);
  const sim::Timeline modelled =
      sim::timeline(predicted.program, predicted.folded, predictor.times());
  const std::size_t roles = predicted.program.roles.size();
  c.predicted_step = predicted.prediction.step.si;
  c.predicted_peak = predicted.prediction.memory.peak;

  const RankMemory* fullest = nullptr;
  for (const RankMemory& r : predicted.prediction.memory.ranks)
    if (fullest == nullptr || r.peak > fullest->peak) fullest = &r;
  std::copy_n(fullest->at_peak, kCauses, c.predicted_memory);

  const int ranks = world_size(job.plan);
  const double known = job.cluster.measured ? job.cluster.measured->level(ranks).reference.si : 0;
  const Measured measured = run(job, options, roles, known > 0);
  if (known > 0) c.slowdown = measured.reference / known;
  c.measured_step = real::median(measured.steps);
  c.fastest_step = *std::min_element(measured.steps.begin(), measured.steps.end());
  c.slowest_step = *std::max_element(measured.steps.begin(), measured.steps.end());
  c.measured_peak = Bytes(measured.peak);
  static_assert(static_cast<int>(real::kHolds) <= kCauses);
  for (std::size_t i = 0; i < real::kHolds; ++i)
    c.measured_memory[i] = Bytes(static_cast<double>(measured.at_peak[i]));
  c.measured_memory[static_cast<int>(Cause::Reserve)] =
      Bytes(static_cast<double>(measured.working));

  const double n = static_cast<double>(roles);
  std::map<OpKey, OpComparison> ops;
  add_ops(modelled.events, modelled.labels, 1 / n, &OpComparison::predicted, ops);
  for (const auto& events : measured.events)
    add_ops(events, measured.labels, 1 / (n * static_cast<double>(options.steps)),
            &OpComparison::measured, ops);
  for (auto& [key, o] : ops) {
    c.predicted_phase[static_cast<int>(o.phase)] += o.predicted;
    c.measured_phase[static_cast<int>(o.phase)] += o.measured;
    c.ops.push_back(o);
  }
  std::stable_sort(c.ops.begin(), c.ops.end(), [](const OpComparison& a, const OpComparison& b) {
    return a.measured > b.measured;
  });
  const auto add = [](RankTime& to, const RankTime& t, double weight) {
    to.compute += weight * t.compute, to.exchange += weight * t.exchange;
    to.idle += weight * t.idle;
  };
  for (std::uint32_t r = 0; r < roles; ++r) {
    add(c.predicted_time, rank_time(modelled.events, r, c.predicted_step), 1 / n);
    for (std::size_t i = 0; i < measured.events.size(); ++i)
      add(c.measured_time, rank_time(measured.events[i], r, measured.steps[i]),
          1 / (n * static_cast<double>(measured.events.size())));
  }

  // Both on one calendar: the modelled step, and the measured step of median length.
  std::size_t typical = 0;
  for (std::size_t i = 0; i < measured.steps.size(); ++i)
    if (measured.steps[i] == c.measured_step) typical = i;
  for (const std::string& role : modelled.roles) c.timeline.roles.push_back("predicted " + role);
  for (const std::string& role : modelled.roles) c.timeline.roles.push_back("measured " + role);
  c.timeline.labels = modelled.labels;
  c.timeline.events = modelled.events;
  const auto labels = static_cast<std::uint32_t>(modelled.labels.size());
  c.timeline.labels.insert(c.timeline.labels.end(), measured.labels.begin(), measured.labels.end());
  for (sim::Event e : measured.events[typical]) {
    e.role += static_cast<std::uint32_t>(roles);
    e.label += labels;
    c.timeline.events.push_back(e);
  }
  return c;
}

std::vector<Plan> plan_matrix(const real::Job& job, int ranks) {
  using enum ScheduleKind;
  using Mode = Recompute::Mode;
  std::vector<Plan> plans;
  const auto add = [&](Plan p) {
    p.precision = job.plan.precision;
    p.layout =
        balanced_layout({.layers = job.model.layers, .mtp = job.model.mtp_depth}, p.pp * p.vpp);
    real::Job one = job;
    one.plan = p;
    one.cluster.gpus = std::max(ranks, 1);
    if (!why_illegal(job.model, one.cluster, job.stack, p, job.step) && !why_untrainable(one))
      plans.push_back(std::move(p));
  };
  const Overlap pairs{.expert = Overlap::Expert::Pair};
  add({.zero = Zero::None});
  add({.recompute = {Mode::Full}, .zero = Zero::None});
  add({.micro_batch = 2, .zero = Zero::None});
  for (int n = 2; n <= ranks; n *= 2) {
    add({.pp = n, .schedule = GPipe});
    add({.pp = n, .schedule = OneFOneB});
    add({.pp = n, .vpp = 2, .schedule = Interleaved});
    add({.pp = n, .schedule = ZbH1});
    add({.pp = n, .vpp = 2, .schedule = ZbV});
    add({.pp = n, .schedule = DualPipe, .overlap = pairs});
    add({.pp = n, .vpp = 2, .schedule = DualPipeV, .overlap = pairs});
    add({.pp = n, .schedule = OneFOneB, .recompute = {Mode::Full}});
    add({.dp = n, .zero = Zero::None});
    add({.dp = n});
    add({.dp = n, .ep = n});
    add({.dp = n, .ep = n, .recompute = {Mode::Full}});
    add({.tp = n});
    add({.cp = n});
  }
  return plans;
}

ValidationSummary summary(const std::vector<PlanComparison>& plans) {
  ValidationSummary s;
  std::vector<double> errors, predicted, measured, errors_at_speed, at_speed;
  s.at_speed = true;
  for (const PlanComparison& c : plans) {
    if (!c.why_not.empty()) continue;
    ++s.plans;
    errors.push_back(std::abs(c.error()));
    predicted.push_back(c.predicted_step), measured.push_back(c.measured_step);
    s.at_speed = s.at_speed && c.slowdown > 0;
    errors_at_speed.push_back(std::abs(c.error_at_speed()));
    at_speed.push_back(c.predicted_at_speed());
    s.worst_memory_error =
        std::max(s.worst_memory_error, std::abs(c.predicted_peak / c.measured_peak - 1));
  }
  s.median_error = real::median(errors);
  for (double e : errors) s.worst_error = std::max(s.worst_error, e);
  if (s.plans >= 2) s.spearman = spearman(predicted, measured);
  s.at_speed = s.at_speed && s.plans > 0;
  if (!s.at_speed) return s;
  s.median_error_at_speed = real::median(errors_at_speed);
  for (double e : errors_at_speed) s.worst_error_at_speed = std::max(s.worst_error_at_speed, e);
  if (s.plans >= 2) s.spearman_at_speed = spearman(at_speed, measured);
  return s;
}

}  // namespace reckon::plan
