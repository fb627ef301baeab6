// Every part of a plan has a list of alternatives. Breadth first by the number of parts changed: a
// change is followed if it answers what stands against the plan. The first number at which a plan
// runs and fits is the nearest, and of those plans the fastest is taken.
#include "planner/launch/nearest.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "planner/plan_fields.h"
#include "planner/search.h"

namespace reckon::plan::launch {

namespace {

struct Candidate {
  ModelShape model;
  Plan plan;
};

// One part: a list of ways to change it, each with its words.
struct Alternative {
  std::string change;
  std::function<void(Candidate&)> apply;
};
using Part = std::vector<Alternative>;

std::string arrow(const char* part, const std::string& from, const std::string& to) {
  return fmt::format("{}: {} -> {}", part, from, to);
}

std::string schedule_text(ScheduleKind kind, int vpp) {
  return kind == ScheduleKind::Interleaved ? fmt::format("interleaved with {} chunks a stage", vpp)
                                           : hw::spelling(kind);
}

// Schedule, chunks, expert overlap and message overlap go together: none of them alone is a plan.
Part schedules(const Job& job) {
  Part part;
  const Plan& given = job.plan;
  for (ScheduleKind kind : {ScheduleKind::OneFOneB, ScheduleKind::Interleaved, ScheduleKind::ZbV,
                            ScheduleKind::DualPipeV, ScheduleKind::GPipe}) {
    std::vector<int> chunks = {1};
    if (kind == ScheduleKind::Interleaved) chunks = {2, 3, 4, 6, 8};
    if (kind == ScheduleKind::ZbV || kind == ScheduleKind::DualPipeV) chunks = {2};
    for (int vpp : chunks)
      for (Overlap::Expert expert :
           {Overlap::Expert::None, Overlap::Expert::OneFOneB, Overlap::Expert::Pair})
        for (bool p2p : {false, true})
          for (bool light_ends : {false, true}) {
            if (given.pp * vpp > job.model.layers) continue;
            const bool same = kind == given.schedule && vpp == given.vpp;
            if (same && light_ends) continue;
            std::string text = arrow("schedule", schedule_text(given.schedule, given.vpp),
                                     schedule_text(kind, vpp));
            if (expert != given.overlap.expert)
              text += fmt::format(", expert overlap {} -> {}", hw::spelling(given.overlap.expert),
                                  hw::spelling(expert));
            if (p2p != given.overlap.p2p && given.pp > 1)
              text += fmt::format(", pipeline messages {}", p2p ? "overlapped" : "waited for");
            part.push_back({text, [=](Candidate& c) {
                              Plan& p = c.plan;
                              p.overlap.expert = expert;
                              p.overlap.p2p = p2p;
                              if (kind == p.schedule && vpp == p.vpp) return;
                              const bool keeps_layout = vpp == p.vpp && !light_ends;
                              p.schedule = kind;
                              p.vpp = vpp;
                              if (!keeps_layout)
                                p.layout = balanced_layout(
                                    {.layers = c.model.layers, .mtp = c.model.mtp_depth},
                                    p.pp * vpp, light_ends);
                            }});
          }
  }
  return part;
}

template <class E>
Part choices(const char* name, E given, std::initializer_list<E> all,
             std::function<void(Candidate&, E)> set) {
  Part part;
  for (E value : all)
    if (value != given)
      part.push_back({arrow(name, hw::spelling(given), hw::spelling(value)),
                      [=](Candidate& c) { set(c, value); }});
  return part;
}

Part switches(const char* name, bool given, std::function<void(Plan&, bool)> set) {
  return {{fmt::format("{}: {}", name, given ? "off" : "on"),
           [=](Candidate& c) { set(c.plan, !given); }}};
}

// Reductions and gathers of data parallelism: where one is not as a framework has it, mostly the
// other isn't either.
Part data_parallel_overlaps(const Plan& given) {
  const auto text = [](bool on) { return on ? "on" : "off"; };
  Part part;
  for (bool reduce : {given.overlap.grad_reduce, !given.overlap.grad_reduce})
    for (bool gather : {given.overlap.param_gather, !given.overlap.param_gather}) {
      std::vector<std::string> changes;
      if (reduce != given.overlap.grad_reduce)
        changes.push_back(std::string("overlap of gradient reduction: ") + text(reduce));
      if (gather != given.overlap.param_gather)
        changes.push_back(std::string("overlap of parameter gathers: ") + text(gather));
      if (changes.empty()) continue;
      part.push_back({fmt::format("{}", fmt::join(changes, ", ")), [=](Candidate& c) {
                        c.plan.overlap.grad_reduce = reduce;
                        c.plan.overlap.param_gather = gather;
                      }});
    }
  return part;
}

std::string recompute_text(const Recompute& r) {
  if (r.mode != Recompute::Mode::Selective) return hw::spelling(r.mode);
  std::string text;
  for (const auto& m : spellings(RecomputeModule{}))
    if (r.modules & m.value) text += (text.empty() ? "" : "+") + std::string(m.text);
  return text;
}

// Fewer modules, one more, per op, none, all layers.
Part recomputations(const Job& job) {
  const Recompute& given = job.plan.recompute;
  std::vector<Recompute> all = {{.mode = Recompute::Mode::None},
                                {.mode = Recompute::Mode::Selective, .modules = kPerOp},
                                {.mode = Recompute::Mode::Full}};
  if (given.mode == Recompute::Mode::Selective)
    for (const auto& m : spellings(RecomputeModule{}))
      if (const std::uint32_t modules = given.modules & ~static_cast<std::uint32_t>(m.value);
          modules != given.modules && modules != 0)
        all.push_back({.mode = Recompute::Mode::Selective, .modules = modules});
  Part part;
  for (const Recompute& r : all)
    if (r != given)
      part.push_back({arrow("recompute", recompute_text(given), recompute_text(r)),
                      [r](Candidate& c) { c.plan.recompute = r; }});
  return part;
}

std::vector<Part> parts_of(const Job& job) {
  const Plan& p = job.plan;
  std::vector<Part> parts;
  parts.push_back(schedules(job));
  parts.push_back(choices<Precision>(
      "precision", p.precision,
      {Precision::Fp8DeepSeek, Precision::Mxfp8, Precision::Fp8, Precision::Bf16},
      [](Candidate& c, Precision v) { c.plan.precision = v; }));
  parts.push_back(recomputations(job));
  parts.push_back(choices<Zero>("zero", p.zero,
                                {Zero::Full, Zero::Gradients, Zero::Optimizer, Zero::None},
                                [](Candidate& c, Zero v) { c.plan.zero = v; }));
  parts.push_back(data_parallel_overlaps(p));
  if (p.tp > 1) {
    parts.push_back(switches("overlap of tensor-parallel collectives", p.overlap.tp,
                             [](Plan& q, bool on) { q.overlap.tp = on; }));
    parts.push_back(switches("sequence parallelism", p.sequence_parallel,
                             [](Plan& q, bool on) { q.sequence_parallel = on; }));
  }
  if (p.etp > 1)
    parts.push_back({{fmt::format("etp: {} -> 1", p.etp), [](Candidate& c) { c.plan.etp = 1; }}});
  if (p.comm_sms > 0)
    parts.push_back({{fmt::format("communication SMs: {} -> the software's choice", p.comm_sms),
                      [](Candidate& c) { c.plan.comm_sms = 0; }}});
  if (p.shard_group > 0)
    parts.push_back({{fmt::format("shard group: {} -> all ranks", p.shard_group),
                      [](Candidate& c) { c.plan.shard_group = 0; }}});
  const std::vector<ChunkLayout> even =
      balanced_layout({.layers = job.model.layers, .mtp = job.model.mtp_depth}, p.pp * p.vpp);
  if (p.layout != even)
    parts.push_back({{"layout: even", [even](Candidate& c) {
                        if (c.plan.layout.size() == even.size()) c.plan.layout = even;
                      }}});
  if (job.model.mtp_depth > 0)
    parts.push_back({{"multi-token prediction: left out", [](Candidate& c) {
                        c.model.mtp_depth = 0;
                        for (ChunkLayout& chunk : c.plan.layout) chunk.mtp = 0;
                      }}});
  return parts;
}

constexpr std::size_t kMostPredicted = 400;  // of one number of changes; each takes milliseconds
constexpr std::size_t kMostStates = 100000;  // of one number of changes

// A plan on the way to one that runs: what stands against it, and what was changed so far.
struct Route {
  Candidate candidate;
  std::vector<std::pair<std::size_t, std::size_t>> changes;  // part, alternative
  const char* against = nullptr;
};

}  // namespace

std::optional<NearestPlan> nearest_plan(const Target& target, const Job& job, Bytes limit) {
  const std::vector<Part> parts = parts_of(job);
  ModelShape plainer = job.model;
  plainer.mtp_depth = 0;
  const Judge judge(target, job.model), plainer_judge(target, plainer);
  Predictor predictor(job.model, job.cluster, job.stack),
      plainer_predictor(plainer, job.cluster, job.stack);
  const auto is_whole = [&](const Candidate& c) {
    return c.model.mtp_depth == job.model.mtp_depth;
  };
  // The framework's objection, else reckon's own.
  const auto against = [&](const Candidate& c) -> const char* {
    const Question q{c.model, job.cluster, job.stack, c.plan, job.step};
    if (const char* why = (is_whole(c) ? judge : plainer_judge).objection(q)) return why;
    const auto illegal = why_illegal(c.model, job.cluster, job.stack, c.plan, job.step);
    return illegal ? illegal->why : nullptr;
  };
  static constexpr const char* kDoesNotFit = "the plan does not fit in memory";

  std::optional<NearestPlan> smallest;  // of least memory, should none fit
  std::vector<Route> states = {{.candidate = {job.model, job.plan}, .changes = {}}};
  states[0].against = against(states[0].candidate);
  while (!states.empty()) {
    std::optional<NearestPlan> best;
    std::vector<Route> next;
    std::size_t predicted = 0;
    for (const Route& s : states) {
      // A change must answer what stands against the plan: with it, something else does, or
      // nothing.
      for (std::size_t i = 0; i < parts.size(); ++i) {
        if (std::any_of(s.changes.begin(), s.changes.end(),
                        [&](const auto& change) { return change.first == i; }))
          continue;
        for (std::size_t k = 0; k < parts[i].size(); ++k) {
          Route after{.candidate = s.candidate, .changes = s.changes};
          parts[i][k].apply(after.candidate);
          after.against = against(after.candidate);
          if (after.against == s.against || next.size() >= kMostStates) continue;
          after.changes.emplace_back(i, k);
          if (after.against == nullptr && predicted < kMostPredicted) {
            ++predicted;
            NearestPlan n{.model = after.candidate.model,
                          .plan = canonical(after.candidate.plan, after.candidate.model)};
            for (const auto& [part, alternative] : after.changes)
              n.changes.push_back(parts[part][alternative].change);
            n.prediction = (is_whole(after.candidate) ? predictor : plainer_predictor)
                               .predict(n.plan, job.step);
            n.fits = n.prediction.memory.peak <= limit;
            if (n.fits && (!best || n.prediction.step < best->prediction.step)) best = n;
            if (!smallest || n.prediction.memory.peak < smallest->prediction.memory.peak)
              smallest = n;
            after.against = kDoesNotFit;
          }
          next.push_back(std::move(after));
        }
      }
    }
    if (best) return best;
    states = std::move(next);
    if (predicted >= kMostPredicted) break;
  }
  return smallest;
}

std::optional<NearestPlan> fastest_plan(const Target& target, const Job& job,
                                        const Constraints& constraints, int threads) {
  Scenario s;
  s.model = job.model, s.cluster = job.cluster, s.stack = job.stack;
  s.constraints = constraints;
  s.search.target = target.framework;
  if (target.release)
    s.search.framework_version = megatron_releases()[static_cast<std::size_t>(*target.release)];
  if (target.torchtitan_main) s.search.framework_version = "main";
  NearestPlan n{.model = job.model};
  SearchResult found = search(s, job.step, {.threads = threads, .keep = 1});
  if (found.best.empty() && job.model.mtp_depth > 0) {
    n.model.mtp_depth = s.model.mtp_depth = 0;
    n.changes.emplace_back("multi-token prediction: left out");
    found = search(s, job.step, {.threads = threads, .keep = 1});
  }
  if (found.best.empty()) return std::nullopt;
  n.plan = canonical(found.best.front().plan, n.model);
  n.prediction = found.best.front().prediction;
  n.changes.push_back(arrow("plan", describe(job.plan), describe(n.plan)));
  return n;
}

}  // namespace reckon::plan::launch
