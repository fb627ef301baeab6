// The two ends of the model: embedding of token ids, and cross-entropy over a slice of the
// vocabulary.
#include <algorithm>
#include <cmath>
#include <limits>

#include "real/kernels.h"
#include "real/vectors.h"

namespace reckon::real::cpu {

void embedding_forward(const float* table, const std::int32_t* ids, Index n, Index width,
                       std::int32_t vocab_begin, std::int32_t vocab_end, float* out) {
  for (Index i = 0; i < n; ++i) {
    const Index id = ids[i];
    if (id >= vocab_begin && id < vocab_end)
      std::copy_n(table + (id - vocab_begin) * width, width, out + i * width);
    else
      std::fill_n(out + i * width, width, 0.0f);
  }
}

void embedding_backward(const float* dout, const std::int32_t* ids, Index n, Index width,
                        std::int32_t vocab_begin, std::int32_t vocab_end, float* dtable) {
  for (Index i = 0; i < n; ++i) {
    const Index id = ids[i];
    if (id >= vocab_begin && id < vocab_end)
      add_to(dtable + (id - vocab_begin) * width, dout + i * width, width);
  }
}

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct MaximumAndSum {
  float maximum, sum;  // sum of exp(x - maximum)
};

// Both in blocks, so that the second pass finds its row in the cache.
RECKON_CLONES MaximumAndSum maximum_and_sum(const float* x, Index n) {
  constexpr Index kBlock = 4096;  // 16 KiB
  float maximum = -kInfinity;
  double sum = 0;
  for (Index begin = 0; begin < n; begin += kBlock) {
    const Index end = std::min(n, begin + kBlock);
    float largest = maximum;
#pragma omp simd reduction(max : largest)
    for (Index i = begin; i < end; ++i) largest = x[i] > largest ? x[i] : largest;
    if (largest > maximum) {
      sum *= std::exp(static_cast<double>(maximum) - static_cast<double>(largest));
      maximum = largest;
    }
    const float shift = maximum == -kInfinity ? 0 : maximum;
    sum += static_cast<double>(
        sum_of(end - begin, [=](Index i) { return fast_exp(x[begin + i] - shift); }));
  }
  return {maximum, static_cast<float>(sum)};
}

RECKON_CLONES void softmax_times(float* x, Index n, float lse, float scale) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) x[i] = scale * fast_exp(x[i] - lse);
}

}  // namespace

void loss_partial(const float* logits, const std::int32_t* target, Index n, Index slice,
                  std::int32_t begin, float* partial) {
  for (Index i = 0; i < n; ++i) {
    const float* row = logits + i * slice;
    const auto [maximum, sum] = maximum_and_sum(row, slice);
    const Index at = Index{target[i]} - begin;
    const bool inside = target[i] >= 0 && at >= 0 && at < slice;
    partial[3 * i] = maximum;
    partial[3 * i + 1] = sum;
    partial[3 * i + 2] = inside ? row[at] : 0;
  }
}

// lse = M + log sum_r exp(max_r - M) sum_r; loss = lse - target's logit, which one rank has.
double loss_combine(const float* partials, const std::int32_t* target, Index ranks, Index n,
                    float* lse) {
  double total = 0;
  for (Index i = 0; i < n; ++i) {
    const auto of = [&](Index r, Index what) {
      return static_cast<double>(partials[(r * n + i) * 3 + what]);
    };
    double maximum = -std::numeric_limits<double>::infinity(), sum = 0, logit = 0;
    for (Index r = 0; r < ranks; ++r) maximum = std::max(maximum, of(r, 0));
    for (Index r = 0; r < ranks; ++r) {
      sum += std::exp(of(r, 0) - maximum) * of(r, 1);
      logit += of(r, 2);
    }
    const double log_sum = maximum + std::log(sum);
    lse[i] = static_cast<float>(log_sum);
    if (target[i] >= 0) total += log_sum - logit;
  }
  return total;
}

void loss_backward(float* logits, const std::int32_t* target, const float* lse, Index n,
                   Index slice, std::int32_t begin, float scale) {
  for (Index i = 0; i < n; ++i) {
    float* row = logits + i * slice;
    if (target[i] < 0) {
      std::fill_n(row, slice, 0.0f);
      continue;
    }
    softmax_times(row, slice, lse[i], scale);
    const Index at = Index{target[i]} - begin;
    if (at >= 0 && at < slice) row[at] -= scale;
  }
}

}  // namespace reckon::real::cpu
