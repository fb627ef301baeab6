#include <catch2/catch.hpp>
#include <cmath>

#include "real/kernels.h"
#include "tests/real/reference.h"

using namespace reckon::real;
using namespace reckon::real::reference;

TEST_CASE("embedding of a slice: ids outside give zeros and no gradient") {
  const Floats table{1, 2, 3, 4, 5, 6};  // ids 10, 11, 12; width 2
  const std::vector<std::int32_t> ids{11, 9, 12, 13, 10, 11, -1};
  Floats out(14, 9.0f);
  cpu::embedding_forward(table.data(), ids.data(), 7, 2, 10, 13, out.data());
  CHECK(out == Floats{3, 4, 0, 0, 5, 6, 0, 0, 1, 2, 3, 4, 0, 0});
  const Floats dout{1, 1, 50, 50, 2, 2, 50, 50, 3, 3, 10, 20, 50, 50};
  Floats dtable(6, 0.5f);
  cpu::embedding_backward(dout.data(), ids.data(), 7, 2, 10, 13, dtable.data());
  CHECK(dtable == Floats{3.5f, 3.5f, 11.5f, 21.5f, 2.5f, 2.5f});
  cpu::embedding_forward(table.data(), nullptr, 0, 2, 10, 13, nullptr);
  cpu::embedding_backward(nullptr, nullptr, 0, 2, 10, 13, dtable.data());
}

namespace {

// Loss and gradient with the vocabulary cut into slices at `cuts`.
struct Sliced {
  double loss;
  Floats lse, gradient;  // gradient[n, vocab] put together again
};

Sliced sliced(const Floats& logits, const std::vector<std::int32_t>& target,
              const std::vector<Index>& cuts, float scale) {
  const Index n = static_cast<Index>(target.size()), vocab = cuts.back();
  const Index ranks = static_cast<Index>(cuts.size()) - 1;
  const auto slice_of = [&](Index r) {
    Floats part;
    for (Index i = 0; i < n; ++i)
      part.insert(part.end(), logits.begin() + i * vocab + cuts[static_cast<std::size_t>(r)],
                  logits.begin() + i * vocab + cuts[static_cast<std::size_t>(r + 1)]);
    return part;
  };
  Floats partials(static_cast<std::size_t>(ranks * n * 3));
  for (Index r = 0; r < ranks; ++r) {
    const Index begin = cuts[static_cast<std::size_t>(r)];
    const Index width = cuts[static_cast<std::size_t>(r + 1)] - begin;
    cpu::loss_partial(slice_of(r).data(), target.data(), n, width, static_cast<std::int32_t>(begin),
                      partials.data() + r * n * 3);
  }
  Sliced result{0, Floats(target.size()), Floats(logits.size())};
  result.loss = cpu::loss_combine(partials.data(), target.data(), ranks, n, result.lse.data());
  for (Index r = 0; r < ranks; ++r) {
    const Index begin = cuts[static_cast<std::size_t>(r)];
    const Index width = cuts[static_cast<std::size_t>(r + 1)] - begin;
    Floats part = slice_of(r);
    cpu::loss_backward(part.data(), target.data(), result.lse.data(), n, width,
                       static_cast<std::int32_t>(begin), scale);
    for (Index i = 0; i < n; ++i)
      std::copy_n(part.begin() + i * width, width, result.gradient.begin() + i * vocab + begin);
  }
  return result;
}

}  // namespace

TEST_CASE("cross-entropy and its gradient, whole and in slices, some tokens not counted") {
  const Index n = 5, vocab = 13;
  std::mt19937 engine(1);
  const Floats logits = random_floats(n * vocab, engine, 3);
  const std::vector<std::int32_t> target{0, 12, -1, 6, 5};
  const double expected = loss(widen(logits), target, n, vocab);
  for (const std::vector<Index>& cuts : {std::vector<Index>{0, 13}, {0, 6, 13}, {0, 1, 5, 5, 13}}) {
    CAPTURE(cuts.size());
    const Sliced r = sliced(logits, target, cuts, 0.25f);
    CHECK(r.loss == Approx(expected).epsilon(1e-6));
    CHECK(gradient_error([&](const Doubles& x) { return 0.25 * loss(x, target, n, vocab); }, logits,
                         r.gradient) < 1e-5);
    for (Index j = 0; j < vocab; ++j)
      CHECK(r.gradient[static_cast<std::size_t>(2 * vocab + j)] == 0);
  }
}

TEST_CASE("cross-entropy over a vocabulary of several blocks, with logits that exp can't hold") {
  const Index n = 2, vocab = 10007;
  std::mt19937 engine(2);
  Floats logits = random_floats(n * vocab, engine, 2);
  const std::vector<std::int32_t> target{10006, 17};
  const double expected = loss(widen(logits), target, n, vocab);
  CHECK(sliced(logits, target, {0, vocab}, 1).loss == Approx(expected).epsilon(1e-6));
  CHECK(sliced(logits, target, {0, 4000, vocab}, 1).loss == Approx(expected).epsilon(1e-6));
  for (float& x : logits) x += 500;
  CHECK(sliced(logits, target, {0, vocab}, 1).loss == Approx(expected).epsilon(1e-4));
}

TEST_CASE("cross-entropy of nothing") {
  CHECK(cpu::loss_combine(nullptr, nullptr, 2, 0, nullptr) == 0);
  cpu::loss_partial(nullptr, nullptr, 0, 5, 0, nullptr);
  cpu::loss_backward(nullptr, nullptr, nullptr, 0, 5, 0, 1);
}

TEST_CASE("a diverged row shows in the loss") {
  Floats logits{1, std::nanf(""), 2};
  const std::vector<std::int32_t> target{0};
  CHECK(std::isnan(sliced(logits, target, {0, 3}, 1).loss));
}
