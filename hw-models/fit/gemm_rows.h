// Measured matrix products, from every table that has them, in one form.
#pragma once

#include <string>
#include <vector>

#include "hw-models/machine.h"
#include "sim/work.h"

namespace reckon::fit {

struct GemmRow {
  std::string source;
  const hw::Gpu* gpu = nullptr;
  int sms = 0;
  std::int64_t groups = 1;  // > 1: a grouped product, op.m are the rows of all groups
  sim::MatMul op;
  double quantised = 0;  // elements of the input that the harness casts within the measured time
  double seconds = 0;
  bool left_out = false;
};

// Sources, by name:
//   simumax        kernels/gemm_efficiency.json and grouped_gemm.json: Transformer Engine loops
//   isolated       kernels/aiconfigurator/*_gemm_perf.csv.gz: one linear layer, its fp8 cast
//   included deepgemm       published/gemm.json: DeepGEMM README, H800 dualpipe
//   h800-dualpipe/ops.csv: DeepSeek's training trace, H800, 112 SMs
// Training sizes only: at least 1,024 rows, 256 columns, depth 256.
std::vector<GemmRow> gemm_rows(const std::string& folder);

}  // namespace reckon::fit
