#include "planner/cluster_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "planner/table.h"

namespace reckon::plan {

namespace {

constexpr sim::SimTime sim::RoleTime::*kRoleTimes[] = {
    &sim::RoleTime::f,    &sim::RoleTime::b,         &sim::RoleTime::w,
    &sim::RoleTime::bw,   &sim::RoleTime::fb,        &sim::RoleTime::wait,
    &sim::RoleTime::idle, &sim::RoleTime::gradients, &sim::RoleTime::tail};
constexpr std::size_t kPathRows = 8;  // ops and GPUs of the critical path

Distribution distribution(std::vector<sim::SimTime> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double part) {
    return sim::seconds(
        values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1))]);
  };
  return {.least = at(0), .median = at(0.5), .p99 = at(0.99), .most = at(1)};
}

const char* step_name(const sim::PathStep& p) {
  switch (p.kind) {
    case sim::PathStep::Kind::Op:
      switch (p.stream) {
        case sim::Stream::Compute:
        case sim::Stream::Compute2: return "compute";
        case sim::Stream::Expert: return "token exchanges";
        case sim::Stream::Model: return "tensor- and context-parallel collectives";
        case sim::Stream::Data: return "data-parallel collectives";
        case sim::Stream::Pipe: return "messages between stages";
      }
      break;
    case sim::PathStep::Kind::Host: return "the host's launches";
    case sim::PathStep::Kind::Message: return "messages between stages";
    case sim::PathStep::Kind::Gather: return "parameter gathers at the start";
    case sim::PathStep::Kind::Sync: return "gradient reductions";
  }
  return "?";
}

struct PhaseTime {
  const char* key;
  Seconds time;
};

std::array<PhaseTime, 7> phase_rows(const Phases& p) {
  return {{{"F", p.f},
           {"B", p.b},
           {"W", p.w},
           {"FB", p.fb},
           {"bubble", p.bubble},
           {"optimizer", p.gradients + p.optimizer},
           {"host", p.host}}};
}

// Largest first; equal ones by name.
std::vector<ClusterAnswer::Share> sorted(const std::map<std::string, Seconds>& sums) {
  std::vector<ClusterAnswer::Share> out;
  for (const auto& [name, time] : sums) out.push_back({name, time});
  std::stable_sort(out.begin(), out.end(),
                   [](const auto& a, const auto& b) { return a.time > b.time; });
  return out;
}

ordered_json to_json(const Distribution& d) {
  return {
      {"min_s", d.least.si}, {"median_s", d.median.si}, {"p99_s", d.p99.si}, {"max_s", d.most.si}};
}

ordered_json to_json(const std::vector<ClusterAnswer::Share>& shares) {
  ordered_json out = ordered_json::array();
  for (const auto& s : shares) out.push_back({{"name", s.name}, {"time_s", s.time.si}});
  return out;
}

}  // namespace

ClusterAnswer cluster_answer(const Predictor::Run& run, Predictor& predictor, const Plan& plan,
                             const sim::Disturbances& disturbances) {
  const sim::ClusterRun cluster = run_cluster(run.program, predictor.times(), disturbances);
  const Seconds host = run.prediction.phases.host;
  ClusterAnswer a{.seed = disturbances.seed,
                  .step = sim::seconds(cluster.end) + host,
                  .undisturbed = sim::seconds(run.folded.end) + host,
                  .load_reference = disturbances.load.any() ? disturbances.load.reference : 1,
                  .slowest_gpu = gpu_of_rank(plan, cluster.slowest)};
  std::vector<sim::SimTime> passes, waiting, gradients;
  sim::RoleTime sum;
  for (const auto& role : cluster.ranks)
    for (const sim::RoleTime& t : role) {
      for (const auto part : kRoleTimes) sum.*part += t.*part;
      passes.push_back(t.f + t.b + t.w + t.bw + t.fb);
      waiting.push_back(t.wait + t.idle);
      gradients.push_back(t.gradients);
    }
  a.ranks = static_cast<int>(passes.size());
  for (const auto part : kRoleTimes) (sum.*part).ps /= a.ranks;
  a.phases = phases_of(sum);
  a.first_phases = phases_of(cluster.ranks[0][0]);
  a.phases.host = a.first_phases.host = host;
  a.passes = distribution(passes);
  a.waiting = distribution(waiting);
  a.gradients = distribution(gradients);
  for (const NamedDisturbances& d : each_alone(disturbances))
    a.causes.push_back(
        {d.name, sim::seconds(run_cluster(run.program, predictor.times(), d.only).end) -
                     sim::seconds(run.folded.end)});

  std::map<std::string, Seconds> kinds, ops, gpus;
  for (const sim::PathStep& p :
       critical_path(run.program, predictor.times(), disturbances, cluster)) {
    const Seconds time = sim::seconds(p.time);
    kinds[step_name(p)] += time;
    if (p.kind == sim::PathStep::Kind::Op) ops[p.label] += time;
    gpus[fmt::format("GPU {}", gpu_of_rank(plan, p.rank))] += time;
  }
  a.kinds = sorted(kinds);
  a.ops = sorted(ops);
  a.gpus = sorted(gpus);
  a.ops.resize(std::min(a.ops.size(), kPathRows));
  a.gpus.resize(std::min(a.gpus.size(), kPathRows));
  return a;
}

