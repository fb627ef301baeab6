#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>

#include "tests/real/cuda/arrays.h"

using namespace reckon::real;
using namespace reckon::real::cuda::test;
using cuda::Index;

namespace {

std::size_t size(Index n) {
  return static_cast<std::size_t>(n);
}

const cpu::RouterShape kShapes[] = {
    {.tokens = 9, .experts = 8, .top_k = 2},
    {.tokens = 33,
     .experts = 64,
     .top_k = 6,
     .groups = 8,
     .limited_groups = 3,
     .sigmoid = true,
     .scale = 2.5f},
    {.tokens = 5, .experts = 36, .top_k = 4, .groups = 4, .limited_groups = 2, .normalise = false},
    {.tokens = 6, .experts = 3, .top_k = 3, .groups = 3, .limited_groups = 3, .sigmoid = true},
    {.tokens = 4, .experts = 1, .top_k = 1},
    {.tokens = 0, .experts = 8, .top_k = 2},
};

struct Routed {
  Floats scores, weights;
  Ints chosen;
};

Routed cpu_routed(const cpu::RouterShape& s, const Array& logits, const float* bias) {
  Routed r{Floats(size(s.tokens * s.experts)), Floats(size(s.tokens * s.top_k)),
           Ints(size(s.tokens * s.top_k))};
  cpu::router_forward(s, logits.host().data(), bias, r.scores.data(), r.chosen.data(),
                      r.weights.data());
  return r;
}

}  // namespace

TEST_CASE("cuda: the router chooses as the CPU's, and weighs alike") {
  std::mt19937 engine(8);
  const auto& c = context();
  for (const cpu::RouterShape& s : kShapes)
    for (const bool biased : {false, true}) {
      CAPTURE(s.experts, s.groups, s.sigmoid, biased);
      const Array logits = Array::random(s.tokens * s.experts, Element::Fp32, engine, 4),
                  bias = Array::random(s.experts, Element::Fp32, engine, 0.2f);
      const Routed expected = cpu_routed(s, logits, biased ? bias.host().data() : nullptr);
      const Array scores(s.tokens * s.experts, Element::Fp32),
          weights(s.tokens * s.top_k, Element::Fp32);
      const IntArray chosen(s.tokens * s.top_k);
      cuda::router_forward(c, s, logits, biased ? bias.floats() : nullptr, scores.floats(),
                           chosen.at(), weights.floats());
      CHECK(chosen.now() == expected.chosen);
      CHECK(error(scores.now(), expected.scores) < 1e-6);
      CHECK(error(weights.now(), expected.weights) < 1e-6);
    }
}

TEST_CASE("cuda: equal scores go to the lower expert, as on the CPU; NaN is no obstacle") {
  std::mt19937 engine(9);
  const auto& c = context();
  for (cpu::RouterShape s : kShapes) {
    s.tokens = 50;
    CAPTURE(s.experts, s.groups, s.sigmoid);
    // Few different values, so that most comparisons are ties.
    Floats values(size(s.tokens * s.experts));
    for (float& v : values) v = static_cast<float>(engine() % 3);
    std::fill_n(values.begin(), s.experts, 1.0f);
    const Array logits(values, Element::Fp32);
    const Routed expected = cpu_routed(s, logits, nullptr);
    const Array scores(s.tokens * s.experts, Element::Fp32),
        weights(s.tokens * s.top_k, Element::Fp32);
    const IntArray chosen(s.tokens * s.top_k);
    cuda::router_forward(c, s, logits, nullptr, scores.floats(), chosen.at(), weights.floats());
    CHECK(chosen.now() == expected.chosen);

    values[1 % values.size()] = std::nanf("");
    const Array broken(values, Element::Fp32);
    cuda::router_forward(c, s, broken, nullptr, scores.floats(), chosen.at(), weights.floats());
    for (const std::int32_t e : chosen.now()) CHECK((e >= 0 && e < s.experts));
  }
}

