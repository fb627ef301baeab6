// Longest path over the slots. Roles advance in turn: each runs until it needs a message that is
// not there yet.
//
// Approximations, all of them averages over one slot: a message or a data-parallel collective that
// moves while a slot runs gets the NIC share which that slot leaves free, and a collective's SMs
// slow the slot's compute.
#include "sim/folded.h"

#include <algorithm>

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

// Duration of a transfer that leaves (1 - busy) of the NIC to itself; at least a tenth, as fair
// sharing would give.
SimTime stretched(SimTime alone, double busy) {
  return ticks(seconds(alone) / std::max(0.1, 1 - busy));
}

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
  // What the last message to a block took on its way beside the block; most of them are alike.
  struct Flight {
    std::uint32_t work = ~0u;
    SimTime time;
  };
  std::vector<Flight> flight(program.blocks.size());
  std::vector<SimTime> clock(roles);
  std::vector<std::size_t> next(roles, 0), next_sync(roles, 0);
  std::vector<SimTime> data_free(roles);  // when the role's Data stream is free

  // Parameter gathers start with the step, in order; each slot that needs one may start when its
  // first bucket is there and can't end before its last one is.
  struct Gather {
    SimTime first, last;
    bool set = false;
  };
  std::vector<std::vector<Gather>> gathers(roles);
  for (std::size_t r = 0; r < roles; ++r) {
    const Role& role = program.roles[r];
    run.slots[r].resize(role.slots.size());
    for (const Sync& sync : role.syncs) {
      if (!sync.before) continue;
      if (gathers[r].empty()) gathers[r].resize(role.slots.size());
      const SimTime piece = work_time[sync.work];
      Gather& g = gathers[r][sync.slot];
      if (!g.set) g.first = data_free[r] + piece;
      g.set = true;
      data_free[r] += static_cast<std::int64_t>(sync.buckets) * piece;
      g.last = data_free[r];
    }
  }

  std::size_t unfinished = roles;
  while (unfinished > 0) {
    bool progress = false;
    for (std::size_t r = 0; r < roles; ++r) {
      const Role& role = program.roles[r];
      RoleTime& account = run.roles[r];
      while (next[r] < role.slots.size()) {
        const Slot& slot = role.slots[next[r]];
        const BlockTime& bt = *block_time[slot.block];
        SimTime ready = clock[r];
        bool blocked = false;
        for (std::uint32_t k = 0; k < slot.messages && !blocked; ++k) {
          const Message& m = role.messages[slot.first_message + k];
          if (m.slot >= next[m.role] || (m.role == r && m.slot >= next[r])) {
            blocked = true;
            break;
          }
          SimTime arrival = run.slots[m.role][m.slot].end;
          if (!program.blocking_messages) {
            Flight& f = flight[slot.block];
            if (f.work != m.work)
              f = {m.work,
                   stretched(work_time[m.work], bt.nic_share * work_cost[m.work].nic_share)};
            arrival += f.time;
          }
          ready = std::max(ready, arrival);
        }
        if (blocked) break;

        SimTime duration = bt.duration;
        if (program.blocking_messages)  // both ends hold their stream while a message moves
          for (std::uint32_t k = 0; k < slot.messages; ++k)
            duration += work_time[role.messages[slot.first_message + k].work];
        SimTime start = ready;
        SimTime end = start + duration;
        if (!gathers[r].empty() && gathers[r][next[r]].set) {
          const Gather& g = gathers[r][next[r]];
          start = std::max(start, g.first);
          end = std::max(start + duration, g.last);
        }
        // Gradient reductions of earlier slots that still run take SMs from this one.
        if (data_free[r] > start && next_sync[r] > 0) {
          const SimTime shared = std::min(data_free[r], end) - start;
          const Sync& last = role.syncs[next_sync[r] - 1];
          if (!last.before) end += ticks(seconds(shared) * (0.5 * work_cost[last.work].sm_share));
        }
        run.slots[r][next[r]] = {start, end};
        account.wait += start - clock[r];
        const SimTime busy = end - start;
        switch (slot.phase) {
          case Phase::F: account.f += busy; break;
          case Phase::B: account.b += busy; break;
          case Phase::W: account.w += busy; break;
          case Phase::BW: account.bw += busy; break;
          case Phase::FB: account.fb += busy; break;
          case Phase::Optimizer: check(false, "the optimizer is a role's tail, not a slot");
        }
        clock[r] = end;
        // Reductions that this slot feeds: the first bucket is ready after 1/buckets of it, the
        // last at its end.
        for (; next_sync[r] < role.syncs.size(); ++next_sync[r]) {
          const Sync& sync = role.syncs[next_sync[r]];
          if (sync.before) continue;
          if (sync.slot != next[r]) break;
          const auto buckets = static_cast<std::int64_t>(sync.buckets);
          const SimTime piece =
              buckets > 1 ? stretched(work_time[sync.work], bt.nic_share) : work_time[sync.work];
          const SimTime first_ready = start + SimTime{busy.ps / buckets};
          const SimTime begin = std::max(data_free[r], first_ready);
          data_free[r] = std::max(begin + buckets * piece, std::max(end, data_free[r]) + piece);
        }
        ++next[r];
        progress = true;
      }
      if (next[r] == role.slots.size()) {
        --unfinished;
        ++next[r];  // counted once; larger than any slot index, so that messages see it as done
        progress = true;
      }
    }
    check(progress, "slots do not wait for each other in a circle");
  }

  for (std::size_t r = 0; r < roles; ++r) {
    RoleTime& account = run.roles[r];
    if (data_free[r] > clock[r]) {
      account.gradients = data_free[r] - clock[r];
      clock[r] = data_free[r];
    }
    run.tail_start[r] = clock[r];
    account.tail = block_time[program.roles[r].tail]->duration;
    clock[r] += account.tail;
    if (clock[r] > run.end) {
      run.end = clock[r];
      run.slowest = static_cast<std::uint32_t>(r);
    }
  }
  for (std::size_t r = 0; r < roles; ++r) run.roles[r].idle = run.end - clock[r];
}

}  // namespace reckon::sim
