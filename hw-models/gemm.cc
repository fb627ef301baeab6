// Matrix products, dense and grouped. The output is cut into tiles, SMs work on them in waves, and
// a tile costs its k loop plus a prologue and epilogue:
//
//   t = launch + max(waves (2 r c K / rate(r, c) + tile_seconds r c / 128^2), traffic / memory
//   rate) waves = ceil(tiles / sms),  rate(r, c) = peak / SMs * peak_fraction * i(largest) / i(r,
//   c), i(r, c) = 1 + intensity_rows (1/r + 1/c): small tiles fetch more operands per product
//
// minimised over the tile sizes that libraries offer. DeepGEMM's 128 x 128 tiles on 112 SMs of an
// H800 show the form most clearly: in DeepSeek's public training trace a tile of any shape and pass
// costs 0.43 us per 128 of depth, plus 1.5 to 2 us where it writes bf16 and 9 us where it adds to
// fp32. Not modelled: split-k, tile order and L2, clocks that depend on the data.
#include <algorithm>
#include <cmath>
#include <limits>

#include "hw-models/cost.h"
#include "hw-models/kernel_model.h"
#include "sim/check.h"

namespace reckon::hw {

double bytes_per_element(sim::DType dtype) {
  switch (dtype) {
    case sim::DType::Fp32:
    case sim::DType::Tf32: return 4;
    case sim::DType::Fp16:
    case sim::DType::Bf16: return 2;
    case sim::DType::Fp8: return 1;
    case sim::DType::Fp8Block: return 1 + 4.0 / 128;  // one fp32 scale per 128 values
    case sim::DType::Mxfp8: return 1 + 1.0 / 32;
    case sim::DType::Nvfp4: return 0.5 + 1.0 / 16;
  }
  check(false, "every dtype has a size");
  return 0;
}

namespace {

// The product that runs: rows x cols outputs, each a sum over `depth`.
struct Product {
  double rows = 0, cols = 0, depth = 0;
};

Product product(double m, double n, double k, sim::Pass pass) {
  switch (pass) {
    case sim::Pass::Forward: return {m, n, k};
    case sim::Pass::InputGrad: return {m, k, n};
    case sim::Pass::WeightGrad: return {k, n, m};
  }
  check(false, "every pass is a product");
  return {};
}

struct Tile {
  double rows, cols;
};
constexpr Tile kTiles[] = {{256, 128}, {128, 256}, {128, 128}, {128, 64}, {64, 128}, {64, 64}};

// `count` equal products, in one kernel.
KernelTime tiled_time(const GemmFit& fit, const Product& p, double count, sim::Pass pass,
                      sim::DType dtype, double kernel_fraction, const Gpu& gpu, int sms) {
  const bool accumulates = pass == sim::Pass::WeightGrad;
  const double out_bytes = accumulates ? 8 : 2;  // fp32 read and written, or bf16 written
  KernelTime t;
  t.traffic = count * ((p.rows + p.cols) * p.depth * bytes_per_element(dtype) +
                       p.rows * p.cols * out_bytes);
  const auto intensity = [&](const Tile& tile) {
    return 1 + fit.intensity_rows * (1 / tile.rows + 1 / tile.cols);
  };
  const double sm_rate = peak(gpu, dtype).si / gpu.sms * fit.peak_fraction * kernel_fraction *
                         intensity({128, fit.largest_tile / 128});
  const double tile_seconds = accumulates ? fit.wgrad_tile_seconds : fit.tile_seconds;

  double best = std::numeric_limits<double>::infinity();
  for (const Tile& tile : kTiles) {
    if (tile.rows * tile.cols > fit.largest_tile) continue;
    const double tiles = count * std::ceil(p.rows / tile.rows) * std::ceil(p.cols / tile.cols);
    const double waves = std::ceil(tiles / sms);
    const double rate = sm_rate / intensity(tile);
    const double area = tile.rows * tile.cols;
    const double seconds = waves * (2 * area * p.depth / rate + tile_seconds * area / (128 * 128));
    if (seconds < best) {
      best = seconds;
      t.busy_sms = std::min<double>(tiles, sms);
    }
  }
  t.seconds =
      fit.launch_seconds + std::max(best, t.traffic / (gpu.memory_rate.si * fit.memory_fraction));
  return t;
}

Cost to_cost(const KernelTime& t, const Gpu& gpu, const Stack& stack, const GemmFit& fit) {
  const double sustained = fit.in_training ? 1 : gpu.sustained_matmul;
  Cost c;
  c.alone = Seconds(t.seconds / (stack.gemm_efficiency * sustained)) + stack.kernel_gap;
  c.sm_share = t.busy_sms / gpu.sms;
  c.hbm_share = hbm_share(t.traffic, c.alone, gpu);
  c.calibrated = fit.calibrated;
  return c;
}

}  // namespace

KernelTime gemm_time(const GemmFit& fit, const sim::MatMul& op, const Gpu& gpu, int sms) {
  const auto d = [](std::int64_t x) { return static_cast<double>(x); };
  return tiled_time(fit, product(d(op.m), d(op.n), d(op.k), op.pass), d(op.batch), op.pass,
                    op.dtype, 1, gpu, sms);
}

KernelTime grouped_gemm_time(const GemmFit& fit, const sim::GroupedMatMul& op, const Gpu& gpu,
                             int sms) {
  const double groups = static_cast<double>(op.groups);
  const double rows = static_cast<double>(op.m) / groups;
  return tiled_time(fit,
                    product(rows, static_cast<double>(op.n), static_cast<double>(op.k), op.pass),
                    groups, op.pass, op.dtype, fit.grouped_fraction, gpu, sms);
}

Cost compute_cost(const sim::MatMul& op, const Gpu& gpu, const Stack& stack, int sms) {
  const GemmFit& fit = gemm_fit(fitted(), gpu.architecture, op.dtype);
  return to_cost(gemm_time(fit, op, gpu, sms), gpu, stack, fit);
}

Cost compute_cost(const sim::GroupedMatMul& op, const Gpu& gpu, const Stack& stack, int sms) {
  const GemmFit& fit = gemm_fit(fitted(), gpu.architecture, op.dtype);
  // DeepGEMM has grouped kernels for activations only; its weight gradients are one launch per
  // expert (DeepSeek's training trace: 4 launches for 4 local experts).
  const bool loops =
      stack.grouped_gemm == GroupedGemmKernel::Loop ||
      (stack.grouped_gemm == GroupedGemmKernel::DeepGemm && op.pass == sim::Pass::WeightGrad);
  if (!loops) return to_cost(grouped_gemm_time(fit, op, gpu, sms), gpu, stack, fit);
  const sim::MatMul one{
      .m = op.m / op.groups, .n = op.n, .k = op.k, .pass = op.pass, .dtype = op.dtype};
  Cost c = to_cost(gemm_time(fit, one, gpu, sms), gpu, stack, fit);
  c.alone *= static_cast<double>(op.groups);
  c.kernels = static_cast<int>(op.groups);
  return c;
}

}  // namespace reckon::hw
