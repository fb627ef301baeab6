// Properties that the kernel model has for every device and dtype; figures are in
// kernel_tables_test.cc.
#include <catch2/catch.hpp>

#include "hw-models/cost.h"
#include "hw-models/fitted.h"
#include "sim/input_error.h"
#include "tests/hw-models/gpus.h"

using namespace reckon;
using sim::DType;
using sim::Pass;

namespace {

const hw::Stack kPlainStack{.name = "plain"};

double matmul_seconds(const hw::Gpu& gpu, sim::MatMul op, int sms) {
  return hw::compute_cost(op, gpu, kPlainStack, sms).alone.si;
}

}  // namespace

TEST_CASE("a matrix product is never faster than the peak, nor than its operands' traffic") {
  for (const hw::Gpu& gpu : {test::a100(), test::h100(), test::b200(), test::cpu()})
    for (const DType dtype : {DType::Bf16, DType::Fp8, DType::Fp8Block}) {
      const double peak = hw::peak(gpu, dtype).si;
      if (peak == 0) continue;
      for (const Pass pass : {Pass::Forward, Pass::InputGrad, Pass::WeightGrad})
        for (const std::int64_t m : {1, 100, 4096, 65536})
          for (const std::int64_t n : {64, 576, 7168, 32768})
            for (const std::int64_t k : {64, 1536, 16384}) {
              const sim::MatMul op{.m = m, .n = n, .k = k, .pass = pass, .dtype = dtype};
              const hw::Cost c = hw::compute_cost(op, gpu, kPlainStack, gpu.sms);
              CAPTURE(gpu.name, m, n, k);
              CHECK(c.alone.si > sim::flops(op).si / peak);
              CHECK(c.alone.si > static_cast<double>(m * k + k * n) / gpu.memory_rate.si);
              CHECK((c.sm_share > 0 && c.sm_share <= 1));
              CHECK((c.hbm_share > 0 && c.hbm_share <= 1));
            }
    }
}

TEST_CASE("time grows with every dimension") {
  const hw::Gpu gpu = test::h100();
  for (const DType dtype : {DType::Bf16, DType::Fp8Block})
    for (const Pass pass : {Pass::Forward, Pass::InputGrad, Pass::WeightGrad}) {
      const sim::MatMul op{.m = 4096, .n = 7168, .k = 2048, .pass = pass, .dtype = dtype};
      const double t = matmul_seconds(gpu, op, gpu.sms);
      for (auto dimension : {&sim::MatMul::m, &sim::MatMul::n, &sim::MatMul::k}) {
        sim::MatMul larger = op;
        larger.*dimension *= 2;
        CHECK(matmul_seconds(gpu, larger, gpu.sms) > 1.5 * t);
      }
    }
}

// 128 x 128 tiles on 112 SMs: 14 x 8 tiles are one wave, 15 x 8 are two.
TEST_CASE("a tile too many costs a wave") {
  const hw::Gpu gpu = test::h100();
  const sim::MatMul full{.m = 14 * 128, .n = 8 * 128, .k = 7168, .dtype = DType::Fp8Block};
  sim::MatMul spill = full;
  spill.m += 128;
  CHECK(matmul_seconds(gpu, spill, 112) > 1.6 * matmul_seconds(gpu, full, 112));
  CHECK(matmul_seconds(gpu, spill, 120) < 1.1 * matmul_seconds(gpu, full, 112));
}

TEST_CASE("large products on fewer SMs run proportionally slower") {
  const hw::Gpu gpu = test::h100();
  const sim::MatMul op{.m = 16384, .n = 16384, .k = 8192};
  CHECK(matmul_seconds(gpu, op, 112) / matmul_seconds(gpu, op, 132) ==
        Approx(132. / 112).epsilon(0.03));
}

