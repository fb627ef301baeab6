#include <catch2/catch.hpp>
#include <cmath>
#include <set>

#include "real/kernels.h"
#include "tests/real/reference.h"

using namespace reckon::real;
using namespace reckon::real::reference;
using cpu::RouterShape;

namespace {

std::vector<RouterShape> shapes() {
  std::vector<RouterShape> result;
  for (const bool sigmoid : {false, true})
    for (const bool normalise : {false, true}) {
      const RouterShape common{
          .tokens = 5, .experts = 6, .top_k = 2, .sigmoid = sigmoid, .normalise = normalise};
      result.push_back(common);
      RouterShape s = common;
      s.scale = 2.5f;
      s.top_k = 6;
      result.push_back(s);
      s = common;
      s.experts = 12;
      s.groups = 4;
      s.limited_groups = 2;
      s.top_k = 3;
      s.scale = 2.5f;
      result.push_back(s);
      s.groups = 12;  // groups of one expert
      s.limited_groups = 5;
      result.push_back(s);
      s.tokens = 0;
      result.push_back(s);
    }
  return result;
}

struct Result {
  Floats scores, weights;
  std::vector<std::int32_t> chosen;
};

Result route(const RouterShape& s, const Floats& logits, const float* bias) {
  const auto pairs = static_cast<std::size_t>(s.tokens * s.top_k);
  Result r{Floats(logits.size()), Floats(pairs), std::vector<std::int32_t>(pairs)};
  cpu::router_forward(s, logits.data(), bias, r.scores.data(), r.chosen.data(), r.weights.data());
  return r;
}

}  // namespace

TEST_CASE("the router chooses by biased scores inside the best groups and weighs by plain ones") {
  for (const RouterShape& s : shapes())
    for (unsigned seed = 0; seed < 20; ++seed) {
      CAPTURE(s.sigmoid, s.normalise, s.experts, s.groups, s.top_k, seed);
      std::mt19937 engine(seed);
      const Floats logits = random_floats(s.tokens * s.experts, engine);
      const Floats bias = random_floats(s.experts, engine, 0.3f);
      const Result r = route(s, logits, bias.data());
      const RouterResult expected = router(s, widen(logits), r.chosen);
      CHECK(relative_error(r.scores, expected.scores) < 1e-6);
      CHECK(relative_error(r.weights, expected.weights) < 1e-6);
      for (Index t = 0; t < s.tokens; ++t) {
        Floats biased(r.scores.begin() + t * s.experts, r.scores.begin() + (t + 1) * s.experts);
        for (std::size_t e = 0; e < biased.size(); ++e) biased[e] += bias[e];
        const std::vector<std::int32_t> chosen(r.chosen.begin() + t * s.top_k,
                                               r.chosen.begin() + (t + 1) * s.top_k);
        CHECK(chosen == choice(s, biased));
      }
    }
}

TEST_CASE("ties go to the lower expert and the lower group") {
  const RouterShape flat{.tokens = 1, .experts = 5, .top_k = 3};
  CHECK(route(flat, Floats(5, 0.5f), nullptr).chosen == std::vector<std::int32_t>{0, 1, 2});
  for (const bool sigmoid : {false, true}) {
    RouterShape s{.tokens = 1, .experts = 6, .top_k = 3, .groups = 3, .limited_groups = 2};
    s.sigmoid = sigmoid;
    // Groups 0 and 2 tie behind group 1.
    CHECK(route(s, Floats{1, 2, 3, 4, 2, 1}, nullptr).chosen == std::vector<std::int32_t>{3, 2, 1});
  }
}

TEST_CASE("softmax ranks groups by their best expert, sigmoid by the best two") {
  RouterShape s{.tokens = 1, .experts = 4, .top_k = 1, .groups = 2, .limited_groups = 1};
  const Floats logits{2, -9, 1.5f, 1.5f};
  CHECK(route(s, logits, nullptr).chosen[0] == 0);
  s.sigmoid = true;
  CHECK(route(s, logits, nullptr).chosen[0] == 2);
}

