#include "tests/real/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace reckon::real::reference {

namespace {

std::size_t at(Index i) {
  return static_cast<std::size_t>(i);
}

}  // namespace

Doubles widen(const Floats& x) {
  return Doubles(x.begin(), x.end());
}

Floats random_floats(Index n, std::mt19937& engine, float size) {
  std::normal_distribution<float> normal(0, size);
  Floats x(at(n));
  for (float& v : x) v = normal(engine);
  return x;
}

Doubles linear(const Doubles& x, const Doubles& w, Index m, Index n, Index k) {
  Doubles y(at(m * n));
  for (Index i = 0; i < m; ++i)
    for (Index j = 0; j < n; ++j)
      for (Index l = 0; l < k; ++l) y[at(i * n + j)] += x[at(i * k + l)] * w[at(j * k + l)];
  return y;
}

AttentionResult attention(const cpu::AttentionShape& s, const Doubles& q, const Doubles& k,
                          const Doubles& v) {
  AttentionResult result{Doubles(at(s.batch * s.seq_q * s.heads * s.v_dim)),
                         Doubles(at(s.batch * s.heads * s.seq_q))};
  const Index group = s.heads / s.kv_heads;
  for (Index b = 0; b < s.batch; ++b)
    for (Index h = 0; h < s.heads; ++h)
      for (Index i = 0; i < s.seq_q; ++i) {
        const Index p = s.positions == nullptr ? i : s.positions[i];
        const Index q_row = ((b * s.seq_q + i) * s.heads + h) * s.qk_dim;
        const Index out_row = ((b * s.seq_q + i) * s.heads + h) * s.v_dim;
        std::vector<Index> seen;
        Doubles score;
        for (Index j = 0; j < s.seq_k; ++j) {
          if (j > p || (s.window > 0 && j <= p - s.window)) continue;
          const Index k_row = ((b * s.seq_k + j) * s.kv_heads + h / group) * s.qk_dim;
          double dot_product = 0;
          for (Index d = 0; d < s.qk_dim; ++d) dot_product += q[at(q_row + d)] * k[at(k_row + d)];
          seen.push_back(j);
          score.push_back(static_cast<double>(s.scale) * dot_product);
        }
        double maximum = -std::numeric_limits<double>::infinity(), sum = 0;
        for (double x : score) maximum = std::max(maximum, x);
        for (double x : score) sum += std::exp(x - maximum);
        const double lse = maximum + std::log(sum);
        result.lse[at((b * s.heads + h) * s.seq_q + i)] = lse;
        for (std::size_t n = 0; n < seen.size(); ++n) {
          const Index v_row = ((b * s.seq_k + seen[n]) * s.kv_heads + h / group) * s.v_dim;
          for (Index d = 0; d < s.v_dim; ++d)
            result.out[at(out_row + d)] += std::exp(score[n] - lse) * v[at(v_row + d)];
        }
      }
  return result;
}

Doubles norm(const cpu::NormShape& s, const Doubles& x, const Doubles& w, const Doubles& b) {
  Doubles y(x.size());
  const double width = static_cast<double>(s.width), eps = static_cast<double>(s.eps);
  for (Index i = 0; i < s.rows; ++i) {
    const auto row = x.begin() + i * s.width;
    const double mean = s.layer_norm ? std::accumulate(row, row + s.width, 0.0) / width : 0;
    double square = 0;
    for (Index j = 0; j < s.width; ++j) square += (row[j] - mean) * (row[j] - mean) / width;
    for (Index j = 0; j < s.width; ++j)
      y[at(i * s.width + j)] = (row[j] - mean) / std::sqrt(square + eps) * w[at(j)] +
                               (s.layer_norm && !b.empty() ? b[at(j)] : 0);
  }
  return y;
}

Doubles activation(cpu::Activation a, const Doubles& x, Index rows, Index width) {
  const auto silu = [](double g) { return g / (1 + std::exp(-g)); };
  const auto gelu = [](double g) {
    return 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
  };
  const bool gated = a == cpu::Activation::SwiGlu || a == cpu::Activation::GeGlu;
  Doubles y(at(rows * width));
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < width; ++j) {
      const double g = x[at(i * (gated ? 2 * width : width) + j)];
      double& out = y[at(i * width + j)];
      if (a == cpu::Activation::SwiGlu) out = silu(g) * x[at(i * 2 * width + width + j)];
      if (a == cpu::Activation::GeGlu) out = gelu(g) * x[at(i * 2 * width + width + j)];
      if (a == cpu::Activation::Gelu) out = gelu(g);
      if (a == cpu::Activation::SquaredRelu) out = g > 0 ? g * g : 0;
    }
  return y;
}

RouterResult router(const cpu::RouterShape& s, const Doubles& logits,
                    const std::vector<std::int32_t>& chosen) {
  RouterResult result{Doubles(logits.size()), Doubles(logits.size()), Doubles(chosen.size())};
  for (Index t = 0; t < s.tokens; ++t) {
    const Index row = t * s.experts;
    double sum_exp = 0, sum = 0, sum_chosen = 0;
    for (Index e = 0; e < s.experts; ++e) sum_exp += std::exp(logits[at(row + e)]);
    for (Index e = 0; e < s.experts; ++e) {
      const double x = logits[at(row + e)];
      result.scores[at(row + e)] = s.sigmoid ? 1 / (1 + std::exp(-x)) : std::exp(x) / sum_exp;
      sum += result.scores[at(row + e)];
    }
    for (Index e = 0; e < s.experts; ++e) result.p[at(row + e)] = result.scores[at(row + e)] / sum;
    const auto score_of = [&](Index j) {
      return result.scores[at(row + chosen[at(t * s.top_k + j)])];
    };
    for (Index j = 0; j < s.top_k; ++j) sum_chosen += score_of(j);
    for (Index j = 0; j < s.top_k; ++j)
      result.weights[at(t * s.top_k + j)] =
          static_cast<double>(s.scale) * score_of(j) / (s.normalise ? sum_chosen : 1);
  }
  return result;
}

