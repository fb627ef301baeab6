// The router of a mixture of experts, and the moves of token rows that it asks for.
#include <algorithm>
#include <cmath>
#include <limits>

#include "real/kernels.h"
#include "real/scratch.h"
#include "real/vectors.h"
#include "sim/check.h"

namespace reckon::real::cpu {

namespace {

RECKON_CLONES void sigmoid_row(const float* logits, float* scores, Index n) {
#pragma omp simd
  for (Index e = 0; e < n; ++e) scores[e] = fast_sigmoid(logits[e]);
}

RECKON_CLONES void softmax_row(const float* logits, float* scores, Index n) {
  float largest = -std::numeric_limits<float>::infinity(), sum = 0;
#pragma omp simd reduction(max : largest)
  for (Index e = 0; e < n; ++e) largest = logits[e] > largest ? logits[e] : largest;
#pragma omp simd reduction(+ : sum)
  for (Index e = 0; e < n; ++e) {
    scores[e] = fast_exp(logits[e] - largest);
    sum += scores[e];
  }
#pragma omp simd
  for (Index e = 0; e < n; ++e) scores[e] /= sum;
}

// Below every value that is left to choose from: those are kLowest at least.
constexpr float kTaken = -std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();

// The first index of the largest value.
Index largest_at(const float* x, Index n) {
  Index best = 0;
  for (Index i = 1; i < n; ++i)
    if (x[i] > x[best]) best = i;
  return best;
}

// The `count` largest that aren't taken, best first, ties to the lower index: by insertion into the
// list of the best so far, which few of them enter.
void choose_best(const float* biased, Index n, Index count, std::int32_t* chosen) {
  Index held = 0;
  for (Index e = 0; e < n; ++e) {
    const float x = biased[e];
    if (x == kTaken || (held == count && x <= biased[chosen[count - 1]])) continue;
    Index at = held < count ? held++ : count - 1;
    for (; at > 0 && x > biased[chosen[at - 1]]; --at) chosen[at] = chosen[at - 1];
    chosen[at] = static_cast<std::int32_t>(e);
  }
}

// Sets the experts outside the best `limited_groups` groups to kTaken. rank[groups] is room.
void keep_best_groups(const RouterShape& s, float* biased, float* rank) {
  const Index size = s.experts / s.groups;
  for (Index g = 0; g < s.groups; ++g) {
    float first = kLowest, second = kLowest;
    for (Index e = g * size; e < (g + 1) * size; ++e) {
      second = std::max(second, std::min(first, biased[e]));
      first = std::max(first, biased[e]);
    }
    // Half the sum ranks as the sum does, and can't overflow.
    rank[g] = s.sigmoid && size > 1 ? first / 2 + second / 2 : first;
  }
  // Takes the best groups out of the ranking; those that stay in it are dropped.
  for (Index i = 0; i < s.limited_groups; ++i) rank[largest_at(rank, s.groups)] = kTaken;
  for (Index g = 0; g < s.groups; ++g)
    if (rank[g] != kTaken) std::fill_n(biased + g * size, size, kTaken);
}

// Added to the sum of chosen scores, as DeepSeek's implementation does: all of them may be 0.
constexpr float kTiny = 1e-20f;

float chosen_sum(const RouterShape& s, const float* scores, const std::int32_t* chosen) {
  float sum = kTiny;
  for (Index j = 0; j < s.top_k; ++j) sum += scores[chosen[j]];
  return sum;
}

}  // namespace

void router_forward(const RouterShape& s, const float* logits, const float* bias, float* scores,
                    std::int32_t* chosen, float* weights) {
  check(s.experts % s.groups == 0, "groups of experts are equal");
  check(s.limited_groups >= 1 && s.limited_groups <= s.groups, "a token goes to 1 to all groups");
  check(s.top_k >= 1, "a token goes to one expert at least");
  check(s.top_k <= s.experts / s.groups * s.limited_groups, "the groups hold enough experts");
  float* biased = scratch(Scratch::Router, s.experts + s.groups);
  for (Index t = 0; t < s.tokens; ++t) {
    float* score = scores + t * s.experts;
    (s.sigmoid ? sigmoid_row : softmax_row)(logits + t * s.experts, score, s.experts);
    for (Index e = 0; e < s.experts; ++e) {
      const float sum = bias == nullptr ? score[e] : score[e] + bias[e];
      biased[e] = sum > kLowest ? sum : kLowest;  // NaN too: a choice must exist
    }
    if (s.limited_groups < s.groups) keep_best_groups(s, biased, biased + s.experts);

    std::int32_t* choice = chosen + t * s.top_k;
    choose_best(biased, s.experts, s.top_k, choice);
    const float factor = s.normalise ? s.scale / chosen_sum(s, score, choice) : s.scale;
    for (Index j = 0; j < s.top_k; ++j) weights[t * s.top_k + j] = score[choice[j]] * factor;
  }
}

// weights: w_j = scale s_j / S with S the sum of the chosen scores, so
// ds_j = (scale dw_j - sum_i dw_i w_i) / S; without normalise ds_j = scale dw_j.
// dp: p = s / T with T the sum of all scores, so ds_i += (dp_i - sum_j dp_j p_j) / T (sigmoid);
// ds_i += dp_i (softmax). Then through the sigmoid, s (1 - s) ds, or the softmax,
// s (ds - sum_j s_j ds_j). The choice itself has no gradient.
void router_backward(const RouterShape& s, const float* scores, const std::int32_t* chosen,
                     const float* weights, const float* dweights, const float* dp, float* dlogits) {
  for (Index t = 0; t < s.tokens; ++t) {
    const float* score = scores + t * s.experts;
    const std::int32_t* choice = chosen + t * s.top_k;
    const float *w = weights + t * s.top_k, *dw = dweights + t * s.top_k;
    float* ds = dlogits + t * s.experts;  // the gradient of the scores, until the last loop

    if (dp != nullptr) {
      const float* d = dp + t * s.experts;
      float total = 1, mean = 0;
      if (s.sigmoid) {
        total = kTiny;
        for (Index e = 0; e < s.experts; ++e) total += score[e];
        for (Index e = 0; e < s.experts; ++e) mean += d[e] * score[e] / total;
      }
      for (Index e = 0; e < s.experts; ++e) ds[e] = (d[e] - mean) / total;
    } else {
      std::fill_n(ds, s.experts, 0.0f);
    }

    float sum = 1, through_sum = 0;
    if (s.normalise) {
      sum = chosen_sum(s, score, choice);
      for (Index j = 0; j < s.top_k; ++j) through_sum += dw[j] * w[j];
    }
    for (Index j = 0; j < s.top_k; ++j) ds[choice[j]] += (s.scale * dw[j] - through_sum) / sum;

    float through = 0;
    if (!s.sigmoid)
      for (Index e = 0; e < s.experts; ++e) through += ds[e] * score[e];
    for (Index e = 0; e < s.experts; ++e)
      ds[e] = s.sigmoid ? ds[e] * score[e] * (1 - score[e]) : score[e] * (ds[e] - through);
  }
}

// ---- rows

namespace {

RECKON_CLONES void scale_row(float weight, const float* x, Index width, float* out) {
#pragma omp simd
  for (Index i = 0; i < width; ++i) out[i] = weight * x[i];
}

RECKON_CLONES void add_scaled_row(float weight, const float* x, Index width, float* out) {
#pragma omp simd
  for (Index i = 0; i < width; ++i) out[i] += weight * x[i];
}

// out = weight x, and the dot product of x with y in the same pass.
RECKON_CLONES float scale_row_and_dot(float weight, const float* x, const float* y, Index width,
                                      float* out) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (Index i = 0; i < width; ++i) {
    dot += x[i] * y[i];
    out[i] = weight * x[i];
  }
  return dot;
}

}  // namespace

