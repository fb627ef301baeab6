// The cluster engine: the whole Program on every rank, with what goes wrong on single ranks
// (disturbances.h). Ranks meet in their collectives, in pipeline messages and in data-parallel
// reductions, so one late rank makes others late. Without disturbances every rank does exactly what
// the folded engine (folded.h) says of its role, to the tick.
//
// Ranks: a role's members are numbered 0 to Role::ranks - 1, and every role has as many. Groups of
// collectives lie side by side among them, those of data-parallel ones as far apart as they can; a
// message comes from the member with the same number, or, from the own role, from the one half the
// role away (the other direction of a bidirectional schedule).
//
// A NIC that flaps within a slot slows the slot's exchanges evenly, by the mean over the slot.
//
// Not modelled, beyond folded.h and cluster_block.h: collectives over several roles, but for the
// one in the tails; changes of a device's speed within a slot.
#pragma once

#include <cstdint>
#include <vector>

#include "sim/disturbances.h"
#include "sim/folded.h"
#include "sim/program.h"

namespace reckon::sim {

struct ClusterRun {
  SimTime end;
  RankId slowest;                                // that ends last; the first of those
  std::uint32_t members = 0;                     // of each role
  std::vector<std::vector<RoleTime>> ranks;      // by role and member
  std::vector<std::vector<SlotSpan>> slots;      // by role; [slot * members + member]
  std::vector<std::vector<SimTime>> tail_start;  // by role and member
  // When the last role came to the collective in the tails that spans several, and which it was; as
  // FoldedRun::last_there.
  SimTime met;
  std::uint32_t last_there = 0;
};

// Errors: slots that wait for each other in a circle, roles of different sizes and ranks that don't
// exist are broken invariants.
ClusterRun run_cluster(const Program& program, BlockTimes& times, const Disturbances& disturbances);

// What the end of the step waited for, from the last to the first: a chain of ops, messages and
// data-parallel collectives without gaps, so that their times add up to the step (to a tick for
// each link of the chain).
struct PathStep {
  enum class Kind : std::uint8_t {
    Op,       // of a slot or the tail
    Host,     // launches that took longer than the device
    Message,  // between stages
    Gather,   // parameters before the first slots
    Sync,     // gradient reductions that the next op waited for, or that took SMs from a slot
  } kind = Kind::Op;
  RankId rank;
  std::uint32_t slot = 0;  // of the tail: Role::slots.size()
  const char* label = "";  // of an op
  Stream stream = Stream::Compute;
  SimTime time;
};

// REQUIRES: run is run_cluster(program, times, disturbances).
std::vector<PathStep> critical_path(const Program& program, BlockTimes& times,
                                    const Disturbances& disturbances, const ClusterRun& run);

}  // namespace reckon::sim
