#include "sim/work.h"

#include <algorithm>

namespace reckon::sim {

double visible_pairs(const Attention& a) {
  const auto q = static_cast<double>(a.seq_q), k = static_cast<double>(a.seq_k);
  if (!a.causal) return a.window > 0 ? q * std::min(k, static_cast<double>(a.window)) : q * k;
  // Query i (from 1) of the last seq_q positions sees k - q + i keys, at most `window`.
  const double first = k - q + 1, last = k;
  if (a.window <= 0 || last <= static_cast<double>(a.window)) return q * (first + last) / 2;
  const auto w = static_cast<double>(a.window);
  if (first >= w) return q * w;
  const double growing = w - first;  // queries that see fewer than w keys
  return growing * (first + w - 1) / 2 + (q - growing) * w;
}

namespace {

struct FlopCount {
  double operator()(const MatMul& o) const {
    return 2.0 * static_cast<double>(o.batch) * static_cast<double>(o.m) *
           static_cast<double>(o.n) * static_cast<double>(o.k);
  }
  double operator()(const GroupedMatMul& o) const {
    return 2.0 * static_cast<double>(o.m) * static_cast<double>(o.n) * static_cast<double>(o.k);
  }
  // Forward: q k^T and p v. Backward: five products of the same pairs, q k^T again, dv, dp, dq,
  // dk (FlashAttention-2, section 2.3.2).
  double operator()(const Attention& o) const {
    const double per_pair =
        o.backward ? 6.0 * static_cast<double>(o.qk_dim) + 4.0 * static_cast<double>(o.v_dim)
                   : 2.0 * static_cast<double>(o.qk_dim + o.v_dim);
    return static_cast<double>(o.batch * o.heads) * visible_pairs(o) * per_pair;
  }
  template <class Other>
  double operator()(const Other&) const {
    return 0;
  }
};

}  // namespace

Flops flops(const Work& work) {
  return Flops(std::visit(FlopCount{}, work));
}

}  // namespace reckon::sim
