// Kernels limited by memory traffic: t = kernels * launch(kind) + traffic / (memory rate *
// fraction(kind)), and proportionally slower on fewer SMs. The launch term is the ramp: a small
// kernel never reaches the rate.
#include <algorithm>

#include "hw-models/cost.h"
#include "hw-models/kernel_model.h"

namespace reckon::hw {

KernelTime memory_bound_time(const MemoryFit& fit, const sim::MemoryBound& op, const Gpu& gpu,
                             int sms) {
  const auto kind = static_cast<std::size_t>(op.kind);
  const double rate = gpu.memory_rate.si * fit.fraction[kind] * sms / gpu.sms;
  return {.seconds = op.kernels * fit.launch_seconds[kind] + op.traffic.si / rate,
          .traffic = op.traffic.si,
          .busy_sms = static_cast<double>(sms)};
}

double hbm_share(double traffic, Seconds alone, const Gpu& gpu) {
  const MemoryFit& fit = memory_fit(fitted(), gpu.architecture);
  return std::min(1.0, traffic / (alone.si * gpu.memory_rate.si * fit.streaming_fraction));
}

Cost compute_cost(const sim::MemoryBound& op, const Gpu& gpu, const Stack& stack, int sms) {
  const MemoryFit& fit = memory_fit(fitted(), gpu.architecture);
  const KernelTime t = memory_bound_time(fit, op, gpu, sms);
  Cost c;
  c.kernels = op.kernels;
  c.alone = Seconds(t.seconds / stack.memory_efficiency) + op.kernels * stack.kernel_gap;
  c.sm_share = t.busy_sms / gpu.sms;
  c.hbm_share = hbm_share(t.traffic, c.alone, gpu);
  c.calibrated = fit.calibrated[static_cast<std::size_t>(op.kind)];
  return c;
}

}  // namespace reckon::hw