TEST_CASE("cuda: the router's gradients") {
  std::mt19937 engine(10);
  const auto& c = context();
  for (const cpu::RouterShape& s : kShapes)
    for (const bool balanced : {false, true}) {
      CAPTURE(s.experts, s.groups, s.sigmoid, balanced);
      const Array logits = Array::random(s.tokens * s.experts, Element::Fp32, engine, 3);
      const Routed r = cpu_routed(s, logits, nullptr);
      const Array scores(r.scores, Element::Fp32), weights(r.weights, Element::Fp32),
          dweights = Array::random(s.tokens * s.top_k, Element::Fp32, engine),
          dp = Array::random(s.tokens * s.experts, Element::Fp32, engine),
          out(s.tokens * s.experts, Element::Fp32);
      const IntArray chosen(r.chosen);
      Floats expected(size(s.tokens * s.experts));
      cpu::router_backward(s, r.scores.data(), r.chosen.data(), r.weights.data(),
                           dweights.host().data(), balanced ? dp.host().data() : nullptr,
                           expected.data());
      cuda::router_backward(c, s, scores.floats(), chosen.at(), weights.floats(), dweights.floats(),
                            balanced ? dp.floats() : nullptr, out);
      // Small where large numbers cancel: against the largest term, not the difference.
      for (float& x : expected) x += 1;
      Floats now = out.now();
      for (float& x : now) x += 1;
      CHECK(error(now, expected) < 1e-6);
    }
}

TEST_CASE("cuda: what the balance loss reads, of sequences cut by ranks") {
  std::mt19937 engine(11);
  const auto& c = context();
  const cuda::BalanceShape s{.tokens = 40,
                             .experts = 6,
                             .top_k = 2,
                             .sequences = 3,
                             .first_token = 20,
                             .sequence_tokens = 25};
  Floats scores(size(s.tokens * s.experts));
  Ints chosen(size(s.tokens * s.top_k));
  for (float& v : scores) v = static_cast<float>(engine() % 100 + 1) / 100;
  for (std::int32_t& e : chosen) e = static_cast<std::int32_t>(engine() % 6);
  Floats expected(size(s.sequences * 2 * s.experts), 0.0f);
  for (Index t = 0; t < s.tokens; ++t) {
    const Index sequence = (s.first_token + t) / s.sequence_tokens;
    float* counts = expected.data() + sequence * 2 * s.experts;
    const float* row = scores.data() + t * s.experts;
    const float total = std::accumulate(row, row + s.experts, 0.0f);
    for (Index e = 0; e < s.experts; ++e) counts[s.experts + e] += row[e] / total;
    for (Index j = 0; j < s.top_k; ++j) counts[chosen[size(t * s.top_k + j)]] += 1;
  }
  const Array on_device(scores, Element::Fp32), balance(s.sequences * 2 * s.experts, Element::Fp32),
      dp(s.tokens * s.experts, Element::Fp32);
  const IntArray choice(chosen);
  cuda::balance_sums(c, s, on_device.floats(), choice.at(), balance.floats());
  CHECK(error(balance.now(), expected) < 1e-6);

  cuda::balance_gradient(c, s, balance.floats(), 0.5f, dp.floats());
  Floats dp_expected;
  for (Index t = 0; t < s.tokens; ++t)
    for (Index e = 0; e < s.experts; ++e)
      dp_expected.push_back(
          0.5f * expected[size((s.first_token + t) / s.sequence_tokens * 2 * s.experts + e)]);
  CHECK(dp.now() == dp_expected);

  const Array load(Floats{1, 0, 0, 0, 0, 0}, Element::Fp32), bias(Floats(6, 0.5f), Element::Fp32);
  Floats loads = load.host();
  for (const std::int32_t e : chosen) loads[size(e)] += 1;
  cuda::count_chosen(c, choice.at(), s.tokens * s.top_k, s.experts, load.floats());
  CHECK(load.now() == loads);
  cuda::move_router_bias(c, load.floats(), bias.floats(), s.experts, 0.25f);
  const float mean = std::accumulate(loads.begin(), loads.end(), 0.0f) / 6;
  for (std::size_t e = 0; e < 6; ++e)
    CHECK(bias.now()[e] == (loads[e] > mean ? 0.25f : loads[e] < mean ? 0.75f : 0.5f));
  CHECK(load.now() == Floats(6, 0.0f));
}

