// The fields of a training run in JSON. See hw-models/json_fields.h.
#pragma once

#include "hw-models/json_fields.h"
#include "planner/training.h"

namespace reckon::plan {

template <class V>
void fields(V& v, Training& t) {
  constexpr double kMaxSteps = 1e9;
  v("data", t.data, {.doc = ".tokens files, relative to the scenario (`reckon data` makes them)"});
  v("checkpoints", t.checkpoints, {.doc = "folder, relative to the scenario; no checkpoints"});
  v("checkpoint_every", t.checkpoint_every, {.doc = "steps; 0: only at the end", .max = kMaxSteps});
  v("keep_checkpoints", t.keep_checkpoints, {.doc = "the newest so many; 3", .min = 1, .max = 1e6});
  Recipe& r = t.recipe;
  v("seed", r.seed, {.doc = "of weights and of the order of the data; 1", .max = 9e15});
  v("init_std", r.init_std, {.doc = "of every matrix at the start; 0.02", .min = 1e-9, .max = 10});
  v("lr", r.lr, {.doc = "largest learning rate; 3e-4", .max = 10});
  v("min_lr", r.min_lr, {.doc = "at the end of the decay; 3e-5", .max = 10});
  v("warmup_steps", r.warmup_steps, {.doc = "linear from 0 to lr; 0", .max = kMaxSteps});
  v("decay_steps", r.decay_steps,
    {.doc = "cosine from lr to min_lr after the warm-up; 0: constant", .max = kMaxSteps});
  v("beta1", r.beta1, {.doc = "of Adam; 0.9", .max = 1 - 1e-9});
  v("beta2", r.beta2, {.doc = "of Adam; 0.95", .max = 1 - 1e-9});
  v("eps", r.eps, {.doc = "of Adam; 1e-8", .max = 1});
  v("weight_decay", r.weight_decay, {.doc = "of matrices; 0.1", .max = 10});
  v("clip", r.clip, {.doc = "largest gradient norm, 0: no clipping; 1", .max = 1e9});
  v("mtp_weight", r.mtp_weight,
    {.doc = "of the MTP losses, shared by the modules; 0.3", .max = 10});
  v("balance_loss", r.balance_loss,
    {.doc = "factor of the sequence-wise balance loss; 1e-4", .max = 10});
  v("bias_speed", r.bias_speed, {.doc = "step of the bias that balances experts; 1e-3", .max = 10});
}

}  // namespace reckon::plan
