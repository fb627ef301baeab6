// The arithmetic of the trainer on CPU: one function per kernel, on raw pointers, run by the
// calling thread alone. fp32 storage and accumulation; 16- and 8-bit numbers are emulated by
// rounding values to their grid (see Numbers). Row-major. Each function's comment gives its
// equation; tests check every gradient against finite differences of a double-precision version.
// The CUDA kernels stand beside these under the same names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace reckon::real::cpu {

using Index = std::int64_t;

// ---- numbers

// What the inputs of a matrix product are rounded to before it runs.
enum class Numbers : std::uint8_t {
  Fp32,
  Bf16,      // operands already lie on the bf16 grid; nothing is done
  Fp8Block,  // E4M3; 1x128 scales along the reduced dimension for activations and gradients,
             // 128x128 for weights (DeepSeek-V3 report, section 3.3)
};

void round_bf16(float* x, Index n);  // nearest, ties to even
// To the E4M3 grid (largest 448) with scale max|block| / 448 for every block of rows x cols
// elements of x[m, n]; zeros stay. out may be x.
void round_fp8(const float* x, float* out, Index m, Index n, Index block_rows, Index block_cols);

// ---- matrix products: y[m,n] = x[m,k] w[n,k]^T  (weights are stored [out, in])

struct LinearShape {
  Index m, n, k;
  Numbers numbers = Numbers::Fp32;
};
void linear_forward(const LinearShape& s, const float* x, const float* w, float* y);
// dx[m,k] = dy[m,n] w[n,k], or += with accumulate
void linear_input_grad(const LinearShape& s, const float* dy, const float* w, float* dx,
                       bool accumulate = false);
// dw[n,k] += dy^T[n,m] x[m,k]
void linear_weight_grad(const LinearShape& s, const float* dy, const float* x, float* dw);
// db[n] += sum over rows
void bias_grad(const float* dy, float* db, Index m, Index n);
void add_bias(float* y, const float* b, Index m, Index n);

// ---- attention: softmax(scale q k^T + mask) v, never storing the scores of a whole sequence

struct AttentionShape {
  Index batch, heads, kv_heads, seq_q, seq_k, qk_dim, v_dim;
  float scale;
  Index window = 0;  // 0: unlimited
  const std::int32_t* positions =
      nullptr;  // [seq_q] of the queries among the keys; null: 0, 1, ...
};
// q[batch, seq_q, heads, qk_dim], k[batch, seq_k, kv_heads, qk_dim], v[batch, seq_k, kv_heads,
// v_dim] -> out[batch, seq_q, heads, v_dim], lse[batch, heads, seq_q] (log of the softmax's sum).
// Query at position p sees keys j with p - window < j <= p (j <= p when window is 0). One that sees
// none (p < 0 is allowed) gives zeros, and lse -inf. Runs of consecutive positions are fast.
void attention_forward(const AttentionShape& s, const float* q, const float* k, const float* v,
                       float* out, float* lse);
// Writes dq, dk, dv (not +=).
void attention_backward(const AttentionShape& s, const float* q, const float* k, const float* v,
                        const float* out, const float* lse, const float* dout, float* dq, float* dk,
                        float* dv);

// ---- rotary embedding

// cos and sin tables [positions, dim / 2], multiplied with yarn_mscale. Pairs are (i, i + dim/2)
// (Hugging Face's layout). YaRN (Peng et al. 2023) when factor > 1.
struct RopeSettings {
  double theta = 10000;
  double yarn_factor = 1, yarn_beta_fast = 32, yarn_beta_slow = 1, yarn_mscale = 1;
  Index original_positions = 4096;
};
struct RopeTable {
  Index dim = 0;
  std::vector<float> cos, sin;  // [positions, dim / 2]
};
RopeTable rope_table(const RopeSettings& s, Index positions, Index dim);
// Rotates in place: row r (of `rows`) at position[r] has `heads` vectors of `stride` floats, of
// which the `dim` starting at `offset` are rotated. `inverse`: the gradient.
struct RopeView {
  float* x;
  Index rows, heads, stride, offset;
};
void rope(const RopeTable& table, const RopeView& view, const std::int32_t* position, bool inverse);

// ---- norms: y = x / rms(x) * w, or layer norm with bias b. statistics: [rows] 1/rms, or [rows, 2]
// mean and 1/deviation. b and db may be null.
struct NormShape {
  Index rows, width;
  float eps;
  bool layer_norm = false;
};
void norm_forward(const NormShape& s, const float* x, const float* w, const float* b, float* y,
                  float* statistics);
