// Attention. A flash kernel walks, for each tile of 128 rows of one head, the 128-column blocks
// that the mask leaves (rows are queries forwards, keys backwards):
//
//   t = launch + max((pairs (product flops + softmax_flops) / rate + tiles * tile_seconds) / tail,
//                    traffic / memory rate) + (backward) dO.O before and dQ conversion after, by
//                    bytes
//
// `pairs` counts whole blocks, so a causal diagonal costs its masked half too; tail = how full the
// waves of tiles are on the SMs. softmax_flops makes small heads slower, as all flash kernels are.
// Unfused attention is batched products over the whole square, with the softmax as memory traffic
// between them; no mask saves it anything.
// Not modelled: splitting keys over SMs, deterministic backward.
#include <algorithm>
#include <cmath>

#include "hw-models/cost.h"
#include "hw-models/kernel_model.h"

namespace reckon::hw {

namespace {

constexpr double kBlock = 128;

double d(std::int64_t x) {
  return static_cast<double>(x);
}

// Pairs in the blocks that a kernel touches, for one head of one sequence: the mask's own pairs and
// half a block of waste along each of its edges.
double touched_pairs(const sim::Attention& a) {
  const double edges = (a.causal ? 1 : 0) + (a.window > 0 && a.window < a.seq_k ? 1 : 0);
  return std::min(d(a.seq_q) * d(a.seq_k), sim::visible_pairs(a) + edges * d(a.seq_q) * kBlock / 2);
}

double attention_traffic(const sim::Attention& a) {
  const double e = bytes_per_element(a.dtype);
  const double q = d(a.batch * a.heads * a.seq_q) * d(a.qk_dim);
  const double o = d(a.batch * a.heads * a.seq_q) * d(a.v_dim);
  const double kv = d(a.batch * a.kv_heads * a.seq_k) * d(a.qk_dim + a.v_dim);
  // Backward: reads q k v do, adds into an fp32 dq, writes dk dv.
  return a.backward ? e * (q + o + 2 * kv) + 8 * q : e * (q + o + kv);
}

// Backward has a kernel before it that reads o and do, and one after it that converts dq from fp32.
double around_traffic(const sim::Attention& a) {
  if (!a.backward) return 0;
  const double e = bytes_per_element(a.dtype), rows = d(a.batch * a.heads * a.seq_q);
  return rows * (2 * e * d(a.v_dim) + (4 + e) * d(a.qk_dim));
}

Cost flash_cost(const sim::Attention& op, const Gpu& gpu, const Stack& stack, int sms) {
  const AttentionFit& fit = attention_fit(fitted(), gpu.architecture, stack.attention, op.backward);
  const KernelTime t = flash_attention_time(fit, op, gpu, sms);
  Cost c;
  c.kernels = op.backward ? 3 : 1;  // backward: dO.O before, dQ conversion after
  c.alone = Seconds(t.seconds / stack.attention_efficiency) + c.kernels * stack.kernel_gap;
  c.sm_share = t.busy_sms / gpu.sms;
  c.hbm_share = hbm_share(t.traffic, c.alone, gpu);
  c.calibrated = fit.calibrated;
  return c;
}

Cost unfused_cost(const sim::Attention& op, const Gpu& gpu, const Stack& stack, int sms) {
  const std::int64_t batch = op.batch * op.heads;
  const auto gemm = [&](std::int64_t n, std::int64_t k) {
    return compute_cost(
        sim::MatMul{.m = op.seq_q, .n = n, .k = k, .batch = batch, .dtype = op.dtype}, gpu, stack,
        sms);
  };
  // Bytes per score in the fused scale-mask-softmax kernel, and in dropout with its one-byte mask.
  const double e = bytes_per_element(op.dtype);
  const double softmax = op.backward ? 3 * e : 2 * e;
  const double dropout = stack.dropout ? 2 * e + 1 : 0;
  const double scores = d(batch) * d(op.seq_q) * d(op.seq_k);
  const sim::MemoryBound between{.kind = sim::MemoryKind::Elementwise,
                                 .traffic = Bytes(scores * (softmax + dropout)),
                                 .kernels = stack.dropout ? 2 : 1};
  const Cost parts[] = {compute_cost(between, gpu, stack, sms), gemm(op.seq_k, op.qk_dim),
                        gemm(op.v_dim, op.seq_k), gemm(op.seq_k, op.v_dim),
                        gemm(op.qk_dim, op.seq_k)};
  // Forward: q k^T, p v. Backward: dv and dp, dq and dk.
  const double forward[] = {1, 1, 1, 0, 0}, backward[] = {1, 0, 1, 1, 2};
  const double* times = op.backward ? backward : forward;
  Cost sum;
  sum.kernels = 0;
  for (std::size_t i = 0; i < std::size(parts); ++i) {
    const Cost& p = parts[i];
    sum.alone += times[i] * p.alone;
    sum.sm_share += times[i] * p.alone.si * p.sm_share;
    sum.hbm_share += times[i] * p.alone.si * p.hbm_share;
    sum.kernels += static_cast<int>(times[i]) * p.kernels;
    sum.calibrated = sum.calibrated && p.calibrated;
  }
  sum.sm_share /= sum.alone.si;
  sum.hbm_share /= sum.alone.si;
  return sum;
}

}  // namespace

KernelTime flash_attention_time(const AttentionFit& fit, const sim::Attention& op, const Gpu& gpu,
                                int sms) {
  const double pairs = d(op.batch * op.heads) * touched_pairs(op);
  // FlashAttention-1 and 2 have one head size: a narrower v is padded.
  const bool pads = fit.kernel == AttentionKernel::Flash1 || fit.kernel == AttentionKernel::Flash2;
  const double qk = d(op.qk_dim), v = pads ? std::max(qk, d(op.v_dim)) : d(op.v_dim);
  const double products = op.backward ? 6 * qk + 4 * v : 2 * (qk + v);
  const double tiles =
      d(op.batch * op.heads) * std::ceil(d(op.backward ? op.seq_k : op.seq_q) / kBlock);
  const double rate = peak(gpu, op.dtype).si / gpu.sms * fit.peak_fraction;
  const double sm_seconds =
      pairs * (products + fit.softmax_flops) / rate + tiles * fit.tile_seconds;
  KernelTime t;
  const double memory_rate = gpu.memory_rate.si * fit.memory_fraction;
  t.traffic = attention_traffic(op) + around_traffic(op);
  t.busy_sms = std::min<double>(tiles, sms);
  // Causal tiles differ in length and fill in for each other, so only half a tile is lost at the
  // end.
  const double waves = tiles <= sms ? 1 : tiles / sms + (op.causal ? 0.5 : 0);
  const double compute = sm_seconds / tiles * (op.causal ? waves : std::ceil(waves));
  t.seconds = (op.backward ? 3 : 1) * fit.launch_seconds +
              std::max(compute, attention_traffic(op) / memory_rate) +
              around_traffic(op) / memory_rate;
  return t;
}

Cost compute_cost(const sim::Attention& op, const Gpu& gpu, const Stack& stack, int sms) {
  return stack.attention == AttentionKernel::Unfused ? unfused_cost(op, gpu, stack, sms)
                                                     : flash_cost(op, gpu, stack, sms);
}

}  // namespace reckon::hw
