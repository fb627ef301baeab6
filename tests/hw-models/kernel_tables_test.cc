// The fitted constants against measured rows that the fit did not see, a sample of ten or so per
// table; the whole tables' errors stand in catalog/kernels.json, written by reckon-fit.
#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "hw-models/cost.h"
#include "tests/hw-models/gpus.h"

using namespace reckon;
using hw::AttentionKernel;
using sim::DType;
using sim::Pass;

namespace {

struct Measured {
  std::int64_t m, n, k;
  Pass pass;
  double us;
};

// How a table's harness differs from training: time ratio, and the casts inside its time in seconds
// per call and per element of the input. As fitted, see catalog/kernels.json.
struct Harness {
  double ratio = 1, cast = 0, cast_each = 0;
};
constexpr double kB200Isolated = 0.717, kH100Isolated = 0.98;

struct Table {
  const char* name;
  hw::Gpu gpu;
  DType dtype;
  Harness harness;
  double median_bound;
  std::vector<Measured> rows;
};

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// Prints a line of the error table; returns the median error.
double report(const char* name, const std::vector<double>& errors) {
  const double worst = *std::max_element(errors.begin(), errors.end());
  fmt::print("  {:80} {:2} rows  median {:4.1f} %  worst {:4.1f} %\n", name, errors.size(),
             100 * median(errors), 100 * worst);
  return median(errors);
}

const hw::Stack kPlain{.name = "plain"};

}  // namespace