// dx = gradient (or += with accumulate); dw, db += .
void norm_backward(const NormShape& s, const float* dy, const float* x, const float* w,
                   const float* statistics, float* dx, float* dw, float* db, bool accumulate);

// ---- activations. Gated: x[rows, 2 width] = [gate | up], y = act(gate) * up; else y = act(x).
// Gelu is its tanh form.
enum class Activation : std::uint8_t { SwiGlu, GeGlu, Gelu, SquaredRelu };
void activation_forward(Activation a, const float* x, float* y, Index rows, Index width);
// dx from dy and x. If y is not null it is computed again too (for the weight gradient after it).
void activation_backward(Activation a, const float* x, const float* dy, float* dx, float* y,
                         Index rows, Index width);

// ---- router (DeepSeek-V3 report, section 2.1.2)

struct RouterShape {
  Index tokens, experts, top_k, groups = 1, limited_groups = 1;
  bool sigmoid = false;   // scores: sigmoid, else softmax
  bool normalise = true;  // the chosen weights add up to `scale`
  float scale = 1;
};
// logits[tokens, experts] -> scores, chosen[tokens, top_k] (by score + bias, ties to the lower
// index; groups ranked by the sum of their best two biased scores with sigmoid, by the best one
// else), best first, and weights[tokens, top_k] of the unbiased scores. bias may be null.
void router_forward(const RouterShape& s, const float* logits, const float* bias, float* scores,
                    std::int32_t* chosen, float* weights);
// dlogits from dweights[tokens, top_k] and, when not null, dp[tokens, experts]: the gradient of the
// *normalised* scores p = scores / sum(scores) (sigmoid) or of the softmax itself, of which the
// balance loss speaks.
void router_backward(const RouterShape& s, const float* scores, const std::int32_t* chosen,
                     const float* weights, const float* dweights, const float* dp, float* dlogits);

// ---- rows of tokens

// out[i] = x[rows[i]], each `width` wide
void gather_rows(const float* x, const std::int32_t* rows, Index n, Index width, float* out);
// out[t] (+)= sum over j of weight[t, j] * x[row[t, j]]; weights null: 1. Fixed order of j.
void combine_rows(const float* x, const std::int32_t* row, const float* weight, Index tokens,
                  Index top_k, Index width, float* out, bool accumulate);
// dx[row[t, j]] = weight[t, j] * dout[t]; dweight[t, j] = dot(dout[t], x[row[t, j]]). weights null:
// 1; dweight null: not computed, and x is not read.
void combine_rows_backward(const float* dout, const float* x, const std::int32_t* row,
                           const float* weight, Index tokens, Index top_k, Index width, float* dx,
                           float* dweight);

// ---- embedding: table[vocab_end - vocab_begin, width]; ids outside give zeros
void embedding_forward(const float* table, const std::int32_t* ids, Index n, Index width,
                       std::int32_t vocab_begin, std::int32_t vocab_end, float* out);
// dtable[id] += dout, in order of i.
void embedding_backward(const float* dout, const std::int32_t* ids, Index n, Index width,
                        std::int32_t vocab_begin, std::int32_t vocab_end, float* dtable);

// ---- cross-entropy over a slice [begin, end) of the vocabulary, in two steps so that
// tensor-parallel ranks can combine. target < 0: the token does not count.
// partial[n, 3]: the slice's maximum, sum of exp(logit - maximum), and the target's logit (0 when
// the target lies outside).
void loss_partial(const float* logits, const std::int32_t* target, Index n, Index slice,
                  std::int32_t begin, float* partial);
// partials[ranks, n, 3] -> lse[n]; returns the sum of losses over counted tokens.
double loss_combine(const float* partials, const std::int32_t* target, Index ranks, Index n,
                    float* lse);
// logits := scale * (softmax - onehot), in place; rows that do not count become 0.
void loss_backward(float* logits, const std::int32_t* target, const float* lse, Index n,
                   Index slice, std::int32_t begin, float scale);

// ---- elementwise
void add(const float* a, const float* b, float* out, Index n);
void add_to(float* a, const float* b, Index n);  // a += b

// ---- optimizer
double square_sum(const float* x, Index n);  // in double, in a fixed order
struct Adam {
  double lr, beta1, beta2, eps, weight_decay;
  double gradient_scale;  // clipping
  std::int64_t step;      // from 1
  bool bf16_moments = false;
};
// Decoupled weight decay (Loshchilov & Hutter 2019); w, m, v updated.
void adam_update(const Adam& a, const float* grad, float* w, float* m, float* v, Index n);

}  // namespace reckon::real::cpu
