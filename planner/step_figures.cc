// Timeline and memory of a report; the roofline is in roofline_figure.cc.
#include "planner/step_figures.h"

#include <algorithm>
#include <map>
#include <string>

#include "planner/lower.h"
#include "planner/report.h"
#include "planner/schedule.h"

namespace reckon::plan {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kMostSlots = 20'000;   // of a page: 0.6 MB of JSON
constexpr std::size_t kMostOps = 12'000;     // of all blocks together: 0.3 MB
constexpr std::int64_t kTicksPerStep = 4e7;  // finer than a pixel at any zoom that shows ops

// Calendar times in whole ticks; a tick is a power of ten of picoseconds.
struct Tick {
  std::int64_t ps = 1;
  explicit Tick(sim::SimTime end) {
    while (end.ps / ps > kTicksPerStep) ps *= 10;
  }
  std::int64_t operator()(sim::SimTime t) const { return (t.ps + ps / 2) / ps; }
};

// Stages that are shown.
std::vector<std::size_t> shown_stages(const sim::Program& program) {
  std::size_t slots = 0;
  for (const sim::Role& r : program.roles) slots += r.slots.size();
  const std::size_t all = program.roles.size();
  std::size_t some = all;
  while (some > 1 && slots / all * some > kMostSlots) --some;
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < some; ++i) out.push_back(some == 1 ? 0 : i * (all - 1) / (some - 1));
  return out;
}

double mebibytes(Bytes b) {
  return static_cast<double>(static_cast<std::int64_t>(b / MiB * 10 + 0.5)) / 10;
}

}  // namespace

ordered_json timeline_figure(const SimulatedStep& s) {
  const sim::Program& program = s.run.program;
  const sim::FoldedRun& run = s.run.folded;
  const Tick tick(run.end);
  std::map<std::string, std::size_t> label_index;
  std::vector<std::string> labels;
  const auto label = [&](const char* text) {
    const auto [it, fresh] = label_index.try_emplace(text, labels.size());
    if (fresh) labels.push_back(text);
    return it->second;
  };

  // Blocks by identity: chunks of equal content share one.
  std::map<const sim::Block*, std::size_t> block_index;  // looked up, never iterated
  ordered_json blocks = ordered_json::array();
  std::size_t ops_kept = 0;
  const auto block = [&](std::uint32_t index) {
    const auto& b = program.blocks[index];
    const auto [it, fresh] = block_index.try_emplace(b.get(), blocks.size());
    if (fresh) {
      ordered_json ops = ordered_json::array();
      const sim::BlockTime& time = s.predictor.block_time(b);
      if (ops_kept + b->ops.size() <= kMostOps) {
        ops_kept += b->ops.size();
        for (std::size_t i = 0; i < b->ops.size(); ++i) {
          const sim::Op& op = b->ops[i];
          ops.push_back({label(op.label), static_cast<int>(op.stream), static_cast<int>(op.phase),
                         op.recompute ? 1 : 0, tick(time.spans[i].start), tick(time.spans[i].end)});
        }
      }
      blocks.push_back({{"name", b->name},
                        {"duration", tick(time.duration)},
                        {"busy", tick(time.compute_busy)},
                        {"ops", std::move(ops)}});
    }
    return it->second;
  };

  ordered_json stages = ordered_json::array();
  for (const std::size_t r : shown_stages(program)) {
    const sim::Role& role = program.roles[r];
    ordered_json slots = ordered_json::array();
    for (std::size_t i = 0; i < role.slots.size(); ++i) {
      const sim::Slot& slot = role.slots[i];
      const sim::SlotSpan& span = run.slots[r][i];
      ordered_json row = {block(slot.block), static_cast<int>(slot.phase), tick(span.start),
                          tick(span.end), slot.micro_batch};
      if (slot.phase == sim::Phase::FB) row.push_back(slot.micro_batch2);
      slots.push_back(std::move(row));
    }
    const sim::SimTime gradients = run.tail_start[r];
    const sim::SimTime reductions = gradients - run.roles[r].gradients;
    // All but the norm comes after other roles' gradients.
    const sim::SimTime tail =
        gradients +
        sim::wait_in_tail(s.predictor.block_time(program.blocks[role.tail]), run.late[r]);
    stages.push_back({{"index", r},
                      {"name", role.name},
                      {"ranks", role.ranks},
                      {"slots", std::move(slots)},
                      {"gradients", {tick(reductions), tick(gradients)}},
                      {"tail", {block(role.tail), tick(tail), tick(tail + run.roles[r].tail)}}});
  }
  return {{"tick_s", static_cast<double>(tick.ps) * 1e-12},
          {"end", tick(run.end)},
          {"host_s", s.run.prediction.phases.host.si},
          {"stages_in_all", program.roles.size()},
          {"labels", labels},
          {"blocks", std::move(blocks)},
          {"stages", std::move(stages)}};
}

ordered_json memory_figure(const SimulatedStep& s) {
  const Scenario& scenario = s.scenario;
  const auto micro_batches = static_cast<int>(
      s.step.global_batch / (static_cast<std::int64_t>(s.plan.dp) * s.plan.micro_batch));
  const Schedule schedule = make_schedule(s.plan.schedule, s.plan.pp, s.plan.vpp, micro_batches);
  const auto standing =
      standing_memory(scenario.model, s.plan, scenario.stack, s.step.seq, schedule);
  ordered_json stages = ordered_json::array();
  for (const std::size_t r : shown_stages(s.run.program)) {
    const auto points = memory_over_time(scenario.model, s.plan, scenario.stack, s.step, schedule,
                                         static_cast<int>(r));
    ordered_json rows = ordered_json::array();
    // Pairing (Megatron's expert overlap) merges two tasks of the schedule into one slot, which
    // memory does not know; the points are then spread over the slots in their order.
    const std::size_t slots = s.run.program.roles[r].slots.size();
    for (std::size_t i = 0; i < slots; ++i) {
      const std::size_t first = i * points.size() / slots;
      const std::size_t last = std::max(first + 1, (i + 1) * points.size() / slots);
      Bytes highest;
      for (std::size_t k = first; k < last; ++k) highest = std::max(highest, points[k].highest);
      rows.push_back({mebibytes(points[last - 1].activations), mebibytes(highest)});
    }
    const RankMemory& peak = s.run.prediction.memory.ranks[r];
    stages.push_back({{"index", r},
                      {"weights", standing[r].weights / GiB},
                      {"gradients", standing[r].gradients / GiB},
                      {"optimizer", standing[r].optimizer / GiB},
                      {"buffers", standing[r].buffers / GiB},
                      {"reserve", peak.at_peak[static_cast<int>(Cause::Reserve)] / GiB},
                      {"peak", peak.peak / GiB},
                      {"points", std::move(rows)}});
  }
  return {{"limit", memory_limit(scenario) / GiB},
          {"capacity", scenario.cluster.gpu.memory / GiB},
          {"stages", std::move(stages)}};
}

}  // namespace reckon::plan
