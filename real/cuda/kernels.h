// The arithmetic of the trainer on a CUDA device: the functions of real/kernels.h under the same
// names, with the same shapes and equations, and what only a device needs. All pointers and views
// are device memory, except where "host" stands. Activations, weights and their gradients are
// Fp32 or Bf16, each view by itself; statistics, lse, scores, partial losses fp32; indices int32.
// Sums are kept in fp32 and rounded once, when stored.
//
// Every function enqueues on the context's stream and returns: none waits for the device, none
// allocates after the first call with its largest shape (see Context::scratch). With
// `deterministic` the same inputs give the same bits; without it, sums may be in any order.
// Empty shapes (0 rows, 0 tokens) do nothing. Pointers are aligned to their element; what is
// aligned to 16 bytes, with rows that are multiples of 16 bytes, is read in vectors.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "real/kernels.h"
#include "real/view.h"

namespace reckon::real::cuda {

using cpu::Activation;
using cpu::Adam;
using cpu::AttentionShape;  // positions, where not null: device memory
using cpu::Index;
using cpu::LinearShape;
using cpu::NormShape;
using cpu::Numbers;
using cpu::RouterShape;

// What the kernels of one stream share: the library that multiplies matrices with the algorithms
// found for each shape, and working memory. Used by one host thread at a time; lives as long as
// work of its stream is under way.
class Context {
 public:
  // On the current device. The stream is the caller's and outlives the context.
  explicit Context(cudaStream_t on, bool same_bits = true);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Working memory of one call: valid for work enqueued before the next call of it. Grows in stream
  // order and stays. Counted by scratch_bytes().
  void* scratch(std::size_t bytes) const;
  std::size_t scratch_bytes() const;

  struct Library;  // kernels_gemm.h
  Library& library() const { return *library_; }

  cudaStream_t stream;
  int sm_count;
  // Products then take the library's first choice for a shape; else several are timed when a shape
  // is first seen (this alone waits for the device), and the fastest is kept.
  bool deterministic;
  // Our own E4M3 products then use the tensor cores of warp groups (wgmma), which are the faster
  // ones of Hopper. Off until they have been tested on a device: the emulated one has them, but its
  // reading of their descriptors is ours.
  bool warp_groups = false;

