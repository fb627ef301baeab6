// Attention on tensor cores, in bf16 (Dao et al. 2022, 2023): scores exist for one tile of queries
// x keys at a time. Equations as in real/kernels_attention.cc. Head sizes up to 192 (keys) and 128
// (values); smaller ones are filled up with zeros to the next instance. Larger ones, and fp32, go
// to kernels_attention_plain.cu.
//
// Forward: a block has 128 queries, 16 to a warp, and walks over tiles of 64 keys that any of them
// sees, of which two are under way. Probabilities go from the registers of one product into those
// of the next.
//
// Backward: first dout . out per query. Then one kernel has 64 keys and walks over the queries that
// see them, in all heads that share them, for dk and dv; another has 64 queries and walks over
// keys, for dq. Scores are computed in both, 7 products in place of 5, but no sum crosses blocks:
// no atomics, no fp32 copy of dq, the same bits in every run.
#include "real/cuda/attention.h"
#include "real/cuda/tiles.h"
#include "sim/check.h"

namespace reckon::real::cuda {

namespace {

constexpr int kKeys = 64;
constexpr int kForwardQueries = 128, kBackwardQueries = 64;
constexpr int kForwardThreads = 256, kKeyGradThreads = 256, kQueryGradThreads = 128;

// Rows [row, row + kRows) of one head of x as a tile of kDim numbers to the row.
template <int kRows, int kDim, int kThreads>
RECKON_DEVICE void load_head(unsigned char* to, ConstView x, Index head, Index stride, Span rows,
                             int dim, bool aligned) {
  const auto* from = static_cast<const unsigned char*>(x.at) + (head + rows.begin * stride) * 2;
  load_tile<kRows, kDim * 2, kThreads>(Tile<kDim * 2>{to},
                                       {from, stride * 2, rows.end - rows.begin, dim * 2, aligned});
}

RECKON_DEVICE Span tile_rows(int first, int size, int all) {
  return {first, first + size < all ? first + size : all};
}

// sum[kColumns / 8][4] += the 16 rows of `left` from `row` on times the rows of `right` from
// `column` on, over kDepth numbers.
template <int kColumns, int kDepth>
RECKON_DEVICE void multiply_rows(float (&sum)[kColumns / 8][4], Tile<kDepth * 2> left, int row,
                                 Tile<kDepth * 2> right, int column) {
#pragma unroll
  for (int d = 0; d < kDepth / 16; ++d) {
    std::uint32_t a[4], b[4];
    left.left(a, row, d * 2);
#pragma unroll
    for (int j = 0; j < kColumns / 16; ++j) {
      right.right(b, column + j * 16, d * 2);
      multiply_bf16(sum[2 * j], a, b[0], b[1]);
      multiply_bf16(sum[2 * j + 1], a, b[2], b[3]);
    }
  }
}

// sum[kColumns / 8][4] += a (16 x 16) times rows [row, row + 16) of `right`, from its column on.
template <int kColumns, int kDim>
RECKON_DEVICE void multiply_down(float (&sum)[kColumns / 8][4], const std::uint32_t (&a)[4],
                                 Tile<kDim * 2> right, int row, int column) {
#pragma unroll
  for (int j = 0; j < kColumns / 16; ++j) {
    std::uint32_t b[4];
    right.right_transposed(b, row, column / 8 + j * 2);
    multiply_bf16(sum[2 * j], a, b[0], b[1]);
    multiply_bf16(sum[2 * j + 1], a, b[2], b[3]);
  }
}

// Results of a product of 16 x 64 as the left operand of one that sums over the 64: its part for
// summands [16 step, 16 step + 16).
RECKON_DEVICE void as_left(std::uint32_t (&a)[4], const float (&x)[8][4], int step) {
  a[0] = pack_bf16(x[2 * step][0], x[2 * step][1]);
  a[1] = pack_bf16(x[2 * step][2], x[2 * step][3]);
  a[2] = pack_bf16(x[2 * step + 1][0], x[2 * step + 1][1]);
  a[3] = pack_bf16(x[2 * step + 1][2], x[2 * step + 1][3]);
}

// Writes 16 rows x kColumns of a result, times `factor` of each of a lane's two rows; in pairs of
// columns where they are aligned.
template <int kColumns>
RECKON_DEVICE void store_rows(View to, Index first, Index stride, const float (&x)[kColumns / 8][4],
                              int rows, int columns, float upper, float lower, bool pairs) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + half * 8;
    if (row >= rows) continue;
    const float factor = half == 0 ? upper : lower;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      const int column = j * 8 + lane % 4 * 2;
      const Index at = first + row * stride + column;
      const float left = x[j][half * 2] * factor, right = x[j][half * 2 + 1] * factor;
      if (pairs) {
        if (column < columns) store<2>(to, at, {{left, right}});
      } else {
        if (column < columns) store(to, at, left);
        if (column + 1 < columns) store(to, at + 1, right);
      }
    }
  }
}

