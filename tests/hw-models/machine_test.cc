#include "hw-models/machine.h"

#include <catch2/catch.hpp>

using namespace reckon;

TEST_CASE("a device without a dtype has no peak for it") {
  hw::Gpu gpu{.name = "x", .architecture = "hopper", .peak_fp8 = 2 * TFLOP / s};
  CHECK(hw::peak(gpu, sim::DType::Nvfp4).si == 0);
  CHECK(hw::peak(gpu, sim::DType::Mxfp8).si == 0);
}

TEST_CASE("a device without TF32 multiplies fp32 operands in full") {
  hw::Gpu gpu{.name = "core", .architecture = "cpu", .peak_fp32 = 80 * GFLOP / s};
  CHECK(hw::peak(gpu, sim::DType::Tf32) == gpu.peak_fp32);
  gpu.peak_tf32 = 100 * GFLOP / s;
  CHECK(hw::peak(gpu, sim::DType::Tf32) == gpu.peak_tf32);
}
