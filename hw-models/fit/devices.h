// Nameplates of the devices that the tables were measured on (vendors' data sheets).
#pragma once

#include "hw-models/machine.h"

namespace reckon::fit {

inline hw::Gpu device(const char* architecture, int sms, double memory_tb_s, double bf16_tflops,
                      double fp8_tflops = 0, double fp4_tflops = 0) {
  return {.architecture = architecture,
          .sms = sms,
          .memory_rate = memory_tb_s * TB / s,
          .peak_bf16 = bf16_tflops * TFLOP / s,
          .peak_fp8 = fp8_tflops * TFLOP / s,
          .peak_fp4 = fp4_tflops * TFLOP / s};
}

inline const hw::Gpu kA100Pcie = device("ampere", 108, 1.935, 312);
inline const hw::Gpu kA100Sxm = device("ampere", 108, 2.039, 312);
inline const hw::Gpu kH100 = device("hopper", 132, 3.35, 989.4, 1978.9);  // also H800
inline const hw::Gpu kH200 = device("hopper", 132, 4.8, 989.4, 1978.9);
inline const hw::Gpu kB200 = device("blackwell", 148, 7.7, 2250, 4500, 9000);

}  // namespace reckon::fit