void gather_rows(const float* x, const std::int32_t* rows, Index n, Index width, float* out) {
  for (Index i = 0; i < n; ++i) std::copy_n(x + rows[i] * width, width, out + i * width);
}

void combine_rows(const float* x, const std::int32_t* row, const float* weight, Index tokens,
                  Index top_k, Index width, float* out, bool accumulate) {
  for (Index t = 0; t < tokens; ++t) {
    float* o = out + t * width;
    if (!accumulate && top_k == 0) std::fill_n(o, width, 0.0f);
    for (Index j = 0; j < top_k; ++j) {
      const Index at = t * top_k + j;
      const float w = weight == nullptr ? 1.0f : weight[at];
      (j == 0 && !accumulate ? scale_row : add_scaled_row)(w, x + row[at] * width, width, o);
    }
  }
}

void combine_rows_backward(const float* dout, const float* x, const std::int32_t* row,
                           const float* weight, Index tokens, Index top_k, Index width, float* dx,
                           float* dweight) {
  for (Index t = 0; t < tokens; ++t) {
    const float* d = dout + t * width;
    for (Index j = 0; j < top_k; ++j) {
      const Index at = t * top_k + j;
      const Index offset = row[at] * width;
      const float w = weight == nullptr ? 1.0f : weight[at];
      if (dweight == nullptr)
        scale_row(w, d, width, dx + offset);
      else
        dweight[at] = scale_row_and_dot(w, d, x + offset, width, dx + offset);
    }
  }
}

}  // namespace reckon::real::cpu
