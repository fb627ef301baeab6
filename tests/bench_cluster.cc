// How fast the cluster engine runs whole steps, every op on every rank, with GPUs and passes of
// unequal speed (and uneven experts in a mixture); and how much faster than SimGrid actors that run
// the same Program, where SimGrid is installed. Exit 1: slower or larger than it should be.
//
// An event is an op of one rank. `lowering`: the Program, the calendars of its blocks and the
// undisturbed run. `peak`: of the process so far.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "planner/bill.h"
#include "planner/predict.h"
#include "planner/scenario_json.h"
#include "sim/cluster.h"
#ifdef RECKON_SIMGRID
#include "reference/simgrid_ranks.h"
#endif

using namespace reckon;
using namespace reckon::plan;

namespace {

const std::string kScenarios = RECKON_SOURCE "/scenarios/";

struct Measured {
  double seconds = 0;  // of the best of three runs or more
  double lowering = 0;
  double events = 0;  // ops on ranks
};

double events(const sim::Program& program) {
  double n = 0;
  for (const sim::Role& role : program.roles) {
    for (const sim::Slot& slot : role.slots)
      n += static_cast<double>(program.blocks[slot.block]->ops.size()) * role.ranks;
    n += static_cast<double>(program.blocks[role.tail]->ops.size()) * role.ranks;
  }
  return n;
}

Measured measure(const Scenario& s, const Plan& plan, const StepShape& step) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point t) {
    return std::chrono::duration<double>(Clock::now() - t).count();
  };
  Measured out;
  const auto start = Clock::now();
  Predictor predictor(s.model, s.cluster, s.stack);
  const Predictor::Run run = predictor.run(plan, step);
  out.lowering = since(start);
  sim::Disturbances d{.device = {.spread = 0.01}, .slot = {.spread = 0.01}};
  if (s.model.moe) d.load = {.kind = sim::Load::Kind::Dirichlet, .spread = 0.07};
  double all = 0;
  for (int i = 0; i < 3 || all < 0.5; ++i) {
    const auto begin = Clock::now();
    const sim::ClusterRun cluster = run_cluster(run.program, predictor.times(), d);
    const double took = since(begin);
    all += took;
    out.seconds = i == 0 ? took : std::min(out.seconds, took);
    if (cluster.end < run.folded.end) fmt::print("disturbances shortened the step\n");
  }
  out.events = events(run.program);
  return out;
}

#ifdef RECKON_SIMGRID
// A quarter of a pipeline of Llama 3.1 405B on 64 ranks, with contention, in both.
bool beside_simgrid(Scenario s) {
  s.cluster.gpus = 64;
  s.model.layers = 16;
  s.model.windows.clear();
  Plan plan = *s.plan;
  plan.tp = 2, plan.pp = 4, plan.vpp = 2, plan.dp = 8;
  plan.layout = balanced_layout({.layers = s.model.layers}, plan.pp * plan.vpp);
  const StepShape step{.seq = 8192, .global_batch = 64};
  if (const auto no = why_illegal(s.model, s.cluster, s.stack, plan, step)) {
    fmt::print("{} {}\n", no->why, no->detail);
    return false;
  }
  const Measured m = measure(s, plan, step);
  Predictor predictor(s.model, s.cluster, s.stack);
  const Predictor::Run run = predictor.run(plan, step);
  const sim::Disturbances d{.device = {.spread = 0.01}, .slot = {.spread = 0.01}};
  const auto simgrid = reference::run_simgrid_ranks(
      {run.program, predictor.times(), s.stack.host_per_kernel, d}, true);
  if (!simgrid) return false;
  fmt::print("{:34} {:>7} {:>12.0f} {:>11} {:>9.4f} s {:>11.1f}\n", "16 layers of it", 64, m.events,
             "", m.seconds, m.events / m.seconds / 1e6);
  fmt::print("{:34} {:>7} {:>12.0f} {:>11} {:>9.2f} s {:>11.4f}  reckon is {:.0f} times as fast\n",
             "  as SimGrid actors", 64, m.events, "", simgrid->cpu_seconds,
             m.events / simgrid->cpu_seconds / 1e6, simgrid->cpu_seconds / m.seconds);
  return true;
}
#endif

double peak_gib() {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  return static_cast<double>(use.ru_maxrss) * 1024 / (1024.0 * 1024 * 1024);
}

}  // namespace

int main() {
  bool good = true;
  const auto row = [&](const std::string& name, int ranks, const Measured& m) {
    fmt::print("{:34} {:>7} {:>12.0f} {:>9.4f} s {:>9.4f} s {:>11.1f} {:>9.2f} ns {:>6.2f} GiB\n",
               name, ranks, m.events, m.lowering, m.seconds, m.events / m.seconds / 1e6,
               m.seconds / m.events * 1e9, peak_gib());
  };
  fmt::print("{:34} {:>7} {:>12} {:>11} {:>11} {:>11} {:>12} {:>10}\n", "step", "ranks", "events",
             "lowering", "engine", "M events/s", "per event", "peak");

  const Scenario v3 = read_scenario(kScenarios + "deepseek-v3-2048-h800.json");
  const Measured deepseek = measure(v3, *v3.plan, step_shape(v3.campaign.front()));
  row("DeepSeek-V3", 2048, deepseek);
  good = good && deepseek.lowering + deepseek.seconds <= 3 && peak_gib() <= 4;

  // One plan at three sizes: the data-parallel degree and the batch grow.
  const Scenario llama = read_scenario(kScenarios + "llama3-405b-16k-h100.json");
  const PhaseOfCampaign& phase = llama.campaign.front();
  double least = 0, most = 0;
  for (int ranks : {256, 2048, 16384}) {
    Scenario s = llama;
    s.cluster.gpus = ranks;
    Plan plan = *llama.plan;
    StepShape step = step_shape(phase);
    const int dp = ranks / (world_size(plan) / plan.dp);
    step.global_batch = step.global_batch / plan.dp * dp;
    plan.dp = dp;
    if (const auto no = why_illegal(s.model, s.cluster, s.stack, plan, step)) {
      fmt::print("{} ranks: {} {}\n", ranks, no->why, no->detail);
      return 1;
    }
    const Measured m = measure(s, plan, step);
    row("Llama 3.1 405B", ranks, m);
    const double each = m.seconds / m.events;
    least = least == 0 ? each : std::min(least, each);
    most = std::max(most, each);
    if (ranks == 16384) good = good && m.lowering + m.seconds <= 60;
  }
  fmt::print("time per event from 256 to 16,384 ranks: within a factor of {:.2f}\n", most / least);
#ifdef RECKON_SIMGRID
  good = beside_simgrid(llama) && good;
#endif
  return good && most <= 2 * least ? 0 : 1;
}