TEST_CASE("weight gradients cost more than forward products, by their fp32 accumulation") {
  for (const hw::Gpu& gpu : {test::a100(), test::h100(), test::b200()}) {
    sim::MatMul op{.m = 4096, .n = 4096, .k = 4096};
    const double forward = matmul_seconds(gpu, op, gpu.sms);
    op.pass = Pass::WeightGrad;
    const double wgrad = matmul_seconds(gpu, op, gpu.sms);
    CHECK((wgrad > 1.02 * forward && wgrad < 2 * forward));
  }
}

TEST_CASE("a loop over experts pays a launch and a tail wave for each") {
  const hw::Gpu gpu = test::h100();
  hw::Stack loop = kPlainStack;
  loop.grouped_gemm = hw::GroupedGemmKernel::Loop;
  const sim::GroupedMatMul op{.groups = 64, .m = 64 * 300, .n = 1024, .k = 2048};
  const hw::Cost grouped = hw::compute_cost(op, gpu, kPlainStack, gpu.sms);
  const hw::Cost looped = hw::compute_cost(op, gpu, loop, gpu.sms);
  CHECK(looped.kernels == 64);
  CHECK(grouped.kernels == 1);
  CHECK(looped.alone > 1.5 * grouped.alone);
}

TEST_CASE("attention: masks save work, backward costs more, nothing beats the peak") {
  const hw::Gpu gpu = test::h100();
  for (const auto kernel : {hw::AttentionKernel::Flash2, hw::AttentionKernel::Flash3,
                            hw::AttentionKernel::CuDnn, hw::AttentionKernel::Unfused}) {
    hw::Stack stack = kPlainStack;
    stack.attention = kernel;
    const auto seconds = [&](const sim::Attention& a) {
      const hw::Cost c = hw::compute_cost(a, gpu, stack, gpu.sms);
      CHECK(c.alone.si > sim::flops(a).si / gpu.peak_bf16.si);
      return c.alone.si;
    };
    sim::Attention a{.batch = 2,
                     .heads = 32,
                     .kv_heads = 32,
                     .seq_q = 8192,
                     .seq_k = 8192,
                     .qk_dim = 128,
                     .v_dim = 128};
    const double causal = seconds(a);
    a.causal = false;
    const double full = seconds(a);
    a.causal = true, a.backward = true;
    const double backward = seconds(a);
    a.backward = false, a.window = 1024;
    const double windowed = seconds(a);
    CAPTURE(backward / causal);
    CHECK((backward > 1.5 * causal && backward < 4 * causal));
    if (kernel == hw::AttentionKernel::Unfused) {
      CHECK(full == Approx(causal));
      continue;
    }
    CHECK((full > 1.6 * causal && full < 2 * causal));
    CHECK(windowed < 0.5 * causal);
  }
}

TEST_CASE("unfused attention is slower than flash attention at long sequences") {
  const hw::Gpu gpu = test::a100();
  hw::Stack unfused = kPlainStack;
  unfused.attention = hw::AttentionKernel::Unfused;
  const sim::Attention a{.batch = 1,
                         .heads = 32,
                         .kv_heads = 32,
                         .seq_q = 8192,
                         .seq_k = 8192,
                         .qk_dim = 128,
                         .v_dim = 128};
  CHECK(hw::compute_cost(a, gpu, unfused, gpu.sms).alone >
        2 * hw::compute_cost(a, gpu, kPlainStack, gpu.sms).alone);
}

TEST_CASE("memory-bound work takes its bytes over the bandwidth, and a ramp") {
  const hw::Gpu gpu = test::h100();
  for (int kind = 0; kind < static_cast<int>(hw::kMemoryKinds); ++kind) {
    sim::MemoryBound op{.kind = static_cast<sim::MemoryKind>(kind), .traffic = 1 * GB};
    const double large = hw::compute_cost(op, gpu, kPlainStack, gpu.sms).alone.si;
    CHECK(large > 1e9 / gpu.memory_rate.si);
    CHECK(large < 4e9 / gpu.memory_rate.si);
    op.traffic = Bytes(0);
    const double empty = hw::compute_cost(op, gpu, kPlainStack, gpu.sms).alone.si;
    CHECK((empty > 1e-6 && empty < 20e-6));
    op.kernels = 3;
    CHECK(hw::compute_cost(op, gpu, kPlainStack, gpu.sms).alone.si == Approx(3 * empty));
  }
}