TEST_CASE("matrix products of the public tables") {
  const Table tables[] = {
      {"A100, Transformer Engine loops on the 300 W PCIe card (SimuMax a100_pcie.json)",
       test::a100(),
       DType::Bf16,
       {.ratio = 1.148, .cast = 0, .cast_each = 0},
       0.05,
       {{4096, 1536, 7168, Pass::WeightGrad, 503.8},
        {4096, 4096, 2048, Pass::WeightGrad, 365.8},
        {4096, 4096, 14336, Pass::WeightGrad, 2174.8},
        {4096, 5120, 16384, Pass::InputGrad, 2893.4},
        {4096, 6144, 5120, Pass::Forward, 1182.0},
        {4096, 7168, 18432, Pass::Forward, 4695.1},
        {4096, 24576, 5120, Pass::WeightGrad, 4610.9},
        {4096, 28672, 8192, Pass::WeightGrad, 8719.7},
        {4096, 32768, 512, Pass::InputGrad, 616.4},
        {4096, 36864, 7168, Pass::Forward, 9128.5},
        {4096, 128384, 4096, Pass::WeightGrad, 19467.4},
        {33024, 4096, 7168, Pass::Forward, 8280.3}}},
      {"A100, isolated (AIConfigurator)",
       test::a100(),
       DType::Bf16,
       {.ratio = 1, .cast = 0, .cast_each = 0},
       0.08,
       {{2048, 768, 3584, Pass::Forward, 49.0},
        {2048, 8192, 4096, Pass::Forward, 515.6},
        {2048, 8192, 12288, Pass::Forward, 1548.3},
        {2048, 10240, 256, Pass::Forward, 61.6},
        {4096, 256, 7168, Pass::Forward, 80.9},
        {8192, 2048, 3072, Pass::Forward, 388.6},
        {8192, 3584, 3584, Pass::Forward, 817.8},
        {8192, 4096, 1024, Pass::Forward, 276.2},
        {8192, 5120, 3072, Pass::Forward, 950.1},
        {8192, 10240, 768, Pass::Forward, 531.2}}},
      {"B200, Transformer Engine loops (SimuMax b200_bf16_ceperm.json)",
       test::b200(),
       DType::Bf16,
       {.ratio = 1, .cast = 0, .cast_each = 0},
       0.1,
       {{2048, 8192, 2048, Pass::WeightGrad, 89.0},
        {2048, 8192, 7168, Pass::InputGrad, 225.9},
        {2048, 64128, 8192, Pass::WeightGrad, 2354.5},
        {4096, 16384, 2048, Pass::InputGrad, 282.4},
        {4096, 16384, 13312, Pass::WeightGrad, 1775.5},
        {4096, 20480, 16384, Pass::Forward, 2294.1},
        {4096, 106496, 16384, Pass::Forward, 12806.0},
        {8192, 16384, 26624, Pass::Forward, 6316.6},
        {8192, 64128, 8192, Pass::WeightGrad, 8597.2},
        {16384, 32768, 512, Pass::InputGrad, 524.4},
        {32768, 10240, 16384, Pass::WeightGrad, 9939.5},
        {65536, 576, 5120, Pass::Forward, 482.4}}},
      {"B200, isolated (AIConfigurator)",
       test::b200(),
       DType::Bf16,
       {.ratio = kB200Isolated, .cast = 0, .cast_each = 0},
       0.1,
       {{1024, 12288, 2560, Pass::Forward, 44.0},
        {1280, 6144, 2048, Pass::Forward, 24.9},
        {1281, 51200, 2048, Pass::Forward, 179.4},
        {1536, 512, 8192, Pass::Forward, 18.6},
        {1536, 1536, 8192, Pass::Forward, 26.5},
        {1793, 7168, 5120, Pass::Forward, 95.1},
        {3840, 2048, 2560, Pass::Forward, 29.1},
        {4097, 12288, 1536, Pass::Forward, 127.5},
        {4353, 2048, 7168, Pass::Forward, 97.6},
        {8192, 1536, 3072, Pass::Forward, 54.2}}},
      {"B200 fp8, isolated, cast included",
       test::b200(),
       DType::Fp8,
       {.ratio = kB200Isolated, .cast = 1.26e-05, .cast_each = 1.172e-12},
       0.1,
       {{2048, 8192, 12288, Pass::Forward, 174.3},
        {2304, 2560, 6144, Pass::Forward, 55.5},
        {2304, 16384, 2560, Pass::Forward, 81.6},
        {2560, 3584, 12288, Pass::Forward, 122.7},
        {2561, 10240, 16384, Pass::Forward, 356.3},
        {2561, 51200, 1024, Pass::Forward, 152.6},
        {3072, 6144, 1024, Pass::Forward, 32.8},
        {3841, 1024, 51200, Pass::Forward, 382.9},
        {4096, 768, 3584, Pass::Forward, 38.9},
        {4353, 512, 7168, Pass::Forward, 66.2}}},
      {"B200 fp8 blocks, isolated, cast included",
       test::b200(),
       DType::Fp8Block,
       {.ratio = kB200Isolated, .cast = 3.9e-06, .cast_each = 5.5e-13},
       0.1,
       {{1024, 2048, 3072, Pass::Forward, 12.5},
        {1025, 5120, 3584, Pass::Forward, 22.4},
        {1281, 7168, 6144, Pass::Forward, 50.5},
        {1536, 2560, 3072, Pass::Forward, 17.4},
        {1536, 5120, 3072, Pass::Forward, 26.1},
        {1793, 4096, 12288, Pass::Forward, 74.2},
        {2560, 768, 5120, Pass::Forward, 20.2},
        {2560, 2048, 6144, Pass::Forward, 34.8},
        {2816, 2560, 3584, Pass::Forward, 28.9},
        {3841, 12288, 2048, Pass::Forward, 77.1}}},
      {"B200 nvfp4, isolated, cast included",
       test::b200(),
       DType::Nvfp4,
       {.ratio = kB200Isolated, .cast = 5.1e-06, .cast_each = 7.97e-13},
       0.1,
       {{2305, 768, 6144, Pass::Forward, 27.5},
        {2561, 1024, 12288, Pass::Forward, 49.9},
        {2816, 10240, 512, Pass::Forward, 23.1},
        {3072, 3072, 65536, Pass::Forward, 381.0},
        {3072, 51200, 2560, Pass::Forward, 226.7},
        {3328, 65536, 512, Pass::Forward, 123.8},
        {4352, 5120, 10240, Pass::Forward, 136.8},
        {8192, 768, 10240, Pass::Forward, 102.6},
        {16384, 2048, 3072, Pass::Forward, 97.8},
        {16384, 3072, 12288, Pass::Forward, 396.4}}},
      {"H100, isolated (AIConfigurator)",
       test::h100(),
       DType::Bf16,
       {.ratio = kH100Isolated, .cast = 0, .cast_each = 0},
       0.08,
       {{1024, 3584, 7168, Pass::Forward, 77.2},
        {1792, 3072, 10240, Pass::Forward, 147.4},
        {1793, 65536, 5120, Pass::Forward, 1750.3},
        {2048, 65536, 3584, Pass::Forward, 1218.2},
        {2305, 3584, 1024, Pass::Forward, 27.7},
        {3328, 1024, 10240, Pass::Forward, 100.1},
        {3328, 1536, 4096, Pass::Forward, 56.0},
        {3328, 8192, 16384, Pass::Forward, 1138.8},
        {3585, 2048, 12288, Pass::Forward, 240.9},
        {8192, 2560, 1536, Pass::Forward, 90.1}}},
      {"H100 fp8, isolated, cast included",
       test::h100(),
       DType::Fp8,
       {.ratio = kH100Isolated, .cast = 8e-06, .cast_each = 2.19e-12},
       0.08,
       {{1281, 2560, 4096, Pass::Forward, 40.2},
        {2560, 3072, 1024, Pass::Forward, 30.2},
        {2560, 10240, 512, Pass::Forward, 47.5},
        {2561, 1024, 3072, Pass::Forward, 35.6},
        {2817, 768, 4096, Pass::Forward, 49.9},
        {3073, 65536, 6144, Pass::Forward, 1725.9},
        {3841, 65536, 512, Pass::Forward, 262.3},
        {4352, 10240, 2048, Pass::Forward, 171.0},
        {8192, 512, 7168, Pass::Forward, 196.9},
        {16384, 3584, 768, Pass::Forward, 127.1}}},
      {"H100 fp8 blocks, isolated, cast included",
       test::h100(),
       DType::Fp8Block,
       {.ratio = kH100Isolated, .cast = 1.7e-06, .cast_each = 1.73e-12},
       0.1,
       {{1024, 51200, 5120, Pass::Forward, 532.1},
        {2304, 5120, 51200, Pass::Forward, 1320.4},
        {2817, 3584, 1536, Pass::Forward, 45.7},
        {3072, 1024, 10240, Pass::Forward, 137.6},
        {3072, 16384, 7168, Pass::Forward, 636.4},
        {3073, 512, 7168, Pass::Forward, 71.6},
        {3585, 6144, 7168, Pass::Forward, 313.5},
        {4097, 256, 7168, Pass::Forward, 70.8},
        {16384, 768, 768, Pass::Forward, 54.8},
        {16384, 6144, 8192, Pass::Forward, 1511.5}}},
  };
  for (const Table& t : tables) {
    std::vector<double> errors;
    for (const Measured& r : t.rows) {
      const sim::MatMul op{.m = r.m, .n = r.n, .k = r.k, .pass = r.pass, .dtype = t.dtype};
      const double modelled =
          t.harness.ratio * hw::compute_cost(op, t.gpu, kPlain, t.gpu.sms).alone.si +
          t.harness.cast + t.harness.cast_each * static_cast<double>(r.m * r.k);
      errors.push_back(std::abs(modelled / (r.us * 1e-6) - 1));
    }
    CAPTURE(t.name);
    CHECK(report(t.name, errors) < t.median_bound);
    CHECK(*std::max_element(errors.begin(), errors.end()) < 0.5);
  }
}