std::vector<std::int32_t> choice(const cpu::RouterShape& s, const Floats& biased_scores) {
  const Index size = s.experts / s.groups;
  // Groups, best first.
  std::vector<std::pair<float, Index>> groups;
  for (Index g = 0; g < s.groups; ++g) {
    Floats members(biased_scores.begin() + g * size, biased_scores.begin() + (g + 1) * size);
    std::sort(members.begin(), members.end(), std::greater<>());
    groups.emplace_back(s.sigmoid && size > 1 ? members[0] + members[1] : members[0], g);
  }
  const auto better = [](const auto& a, const auto& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  };
  std::sort(groups.begin(), groups.end(), better);
  std::vector<std::pair<float, Index>> experts;
  for (Index i = 0; i < s.limited_groups; ++i)
    for (Index e = groups[at(i)].second * size; e < (groups[at(i)].second + 1) * size; ++e)
      experts.emplace_back(biased_scores[at(e)], e);
  std::sort(experts.begin(), experts.end(), better);
  std::vector<std::int32_t> result;
  for (Index j = 0; j < s.top_k; ++j)
    result.push_back(static_cast<std::int32_t>(experts[at(j)].second));
  return result;
}

double loss(const Doubles& logits, const std::vector<std::int32_t>& target, Index n, Index vocab) {
  double total = 0;
  for (Index i = 0; i < n; ++i) {
    if (target[at(i)] < 0) continue;
    double sum = 0;
    for (Index j = 0; j < vocab; ++j) sum += std::exp(logits[at(i * vocab + j)]);
    total += std::log(sum) - logits[at(i * vocab + target[at(i)])];
  }
  return total;
}

double e4m3_value(unsigned code) {
  const double sign = code & 0x80 ? -1 : 1;
  const int exponent = static_cast<int>(code >> 3 & 15), mantissa = static_cast<int>(code & 7);
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<double>::quiet_NaN();
  if (exponent == 0) return sign * mantissa * std::ldexp(1, -9);
  return sign * (1 + mantissa / 8.0) * std::ldexp(1, exponent - 7);
}

double nearest_e4m3(double x) {
  unsigned best = 0;
  for (unsigned code = 0; code < 127; ++code) {
    const double now = std::abs(std::abs(x) - e4m3_value(code));
    const double so_far = std::abs(std::abs(x) - e4m3_value(best));
    if (now < so_far || (now == so_far && code % 2 == 0)) best = code;
  }
  return std::copysign(e4m3_value(best), x);
}

double relative_error(const Floats& a, const Doubles& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, largest = 1e-30;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - b[i]);
    difference = d <= difference ? difference : d;  // NaN wins
    largest = std::max(largest, std::abs(b[i]));
  }
  return difference / largest;
}

double dot(const Doubles& a, const Doubles& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

double gradient_error(const std::function<double(const Doubles&)>& f, const Floats& x,
                      const Floats& gradient) {
  constexpr double kStep = 1e-5;
  constexpr double kFloor = 0.5;  // inputs are of order 1: a gradient of 0 may be 1e-6
  constexpr std::size_t kFew = 150, kSome = 40, kDirections = 6;
  const Doubles start = widen(x);
  if (gradient.size() != start.size()) return std::numeric_limits<double>::infinity();
  std::mt19937 engine(7);

  double largest = kFloor, worst = 0;
  for (float g : gradient) largest = std::max(largest, std::abs(static_cast<double>(g)));
  const auto compare = [&](const Doubles& direction, double scale) {
    Doubles up = start, down = start;
    double expected = 0;
    for (std::size_t i = 0; i < start.size(); ++i) {
      up[i] += kStep * direction[i];
      down[i] -= kStep * direction[i];
      expected += direction[i] * static_cast<double>(gradient[i]);
    }
    const double error = std::abs((f(up) - f(down)) / (2 * kStep) - expected) / scale;
    worst = error <= worst ? worst : error;  // NaN wins
  };

  std::vector<std::size_t> coordinates(start.size());
  std::iota(coordinates.begin(), coordinates.end(), std::size_t{0});
  if (start.size() > kFew) {
    std::shuffle(coordinates.begin(), coordinates.end(), engine);
    coordinates.resize(kSome);
    // A random direction meets all coordinates: its derivative has the size of the gradient's norm.
    double norm = 0;
    for (float g : gradient) norm += static_cast<double>(g) * static_cast<double>(g);
    std::normal_distribution<double> normal;
    for (std::size_t n = 0; n < kDirections; ++n) {
      Doubles direction(start.size());
      for (double& d : direction) d = normal(engine);
      compare(direction, std::sqrt(norm) + kFloor);
    }
  }
  for (std::size_t i : coordinates) {
    Doubles direction(start.size());
    direction[i] = 1;
    compare(direction, largest);
  }
  return worst;
}

}  // namespace reckon::real::reference
