#include "hw-models/machine.h"

#include "sim/check.h"

namespace reckon::hw {

FlopsPerSecond peak(const Gpu& gpu, sim::DType dtype) {
  switch (dtype) {
    case sim::DType::Fp32: return gpu.peak_fp32;
    // TF32 products have fp32 operands: a device without TF32 multiplies them in full.
    case sim::DType::Tf32: return gpu.peak_tf32.si > 0 ? gpu.peak_tf32 : gpu.peak_fp32;
    case sim::DType::Fp16:
    case sim::DType::Bf16: return gpu.peak_bf16;
    case sim::DType::Fp8:
    case sim::DType::Fp8Block: return gpu.peak_fp8;
    case sim::DType::Mxfp8:
      return gpu.architecture == "blackwell" ? gpu.peak_fp8 : FlopsPerSecond(0);
    case sim::DType::Nvfp4: return gpu.peak_fp4;
  }
  check(false, "every dtype has a peak");
  return {};
}

}  // namespace reckon::hw