template <int kQk, int kV>
struct ForwardMemory {
  static constexpr int kQBytes = kForwardQueries * kQk * 2, kKBytes = kKeys * kQk * 2,
                       kVBytes = kKeys * kV * 2;
  static constexpr int kBytes = kQBytes + 2 * (kKBytes + kVBytes);
};

template <int kQk, int kV>
__global__ void __launch_bounds__(kForwardThreads)
    forward_kernel(AttentionTask t, View out, float* lse, bool aligned) {
  using Memory = ForwardMemory<kQk, kV>;
  auto* memory = shared_memory<unsigned char>();
  const Heads& h = t.heads;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp_row = static_cast<int>(threadIdx.x) / kWarp * 16;
  // The tiles with most keys first.
  const int row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kForwardQueries;
  const int head = static_cast<int>(blockIdx.y), sample = static_cast<int>(blockIdx.z);
  const int kv_head = head / (h.heads / h.kv_heads);
  const Span positions = t.mask.range(row, kForwardQueries);
  const Span keys = t.mask.keys_of_range(positions);
  const int first_key = keys.begin / kKeys * kKeys;
  const int tiles = keys.end > first_key ? (keys.end - first_key + kKeys - 1) / kKeys : 0;

  const auto fetch = [&](int tile) {
    unsigned char* to = memory + Memory::kQBytes + tile % 2 * (Memory::kKBytes + Memory::kVBytes);
    const Span rows = tile_rows(first_key + tile * kKeys, kKeys, h.seq_k);
    load_head<kKeys, kQk, kForwardThreads>(to, t.k, h.k(sample, kv_head), h.k_stride(), rows,
                                           h.qk_dim, aligned);
    load_head<kKeys, kV, kForwardThreads>(to + Memory::kKBytes, t.v, h.v(sample, kv_head),
                                          h.v_stride(), rows, h.v_dim, aligned);
  };
  load_head<kForwardQueries, kQk, kForwardThreads>(memory, t.q, h.q(sample, head), h.q_stride(),
                                                   tile_rows(row, kForwardQueries, h.seq_q),
                                                   h.qk_dim, aligned);
  if (tiles > 0) fetch(0);
  copy_async_commit();

  Span seen[2];
  for (int half = 0; half < 2; ++half) {
    const int mine = row + warp_row + lane / 4 + half * 8;
    seen[half] = mine < h.seq_q ? t.mask.keys(t.mask.position(mine)) : Span{0, 0};
  }
  const float to_log2 = t.scale * kLog2E;
  float maximum[2] = {-kInfinity, -kInfinity}, sum[2] = {0, 0};  // of scores in units of log2
  float result[kV / 8][4] = {};
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) fetch(tile + 1);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    unsigned char* at = memory + Memory::kQBytes + tile % 2 * (Memory::kKBytes + Memory::kVBytes);
    const int key = first_key + tile * kKeys;

    float score[8][4] = {};
    multiply_rows<kKeys, kQk>(score, {memory}, warp_row, {at}, 0);
    const bool all = t.mask.all_see(positions, key, kKeys);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = maximum[half];
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& s = score[j][half * 2 + e];
          const int of = key + j * 8 + lane % 4 * 2 + e;
          s = all || (of >= seen[half].begin && of < seen[half].end) ? s * to_log2 : -kInfinity;
          largest = s > largest ? s : largest;
        }
      for (int d = 1; d < 4; d *= 2) {  // the four lanes that share a row
        const float other = shuffle_xor(largest, d);
        largest = other > largest ? other : largest;
      }
      const float shift = largest == -kInfinity ? 0 : largest;
      const float factor = exp2f(maximum[half] - shift);
      maximum[half] = largest;
      sum[half] *= factor;
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& s = score[j][half * 2 + e];
          s = exp2f(s - shift);
          sum[half] += s;
        }
