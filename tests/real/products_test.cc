#include <catch2/catch.hpp>
#include <cstring>
#include <thread>

#include "real/kernels.h"
#include "tests/real/reference.h"

using namespace reckon::real;
using namespace reckon::real::reference;
using cpu::LinearShape;

namespace {

struct Operands {
  Floats x, w, dy;
};

Operands operands(const LinearShape& s, unsigned seed = 1) {
  std::mt19937 engine(seed);
  return {random_floats(s.m * s.k, engine), random_floats(s.n * s.k, engine),
          random_floats(s.m * s.n, engine)};
}

Floats zeros(Index n) {
  return Floats(static_cast<std::size_t>(n));
}

Doubles transposed(const Doubles& x, Index rows, Index cols) {
  Doubles t(x.size());
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j)
      t[static_cast<std::size_t>(j * rows + i)] = x[static_cast<std::size_t>(i * cols + j)];
  return t;
}

// The reference's rounding of blocks: value of the nearest code times the block's scale.
Doubles rounded_blocks(const Floats& x, Index m, Index n, Index block_rows, Index block_cols) {
  Doubles out(x.size());
  for (Index i = 0; i < m; ++i)
    for (Index j = 0; j < n; ++j) {
      float largest = 0;
      const Index row = i / block_rows * block_rows, col = j / block_cols * block_cols;
      for (Index a = row; a < std::min(m, row + block_rows); ++a)
        for (Index b = col; b < std::min(n, col + block_cols); ++b)
          largest = std::max(largest, std::abs(x[static_cast<std::size_t>(a * n + b)]));
      const auto at = static_cast<std::size_t>(i * n + j);
      const float scale = largest / 448;
      out[at] = scale == 0
                    ? 0
                    : nearest_e4m3(static_cast<double>(x[at] / scale)) * static_cast<double>(scale);
    }
  return out;
}

}  // namespace

TEST_CASE("linear layers multiply, at odd sizes too") {
  for (const LinearShape s : {LinearShape{1, 1, 1},
                              {1, 7, 5},
                              {3, 1, 9},
                              {17, 33, 65},
                              {16, 64, 192},
                              {130, 129, 257},
                              {64, 512, 1000}}) {
    CAPTURE(s.m, s.n, s.k);
    const Operands o = operands(s);
    Floats y = zeros(s.m * s.n);
    cpu::linear_forward(s, o.x.data(), o.w.data(), y.data());
    CHECK(relative_error(y, linear(widen(o.x), widen(o.w), s.m, s.n, s.k)) < 2e-6);
  }
}

TEST_CASE("every small number of rows, of which some take their own path") {
  for (Index m = 1; m <= 70; ++m) {
    CAPTURE(m);
    const LinearShape s{m, 33, 29};
    const Operands o = operands(s);
    Floats y(static_cast<std::size_t>(m * s.n), std::nanf("")), dw = o.w;
    cpu::linear_forward(s, o.x.data(), o.w.data(), y.data());
    CHECK(relative_error(y, linear(widen(o.x), widen(o.w), s.m, s.n, s.k)) < 2e-6);
    cpu::linear_weight_grad(s, o.dy.data(), o.x.data(), dw.data());
    Doubles expected =
        linear(transposed(widen(o.dy), s.m, s.n), transposed(widen(o.x), s.m, s.k), s.n, s.k, s.m);
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += static_cast<double>(o.w[i]);
    CHECK(relative_error(dw, expected) < 2e-6);
  }
}

TEST_CASE("gradients of linear layers are those of finite differences") {
  for (const LinearShape s : {LinearShape{1, 1, 1}, {3, 4, 5}, {17, 9, 33}, {40, 31, 20}}) {
    CAPTURE(s.m, s.n, s.k);
    const Operands o = operands(s);
    const auto scalar = [&](const Doubles& x, const Doubles& w) {
      return dot(linear(x, w, s.m, s.n, s.k), widen(o.dy));
    };
    Floats dx = zeros(s.m * s.k), dw = zeros(s.n * s.k);
    cpu::linear_input_grad(s, o.dy.data(), o.w.data(), dx.data());
    cpu::linear_weight_grad(s, o.dy.data(), o.x.data(), dw.data());
    CHECK(gradient_error([&](const Doubles& x) { return scalar(x, widen(o.w)); }, o.x, dx) < 1e-5);
    CHECK(gradient_error([&](const Doubles& w) { return scalar(widen(o.x), w); }, o.w, dw) < 1e-5);

    // The input gradient adds only on demand, the weight gradient always.
    Floats twice = dx;
    cpu::linear_input_grad(s, o.dy.data(), o.w.data(), twice.data(), true);
    Doubles expected = widen(dx);
    for (double& v : expected) v *= 2;
    CHECK(relative_error(twice, expected) < 1e-6);
    twice = dw;
    cpu::linear_weight_grad(s, o.dy.data(), o.x.data(), twice.data());
    expected = widen(dw);
    for (double& v : expected) v *= 2;
    CHECK(relative_error(twice, expected) < 1e-6);
  }
}