TEST_CASE("a router gone mad still chooses different experts that exist") {
  for (const bool sigmoid : {false, true})
    for (const float bad : {std::nanf(""), INFINITY, -INFINITY, -1000.0f}) {
      RouterShape s{.tokens = 1, .experts = 8, .top_k = 4, .groups = 4, .limited_groups = 2};
      s.sigmoid = sigmoid;
      const Result r = route(s, Floats(8, bad), nullptr);
      CAPTURE(sigmoid, bad);
      CHECK(std::set<std::int32_t>(r.chosen.begin(), r.chosen.end()).size() == 4);
      for (std::int32_t e : r.chosen) CHECK((e >= 0 && e < 8));
      if (bad == -1000.0f)
        for (float w : r.weights) CHECK(w == w);
    }
}

TEST_CASE("gradients of the router, with and without the balance loss") {
  for (const RouterShape& s : shapes())
    for (const bool balance : {false, true}) {
      CAPTURE(s.sigmoid, s.normalise, s.experts, s.groups, s.top_k, balance);
      std::mt19937 engine(3);
      const Floats logits = random_floats(s.tokens * s.experts, engine);
      const Floats dweights = random_floats(s.tokens * s.top_k, engine);
      const Floats dp = random_floats(s.tokens * s.experts, engine);
      const Result r = route(s, logits, nullptr);
      Floats dlogits(logits.size());
      cpu::router_backward(s, r.scores.data(), r.chosen.data(), r.weights.data(), dweights.data(),
                           balance ? dp.data() : nullptr, dlogits.data());
      const auto scalar = [&](const Doubles& x) {
        const RouterResult y = router(s, x, r.chosen);  // the choice has no gradient
        return dot(y.weights, widen(dweights)) + (balance ? dot(y.p, widen(dp)) : 0);
      };
      CHECK(gradient_error(scalar, logits, dlogits) < 1e-5);
    }
}

TEST_CASE("rows move to experts and back, and their gradients") {
  const Index tokens = 4, top_k = 3, width = 7, rows = tokens * top_k;
  std::mt19937 engine(1);
  std::vector<std::int32_t> row(static_cast<std::size_t>(rows));
  for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<std::int32_t>(i);
  std::shuffle(row.begin(), row.end(), engine);
  const Floats x = random_floats(rows * width, engine), weight = random_floats(rows, engine),
               dout = random_floats(tokens * width, engine);
  const auto combine = [&](const Doubles& of, const Doubles& w) {
    Doubles out(dout.size());
    for (Index t = 0; t < tokens; ++t)
      for (Index j = 0; j < top_k; ++j)
        for (Index c = 0; c < width; ++c) {
          const auto at = static_cast<std::size_t>(t * top_k + j);
          out[static_cast<std::size_t>(t * width + c)] +=
              w[at] * of[static_cast<std::size_t>(row[at] * width + c)];
        }
    return out;
  };

  Floats gathered(x.size());
  cpu::gather_rows(x.data(), row.data(), rows, width, gathered.data());
  for (Index i = 0; i < rows; ++i)
    for (Index c = 0; c < width; ++c)
      CHECK(gathered[static_cast<std::size_t>(i * width + c)] ==
            x[static_cast<std::size_t>(row[static_cast<std::size_t>(i)] * width + c)]);

  Floats out(dout.size(), std::nanf(""));
  cpu::combine_rows(x.data(), row.data(), weight.data(), tokens, top_k, width, out.data(), false);
  const Doubles expected = combine(widen(x), widen(weight));
  CHECK(relative_error(out, expected) < 1e-6);
  cpu::combine_rows(x.data(), row.data(), nullptr, tokens, top_k, width, out.data(), true);
  Doubles both = combine(widen(x), Doubles(weight.size(), 1));
  for (std::size_t i = 0; i < both.size(); ++i) both[i] += expected[i];
  CHECK(relative_error(out, both) < 1e-6);

  Floats dx(x.size(), std::nanf("")), dweight(weight.size());
  cpu::combine_rows_backward(dout.data(), x.data(), row.data(), weight.data(), tokens, top_k, width,
                             dx.data(), dweight.data());
  CHECK(gradient_error(
            [&](const Doubles& v) { return dot(combine(v, widen(weight)), widen(dout)); }, x, dx) <
        1e-5);
  CHECK(gradient_error([&](const Doubles& v) { return dot(combine(widen(x), v), widen(dout)); },
                       weight, dweight) < 1e-5);

  cpu::gather_rows(nullptr, nullptr, 0, width, nullptr);
  cpu::combine_rows(nullptr, nullptr, nullptr, 0, top_k, width, nullptr, false);
  cpu::combine_rows_backward(nullptr, nullptr, nullptr, nullptr, 0, top_k, width, nullptr, nullptr);
}