#pragma unroll
      for (int j = 0; j < kV / 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) result[j][half * 2 + e] *= factor;
    }
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      std::uint32_t a[4];
      as_left(a, score, step);
      multiply_down<kV, kV>(result, a, {at + Memory::kKBytes}, step * 16, 0);
    }
    __syncthreads();  // the stage may be filled again
  }

  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    for (int d = 1; d < 4; d *= 2) sum[half] += shuffle_xor(sum[half], d);
    inverse[half] = sum[half] != 0 ? 1 / sum[half] : 0;
    const int mine = row + warp_row + lane / 4 + half * 8;
    if (lane % 4 == 0 && mine < h.seq_q)
      lse[h.rows(sample, head) + mine] =
          sum[half] != 0 ? (maximum[half] + log2f(sum[half])) * kLn2 : -kInfinity;
  }
  store_rows<kV>(out, h.out(sample, head) + (row + warp_row) * h.out_stride(), h.out_stride(),
                 result, h.seq_q - row - warp_row, h.v_dim, inverse[0], inverse[1], aligned);
}

// ---- backward

template <int kQk, int kV>
struct KeyGradMemory {
  static constexpr int kKBytes = kKeys * kQk * 2, kVBytes = kKeys * kV * 2,
                       kQBytes = kBackwardQueries * kQk * 2, kDBytes = kBackwardQueries * kV * 2;
  // The last: probabilities and their gradients, by keys.
  static constexpr int kScoreBytes = kKeys * kBackwardQueries * 2;
  static constexpr int kStageBytes = kQBytes + kDBytes;
  static constexpr int kBytes = kKBytes + kVBytes + 2 * kStageBytes + 2 * kScoreBytes;
};

