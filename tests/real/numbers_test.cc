#include <bit>
#include <catch2/catch.hpp>
#include <cmath>

#include "real/kernels.h"
#include "real/vectors.h"
#include "tests/real/reference.h"

using namespace reckon::real;
using namespace reckon::real::reference;

namespace {

// Rounds x to E4M3 with scale 1: a 448 in the block makes it so.
float round_e4m3_unscaled(float x) {
  float block[2] = {x, 448};
  cpu::round_fp8(block, block, 1, 2, 1, 2);
  return block[0];
}

}  // namespace

TEST_CASE("every finite E4M3 code stays itself") {
  for (unsigned code = 0; code < 256; ++code) {
    const double value = e4m3_value(code);
    if (std::isnan(value)) continue;
    CAPTURE(code, value);
    const float rounded = round_e4m3_unscaled(static_cast<float>(value));
    CHECK(static_cast<double>(rounded) == value);
    CHECK(std::signbit(rounded) == std::signbit(value));
  }
}

TEST_CASE("E4M3: midpoints go to the even code, their neighbours to the nearer one") {
  for (unsigned code = 0; code + 1 < 127; ++code) {
    const double low = e4m3_value(code), high = e4m3_value(code + 1);
    const float middle = static_cast<float>((low + high) / 2);
    CAPTURE(code, middle);
    for (const float sign : {1.0f, -1.0f}) {
      const double s = static_cast<double>(sign);
      CHECK(static_cast<double>(round_e4m3_unscaled(sign * middle)) ==
            s * (code % 2 == 0 ? low : high));
      CHECK(static_cast<double>(round_e4m3_unscaled(sign * std::nextafter(middle, 0.0f))) ==
            s * low);
      CHECK(static_cast<double>(round_e4m3_unscaled(sign * std::nextafter(middle, 449.0f))) ==
            s * high);
    }
  }
}

TEST_CASE("E4M3 rounds to the nearest value, by trying all") {
  std::mt19937 engine(3);
  std::uniform_real_distribution<float> exponent(-14, 8.8f), sign(-1, 1);
  for (int i = 0; i < 5000; ++i) {
    const float x = std::copysign(std::exp2(exponent(engine)), sign(engine));
    CAPTURE(x);
    if (std::abs(x) > 448) continue;
    CHECK(static_cast<double>(round_e4m3_unscaled(x)) == nearest_e4m3(static_cast<double>(x)));
  }
}

TEST_CASE("fp8 blocks: own scale each, partial blocks at the edges, zeros stay, NaN stays") {
  const Index m = 5, n = 7;
  std::mt19937 engine(4);
  Floats x = random_floats(m * n, engine);
  for (Index i = 0; i < 2; ++i)
    for (Index j = 0; j < 3; ++j) x[static_cast<std::size_t>(i * n + j)] = 0;
  for (const auto& [rows, cols] : {std::pair<Index, Index>{1, 1}, {2, 3}, {1, 4}, {4, 1}, {8, 8}}) {
    CAPTURE(rows, cols);
    Floats out(x.size());
    cpu::round_fp8(x.data(), out.data(), m, n, rows, cols);
    for (Index i = 0; i < m; ++i)
      for (Index j = 0; j < n; ++j) {
        float largest = 0;
        for (Index a = i / rows * rows; a < std::min(m, i / rows * rows + rows); ++a)
          for (Index b = j / cols * cols; b < std::min(n, j / cols * cols + cols); ++b)
            largest = std::max(largest, std::abs(x[static_cast<std::size_t>(a * n + b)]));
        const auto at = static_cast<std::size_t>(i * n + j);
        const float scale = largest / 448;
        const float expected =
            largest == 0
                ? 0
                : static_cast<float>(nearest_e4m3(static_cast<double>(x[at] / scale))) * scale;
        CHECK(out[at] == expected);
      }
    // In place gives the same.
    Floats in_place = x;
    cpu::round_fp8(in_place.data(), in_place.data(), m, n, rows, cols);
    CHECK(in_place == out);
  }
  float bad[3] = {1, std::nanf(""), -2};
  cpu::round_fp8(bad, bad, 1, 3, 1, 3);
  CHECK(bad[0] == 1);
  CHECK(bad[1] != bad[1]);
  cpu::round_fp8(nullptr, nullptr, 0, 3, 1, 3);
}

TEST_CASE("bf16: nearest, ties to even, specials stay") {
  const auto round = [](float x) { return cpu::round_bf16(&x, 1), x; };
  CHECK(round(1 + 0x1p-8f) == 1);               // tie, down to even
  CHECK(round(1 + 0x3p-8f) == 1 + 0x1p-6f);     // tie, up to even
  CHECK(round(1 + 0x1.01p-8f) == 1 + 0x1p-7f);  // above the tie
  CHECK(round(-1 - 0x3p-8f) == -1 - 0x1p-6f);
  CHECK(round(3.4e38f) == INFINITY);
  CHECK(round(-INFINITY) == -INFINITY);
  CHECK(std::signbit(round(-0.0f)));
  CHECK(std::isnan(round(std::bit_cast<float>(0x7fffffffu))));
  // Every value on the grid is a fixed point; everything else moves by half a step at most.
  for (std::uint32_t high = 0; high < 0x10000; high += 7) {
    const float x = std::bit_cast<float>(high << 16);
    if (x == x) CHECK(std::bit_cast<std::uint32_t>(round(x)) == high << 16);
  }
}

TEST_CASE("fast_exp: within 2e-7 of exp, 0 below, infinite above, NaN stays") {
  for (float x = -87.3f; x < 88.3f; x += 0.0137f) {
    const double exact = std::exp(static_cast<double>(x));
    if (std::abs(static_cast<double>(cpu::fast_exp(x)) - exact) > 2e-7 * exact) {
      CAPTURE(x, exact);
      CHECK(static_cast<double>(cpu::fast_exp(x)) == exact);
    }
  }
  CHECK(cpu::fast_exp(0) == 1);
  CHECK(cpu::fast_exp(-100) == 0);
  CHECK(cpu::fast_exp(-INFINITY) == 0);
  CHECK(cpu::fast_exp(89) == INFINITY);
  CHECK(cpu::fast_exp(INFINITY) == INFINITY);
  CHECK(std::isnan(cpu::fast_exp(std::nanf(""))));
}
