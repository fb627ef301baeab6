#include "sim/folded_timeline.h"

#include <cmath>
#include <map>
#include <string>

namespace reckon::sim {
namespace {

// Labels by text, numbered as they come.
class Labels {
 public:
  std::uint32_t index(const char* text) {
    const auto [it, fresh] =
        by_text_.try_emplace(text, static_cast<std::uint32_t>(by_text_.size()));
    if (fresh) texts_.emplace_back(text);
    return it->second;
  }
  std::vector<std::string> texts() && { return std::move(texts_); }

 private:
  std::map<std::string, std::uint32_t> by_text_;
  std::vector<std::string> texts_;
};

// `t` of a calendar of length `from`, on one of length `to`. Exact where they are equal.
SimTime scaled(SimTime t, SimTime from, SimTime to) {
  if (from == to || from.ps == 0) return t;
  const double ratio = static_cast<double>(to.ps) / static_cast<double>(from.ps);
  return {std::llround(static_cast<double>(t.ps) * ratio)};
}

}  // namespace

Timeline timeline(const Program& program, const FoldedRun& run, BlockTimes& times) {
  Timeline out;
  Labels labels;
  for (std::uint32_t r = 0; r < program.roles.size(); ++r) {
    const Role& role = program.roles[r];
    out.roles.push_back(role.name);
    const auto append = [&](std::uint32_t slot_index, const Slot& slot, SlotSpan span) {
      const Block& block = *program.blocks[slot.block];
      const BlockTime& time = times.of(program.blocks[slot.block]);
      SimTime messages;
      if (program.blocking_messages)
        for (std::uint32_t k = 0; k < slot.messages; ++k)
          messages +=
              ticks(times.cost(program.works[role.messages[slot.first_message + k].work]).alone);
      const SimTime begin = span.start + messages;
      for (std::uint32_t i = 0; i < block.ops.size(); ++i) {
        const Op& op = block.ops[i];
        // The backward half of a pair works for another chunk and micro-batch.
        const bool of_second = slot.phase == Phase::FB && (op.phase != Phase::F || op.recompute);
        out.events.push_back(
            {.role = r,
             .slot = slot_index,
             .op = i,
             .label = labels.index(op.label),
             .stream = op.stream,
             .phase = op.phase,
             .recompute = op.recompute,
             .chunk = of_second ? slot.chunk2 : slot.chunk,
             .micro_batch = of_second ? slot.micro_batch2 : slot.micro_batch,
             .start = begin + scaled(time.spans[i].start, time.duration, span.end - begin),
             .end = begin + scaled(time.spans[i].end, time.duration, span.end - begin)});
      }
    };
    for (std::uint32_t i = 0; i < role.slots.size(); ++i) append(i, role.slots[i], run.slots[r][i]);
    const SimTime tail = run.tail_start[r];
    append(static_cast<std::uint32_t>(role.slots.size()),
           {.block = role.tail, .phase = Phase::Optimizer}, {tail, tail + run.roles[r].tail});
    if (run.late[r] == SimTime{}) continue;
    const Block& block = *program.blocks[role.tail];
    const BlockTime& time = times.of(program.blocks[role.tail]);
    const std::vector<SimTime> slack = slack_after(block, time, time.meeting.op);
    Event* events = out.events.data() + (out.events.size() - block.ops.size());
    for (std::size_t i = 0; i < slack.size(); ++i) {
      if (slack[i] >= run.late[r]) continue;
      events[i].start += run.late[r] - slack[i];
      events[i].end += run.late[r] - slack[i];
    }
  }
  out.labels = std::move(labels).texts();
  return out;
}

}  // namespace reckon::sim