template <int kQk, int kV>
__global__ void __launch_bounds__(kKeyGradThreads)
    key_grad_kernel(AttentionTask t, AttentionGradients g, bool aligned) {
  using Memory = KeyGradMemory<kQk, kV>;
  auto* k_memory = shared_memory<unsigned char>();
  unsigned char* v_memory = k_memory + Memory::kKBytes;
  unsigned char* stages = v_memory + Memory::kVBytes;
  const Tile<128> p_tile{stages + 2 * Memory::kStageBytes};
  const Tile<128> ds_tile{p_tile.at + Memory::kScoreBytes};
  const Heads& h = t.heads;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  // 16 keys to two warps, which have half of the queries each for scores, and half of the columns
  // for the results.
  const int warp_key = warp / 2 * 16, half_of = warp % 2;
  const int key = static_cast<int>(blockIdx.x) * kKeys;
  const int kv_head = static_cast<int>(blockIdx.y), sample = static_cast<int>(blockIdx.z);
  const Span key_rows = tile_rows(key, kKeys, h.seq_k);
  load_head<kKeys, kQk, kKeyGradThreads>(k_memory, t.k, h.k(sample, kv_head), h.k_stride(),
                                         key_rows, h.qk_dim, aligned);
  load_head<kKeys, kV, kKeyGradThreads>(v_memory, t.v, h.v(sample, kv_head), h.v_stride(), key_rows,
                                        h.v_dim, aligned);
  copy_async_commit();

  // Queries come in tiles of rows of one head after another; those that see none of the keys are
  // passed over. One tile is fetched ahead.
  const int group = h.heads / h.kv_heads, last_head = (kv_head + 1) * group;
  int next_head = kv_head * group, next_row = 0;
  const auto settle = [&] {
    for (; next_head < last_head; ++next_head, next_row = 0)
      for (; next_row < h.seq_q; next_row += kBackwardQueries) {
        const Span keys = t.mask.keys_of_range(t.mask.range(next_row, kBackwardQueries));
        if (keys.begin < key_rows.end && keys.end > key) return true;
      }
    return false;
  };
  const auto fetch = [&](int stage) {
    unsigned char* to = stages + stage * Memory::kStageBytes;
    const Span rows = tile_rows(next_row, kBackwardQueries, h.seq_q);
    load_head<kBackwardQueries, kQk, kKeyGradThreads>(to, t.q, h.q(sample, next_head), h.q_stride(),
                                                      rows, h.qk_dim, aligned);
    load_head<kBackwardQueries, kV, kKeyGradThreads>(to + Memory::kQBytes, g.dout,
                                                     h.out(sample, next_head), h.out_stride(), rows,
                                                     h.v_dim, aligned);
  };
  bool more = settle();
  if (more) fetch(0);
  copy_async_commit();

  const float to_log2 = t.scale * kLog2E;
  float dk[kQk / 16][4] = {}, dv[kV / 16][4] = {};
  for (int stage = 0; more; stage = 1 - stage) {
    const int head = next_head, row = next_row;
    next_row += kBackwardQueries;
    more = settle();
    if (more) fetch(1 - stage);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    unsigned char* q_memory = stages + stage * Memory::kStageBytes;
    unsigned char* d_memory = q_memory + Memory::kQBytes;

    float score[4][4] = {}, dp[4][4] = {};  // 16 keys x 32 queries
    multiply_rows<32, kQk>(score, {k_memory}, warp_key, {q_memory}, half_of * 32);
    multiply_rows<32, kV>(dp, {v_memory}, warp_key, {d_memory}, half_of * 32);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int query = row + half_of * 32 + j * 8 + lane % 4 * 2 + e;
        const bool exists = query < h.seq_q;
        const Span seen = exists ? t.mask.keys(t.mask.position(query)) : Span{0, 0};
        const Index at = h.rows(sample, head) + query;
        const float lse = exists ? g.lse[at] * kLog2E : 0.0f;
        const float dot = exists ? g.dout_dot_out[at] : 0.0f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int mine = key + warp_key + lane / 4 + half * 8;
          float& s = score[j][half * 2 + e];
          float& d = dp[j][half * 2 + e];
          s = mine >= seen.begin && mine < seen.end ? exp2f(s * to_log2 - lse) : 0.0f;
          d = s * (d - dot);
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int tile_row = warp_key + lane / 4 + half * 8, chunk = half_of * 4 + j;
        const int inside = lane % 4 * 4;  // bytes
        *reinterpret_cast<std::uint32_t*>(p_tile.chunk(tile_row, chunk) + inside) =
            pack_bf16(score[j][half * 2], score[j][half * 2 + 1]);
        *reinterpret_cast<std::uint32_t*>(ds_tile.chunk(tile_row, chunk) + inside) =
            pack_bf16(dp[j][half * 2], dp[j][half * 2 + 1]);
      }
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kBackwardQueries / 16; ++step) {
      std::uint32_t a[4];
      p_tile.left(a, warp_key, step * 2);
      multiply_down<kV / 2, kV>(dv, a, {d_memory}, step * 16, half_of * kV / 2);
      ds_tile.left(a, warp_key, step * 2);
      multiply_down<kQk / 2, kQk>(dk, a, {q_memory}, step * 16, half_of * kQk / 2);
    }
    __syncthreads();  // the stage may be filled again
  }
  copy_async_wait<0>();  // if no query saw a key
  const int rows = h.seq_k - key - warp_key;
  const Index first_k = h.k(sample, kv_head) + (key + warp_key) * h.k_stride();
  const Index first_v = h.v(sample, kv_head) + (key + warp_key) * h.v_stride();
  store_rows<kQk / 2>(g.dk, first_k + half_of * kQk / 2, h.k_stride(), dk, rows,
                      h.qk_dim - half_of * kQk / 2, t.scale, t.scale, aligned);
  store_rows<kV / 2>(g.dv, first_v + half_of * kV / 2, h.v_stride(), dv, rows,
                     h.v_dim - half_of * kV / 2, 1, 1, aligned);
}

template <int kQk, int kV>
struct QueryGradMemory {
  static constexpr int kQBytes = kBackwardQueries * kQk * 2, kDBytes = kBackwardQueries * kV * 2,
                       kKBytes = kKeys * kQk * 2, kVBytes = kKeys * kV * 2;
  static constexpr int kBytes = kQBytes + kDBytes + kKBytes + kVBytes;
};

