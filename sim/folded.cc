// Longest path over the slots. Roles advance in turn: each runs until it needs a message that is
// not there yet.
//
// Approximations, all of them averages over one slot: a message or a data-parallel collective that
// moves while a slot runs gets the NIC share which that slot leaves free, and a collective's SMs
// slow the slot's compute.
#include "sim/folded.h"

#include <algorithm>
#include <cmath>

#include "sim/check.h"

namespace reckon::sim {

const BlockTime& BlockTimes::of(const std::shared_ptr<const Block>& block) {
  const auto it = entries_.find(block.get());
  if (it != entries_.end()) return it->second.time;
  const CostOf known = [this](const Work& work) { return cost(work); };
  return entries_.emplace(block.get(), Entry{block, time_block(*block, known, host_per_kernel_)})
      .first->second.time;
}

const OpCost& BlockTimes::cost(const Work& work) {
  const auto it = costs_.find(work);
  return it != costs_.end() ? it->second : costs_.emplace(work, cost_of_(work)).first->second;
}

namespace {

struct SyncCost {
  SimTime piece;  // one bucket, alone
  double sm_share = 0;
};

}  // namespace

FoldedRun run_folded(const Program& program, BlockTimes& times) {
  FoldedRun run;
  run_folded(program, times, run);
  return run;
}

void run_folded(const Program& program, BlockTimes& times, FoldedRun& run) {
  const std::size_t roles = program.roles.size();
  std::vector<const BlockTime*> block_time;
  block_time.reserve(program.blocks.size());
  for (const auto& b : program.blocks) block_time.push_back(&times.of(b));
  std::vector<OpCost> work_cost;
  std::vector<SimTime> work_time;
  for (const Work& w : program.works) {
    work_cost.push_back(times.cost(w));
    work_time.push_back(ticks(work_cost.back().alone));
  }

  run.end = {};
  run.slowest = 0;
  run.roles.assign(roles, {});
  run.slots.resize(roles);
  run.tail_start.resize(roles);

  // Of a block, what its slots ask for. `flight`: of the last message to it, on its way beside the
  // block; most of them are alike.
  struct Call {
    SimTime duration;
    double nic_share = 0;
    std::uint32_t flight_work = ~0u;
    SimTime flight;
  };
  std::vector<Call> calls;
  calls.reserve(block_time.size());
  for (const BlockTime* b : block_time)
    calls.push_back({.duration = b->duration, .nic_share = b->nic_share});

  // Parameter gathers start with the step, in order; each slot that needs some may start when the
  // first bucket of the first is there and can't end before the last one is.
  struct Gather {
    std::uint32_t slot = 0;
    SimTime first, last;
  };
  struct Walk {  // where a role stands
    SlotSpan* spans = nullptr;
    std::size_t next = 0;  // slot
    SimTime clock;
    SimTime data_free;          // when its Data stream is free
    std::size_t next_sync = 0;  // gathers passed over
    std::vector<Gather> gathers;
    std::size_t next_gather = 0;
    SimTime busy[6], wait;  // by phase of the slot
  };
  std::vector<Walk> walks(roles);
  for (std::size_t r = 0; r < roles; ++r) {
    const Role& role = program.roles[r];
    run.slots[r].resize(role.slots.size());
    Walk& walk = walks[r];
    walk.spans = run.slots[r].data();
    for (const Sync& sync : role.syncs) {
      if (!sync.before) continue;
      const SimTime piece = work_time[sync.work];
      auto g = std::find_if(walk.gathers.begin(), walk.gathers.end(),
                            [&](const Gather& known) { return known.slot == sync.slot; });
      if (g == walk.gathers.end())
        g = walk.gathers.insert(g, {.slot = sync.slot, .first = walk.data_free + piece});
      walk.data_free += static_cast<std::int64_t>(sync.buckets) * piece;
      g->last = walk.data_free;
    }
    std::sort(walk.gathers.begin(), walk.gathers.end(),
              [](const Gather& a, const Gather& b) { return a.slot < b.slot; });
  }

  std::size_t unfinished = roles;
  while (unfinished > 0) {
    bool progress = false;
    for (std::size_t r = 0; r < roles; ++r) {
      const Role& role = program.roles[r];
      Walk& walk = walks[r];
      const std::size_t slots = role.slots.size();
      while (walk.next < slots) {
        const Slot& slot = role.slots[walk.next];
        Call& call = calls[slot.block];
        SimTime ready = walk.clock;
        bool blocked = false;
        const Message* const messages = role.messages.data() + slot.first_message;
        for (std::uint32_t k = 0; k < slot.messages; ++k) {
          const Message& m = messages[k];
          const Walk& sender = walks[m.role];
          if (m.slot >= sender.next) {
            blocked = true;
            break;
          }
          SimTime arrival = sender.spans[m.slot].end;
          if (!program.blocking_messages) {
            if (call.flight_work != m.work) {
              call.flight_work = m.work;
              call.flight =
                  stretched(work_time[m.work], call.nic_share * work_cost[m.work].nic_share);
            }
            arrival += call.flight;
            // A pair's output and gradient leave one pair for one neighbour: over one NIC at once,
            // each as slow as both.
            for (std::uint32_t o = 0; o < slot.messages; ++o)
              if (o != k && messages[o].role == m.role && messages[o].slot == m.slot)
                arrival += stretched(work_time[messages[o].work],
                                     call.nic_share * work_cost[messages[o].work].nic_share);
          }
          ready = std::max(ready, arrival);
        }
        if (blocked) break;

        SimTime duration = call.duration;
        if (program.blocking_messages)  // both ends hold their stream while a message moves
          for (std::uint32_t k = 0; k < slot.messages; ++k) duration += work_time[messages[k].work];
        SimTime start = ready;
        SimTime end = start + duration;
        if (walk.next_gather < walk.gathers.size() &&
            walk.gathers[walk.next_gather].slot == walk.next) {
          const Gather& g = walk.gathers[walk.next_gather++];
          start = std::max(start, g.first);
          end = std::max(start + duration, g.last);
        }
        // Gradient reductions of earlier slots that still run take SMs from this one.
        if (walk.data_free > start && walk.next_sync > 0) {
          const SimTime shared = std::min(walk.data_free, end) - start;
          const Sync& last = role.syncs[walk.next_sync - 1];
          if (!last.before) end += ticks(seconds(shared) * (0.5 * work_cost[last.work].sm_share));
        }
        walk.spans[walk.next] = {start, end};
        walk.wait += start - walk.clock;
        const SimTime busy = end - start;
        walk.busy[static_cast<std::size_t>(slot.phase)] += busy;
        walk.clock = end;
        // Reductions that this slot feeds: the first bucket is ready after 1/buckets of it, the
        // last at its end.
        for (; walk.next_sync < role.syncs.size(); ++walk.next_sync) {
          const Sync& sync = role.syncs[walk.next_sync];
          if (sync.before) continue;
          if (sync.slot != walk.next) break;
          const auto buckets = static_cast<std::int64_t>(sync.buckets);
          const SimTime piece =
              buckets > 1 ? stretched(work_time[sync.work], call.nic_share) : work_time[sync.work];
          const SimTime first_ready = start + SimTime{busy.ps / buckets};
          SimTime begin = std::max(walk.data_free, first_ready);
          if (const double drift = work_cost[sync.work].drift; drift > 0 && begin == first_ready)
            begin += ticks(Seconds(drift * std::sqrt(seconds(end).si)));
          walk.data_free = std::max(begin + buckets * piece, std::max(end, walk.data_free) + piece);
        }
        ++walk.next;
        progress = true;
      }
      if (walk.next == slots) {
        --unfinished;
        ++walk.next;  // counted once; larger than any slot index, so that messages see it as done
        progress = true;
      }
    }
    check(progress, "slots do not wait for each other in a circle");
  }

  const auto tail_of = [&](std::size_t r) { return block_time[program.roles[r].tail]; };
  // When a role comes to the collective in its tail that other roles take part in.
  const auto meets = [&](std::size_t r) {
    return roles > 1 &&
           tail_of(r)->meeting.ranks > static_cast<std::int64_t>(program.roles[r].ranks);
  };
  run.late.assign(roles, {});
  run.last_there = 0;
  SimTime met;
  for (std::size_t r = 0; r < roles; ++r) {
    run.tail_start[r] = std::max(walks[r].clock, walks[r].data_free);
    if (!meets(r)) continue;
    const SimTime there = run.tail_start[r] + tail_of(r)->meeting.start;
    if (there > met) met = there, run.last_there = static_cast<std::uint32_t>(r);
  }
  for (std::size_t r = 0; r < roles; ++r) {
    Walk& walk = walks[r];
    const auto busy = [&](Phase phase) { return walk.busy[static_cast<std::size_t>(phase)]; };
    check(busy(Phase::Optimizer) == SimTime{}, "the optimizer is a role's tail, not a slot");
    RoleTime& account = run.roles[r];
    account = {.f = busy(Phase::F),
               .b = busy(Phase::B),
               .w = busy(Phase::W),
               .bw = busy(Phase::BW),
               .fb = busy(Phase::FB),
               .wait = walk.wait};
    account.gradients = run.tail_start[r] - walk.clock;
    account.tail = tail_of(r)->duration;
    if (meets(r)) {
      run.late[r] = met - run.tail_start[r] - tail_of(r)->meeting.start;
      account.idle = wait_in_tail(*tail_of(r), run.late[r]);
    }
    walk.clock = run.tail_start[r] + account.tail + account.idle;
    if (walk.clock > run.end) {
      run.end = walk.clock;
      run.slowest = static_cast<std::uint32_t>(r);
    }
  }
  for (std::size_t r = 0; r < roles; ++r) run.roles[r].idle += run.end - walks[r].clock;
}

}  // namespace reckon::sim