 private:
  std::unique_ptr<Library> library_;
};

// ---- numbers

void round_bf16(const Context& c, View x, Index n);  // nothing to do if it is Bf16
// To the E4M3 grid and back, in blocks, as the CPU's. out may be x.
void round_fp8(const Context& c, ConstView x, View out, Index m, Index n, Index block_rows,
               Index block_cols);
void cast(const Context& c, ConstView x, View out, Index n);  // between Fp32 and Bf16, or a copy

// An E4M3 matrix [rows, cols] with scales: value = code * scale. Rows lie fp8_stride(cols) bytes
// apart; the codes beyond `cols` are 0. Per row: scales[ceil(cols / 128), rows], one for 128
// neighbours in a row. Square: scales[ceil(rows / 128), fp8_square_stride(cols)], one for 128x128.
enum class Fp8Scales : std::uint8_t { PerRow, Square };
struct Fp8Matrix {
  std::uint8_t* codes = nullptr;  // 16-byte aligned
  float* scales = nullptr;
  Index rows = 0, cols = 0;
  Fp8Scales kind = Fp8Scales::PerRow;
};
constexpr Index fp8_stride(Index cols) {
  return (cols + 127) / 128 * 128;
}
constexpr Index fp8_square_stride(Index cols) {
  return ((cols + 127) / 128 + 3) / 4 * 4;
}
constexpr Index fp8_scale_count(Index rows, Index cols, Fp8Scales kind) {
  return kind == Fp8Scales::PerRow ? (cols + 127) / 128 * rows
                                   : (rows + 127) / 128 * fp8_square_stride(cols);
}
// x[out.rows, out.cols] -> out
void quantise(const Context& c, ConstView x, const Fp8Matrix& out);
// x[out.cols, out.rows] -> out = x^T; PerRow: blocks of 128 rows x 1 column of x
void quantise_transposed(const Context& c, ConstView x, const Fp8Matrix& out);

// ---- matrix products. Inputs of two kinds are multiplied in fp32; fp32 is true fp32 (no TF32).
// Numbers::Fp8Block quantises both inputs into scratch first.

void linear_forward(const Context& c, const LinearShape& s, ConstView x, ConstView w, View y);
void linear_input_grad(const Context& c, const LinearShape& s, ConstView dy, ConstView w, View dx,
                       bool accumulate = false);
void linear_weight_grad(const Context& c, const LinearShape& s, ConstView dy, ConstView x, View dw);
void bias_grad(const Context& c, ConstView dy, View db, Index m, Index n);
void add_bias(const Context& c, View y, ConstView b, Index m, Index n);
// y[a.rows, b.rows] (+)= a b^T, of operands that were quantised before. REQUIRES: a.cols == b.cols,
// a.kind == PerRow. Forward: x, w. Input gradient: dy, w^T. Weight gradient: dy^T, x^T.
void linear_fp8(const Context& c, const Fp8Matrix& a, const Fp8Matrix& b, View y,
                bool accumulate = false);

// One product per group of rows: rows [offset[g], offset[g + 1]) belong to group g. offset
// [groups + 1] starts at 0, ascends, and ends at `rows` or before: rows behind it are neither read
// nor written. Groups may be empty. w[groups, n, k]. No group is padded, and no count is needed on
// the host.
struct GroupedShape {
  Index rows, groups, n, k;
  Numbers numbers = Numbers::Fp32;
  // The same offsets in host memory, where the caller has them anyway: large groups then go through
  // the library one by one. Null: our own kernel.
  const std::int32_t* host_offset = nullptr;
};
void linear_grouped_forward(const Context& c, const GroupedShape& s, const std::int32_t* offset,
                            ConstView x, ConstView w, View y);
void linear_grouped_input_grad(const Context& c, const GroupedShape& s, const std::int32_t* offset,
                               ConstView dy, ConstView w, View dx, bool accumulate = false);
void linear_grouped_weight_grad(const Context& c, const GroupedShape& s, const std::int32_t* offset,
                                ConstView dy, ConstView x, View dw);

// ---- attention. q, k, v, out, and all gradients have one element kind.

void attention_forward(const Context& c, const AttentionShape& s, ConstView q, ConstView k,
                       ConstView v, View out, float* lse);
void attention_backward(const Context& c, const AttentionShape& s, ConstView q, ConstView k,
                        ConstView v, ConstView out, const float* lse, ConstView dout, View dq,
                        View dk, View dv);

// MLA's keys: kv[tokens, heads, nope + v] and the rotated part [tokens, rope], the same for every
// head -> k[tokens, heads, nope + rope], v[tokens, heads, v]. Backward: d_rotated sums over heads.
struct KeysShape {
  Index tokens, heads, nope, rope, v;
};
void assemble_keys(const Context& c, const KeysShape& s, ConstView kv, ConstView rotated, View k,
                   View v);
void assemble_keys_backward(const Context& c, const KeysShape& s, ConstView dk, ConstView dv,
                            View d_kv, View d_rotated);

// ---- rotary embedding, in place

struct RopeTable {
  Index dim = 0, positions = 0;
  const float *cos = nullptr,
              *sin = nullptr;  // [positions, dim / 2], as cpu::rope_table fills them
};
struct RopeView {
  View x;
  Index rows, heads, stride, offset;
};
// REQUIRES: every position lies in the table
void rope(const Context& c, const RopeTable& table, const RopeView& view,
          const std::int32_t* position, bool inverse);

// ---- norms

void norm_forward(const Context& c, const NormShape& s, ConstView x, ConstView w, ConstView b,
                  View y, float* statistics);
// sum = x + residual, rounded to its element; y = norm(sum). sum may be x or residual.
void norm_residual_forward(const Context& c, const NormShape& s, ConstView x, ConstView residual,
                           View sum, ConstView w, ConstView b, View y, float* statistics);
// dx = gradient (or += with accumulate); dw, db +=. db may be null; dw too (then nothing is
// summed).
void norm_backward(const Context& c, const NormShape& s, ConstView dy, ConstView x, ConstView w,
                   const float* statistics, View dx, View dw, View db, bool accumulate);

// ---- activations

void activation_forward(const Context& c, Activation a, ConstView x, View y, Index rows,
                        Index width);
// y may be null.
void activation_backward(const Context& c, Activation a, ConstView x, ConstView dy, View dx, View y,
                         Index rows, Index width);
// y = weight[row] act(x), and its gradients: dx = weight act'(x) dy, dweight = dot(dy, act(x));
// y, where not null, is computed again.
void weighted_activation_forward(const Context& c, Activation a, ConstView x, const float* weight,
                                 View y, Index rows, Index width);
void weighted_activation_backward(const Context& c, Activation a, ConstView x, const float* weight,
                                  ConstView dy, View dx, View y, float* dweight, Index rows,
                                  Index width);

// ---- router

void router_forward(const Context& c, const RouterShape& s, ConstView logits, const float* bias,
                    float* scores, std::int32_t* chosen, float* weights);
void router_backward(const Context& c, const RouterShape& s, const float* scores,
                     const std::int32_t* chosen, const float* weights, const float* dweights,
                     const float* dp, View dlogits);

// What the balance loss reads. Token i belongs to sequence (first_token + i) / sequence_tokens of
// `sequences`. balance[sequences, 2, experts] is overwritten: copies of each expert, then the sum
// of its scores over the token's sum of scores.
struct BalanceShape {
  Index tokens, experts, top_k, sequences, first_token, sequence_tokens;
};
void balance_sums(const Context& c, const BalanceShape& s, const float* scores,
                  const std::int32_t* chosen, float* balance);
// dp[tokens, experts] = factor * copies of the expert in the token's sequence
void balance_gradient(const Context& c, const BalanceShape& s, const float* balance, float factor,
                      float* dp);
// load[e] += how often e was chosen; n = tokens * top_k
void count_chosen(const Context& c, const std::int32_t* chosen, Index n, Index experts,
                  float* load);
// bias[e] falls by speed where load[e] is above the mean, rises where below; load := 0. speed 0:
// bias stays.
void move_router_bias(const Context& c, float* load, float* bias, Index experts, float speed);

// ---- rows of tokens

// Copies of tokens sorted by expert, in order of (token, j) within one. Copy i = token * top_k + j
// stands at copy_of[i]; token_of[to] is its token. counts[experts], offsets[experts + 1] (from 0).
// sent_weight[copy_of[i]] = weight[i]; both may be null.
struct Sorted {
  std::int32_t *counts, *offsets, *token_of, *copy_of;
  float* sent_weight = nullptr;
};
void sort_by_expert(const Context& c, const std::int32_t* chosen, Index tokens, Index top_k,
                    Index experts, const float* weight, const Sorted& out);
// Rows that arrived by member, then by expert, in order of experts instead, and back.
// counts[members, experts]. by_expert[i]: which arrived row stands at i of the experts' order;
// by_member its inverse; offsets[experts + 1]: where each expert's rows begin. `rows`: room in the
// tables; what lies behind the last row is set to 0. Move rows with gather_rows.
void regroup(const Context& c, const std::int32_t* counts, Index members, Index experts, Index rows,
             std::int32_t* by_expert, std::int32_t* by_member, std::int32_t* offsets);

void gather_rows(const Context& c, ConstView x, const std::int32_t* rows, Index n, Index width,
                 View out);
void combine_rows(const Context& c, ConstView x, const std::int32_t* row, const float* weight,
                  Index tokens, Index top_k, Index width, View out, bool accumulate);
void combine_rows_backward(const Context& c, ConstView dout, ConstView x, const std::int32_t* row,
                           const float* weight, Index tokens, Index top_k, Index width, View dx,
                           float* dweight);

// ---- embedding

// ids[b * positions + i] = tokens[b * stride + position[i] + shift]
void token_ids(const Context& c, const std::int32_t* tokens, Index batch, Index stride,
               const std::int32_t* position, Index positions, Index shift, std::int32_t* ids);
void embedding_forward(const Context& c, ConstView table, const std::int32_t* ids, Index n,
                       Index width, std::int32_t vocab_begin, std::int32_t vocab_end, View out);
void embedding_backward(const Context& c, ConstView dout, const std::int32_t* ids, Index n,
                        Index width, std::int32_t vocab_begin, std::int32_t vocab_end, View dtable);

// ---- cross-entropy

void loss_partial(const Context& c, ConstView logits, const std::int32_t* target, Index n,
                  Index slice, std::int32_t begin, float* partial);
// *loss += the sum of losses over counted tokens
void loss_combine(const Context& c, const float* partials, const std::int32_t* target, Index ranks,
                  Index n, float* lse, double* loss);
void loss_backward(const Context& c, View logits, const std::int32_t* target, const float* lse,
                   Index n, Index slice, std::int32_t begin, float scale);

// ---- elementwise

void add(const Context& c, ConstView a, ConstView b, View out, Index n);
void add_to(const Context& c, View a, ConstView b, Index n);  // a += b
void zero(const Context& c, View x, Index n);

// ---- optimizer

void square_sum(const Context& c, ConstView x, Index n, double* sum);  // *sum +=, fixed order
// *scale = clip / sqrt(*square) where that is below 1 and clip > 0, else 1
void clip_scale(const Context& c, const double* square, double clip, float* scale);
struct AdamPiece {
  ConstView grad;
  View w;                   // what the passes read: written
  float* master = nullptr;  // fp32 weights; null: w is Fp32 and is itself the master
  View m, v;                // Bf16 or Fp32
  Index n = 0;
  double weight_decay = 0;  // instead of Adam's
};
// All pieces, in a few launches. `pieces` is host memory, read before it returns. a.bf16_moments is
// not read: the moments' views say it. *gradient_scale, where not null, stands for
// a.gradient_scale. If it, or the sum of squares it comes from, is not finite the caller must not
// update: the kernel doesn't look.
void adam_update(const Context& c, const Adam& a, const AdamPiece* pieces, std::size_t count,
                 const float* gradient_scale = nullptr);

}  // namespace reckon::real::cuda