template <int kQk, int kV>
__global__ void __launch_bounds__(kQueryGradThreads)
    query_grad_kernel(AttentionTask t, AttentionGradients g, bool aligned) {
  using Memory = QueryGradMemory<kQk, kV>;
  auto* q_memory = shared_memory<unsigned char>();
  unsigned char* d_memory = q_memory + Memory::kQBytes;
  unsigned char* k_memory = d_memory + Memory::kDBytes;
  unsigned char* v_memory = k_memory + Memory::kKBytes;
  const Heads& h = t.heads;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp_row = static_cast<int>(threadIdx.x) / kWarp * 16;
  const int row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kBackwardQueries;
  const int head = static_cast<int>(blockIdx.y), sample = static_cast<int>(blockIdx.z);
  const int kv_head = head / (h.heads / h.kv_heads);
  const Span rows = tile_rows(row, kBackwardQueries, h.seq_q);
  const Span positions = t.mask.range(row, kBackwardQueries);
  const Span keys = t.mask.keys_of_range(positions);
  load_head<kBackwardQueries, kQk, kQueryGradThreads>(q_memory, t.q, h.q(sample, head),
                                                      h.q_stride(), rows, h.qk_dim, aligned);
  load_head<kBackwardQueries, kV, kQueryGradThreads>(d_memory, g.dout, h.out(sample, head),
                                                     h.out_stride(), rows, h.v_dim, aligned);
  copy_async_commit();

  Span seen[2];
  float lse[2], dot[2];
  for (int half = 0; half < 2; ++half) {
    const int mine = row + warp_row + lane / 4 + half * 8;
    const bool exists = mine < h.seq_q;
    seen[half] = exists ? t.mask.keys(t.mask.position(mine)) : Span{0, 0};
    lse[half] = exists ? g.lse[h.rows(sample, head) + mine] * kLog2E : 0.0f;
    dot[half] = exists ? g.dout_dot_out[h.rows(sample, head) + mine] : 0.0f;
  }
  const float to_log2 = t.scale * kLog2E;
  float dq[kQk / 8][4] = {};
  for (int key = keys.begin / kKeys * kKeys; key < keys.end; key += kKeys) {
    const Span key_rows = tile_rows(key, kKeys, h.seq_k);
    __syncthreads();
    load_head<kKeys, kQk, kQueryGradThreads>(k_memory, t.k, h.k(sample, kv_head), h.k_stride(),
                                             key_rows, h.qk_dim, aligned);
    load_head<kKeys, kV, kQueryGradThreads>(v_memory, t.v, h.v(sample, kv_head), h.v_stride(),
                                            key_rows, h.v_dim, aligned);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();

    float score[8][4] = {}, dp[8][4] = {};
    multiply_rows<kKeys, kQk>(score, {q_memory}, warp_row, {k_memory}, 0);
    multiply_rows<kKeys, kV>(dp, {d_memory}, warp_row, {v_memory}, 0);
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int of = key + j * 8 + lane % 4 * 2 + i % 2, half = i / 2;
        const bool sees = of >= seen[half].begin && of < seen[half].end;
        const float p = sees ? exp2f(score[j][i] * to_log2 - lse[half]) : 0.0f;
        dp[j][i] = p * (dp[j][i] - dot[half]);
      }
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      std::uint32_t a[4];
      as_left(a, dp, step);
      multiply_down<kQk, kQk>(dq, a, {k_memory}, step * 16, 0);
    }
  }
  copy_async_wait<0>();
  store_rows<kQk>(g.dq, h.q(sample, head) + (row + warp_row) * h.q_stride(), h.q_stride(), dq,
                  h.seq_q - row - warp_row, h.qk_dim, t.scale, t.scale, aligned);
}

// A warp per query and head: dot(dout, out).
__global__ void dot_kernel(Heads h, Index batch, ConstView dout, ConstView out, float* dot) {
  const Index at = Index{blockIdx.x} * blockDim.y + threadIdx.y;  // [batch, seq_q, heads]
  if (at >= batch * h.seq_q * h.heads) return;
  float sum = 0;
  for (Index i = threadIdx.x; i < h.v_dim; i += kWarp)
    sum += load(dout, at * h.v_dim + i) * load(out, at * h.v_dim + i);
  sum = warp_sum(sum);
  const Index head = at % h.heads, row = at / h.heads % h.seq_q, sample = at / h.heads / h.seq_q;
  if (threadIdx.x == 0) dot[(sample * h.heads + head) * h.seq_q + row] = sum;
}

template <int kQk, int kV>
void run_forward(const Context& c, const AttentionTask& t, Index batch, View out, float* lse,
                 bool aligned) {
  const Heads& h = t.heads;
  launch(c.stream,
         {dim3(static_cast<unsigned>(ceil_div(h.seq_q, kForwardQueries)),
               static_cast<unsigned>(h.heads), static_cast<unsigned>(batch)),
          kForwardThreads, ForwardMemory<kQk, kV>::kBytes},
         forward_kernel<kQk, kV>, t, out, lse, aligned);
}