TEST_CASE("an expert without tokens leaves everything as it is") {
  for (const cpu::Numbers numbers : {cpu::Numbers::Fp32, cpu::Numbers::Fp8Block}) {
    const LinearShape s{0, 5, 7, numbers};
    const Floats w(35, 2.0f);
    Floats dw(35, 3.0f);
    cpu::linear_forward(s, nullptr, w.data(), nullptr);
    cpu::linear_input_grad(s, nullptr, w.data(), nullptr);
    cpu::linear_weight_grad(s, nullptr, nullptr, dw.data());
    CHECK(dw == Floats(35, 3.0f));
    cpu::bias_grad(nullptr, dw.data(), 0, 5);
    CHECK(dw == Floats(35, 3.0f));
  }
}

TEST_CASE("fp32 products ignore what was in the result before") {
  const LinearShape s{5, 6, 7};
  const Operands o = operands(s);
  Floats y(30, std::nanf("")), dx(35, std::nanf(""));
  cpu::linear_forward(s, o.x.data(), o.w.data(), y.data());
  cpu::linear_input_grad(s, o.dy.data(), o.w.data(), dx.data());
  CHECK(relative_error(y, linear(widen(o.x), widen(o.w), 5, 6, 7)) < 1e-6);
  for (float v : dx) CHECK(v == v);
}

TEST_CASE("fp8 products round each operand along the summed dimension, then sum in fp32") {
  for (const LinearShape s :
       {LinearShape{5, 6, 7, cpu::Numbers::Fp8Block}, {130, 140, 300, cpu::Numbers::Fp8Block}}) {
    CAPTURE(s.m, s.n, s.k);
    const Operands o = operands(s);
    const Doubles w = rounded_blocks(o.w, s.n, s.k, 128, 128);

    Floats y = zeros(s.m * s.n), dx = zeros(s.m * s.k), dw = zeros(s.n * s.k);
    cpu::linear_forward(s, o.x.data(), o.w.data(), y.data());
    CHECK(relative_error(y, linear(rounded_blocks(o.x, s.m, s.k, 1, 128), w, s.m, s.n, s.k)) <
          2e-6);

    cpu::linear_input_grad(s, o.dy.data(), o.w.data(), dx.data());
    CHECK(relative_error(dx, linear(rounded_blocks(o.dy, s.m, s.n, 1, 128), transposed(w, s.n, s.k),
                                    s.m, s.k, s.n)) < 2e-6);
    cpu::linear_weight_grad(s, o.dy.data(), o.x.data(), dw.data());
    CHECK(relative_error(dw, linear(transposed(rounded_blocks(o.dy, s.m, s.n, 128, 1), s.m, s.n),
                                    transposed(rounded_blocks(o.x, s.m, s.k, 128, 1), s.m, s.k),
                                    s.n, s.k, s.m)) < 2e-6);
  }
}

TEST_CASE("products give the same bits in every run, thread and place") {
  for (const LinearShape s : {LinearShape{3, 40, 100}, {70, 600, 1100}}) {
    CAPTURE(s.m, s.n, s.k);
    const Operands o = operands(s);
    Floats first = zeros(s.m * s.n);
    cpu::linear_forward(s, o.x.data(), o.w.data(), first.data());
    std::vector<Floats> results(4);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < results.size(); ++i)
      threads.emplace_back([&, i] {
        // Operands and result at other addresses, off the vectors' alignment.
        Floats x(o.x.size() + i), w(o.w.size() + i), y(first.size() + i);
        std::copy(o.x.begin(), o.x.end(), x.begin() + static_cast<Index>(i));
        std::copy(o.w.begin(), o.w.end(), w.begin() + static_cast<Index>(i));
        for (int run = 0; run < 3; ++run)
          cpu::linear_forward(s, x.data() + i, w.data() + i, y.data() + i);
        results[i].assign(y.begin() + static_cast<Index>(i), y.end());
      });
    for (std::thread& t : threads) t.join();
    for (const Floats& y : results)
      CHECK(std::memcmp(y.data(), first.data(), first.size() * sizeof(float)) == 0);
  }
}

TEST_CASE("biases") {
  Floats y{1, 2, 3, 4, 5, 6}, db{1, 1, 1};
  const Floats b{10, 20, 30};
  cpu::bias_grad(y.data(), db.data(), 2, 3);
  CHECK(db == Floats{6, 8, 10});
  cpu::add_bias(y.data(), b.data(), 2, 3);
  CHECK(y == Floats{11, 22, 33, 14, 25, 36});
}
