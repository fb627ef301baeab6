// What Megatron-LM refuses beyond its argument parser: the checks of validate_args, of the
// configuration classes, of the parallel state and of the schedules, in the order in which a run
// meets them.
#pragma once

#include <cstdint>
#include <optional>

#include "planner/launch/megatron_args.h"
#include "planner/launch/option_table.h"

namespace reckon::plan::launch {

// Where the arguments run.
struct MegatronWorld {
  std::int64_t processes = 1;  // one per GPU
  int max_connections = 0;     // CUDA_DEVICE_MAX_CONNECTIONS; 0: not set
  int compute_capability = 9;  // major: 8 Ampere, 9 Hopper, 10 Blackwell
  MegatronRelease release = MegatronRelease::Main;
};

struct MegatronRule {
  const char* where;  // on main: A megatron/training/arguments.py, T transformer_config.py of
                      // megatron/core/transformer, M model_parallel_config.py of megatron/core
  const char* why;
};

// The first rule that the arguments break, or nullptr. One of a fixed table; `detail`, when given,
// receives the figures of this case. Without it nothing is allocated.
const MegatronRule* broken_rule(const MegatronArgs& args, const MegatronWorld& world,
                                std::string* detail = nullptr);

std::optional<Refusal> megatron_refusal(const MegatronArgs& args, const MegatronWorld& world);

// What follows from the arguments. REQUIRES: no broken rule.
struct MegatronSizes {
  int dp = 1;
  std::optional<int> expert_dp;  // of mixtures
  int micro_batches = 1;
  std::optional<int> vpp;  // more than one chunk per rank
};
MegatronSizes megatron_sizes(const MegatronArgs& args, const MegatronWorld& world);

}  // namespace reckon::plan::launch
