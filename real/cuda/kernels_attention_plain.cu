// Attention of any head size and kind of number, in fp32 without tensor cores: for fp32 runs and as
// a second opinion. A block has 16 rows, two to a warp: of queries (out, dq) or of keys (dk, dv),
// and walks over tiles of 32 rows of the other side, one to a lane. What a row sums up lies in
// registers, columns lane, lane + 32, ...
#include "real/cuda/attention.h"
#include "sim/check.h"

namespace reckon::real::cuda {

namespace {

constexpr int kRows = 16, kOthers = 32, kThreads = 256, kRowsOfWarp = 2;
constexpr int kMostDims = 256, kParts = kMostDims / kWarp;

// A row of shared memory; one number more, so that a column lies in different banks.
RECKON_DEVICE int padded(int dim) {
  return dim + 1;
}

// Rows [first, first + count) of a head; those from `all` on become 0.
RECKON_DEVICE void load_rows(float* to, ConstView x, Index head, Index stride, int first, int count,
                             int all, int dim) {
  for (int i = static_cast<int>(threadIdx.x); i < count * dim; i += kThreads) {
    const int row = i / dim, column = i % dim;
    to[row * padded(dim) + column] =
        first + row < all ? load(x, head + (first + row) * stride + column) : 0.0f;
  }
}

RECKON_DEVICE float dot_rows(const float* a, const float* b, int dim) {
  float sum = 0;
  for (int i = 0; i < dim; ++i) sum += a[i] * b[i];
  return sum;
}

// sum[] += x_j row_j over the lanes' x and the tile's rows.
RECKON_DEVICE void add_rows(float (&sum)[kParts], float x, const float* rows, int dim) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int j = 0; j < kOthers; ++j) {
    const float of = shuffle(x, j);
#pragma unroll
    for (int p = 0; p < kParts; ++p)
      if (p * kWarp + lane < dim) sum[p] += of * rows[j * padded(dim) + p * kWarp + lane];
  }
}

RECKON_DEVICE void store_sum(View to, Index at, const float (&sum)[kParts], int dim, float factor) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int p = 0; p < kParts; ++p)
    if (p * kWarp + lane < dim) store(to, at + p * kWarp + lane, sum[p] * factor);
}

__global__ void __launch_bounds__(kThreads)
    plain_forward_kernel(AttentionTask t, View out, float* lse) {
  const Heads& h = t.heads;
  float* q = shared_memory<float>();
  float* k = q + kRows * padded(h.qk_dim);
  float* v = k + kOthers * padded(h.qk_dim);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int first_of_warp = static_cast<int>(threadIdx.x) / kWarp * kRowsOfWarp;
  const int row = static_cast<int>(blockIdx.x) * kRows, head = static_cast<int>(blockIdx.y);
  const int sample = static_cast<int>(blockIdx.z), kv_head = head / (h.heads / h.kv_heads);
  const Span keys = t.mask.keys_of_range(t.mask.range(row, kRows));
  load_rows(q, t.q, h.q(sample, head), h.q_stride(), row, kRows, h.seq_q, h.qk_dim);

  float maximum[kRowsOfWarp], total[kRowsOfWarp], sum[kRowsOfWarp][kParts] = {};
  for (int r = 0; r < kRowsOfWarp; ++r) maximum[r] = -kInfinity, total[r] = 0;
  for (int key = keys.begin; key < keys.end; key += kOthers) {
    __syncthreads();
    load_rows(k, t.k, h.k(sample, kv_head), h.k_stride(), key, kOthers, h.seq_k, h.qk_dim);
    load_rows(v, t.v, h.v(sample, kv_head), h.v_stride(), key, kOthers, h.seq_k, h.v_dim);
    __syncthreads();
    for (int r = 0; r < kRowsOfWarp; ++r) {
      const int mine = row + first_of_warp + r;
      const Span seen = mine < h.seq_q ? t.mask.keys(t.mask.position(mine)) : Span{0, 0};
      const bool sees = key + lane >= seen.begin && key + lane < seen.end;
      const float dot = dot_rows(q + (first_of_warp + r) * padded(h.qk_dim),
                                 k + lane * padded(h.qk_dim), h.qk_dim);
      const float score = sees ? dot * t.scale : -kInfinity;
      const float of_tile = warp_max(score);
      const float largest = of_tile > maximum[r] ? of_tile : maximum[r];
      const float shift = largest == -kInfinity ? 0 : largest;
      const float factor = expf(maximum[r] - shift), p = expf(score - shift);
      maximum[r] = largest;
      total[r] = total[r] * factor + warp_sum(p);
      for (int i = 0; i < kParts; ++i) sum[r][i] *= factor;
      add_rows(sum[r], p, v, h.v_dim);
    }
  }
  for (int r = 0; r < kRowsOfWarp; ++r) {
    const int mine = row + first_of_warp + r;
    if (mine >= h.seq_q) continue;
    store_sum(out, h.out(sample, head) + mine * h.out_stride(), sum[r], h.v_dim,
              total[r] != 0 ? 1 / total[r] : 0);
    if (lane == 0)
      lse[h.rows(sample, head) + mine] = total[r] != 0 ? maximum[r] + logf(total[r]) : -kInfinity;
  }
}

