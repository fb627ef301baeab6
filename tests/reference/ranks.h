// A Program on every rank, op by op, each at its full speed: no sharing of a device's resources, no
// data-parallel collectives beside the slots. Slow, obvious; the cluster engine (sim/cluster.h) is
// held against it on Programs whose ops don't share.
#pragma once

#include "sim/disturbances.h"
#include "sim/op_cost.h"
#include "sim/program.h"

namespace reckon::reference {

// End of each slot, in seconds, by [role][slot][member]; the tail counts as a last slot.
// REQUIRES: messages only from earlier slots, in the order role 0 slot 0, role 1 slot 0, role 0
// slot 1, ...
using Ends = std::vector<std::vector<std::vector<double>>>;
Ends run_ranks(const sim::Program& program, const sim::CostOf& cost_of,
               const sim::Disturbances& disturbances);

}  // namespace reckon::reference