// FlashAttention repositories' figures: 16k tokens, hidden size 2048, TFLOP/s with causal pairs
// counted half and backward 2.5 times forward.
TEST_CASE("attention of the public figures") {
  struct Figure {
    std::int64_t dim, seq;
    bool causal;
    double tflops;
  };
  struct FigureTable {
    const char* name;
    hw::Gpu gpu;
    AttentionKernel kernel;
    bool backward;  // forward and backward together
    double median_bound;
    std::vector<Figure> rows;
  };
  const FigureTable tables[] = {{"FlashAttention-2 forward + backward on A100",
                                 test::a100(),
                                 AttentionKernel::Flash2,
                                 true,
                                 0.08,
                                 {{64, 1024, true, 119},
                                  {64, 4096, true, 156},
                                  {64, 16384, true, 171},
                                  {64, 4096, false, 171},
                                  {128, 1024, true, 133},
                                  {128, 2048, true, 155},
                                  {128, 4096, true, 173},
                                  {128, 8192, true, 182},
                                  {128, 16384, true, 189},
                                  {128, 4096, false, 196}}},
                                {"FlashAttention-2 forward + backward on H100",
                                 test::h100(),
                                 AttentionKernel::Flash2,
                                 true,
                                 0.12,
                                 {{64, 1024, true, 192},
                                  {64, 4096, true, 257},
                                  {64, 16384, true, 284},
                                  {64, 4096, false, 288},
                                  {128, 1024, true, 221},
                                  {128, 2048, true, 265},
                                  {128, 4096, true, 294},
                                  {128, 8192, true, 308},
                                  {128, 16384, true, 328},
                                  {128, 4096, false, 326}}},
                                {"FlashAttention-3 forward on H100",
                                 test::h100(),
                                 AttentionKernel::Flash3,
                                 false,
                                 0.10,
                                 {{64, 1024, true, 265},
                                  {64, 4096, true, 420},
                                  {64, 16384, true, 473},
                                  {64, 4096, false, 476},
                                  {128, 1024, true, 423},
                                  {128, 2048, true, 521},
                                  {128, 4096, true, 579},
                                  {128, 8192, true, 602},
                                  {128, 16384, true, 616},
                                  {128, 4096, false, 638}}},
                                {"cuDNN forward on H100",
                                 test::h100(),
                                 AttentionKernel::CuDnn,
                                 false,
                                 0.10,
                                 {{64, 1024, true, 288},
                                  {64, 4096, true, 363},
                                  {64, 16384, true, 388},
                                  {64, 4096, false, 408},
                                  {128, 1024, true, 410},
                                  {128, 2048, true, 484},
                                  {128, 4096, true, 518},
                                  {128, 8192, true, 529},
                                  {128, 16384, true, 539},
                                  {128, 4096, false, 609}}}};
  for (const FigureTable& t : tables) {
    hw::Stack stack = kPlain;
    stack.attention = t.kernel;
    std::vector<double> errors;
    for (const Figure& r : t.rows) {
      sim::Attention op{.batch = 16384 / r.seq,
                        .heads = 2048 / r.dim,
                        .kv_heads = 2048 / r.dim,
                        .seq_q = r.seq,
                        .seq_k = r.seq,
                        .qk_dim = r.dim,
                        .v_dim = r.dim,
                        .causal = r.causal};
      double modelled = hw::compute_cost(op, t.gpu, stack, t.gpu.sms).alone.si;
      op.backward = true;
      if (t.backward) modelled += hw::compute_cost(op, t.gpu, stack, t.gpu.sms).alone.si;
      const double flops = 4. * 16384 * static_cast<double>(r.seq) * 2048 * (r.causal ? 0.5 : 1) *
                           (t.backward ? 3.5 : 1);
      errors.push_back(std::abs(modelled / (flops / (r.tflops * 1e12)) - 1));
    }
    CAPTURE(t.name);
    CHECK(report(t.name, errors) < t.median_bound);
    CHECK(*std::max_element(errors.begin(), errors.end()) < 0.5);
  }
}