template <int kQk, int kV>
void run_backward(const Context& c, const AttentionTask& t, Index batch,
                  const AttentionGradients& g, bool aligned) {
  const Heads& h = t.heads;
  const auto samples = static_cast<unsigned>(batch);
  launch(c.stream,
         {dim3(static_cast<unsigned>(ceil_div(h.seq_k, kKeys)), static_cast<unsigned>(h.kv_heads),
               samples),
          kKeyGradThreads, KeyGradMemory<kQk, kV>::kBytes},
         key_grad_kernel<kQk, kV>, t, g, aligned);
  launch(c.stream,
         {dim3(static_cast<unsigned>(ceil_div(h.seq_q, kBackwardQueries)),
               static_cast<unsigned>(h.heads), samples),
          kQueryGradThreads, QueryGradMemory<kQk, kV>::kBytes},
         query_grad_kernel<kQk, kV>, t, g, aligned);
}

AttentionTask task_of(const AttentionShape& s, ConstView q, ConstView k, ConstView v) {
  check(s.kv_heads > 0 && s.heads % s.kv_heads == 0, "query heads share key heads evenly");
  const auto small = [](Index n) { return static_cast<int>(n); };
  return {{small(s.heads), small(s.kv_heads), small(s.seq_q), small(s.seq_k), small(s.qk_dim),
           small(s.v_dim)},
          {small(s.seq_q), small(s.seq_k), small(s.window), s.positions},
          s.scale,
          q,
          k,
          v};
}

bool on_tensor_cores(const AttentionShape& s, ConstView q) {
  return q.element == Element::Bf16 && s.qk_dim <= 192 && s.v_dim <= 128;
}

bool aligned_heads(const AttentionShape& s, std::initializer_list<const void*> pointers) {
  return s.v_dim % 8 == 0 && in_vectors(s.qk_dim, pointers);
}

}  // namespace

void attention_forward(const Context& c, const AttentionShape& s, ConstView q, ConstView k,
                       ConstView v, View out, float* lse) {
  if (s.batch == 0 || s.seq_q == 0) return;
  const AttentionTask t = task_of(s, q, k, v);
  if (!on_tensor_cores(s, q)) return plain_attention_forward(c, t, s.batch, out, lse);
  const bool aligned = aligned_heads(s, {q.at, k.at, v.at, out.at});
  if (s.qk_dim <= 64 && s.v_dim <= 64) return run_forward<64, 64>(c, t, s.batch, out, lse, aligned);
  if (s.qk_dim <= 128) return run_forward<128, 128>(c, t, s.batch, out, lse, aligned);
  run_forward<192, 128>(c, t, s.batch, out, lse, aligned);
}

void attention_backward(const Context& c, const AttentionShape& s, ConstView q, ConstView k,
                        ConstView v, ConstView out, const float* lse, ConstView dout, View dq,
                        View dk, View dv) {
  if (s.batch == 0 || s.seq_k == 0) return;
  const AttentionTask t = task_of(s, q, k, v);
  const Index rows = s.batch * s.seq_q * s.heads;
  auto* dot = static_cast<float*>(c.scratch(static_cast<std::size_t>(rows) * sizeof(float)));
  constexpr unsigned kRows = 4;
  launch(c.stream, {static_cast<unsigned>(ceil_div(rows, kRows)), dim3(kWarp, kRows)}, dot_kernel,
         t.heads, s.batch, dout, out, dot);
  const AttentionGradients g{dout, lse, dot, dq, dk, dv};
  if (!on_tensor_cores(s, q)) return plain_attention_backward(c, t, s.batch, g);
  const bool aligned = aligned_heads(s, {q.at, k.at, v.at, dout.at, dq.at, dk.at, dv.at});
  if (s.qk_dim <= 64 && s.v_dim <= 64) return run_backward<64, 64>(c, t, s.batch, g, aligned);
  if (s.qk_dim <= 128) return run_backward<128, 128>(c, t, s.batch, g, aligned);
  run_backward<192, 128>(c, t, s.batch, g, aligned);
}

}  // namespace reckon::real::cuda
