// From shape and device to time: what one op costs when it runs alone, and which shared resources
// it holds meanwhile.
#pragma once

#include "hw-models/machine.h"
#include "hw-models/stack.h"
#include "sim/op_cost.h"
#include "sim/work.h"

namespace reckon::hw {

using Cost = sim::OpCost;

// Errors: none; a device that lacks the dtype is the planner's business (see planner/feasible.h).
Cost cost(const sim::Work& work, const Cluster& cluster, const Stack& stack);

// The parts, by kind. `sms`: SMs that the kernel may use.
Cost compute_cost(const sim::MatMul& op, const Gpu& gpu, const Stack& stack, int sms);
Cost compute_cost(const sim::GroupedMatMul& op, const Gpu& gpu, const Stack& stack, int sms);
Cost compute_cost(const sim::Attention& op, const Gpu& gpu, const Stack& stack, int sms);
Cost compute_cost(const sim::MemoryBound& op, const Gpu& gpu, const Stack& stack, int sms);

Cost network_cost(const sim::Collective& op, const Cluster& cluster, const Stack& stack);
Cost network_cost(const sim::TokenExchange& op, const Cluster& cluster, const Stack& stack);
Cost network_cost(const sim::Transfer& op, const Cluster& cluster, const Stack& stack);
Cost network_cost(const sim::Barrier& op, const Cluster& cluster, const Stack& stack);

}  // namespace reckon::hw
