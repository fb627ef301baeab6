// Memory of every pipeline rank over a step, by cause.
//
// Not modelled: offloading to the host, allocator fragmentation beyond Stack::reserve, norm
// statistics, routing indices, and the input tokens.
#pragma once

#include <string>
#include <vector>

#include "hw-models/machine.h"
#include "hw-models/stack.h"
#include "planner/model.h"
#include "planner/plan.h"
#include "planner/schedule.h"

namespace reckon::plan {

enum class Cause { Weights, Gradients, Optimizer, Activations, Buffers, Reserve };
inline constexpr int kCauses = 6;

struct RankMemory {
  Bytes at_peak[kCauses];  // what each cause holds at the moment of the peak
  Bytes peak;              // their sum
  int micro_batches_in_flight =
      0;  // passes whose activations are alive at the peak, over all chunks
};

struct StepShape {
  int seq = 0;
  std::int64_t global_batch = 0;  // sequences
};

struct MemoryUse {
  std::vector<RankMemory> ranks;  // per pipeline rank
  Bytes peak;                     // the largest
};

// Bytes kept by one micro-batch's forward pass through `chunk` until its backward, by module name;
// per GPU.
struct ActivationShare {
  const char* module;
  Bytes bytes;
};
std::vector<ActivationShare> activation_bytes(const ModelShape& model, const Plan& plan,
                                              const hw::Stack& stack, int seq, int chunk);

// What stands still during the step: weights, gradients, optimizer states and standing buffers of
// one pipeline rank, per GPU.
struct StandingMemory {
  Bytes weights, gradients, optimizer, buffers;
};

// The chunks that each pipeline rank holds are read from its order.
std::vector<StandingMemory> standing_memory(const ModelShape& model, const Plan& plan,
                                            const hw::Stack& stack, int seq,
                                            const Schedule& schedule);

// Activations of one pipeline rank after each of its tasks, and the most that was alive during it.
struct MemoryPoint {
  Task task;
  Bytes activations;  // after the task
  Bytes highest;      // during it, transient buffers included
  int passes = 0;     // passes whose activations are alive after it
};
std::vector<MemoryPoint> memory_over_time(const ModelShape& model, const Plan& plan,
                                          const hw::Stack& stack, const StepShape& step,
                                          const Schedule& schedule, int rank);

// Peak over the given schedule order. `schedule` must be make_schedule of the plan.
MemoryUse memory_use(const ModelShape& model, const Plan& plan, const hw::Stack& stack,
                     const StepShape& step, const Schedule& schedule);

}  // namespace reckon::plan
