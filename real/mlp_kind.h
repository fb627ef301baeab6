// A model's MLPs in the kernels' terms.
#pragma once

#include "planner/model.h"
#include "real/device.h"

namespace reckon::real {

inline cpu::Activation activation_of(plan::Mlp mlp) {
  switch (mlp) {
    case plan::Mlp::Gelu: return cpu::Activation::Gelu;
    case plan::Mlp::SquaredRelu: return cpu::Activation::SquaredRelu;
    case plan::Mlp::SwiGlu: return cpu::Activation::SwiGlu;
    case plan::Mlp::GeGlu: return cpu::Activation::GeGlu;
  }
  return cpu::Activation::SwiGlu;
}

// Projections into an MLP: two where one of them gates the other.
inline std::int64_t gates(const plan::ModelShape& m) {
  return plan::is_gated(m.mlp) ? 2 : 1;
}

}  // namespace reckon::real
