// Attention in tiles (Dao et al. 2022, 2023): scores exist for one tile of queries x keys at a
// time. The products of a tile go through the library of gemm.h; tiles that the mask empties are
// not computed. Exports attention_forward, attention_backward.
//
// Forward, per query row over its key tiles, with running maximum M and sum L:
//   M' = max(M, max_j s_j), c = exp(M - M'), L = c L + sum_j exp(s_j - M'),
//   O = c O + sum_j exp(s_j - M') v_j; at the end out = O / L, lse = M + log L.
// Backward computes each tile again: P = exp(s - lse), D = dout . out,
//   dv += P^T dout, dS = P (dout v^T - D), dq += scale dS k, dk += scale dS^T q.
#include <algorithm>
#include <cmath>
#include <limits>

#include "real/gemm.h"
#include "real/kernels.h"
#include "real/scratch.h"
#include "real/vectors.h"
#include "sim/check.h"

namespace reckon::real::cpu {

namespace {

constexpr Index kQueries = 64, kKeys = 256;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One head of one sample: where its rows begin and how far apart they are.
struct HeadView {
  Index q, k, v, out;  // offsets in floats
  Index q_stride, k_stride, v_stride, out_stride;
};

HeadView head_view(const AttentionShape& s, Index sample, Index head) {
  const Index kv_head = head / (s.heads / s.kv_heads);
  HeadView h{.q_stride = s.heads * s.qk_dim,
             .k_stride = s.kv_heads * s.qk_dim,
             .v_stride = s.kv_heads * s.v_dim,
             .out_stride = s.heads * s.v_dim};
  h.q = sample * s.seq_q * h.q_stride + head * s.qk_dim;
  h.k = sample * s.seq_k * h.k_stride + kv_head * s.qk_dim;
  h.v = sample * s.seq_k * h.v_stride + kv_head * s.v_dim;
  h.out = sample * s.seq_q * h.out_stride + head * s.v_dim;
  return h;
}

// Queries [row, row + rows) at positions [position, position + rows), and the keys that any of them
// sees: [keys_begin, keys_end).
struct QueryTile {
  Index row, rows, position, keys_begin, keys_end;
};

Index position_of(const AttentionShape& s, Index row) {
  return s.positions == nullptr ? row : s.positions[row];
}

// The tile that begins at `row`. It ends where the positions jump (a rank of context parallelism
// holds two runs of them), so that inside a tile row r stands at position + r.
QueryTile query_tile(const AttentionShape& s, Index row) {
  QueryTile t{.row = row, .rows = 1, .position = position_of(s, row)};
  while (t.rows < kQueries && row + t.rows < s.seq_q &&
         position_of(s, row + t.rows) == t.position + t.rows)
    ++t.rows;
  t.keys_begin = s.window > 0 ? std::max<Index>(0, t.position - s.window + 1) : 0;
  t.keys_end = std::min(s.seq_k, t.position + t.rows);
  return t;
}

// Which of the keys [key, key + keys) the query at `position` sees, counted from `key`.
struct Visible {
  Index begin, end;
};

Visible visible(const AttentionShape& s, Index position, Index key, Index keys) {
  const Index end = std::clamp<Index>(position + 1 - key, 0, keys);
  if (s.window <= 0) return {0, end};
  return {std::clamp<Index>(position - s.window + 1 - key, 0, end), end};
}

struct Running {
  float maximum = -kInfinity, sum = 0;
};

// Turns the visible scores of one row into exp(score - maximum), the others into 0. Returns the
// factor for what was summed before.
RECKON_CLONES float softmax_step(float* score, Index keys, Visible seen, Running& run) {
  float largest = run.maximum, sum = 0;
#pragma omp simd reduction(max : largest)
  for (Index j = seen.begin; j < seen.end; ++j) largest = score[j] > largest ? score[j] : largest;
  const float shift = largest == -kInfinity ? 0 : largest;
#pragma omp simd reduction(+ : sum)
  for (Index j = seen.begin; j < seen.end; ++j) {
    score[j] = fast_exp(score[j] - shift);
    sum += score[j];
  }
  for (Index j = 0; j < seen.begin; ++j) score[j] = 0;
  for (Index j = seen.end; j < keys; ++j) score[j] = 0;
  const float factor = fast_exp(run.maximum - shift);
  run.maximum = largest;
  run.sum = run.sum * factor + sum;
  return factor;
}

RECKON_CLONES void multiply_row(float* x, Index n, float factor) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) x[i] *= factor;
}

RECKON_CLONES float dot(const float* a, const float* b, Index n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// What backward knows of one query row.
struct RowBackward {
  float lse, dout_dot_out;
};

// score -> P, dp -> dS, both 0 where the row does not see.
RECKON_CLONES void backward_step(float* score, float* dp, Index keys, Visible seen,
                                 RowBackward row) {
#pragma omp simd
  for (Index j = seen.begin; j < seen.end; ++j) {
    const float p = fast_exp(score[j] - row.lse);
    score[j] = p;
    dp[j] = p * (dp[j] - row.dout_dot_out);
  }
  for (Index j = 0; j < seen.begin; ++j) score[j] = dp[j] = 0;
  for (Index j = seen.end; j < keys; ++j) score[j] = dp[j] = 0;
}

void check_shape(const AttentionShape& s) {
  check(s.kv_heads > 0 && s.heads % s.kv_heads == 0, "query heads share key heads evenly");
}

}  // namespace

