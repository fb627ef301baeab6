// How a model is trained, beyond what a step costs: data, learning rate, losses, checkpoints.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace reckon::plan {

// What shapes the weights.
struct Recipe {
  std::uint64_t seed = 1;  // of weights and of the order of the data
  double init_std = 0.02;  // of every matrix; DeepSeek-V3 report, section 4.2: 0.006
  double lr = 3e-4, min_lr = 3e-5;
  std::int64_t warmup_steps = 0;
  std::int64_t decay_steps = 0;  // cosine from lr to min_lr after the warm-up; 0: constant
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
  double clip = 1;             // largest gradient norm; 0: no clipping
  double mtp_weight = 0.3;     // of the MTP losses, shared by the modules (lambda of the V3 report)
  double balance_loss = 1e-4;  // alpha of the sequence-wise balance loss (V3 report, eq. 17)
  double bias_speed = 1e-3;    // gamma of the bias that balances experts (V3 report, 2.1.2)
};

// A training run of the bundled trainer.
struct Training {
  Recipe recipe;
  std::vector<std::string> data;      // .tokens files
  std::string checkpoints;            // folder; empty: none
  std::int64_t checkpoint_every = 0;  // steps; 0: only at the end
  int keep_checkpoints = 3;
};

}  // namespace reckon::plan
