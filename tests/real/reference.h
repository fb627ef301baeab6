// The kernels' equations once more, in double precision, one obvious loop each: slow, forward only.
// Gradients are finite differences of these. Never linked into real.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "real/kernels.h"

namespace reckon::real::reference {

using Index = std::int64_t;
using Doubles = std::vector<double>;
using Floats = std::vector<float>;

Doubles widen(const Floats& x);
Floats random_floats(Index n, std::mt19937& engine, float size = 1);

// y[m,n] = x[m,k] w[n,k]^T
Doubles linear(const Doubles& x, const Doubles& w, Index m, Index n, Index k);

struct AttentionResult {
  Doubles out, lse;
};
AttentionResult attention(const cpu::AttentionShape& s, const Doubles& q, const Doubles& k,
                          const Doubles& v);

// RMS norm, or layer norm. b may be empty.
Doubles norm(const cpu::NormShape& s, const Doubles& x, const Doubles& w, const Doubles& b);

Doubles activation(cpu::Activation a, const Doubles& x, Index rows, Index width);

// Scores of all experts, and the weights of the given choice.
struct RouterResult {
  Doubles scores, p, weights;  // p: scores over their sum
};
RouterResult router(const cpu::RouterShape& s, const Doubles& logits,
                    const std::vector<std::int32_t>& chosen);
// The experts of one token by sorting, best first.
std::vector<std::int32_t> choice(const cpu::RouterShape& s, const Floats& biased_scores);

// Sum of -log softmax(logits)[target] over targets >= 0; logits[n, vocab]
double loss(const Doubles& logits, const std::vector<std::int32_t>& target, Index n, Index vocab);

// The nearest of the 253 finite values of E4M3, ties to the even code, found by trying them all.
double nearest_e4m3(double x);
// The value of an E4M3 code; NaN for 0x7f and 0xff.
double e4m3_value(unsigned code);

// ---- comparison

// max |a - b| / (max |b| + tiny)
double relative_error(const Floats& a, const Doubles& b);

// The largest deviation of `gradient` from central differences of f at x, relative to the largest
// gradient (or 0.5, if all are smaller). All coordinates if there are few, else some of them, and
// some random directions, which every coordinate enters.
double gradient_error(const std::function<double(const Doubles&)>& f, const Floats& x,
                      const Floats& gradient);

// sum a_i b_i: turns a result into the scalar whose gradient is taken
double dot(const Doubles& a, const Doubles& b);

}  // namespace reckon::real::reference
