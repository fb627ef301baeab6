// The equations of the kernel model: fitted constants and a shape in, time and traffic out. Stacks,
// launch gaps and defaults for devices without a fit are cost.h's business; `reckon-fit` fits
// through these functions.
#pragma once

#include "hw-models/fitted.h"
#include "hw-models/machine.h"
#include "sim/work.h"

namespace reckon::hw {

// INVARIANT: busy_sms <= the SMs allowed; traffic / seconds <= the nameplate memory rate.
struct KernelTime {
  double seconds = 0;   // first instruction to last
  double traffic = 0;   // bytes of device memory, each operand once
  double busy_sms = 0;  // SMs with work
};

// `sms`: SMs that the kernel may use, 1 <= sms <= gpu.sms.
KernelTime gemm_time(const GemmFit& fit, const sim::MatMul& op, const Gpu& gpu, int sms);
// All groups in one kernel, with equal rows per group.
KernelTime grouped_gemm_time(const GemmFit& fit, const sim::GroupedMatMul& op, const Gpu& gpu,
                             int sms);
// A kernel that never stores the score matrix.
KernelTime flash_attention_time(const AttentionFit& fit, const sim::Attention& op, const Gpu& gpu,
                                int sms);
KernelTime memory_bound_time(const MemoryFit& fit, const sim::MemoryBound& op, const Gpu& gpu,
                             int sms);

// Of the memory bandwidth that streaming kernels reach, what `traffic` bytes in `alone` take.
double hbm_share(double traffic, Seconds alone, const Gpu& gpu);

double bytes_per_element(sim::DType dtype);  // scales included

}  // namespace reckon::hw
