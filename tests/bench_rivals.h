// Libraries that could multiply the trainer's matrices, for bench_kernels. Each computes
// C[m,n] (+)= A B on one core; absent ones are empty.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "real/gemm.h"

namespace reckon::real::bench {

using Multiply = std::function<void(const cpu::Product&, cpu::Matrix, cpu::Matrix, float*)>;

struct Rival {
  std::string name;
  Multiply multiply;  // C is dense: its stride is n
};

std::vector<Rival> rivals();

}  // namespace reckon::real::bench
