// A folded run, op by op.
#pragma once

#include "sim/folded.h"
#include "sim/timeline.h"

namespace reckon::sim {

// Every op of every slot and of the tails. A slot that took longer than its block alone (shared
// network, collectives that hold SMs) has its ops stretched evenly; where messages block, they come
// before the ops. Messages and data-parallel collectives are not recorded by the engine: they show
// as the gaps they leave. REQUIRES: `run` is run_folded(program, times).
Timeline timeline(const Program& program, const FoldedRun& run, BlockTimes& times);

}  // namespace reckon::sim
