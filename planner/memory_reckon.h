// Memory of reckon's own trainer: its op lists walked with the table of activations_reckon.h. The
// counterparts of memory.h, for Stack::reckon_ops.
#pragma once

#include <vector>

#include "planner/memory.h"

namespace reckon::plan {

// Parameters of one chunk on one rank: as real/params.h lays them out.
struct TrainerParameters {
  double dense = 0, experts = 0;
  double replicated = 0;  // of `dense`: held whole by every tensor-parallel rank
  int routers = 0;        // mixtures, each with a bias and a load per expert
};
// `embedding`: the chunk keeps the rank's copy of the embedding.
TrainerParameters trainer_parameters(const ModelShape& model, const Plan& plan,
                                     const ChunkLayout& chunk, bool embedding);

std::vector<StandingMemory> trainer_standing_memory(const ModelShape& model, const Plan& plan,
                                                    const hw::Stack& stack,
                                                    const Schedule& schedule);
std::vector<MemoryPoint> trainer_memory_over_time(const ModelShape& model, const Plan& plan,
                                                  const hw::Stack& stack, const StepShape& step,
                                                  const Schedule& schedule, int rank);
std::vector<ActivationShare> trainer_activation_bytes(const ModelShape& model, const Plan& plan,
                                                      const hw::Stack& stack, int seq, int chunk);
MemoryUse trainer_memory_use(const ModelShape& model, const Plan& plan, const hw::Stack& stack,
                             const StepShape& step, const Schedule& schedule);

}  // namespace reckon::plan
