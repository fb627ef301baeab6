#include <catch2/catch.hpp>

#include "tests/real/cuda/arrays.h"

using namespace reckon::real;
using namespace reckon::real::cuda::test;
using cuda::Index;

namespace {

std::size_t size(Index n) {
  return static_cast<std::size_t>(n);
}

}  // namespace

TEST_CASE("cuda: norms and their gradients") {
  std::mt19937 engine(6);
  const auto& c = context();
  for (const Element e : kKinds)
    for (const bool layer : {false, true})
      for (const auto& [rows, width] :
           {std::pair<Index, Index>{1, 1}, {3, 7}, {40, 264}, {2, 2056}})
        for (const bool accumulate : {false, true}) {
          CAPTURE(static_cast<int>(e), layer, rows, width, accumulate);
          const cpu::NormShape s{rows, width, 1e-5f, layer};
          const Array x = Array::random(rows * width, e, engine, 2),
                      w = Array::random(width, e, engine), b = Array::random(width, e, engine),
                      dy = Array::random(rows * width, e, engine),
                      dx = Array::random(rows * width, e, engine),
                      dw = Array::random(width, Element::Fp32, engine),
                      db = Array::random(width, Element::Fp32, engine);
          const Index stats = rows * (layer ? 2 : 1);
          Floats y(size(rows * width)), statistics(size(stats)),
              dx_expected = dx.host(), dw_expected = dw.host(), db_expected = db.host();
          const float* bias = layer ? b.host().data() : nullptr;
          cpu::norm_forward(s, x.host().data(), w.host().data(), bias, y.data(), statistics.data());
          cpu::norm_backward(s, dy.host().data(), x.host().data(), w.host().data(),
                             statistics.data(), dx_expected.data(), dw_expected.data(),
                             layer ? db_expected.data() : nullptr, accumulate);
          const Array out(rows * width, e), of(stats, Element::Fp32);
          cuda::norm_forward(c, s, x, w, layer ? ConstView(b) : ConstView(), out, of.floats());
          CHECK(error(out.now(), y) < tolerance(e, 2e-6));
          CHECK(error(of.now(), statistics) < 2e-6);
          cuda::norm_backward(c, s, dy, x, w, of.floats(), dx, dw, layer ? View(db) : View(),
                              accumulate);
          CHECK(error(dw.now(), dw_expected) < 3e-6);
          CHECK(error(db.now(), db_expected) < 3e-6);
          // One number per row is normed away: then dx is what rounding leaves.
          if (width > 1) CHECK(error(dx.now(), dx_expected) < tolerance(e, 3e-6));
        }
}

TEST_CASE("cuda: a norm behind the residual sum is the norm of the rounded sum") {
  std::mt19937 engine(7);
  const auto& c = context();
  for (const Element e : kKinds)
    for (const bool layer : {false, true}) {
      const Index rows = 5, width = 72;
      const cpu::NormShape s{rows, width, 1e-6f, layer};
      const Array x = Array::random(rows * width, e, engine),
                  residual = Array::random(rows * width, e, engine),
                  w = Array::random(width, e, engine);
      const Array sum(rows * width, e), y(rows * width, e), y_apart(rows * width, e),
          sum_apart(rows * width, e), of(rows * 2, Element::Fp32),
          of_apart(rows * 2, Element::Fp32);
      cuda::norm_residual_forward(c, s, x, residual, sum, w, {}, y, of.floats());
      cuda::add(c, x, residual, sum_apart, rows * width);
      cuda::norm_forward(c, s, sum_apart, w, {}, y_apart, of_apart.floats());
      CHECK(sum.now() == sum_apart.now());
      CHECK(y.now() == y_apart.now());
      CHECK(error(of.now(), of_apart.now()) == 0);
    }
}
