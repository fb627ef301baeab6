// What a model's settings of rotary embeddings ask of the kernels.
#pragma once

#include "planner/model.h"
#include "real/kernels.h"

namespace reckon::real {

cpu::RopeSettings rope_settings(const plan::ModelShape& model);

// The scores' scale over 1 / sqrt(width of queries): m(mscale_all_dim)^2 with YaRN, see plan::Yarn.
double score_scale(const plan::ModelShape& model);

}  // namespace reckon::real