// p and dS of one query and one key, whose rows are given.
struct Pair {
  float p, ds;
};
RECKON_DEVICE Pair pair_of(const AttentionTask& t, const AttentionGradients& g, Index lse_row,
                           int query, int key, const float* q, const float* k, const float* d,
                           const float* v) {
  const Heads& h = t.heads;
  const float score = dot_rows(q, k, h.qk_dim) * t.scale, dp = dot_rows(d, v, h.v_dim);
  if (query >= h.seq_q) return {0, 0};
  const Span seen = t.mask.keys(t.mask.position(query));
  if (key < seen.begin || key >= seen.end) return {0, 0};
  const float p = expf(score - g.lse[lse_row + query]);
  return {p, p * (dp - g.dout_dot_out[lse_row + query])};
}

__global__ void __launch_bounds__(kThreads)
    plain_query_grad_kernel(AttentionTask t, AttentionGradients g) {
  const Heads& h = t.heads;
  float* q = shared_memory<float>();
  float* d = q + kRows * padded(h.qk_dim);
  float* k = d + kRows * padded(h.v_dim);
  float* v = k + kOthers * padded(h.qk_dim);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int first_of_warp = static_cast<int>(threadIdx.x) / kWarp * kRowsOfWarp;
  const int row = static_cast<int>(blockIdx.x) * kRows, head = static_cast<int>(blockIdx.y);
  const int sample = static_cast<int>(blockIdx.z), kv_head = head / (h.heads / h.kv_heads);
  const Span keys = t.mask.keys_of_range(t.mask.range(row, kRows));
  load_rows(q, t.q, h.q(sample, head), h.q_stride(), row, kRows, h.seq_q, h.qk_dim);
  load_rows(d, g.dout, h.out(sample, head), h.out_stride(), row, kRows, h.seq_q, h.v_dim);

  float dq[kRowsOfWarp][kParts] = {};
  for (int key = keys.begin; key < keys.end; key += kOthers) {
    __syncthreads();
    load_rows(k, t.k, h.k(sample, kv_head), h.k_stride(), key, kOthers, h.seq_k, h.qk_dim);
    load_rows(v, t.v, h.v(sample, kv_head), h.v_stride(), key, kOthers, h.seq_k, h.v_dim);
    __syncthreads();
    for (int r = 0; r < kRowsOfWarp; ++r) {
      const int at = first_of_warp + r;
      const Pair pair = pair_of(t, g, h.rows(sample, head), row + at, key + lane,
                                q + at * padded(h.qk_dim), k + lane * padded(h.qk_dim),
                                d + at * padded(h.v_dim), v + lane * padded(h.v_dim));
      add_rows(dq[r], pair.ds, k, h.qk_dim);
    }
  }
  for (int r = 0; r < kRowsOfWarp; ++r) {
    const int mine = row + first_of_warp + r;
    if (mine < h.seq_q)
      store_sum(g.dq, h.q(sample, head) + mine * h.q_stride(), dq[r], h.qk_dim, t.scale);
  }
}