void attention_forward(const AttentionShape& s, const float* q, const float* k, const float* v,
                       float* out, float* lse) {
  check_shape(s);
  float* score = scratch(Scratch::Attention, kQueries * kKeys);
  for (Index sample = 0; sample < s.batch; ++sample)
    for (Index head = 0; head < s.heads; ++head) {
      const HeadView h = head_view(s, sample, head);
      float* head_lse = lse + (sample * s.heads + head) * s.seq_q;
      for (Index row = 0; row < s.seq_q;) {
        const QueryTile t = query_tile(s, row);
        float* o = out + h.out + t.row * h.out_stride;
        Running run[kQueries];
        if (t.keys_end <= t.keys_begin)
          for (Index r = 0; r < t.rows; ++r) std::fill_n(o + r * h.out_stride, s.v_dim, 0.0f);

        for (Index key = t.keys_begin; key < t.keys_end; key += kKeys) {
          const Index keys = std::min(kKeys, t.keys_end - key);
          multiply({.m = t.rows, .n = keys, .k = s.qk_dim, .alpha = s.scale},
                   {q + h.q + t.row * h.q_stride, h.q_stride},
                   {k + h.k + key * h.k_stride, h.k_stride, true}, score, kKeys);
          for (Index r = 0; r < t.rows; ++r) {
            const float factor = softmax_step(score + r * kKeys, keys,
                                              visible(s, t.position + r, key, keys), run[r]);
            if (key > t.keys_begin && factor != 1)
              multiply_row(o + r * h.out_stride, s.v_dim, factor);
          }
          multiply({.m = t.rows, .n = s.v_dim, .k = keys, .accumulate = key > t.keys_begin},
                   {score, kKeys}, {v + h.v + key * h.v_stride, h.v_stride}, o, h.out_stride);
        }

        for (Index r = 0; r < t.rows; ++r) {
          // A row that sees no key gives zeros and the logarithm of an empty sum.
          const bool sees = run[r].sum != 0;
          if (sees) multiply_row(o + r * h.out_stride, s.v_dim, 1 / run[r].sum);
          head_lse[t.row + r] = sees ? run[r].maximum + std::log(run[r].sum) : -kInfinity;
        }
        row += t.rows;
      }
    }
}

void attention_backward(const AttentionShape& s, const float* q, const float* k, const float* v,
                        const float* out, const float* lse, const float* dout, float* dq, float* dk,
                        float* dv) {
  check_shape(s);
  float* score = scratch(Scratch::Attention, 2 * kQueries * kKeys);
  float* dp = score + kQueries * kKeys;
  std::fill_n(dq, s.batch * s.seq_q * s.heads * s.qk_dim, 0.0f);
  std::fill_n(dk, s.batch * s.seq_k * s.kv_heads * s.qk_dim, 0.0f);
  std::fill_n(dv, s.batch * s.seq_k * s.kv_heads * s.v_dim, 0.0f);

  for (Index sample = 0; sample < s.batch; ++sample)
    for (Index head = 0; head < s.heads; ++head) {
      const HeadView h = head_view(s, sample, head);
      const float* head_lse = lse + (sample * s.heads + head) * s.seq_q;
      for (Index row = 0; row < s.seq_q;) {
        const QueryTile t = query_tile(s, row);
        const Matrix q_tile{q + h.q + t.row * h.q_stride, h.q_stride};
        const Matrix dout_tile{dout + h.out + t.row * h.out_stride, h.out_stride};
        RowBackward of[kQueries];
        for (Index r = 0; r < t.rows; ++r) {
          const Index at = h.out + (t.row + r) * h.out_stride;
          of[r] = {head_lse[t.row + r], dot(dout + at, out + at, s.v_dim)};
        }

        for (Index key = t.keys_begin; key < t.keys_end; key += kKeys) {
          const Index keys = std::min(kKeys, t.keys_end - key);
          const Matrix k_tile{k + h.k + key * h.k_stride, h.k_stride};
          const Matrix v_tile{v + h.v + key * h.v_stride, h.v_stride};
          multiply({.m = t.rows, .n = keys, .k = s.qk_dim, .alpha = s.scale}, q_tile,
                   {k_tile.at, k_tile.stride, true}, score, kKeys);
          multiply({.m = t.rows, .n = keys, .k = s.v_dim}, dout_tile,
                   {v_tile.at, v_tile.stride, true}, dp, kKeys);
          for (Index r = 0; r < t.rows; ++r)
            backward_step(score + r * kKeys, dp + r * kKeys, keys,
                          visible(s, t.position + r, key, keys), of[r]);
          multiply({.m = keys, .n = s.v_dim, .k = t.rows, .accumulate = true}, {score, kKeys, true},
                   dout_tile, dv + h.v + key * h.v_stride, h.v_stride);
          multiply({.m = keys, .n = s.qk_dim, .k = t.rows, .alpha = s.scale, .accumulate = true},
                   {dp, kKeys, true}, q_tile, dk + h.k + key * h.k_stride, h.k_stride);
          multiply({.m = t.rows, .n = s.qk_dim, .k = keys, .alpha = s.scale, .accumulate = true},
                   {dp, kKeys}, k_tile, dq + h.q + t.row * h.q_stride, h.q_stride);
        }
        row += t.rows;
      }
    }
}

}  // namespace reckon::real::cpu