TEST_CASE("stack multipliers divide the time, gaps come on top") {
  const hw::Gpu gpu = test::h100();
  hw::Stack stack = kPlainStack;
  stack.gemm_efficiency = 0.5, stack.attention_efficiency = 0.8, stack.memory_efficiency = 0.4;
  stack.kernel_gap = 2 * us;
  const sim::MatMul gemm{.m = 4096, .n = 4096, .k = 4096};
  CHECK(hw::compute_cost(gemm, gpu, stack, 132).alone.si ==
        Approx(2e-6 + hw::compute_cost(gemm, gpu, kPlainStack, 132).alone.si / 0.5));
  const sim::MemoryBound copy{.traffic = 1 * GB, .kernels = 2};
  CHECK(hw::compute_cost(copy, gpu, stack, 132).alone.si ==
        Approx(4e-6 + hw::compute_cost(copy, gpu, kPlainStack, 132).alone.si / 0.4));
}

TEST_CASE(
    "matrix products keep the board's sustained rate, tables taken in training have it in them") {
  const hw::Stack stack;
  hw::Gpu slower = test::h100();
  slower.sustained_matmul = 0.8;
  const auto ratio = [&](sim::DType dtype) {
    const sim::MatMul op{.m = 8192, .n = 8192, .k = 8192, .dtype = dtype};
    return hw::compute_cost(op, slower, stack, 132).alone /
           hw::compute_cost(op, test::h100(), stack, 132).alone;
  };
  CHECK(ratio(sim::DType::Bf16) == Approx(1 / 0.8));
  CHECK(ratio(sim::DType::Fp8) == Approx(1 / 0.8));
  CHECK(ratio(sim::DType::Fp8Block) == Approx(1));  // DeepSeek's trace
}

TEST_CASE("a static partition keeps matrix products off the SMs of communication") {
  const hw::Cluster cluster{.gpu = test::h100()};
  hw::Stack stack = kPlainStack;
  stack.comm_sms = 20;
  const sim::MatMul gemm{.m = 16384, .n = 7168, .k = 4096, .dtype = DType::Fp8Block};
  const sim::MemoryBound copy{.traffic = 1 * GB};
  const auto seconds = [&](const sim::Work& w) { return hw::cost(w, cluster, stack).alone.si; };
  CHECK(seconds(gemm) == matmul_seconds(cluster.gpu, gemm, 132));
  const double free_copy = seconds(copy);
  stack.static_sm_partition = true;
  CHECK(seconds(gemm) == matmul_seconds(cluster.gpu, gemm, 112));
  CHECK(seconds(copy) == free_copy);
  CHECK(hw::cost(gemm, cluster, stack).sm_share == Approx(112. / 132));
}

TEST_CASE("what no measurement stands behind says so") {
  CHECK(
      hw::compute_cost(sim::MatMul{.m = 4096, .n = 4096, .k = 4096}, test::h100(), kPlainStack, 132)
          .calibrated);
  CHECK_FALSE(
      hw::compute_cost(sim::MatMul{.m = 4096, .n = 4096, .k = 4096}, test::cpu(), kPlainStack, 2)
          .calibrated);
  CHECK_FALSE(hw::compute_cost(sim::MatMul{.m = 4096, .n = 4096, .k = 4096, .dtype = DType::Tf32},
                               test::a100(), kPlainStack, 108)
                  .calibrated);
}

TEST_CASE("constants of another form are refused") {
  CHECK_THROWS_AS(hw::parse_fitted("{}"), InputError);
  CHECK_THROWS_AS(hw::parse_fitted("{\"gemm\": ["), InputError);
}