// SimuMax b200_bf16_ceperm.json and a100_pcie.json; the PCIe card runs at 1.158 of the SXM time.
TEST_CASE("attention in Transformer Engine loops") {
  struct Loop {
    std::int64_t heads, kv_heads, seq, qk, v;
    bool backward;
    double us;
  };
  const auto check_loop = [](const char* name, const hw::Gpu& gpu, AttentionKernel kernel,
                             double ratio, double bound, const std::vector<Loop>& rows) {
    hw::Stack stack = kPlain;
    stack.attention = kernel;
    std::vector<double> errors;
    for (const Loop& r : rows) {
      const sim::Attention op{.heads = r.heads,
                              .kv_heads = r.kv_heads,
                              .seq_q = r.seq,
                              .seq_k = r.seq,
                              .qk_dim = r.qk,
                              .v_dim = r.v,
                              .backward = r.backward};
      const double modelled = ratio * hw::compute_cost(op, gpu, stack, gpu.sms).alone.si;
      errors.push_back(std::abs(modelled / (r.us * 1e-6) - 1));
    }
    CAPTURE(name);
    CHECK(report(name, errors) < bound);
    CHECK(*std::max_element(errors.begin(), errors.end()) < 0.5);
  };
  check_loop("FlashAttention-2 on A100", test::a100(), AttentionKernel::Flash2, 1.158, 0.15,
             {{8, 2, 4096, 128, 128, false, 284},
              {16, 4, 4096, 128, 128, false, 444},
              {32, 8, 4096, 128, 128, false, 778},
              {64, 8, 4096, 128, 128, false, 1484},
              {128, 128, 4096, 192, 128, false, 4106},
              {16, 4, 4096, 128, 128, true, 1249},
              {32, 8, 4096, 128, 128, true, 2256},
              {64, 8, 4096, 128, 128, true, 4383},
              {128, 128, 4096, 192, 128, true, 13734}});
  check_loop("cuDNN on B200", test::b200(), AttentionKernel::CuDnn, 1, 0.20,
             {{64, 8, 4096, 128, 128, false, 280},
              {128, 16, 4096, 128, 128, false, 490},
              {16, 2, 32768, 128, 128, false, 3355},
              {16, 2, 131072, 128, 128, false, 63257},
              {128, 128, 4096, 192, 128, false, 735},
              {32, 8, 4096, 128, 128, true, 388},
              {64, 8, 4096, 128, 128, true, 837},
              {128, 16, 4096, 128, 128, true, 1469},
              {16, 2, 32768, 128, 128, true, 11212},
              {128, 128, 4096, 192, 128, true, 2377}});
}

// The DeepGEMM README of 2025-02-25, H800: isolated, 0.937 of the training time.
TEST_CASE("grouped products") {
  struct Grouped {
    std::int64_t groups, rows, n, k;
    double tflops;
  };
  hw::Stack stack = kPlain;
  stack.grouped_gemm = hw::GroupedGemmKernel::DeepGemm;
  std::vector<double> errors;
  for (const Grouped& g :
       {Grouped{4, 8192, 4096, 7168, 1297}, Grouped{4, 8192, 7168, 2048, 1099},
        Grouped{8, 4096, 4096, 7168, 1288}, Grouped{8, 4096, 7168, 2048, 1093}}) {
    const sim::GroupedMatMul op{
        .groups = g.groups, .m = g.groups * g.rows, .n = g.n, .k = g.k, .dtype = DType::Fp8Block};
    const double modelled = 0.937 * hw::compute_cost(op, test::h100(), stack, 132).alone.si;
    errors.push_back(std::abs(modelled * g.tflops * 1e12 / sim::flops(op).si - 1));
  }
  CHECK(report("DeepGEMM, groups of 4 and 8 experts on H800", errors) < 0.06);
}
