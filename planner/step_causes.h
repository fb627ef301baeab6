// Where a step's time goes, by cause. Two accounts, each of which adds up to the step:
//
//   mean   the mean over all ranks: what a rank's compute streams do; while they wait inside a
//   pass,
//          the communication or the launches that they wait for; between passes, messages and the
//          bubble. It is where GPU-hours go.
//   path   the chain of ops, messages and reductions that the end of the step waited for. It has no
//          bubble: while one stage waits, the chain runs through another. It is what has to get
//          faster for the step to.
//
// An op that takes longer than it would alone on the device is counted at its time alone, the rest
// as Contention (compute) or as the communication itself.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "planner/predict.h"

namespace reckon::plan {

enum class StepCause {
  Products,     // dense matrix products
  Experts,      // grouped matrix products of experts
  Attention,    // softmax(qk)v
  Quantise,     // to fp8, and transposes
  Permute,      // token rows to experts and back, routing
  Elementwise,  // norms, activations, residuals, rotary embeddings
  Ends,         // embedding table and loss
  Optimizer,    // gradient norm and update
  Gaps,         // of the device between two kernels of a stream
  Contention,   // compute held up by communication on the same SMs, memory and links
  Exchange,     // token exchanges of experts (EP) that nothing hides, and so on below
  Tensor,       // tensor-parallel collectives (TP, SP, expert TP)
  Context,      // context-parallel ones (CP)
  Pipeline,     // messages between stages (PP)
  Reduction,    // gradient reductions (DP)
  Gather,       // parameter gathers (DP)
  Launches,     // the device waits for the host's launches
  Host,         // work of the host between steps
  Bubble,       // waiting for passes of other stages, and for the slowest rank
};
inline constexpr int kStepCauses = 19;

const char* key(StepCause cause);          // of JSON, e.g. "expert_products"
const char* description(StepCause cause);  // in words

using Causes = std::array<Seconds, kStepCauses>;  // by StepCause
Seconds sum(const Causes& causes);

struct StepAccount {
  Causes mean, path;
  Seconds recompute;  // in the mean: compute that repeats forward work
  struct Share {
    std::string label;
    Seconds time;  // in the mean
  };
  std::vector<Share> ops;  // largest first, those of one label together
};

// REQUIRES: run is predictor.run(...) of this stack (or its program, edited, and its own run).
StepAccount step_account(const Predictor::Run& run, Predictor& predictor, const hw::Stack& stack);

}  // namespace reckon::plan
