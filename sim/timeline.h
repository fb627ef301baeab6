// The Timeline: what happened in one step, op by op. Modelled (by an engine) or measured (by the
// trainer): same type, same keys, so that comparing the two is a join on (role, slot, op).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sim/program.h"
#include "sim/sim_time.h"

namespace reckon::sim {

// One op, message or sync of one role. Key: (role, slot, op).
struct Event {
  std::uint32_t role = 0;   // index into Program::roles and Timeline::roles
  std::uint32_t slot = 0;   // index into Role::slots; of the tail: Role::slots.size()
  std::uint32_t op = 0;     // index into Block::ops; then the slot's messages, then its syncs
  std::uint32_t label = 0;  // index into Timeline::labels
  Stream stream = Stream::Compute;
  Phase phase = Phase::F;   // of the op itself: inside FB and BW blocks the half it belongs to
  bool recompute = false;   // repeats forward work
  std::uint16_t chunk = 0;  // that the op works for: in the backward half of an FB slot, chunk2
  std::uint32_t micro_batch = 0;  // likewise
  SimTime start, end;
};

// INVARIANTS: start <= end; events of one role and one stream do not overlap; a step starts at 0.
// Events may come in any order.
struct Timeline {
  std::vector<std::string> roles;   // names, e.g. "stage 3"; one stands for all ranks that play it
  std::vector<std::string> labels;  // names of ops
  std::vector<Event> events;
};

}  // namespace reckon::sim