__global__ void __launch_bounds__(kThreads)
    plain_key_grad_kernel(AttentionTask t, AttentionGradients g) {
  const Heads& h = t.heads;
  float* k = shared_memory<float>();
  float* v = k + kRows * padded(h.qk_dim);
  float* q = v + kRows * padded(h.v_dim);
  float* d = q + kOthers * padded(h.qk_dim);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int first_of_warp = static_cast<int>(threadIdx.x) / kWarp * kRowsOfWarp;
  const int key = static_cast<int>(blockIdx.x) * kRows, kv_head = static_cast<int>(blockIdx.y);
  const int sample = static_cast<int>(blockIdx.z), group = h.heads / h.kv_heads;
  load_rows(k, t.k, h.k(sample, kv_head), h.k_stride(), key, kRows, h.seq_k, h.qk_dim);
  load_rows(v, t.v, h.v(sample, kv_head), h.v_stride(), key, kRows, h.seq_k, h.v_dim);

  float dk[kRowsOfWarp][kParts] = {}, dv[kRowsOfWarp][kParts] = {};
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head)
    for (int row = 0; row < h.seq_q; row += kOthers) {
      const Span keys = t.mask.keys_of_range(t.mask.range(row, kOthers));
      if (keys.begin >= key + kRows || keys.end <= key) continue;
      __syncthreads();
      load_rows(q, t.q, h.q(sample, head), h.q_stride(), row, kOthers, h.seq_q, h.qk_dim);
      load_rows(d, g.dout, h.out(sample, head), h.out_stride(), row, kOthers, h.seq_q, h.v_dim);
      __syncthreads();
      for (int r = 0; r < kRowsOfWarp; ++r) {
        const int at = first_of_warp + r;
        const Pair pair = pair_of(t, g, h.rows(sample, head), row + lane, key + at,
                                  q + lane * padded(h.qk_dim), k + at * padded(h.qk_dim),
                                  d + lane * padded(h.v_dim), v + at * padded(h.v_dim));
        add_rows(dk[r], pair.ds, q, h.qk_dim);
        add_rows(dv[r], pair.p, d, h.v_dim);
      }
    }
  for (int r = 0; r < kRowsOfWarp; ++r) {
    const int mine = key + first_of_warp + r;
    if (mine >= h.seq_k) continue;
    store_sum(g.dk, h.k(sample, kv_head) + mine * h.k_stride(), dk[r], h.qk_dim, t.scale);
    store_sum(g.dv, h.v(sample, kv_head) + mine * h.v_stride(), dv[r], h.v_dim, 1);
  }
}

// A grid of tiles of 16 of `rows` rows, with shared memory for so many numbers.
Grid tiles_of(const AttentionTask& t, Index rows, Index heads, Index batch, int numbers) {
  check(t.heads.qk_dim <= kMostDims && t.heads.v_dim <= kMostDims,
        "heads have at most 256 numbers");
  return {dim3(static_cast<unsigned>(ceil_div(rows, kRows)), static_cast<unsigned>(heads),
               static_cast<unsigned>(batch)),
          kThreads, static_cast<std::size_t>(numbers) * sizeof(float)};
}

}  // namespace

void plain_attention_forward(const Context& c, const AttentionTask& t, Index batch, View out,
                             float* lse) {
  const Heads& h = t.heads;
  const int numbers = (kRows + kOthers) * (h.qk_dim + 1) + kOthers * (h.v_dim + 1);
  launch(c.stream, tiles_of(t, h.seq_q, h.heads, batch, numbers), plain_forward_kernel, t, out,
         lse);
}

void plain_attention_backward(const Context& c, const AttentionTask& t, Index batch,
                              const AttentionGradients& g) {
  const Heads& h = t.heads;
  const int numbers = (kRows + kOthers) * (h.qk_dim + 1 + h.v_dim + 1);
  launch(c.stream, tiles_of(t, h.seq_k, h.kv_heads, batch, numbers), plain_key_grad_kernel, t, g);
  launch(c.stream, tiles_of(t, h.seq_q, h.heads, batch, numbers), plain_query_grad_kernel, t, g);
}

}  // namespace reckon::real::cuda
