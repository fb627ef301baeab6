// Devices for tests of the cost models: nameplate figures of the vendors' data sheets.
#pragma once

#include "hw-models/machine.h"

namespace reckon::test {

inline hw::Gpu a100() {
  return {.name = "A100",
          .architecture = "ampere",
          .sms = 108,
          .memory = 80 * GB,
          .memory_rate = 2.039 * TB / s,
          .peak_fp32 = 19.5 * TFLOP / s,
          .peak_tf32 = 156 * TFLOP / s,
          .peak_bf16 = 312 * TFLOP / s};
}

// H100 SXM; the H800's compute figures are the same.
inline hw::Gpu h100() {
  return {.name = "H100",
          .architecture = "hopper",
          .sms = 132,
          .memory = 80 * GB,
          .memory_rate = 3.35 * TB / s,
          .peak_fp32 = 67 * TFLOP / s,
          .peak_tf32 = 494.7 * TFLOP / s,
          .peak_bf16 = 989.4 * TFLOP / s,
          .peak_fp8 = 1978.9 * TFLOP / s};
}

inline hw::Gpu b200() {
  return {.name = "B200",
          .architecture = "blackwell",
          .sms = 148,
          .memory = 180 * GB,
          .memory_rate = 7.7 * TB / s,
          .peak_fp32 = 75 * TFLOP / s,
          .peak_tf32 = 1125 * TFLOP / s,
          .peak_bf16 = 2250 * TFLOP / s,
          .peak_fp8 = 4500 * TFLOP / s,
          .peak_fp4 = 9000 * TFLOP / s};
}

inline hw::Gpu cpu() {
  return {.name = "CPU",
          .architecture = "cpu",
          .sms = 2,
          .memory = 8 * GB,
          .memory_rate = 20 * GB / s,
          .peak_fp32 = 100 * GFLOP / s,
          .peak_bf16 = 100 * GFLOP / s};
}

}  // namespace reckon::test