TEST_CASE("cuda: copies sorted by expert keep the order of tokens") {
  std::mt19937 engine(12);
  const auto& c = context();
  for (const auto& [tokens, top_k, experts] :
       {std::tuple<Index, Index, Index>{0, 2, 4}, {1, 1, 1}, {7, 3, 40}, {1300, 4, 16}}) {
    CAPTURE(tokens, experts);
    const Index n = tokens * top_k;
    Ints chosen(size(n));
    // Some experts get nothing.
    for (std::int32_t& e : chosen)
      e = static_cast<std::int32_t>(engine() % (size(experts) / 2 + 1));
    Ints counts(size(experts), 0), offsets(size(experts) + 1, 0), order(size(n)), token_of,
        copy_of(size(n));
    for (const std::int32_t e : chosen) ++counts[size(e)];
    std::partial_sum(counts.begin(), counts.end(), offsets.begin() + 1);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](auto a, auto b) { return chosen[size(a)] < chosen[size(b)]; });
    for (std::size_t i = 0; i < order.size(); ++i) {
      token_of.push_back(order[i] / static_cast<std::int32_t>(top_k));
      copy_of[size(order[i])] = static_cast<std::int32_t>(i);
    }
    const IntArray choice(chosen), counts_out(experts), offsets_out(experts + 1), token_out(n),
        copy_out(n);
    const Array weight = Array::random(n, Element::Fp32, engine), sent(n, Element::Fp32);
    cuda::sort_by_expert(
        c, choice.at(), tokens, top_k, experts, weight.floats(),
        {counts_out.at(), offsets_out.at(), token_out.at(), copy_out.at(), sent.floats()});
    CHECK(counts_out.now() == counts);
    CHECK(offsets_out.now() == offsets);
    CHECK(token_out.now() == token_of);
    CHECK(copy_out.now() == copy_of);
    Floats sent_expected;
    for (const std::int32_t i : order) sent_expected.push_back(weight.host()[size(i)]);
    CHECK(sent.now() == sent_expected);
  }
}

TEST_CASE("cuda: rows by member and expert are regrouped and back") {
  const auto& c = context();
  const Ints counts{2, 0, 3, /**/ 1, 40, 0, /**/ 0, 0, 0, /**/ 5, 1, 1};
  const Index members = 4, experts = 3, rows = 60;
  const IntArray on_device(counts), by_expert(rows), by_member(rows), offsets(experts + 1);
  cuda::regroup(c, on_device.at(), members, experts, rows, by_expert.at(), by_member.at(),
                offsets.at());
  Ints expected, starts{0};
  std::vector<std::int32_t> start(counts.size() + 1, 0);
  std::partial_sum(counts.begin(), counts.end(), start.begin() + 1);
  for (Index e = 0; e < experts; ++e) {
    for (Index m = 0; m < members; ++m)
      for (std::int32_t i = 0; i < counts[size(m * experts + e)]; ++i)
        expected.push_back(start[size(m * experts + e)] + i);
    starts.push_back(static_cast<std::int32_t>(expected.size()));
  }
  Ints inverse(expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i)
    inverse[size(expected[i])] = static_cast<std::int32_t>(i);
  expected.resize(size(rows), 0);
  inverse.resize(size(rows), 0);
  CHECK(by_expert.now() == expected);
  CHECK(by_member.now() == inverse);
  CHECK(offsets.now() == starts);
}