ordered_json to_json(const ClusterAnswer& a) {
  ordered_json causes = ordered_json::array();
  for (const auto& c : a.causes) causes.push_back({{"name", c.name}, {"cost_s", c.cost.si}});
  const auto phases = [](const Phases& p) {
    ordered_json out = ordered_json::object();
    for (const PhaseTime& r : phase_rows(p)) out[r.key] = r.time.si;
    return out;
  };
  return {{"seed", a.seed},
          {"ranks", a.ranks},
          {"step_s", a.step.si},
          {"undisturbed_step_s", a.undisturbed.si},
          {"phases_s", phases(a.phases)},
          {"rank_0_phases_s", phases(a.first_phases)},
          {"disturbances", causes},
          {"passes", to_json(a.passes)},
          {"waiting", to_json(a.waiting)},
          {"gradients", to_json(a.gradients)},
          {"slowest_gpu", a.slowest_gpu},
          {"critical_path",
           {{"kinds", to_json(a.kinds)}, {"ops", to_json(a.ops)}, {"gpus", to_json(a.gpus)}}}};
}

std::string to_text(const ClusterAnswer& a) {
  std::string out = fmt::format(
      "Every rank: the step takes {}, {} over the undisturbed {} (seed {})\n", duration(a.step),
      percent(a.step / a.undisturbed - 1), duration(a.undisturbed), a.seed);
  if (a.causes.empty())
    out += wrapped(
        "The scenario states no disturbances (key \"disturbances\"): all ranks of a "
        "stage do the same.");
  Table causes{.columns = {{"of which, each alone", Align::Left}, {"step"}, {"share"}}};
  for (const auto& c : a.causes)
    causes.rows.push_back(
        {c.name, (c.cost.si < 0 ? "" : "+") + duration(c.cost), percent(c.cost / a.undisturbed)});
  if (!a.causes.empty()) out += text(causes);
  if (a.load_reference > 1)
    out += wrapped(
        fmt::format("The undisturbed step counts every group's busiest rank at {:.2f} times "
                    "the mean tokens, as the software stack says.",
                    a.load_reference));

  Table phases{.columns = {{"phases", Align::Left}, {"GPU 0"}, {"mean rank"}}};
  const auto first = phase_rows(a.first_phases), mean = phase_rows(a.phases);
  for (std::size_t i = 0; i < mean.size(); ++i)
    if (first[i].time.si > 0 || mean[i].time.si > 0)
      phases.rows.push_back({first[i].key, duration(first[i].time), duration(mean[i].time)});
  out += "\n" + text(phases);

  Table ranks{.columns = {{fmt::format("{} ranks", grouped(a.ranks)), Align::Left},
                          {"least"},
                          {"median"},
                          {"p99"},
                          {"most"}}};
  const auto row = [&](const char* what, const Distribution& d) {
    ranks.rows.push_back(
        {what, duration(d.least), duration(d.median), duration(d.p99), duration(d.most)});
  };
  row("in passes", a.passes);
  row("waiting for others", a.waiting);
  row("in gradient reductions", a.gradients);
  out += "\n" + text(ranks);

  out += fmt::format("\nWhat the end waited for; the last to end is GPU {}\n", a.slowest_gpu);
  Table path{.columns = {{"", Align::Left}, {"time"}, {"of the step"}}};
  const auto shares = [&](const std::vector<ClusterAnswer::Share>& list) {
    for (const auto& s : list)
      path.rows.push_back({s.name, duration(s.time), percent(s.time / a.step)});
  };
  shares(a.kinds);
  path.rows.push_back({"the ops that take most of it", "", ""});
  shares(a.ops);
  path.rows.push_back({"the GPUs that it spends most time on", "", ""});
  shares(a.gpus);
  return out + text(path);
}

}  // namespace reckon::plan
