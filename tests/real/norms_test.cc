#include <catch2/catch.hpp>
#include <cmath>

#include "real/kernels.h"
#include "real/rotary.h"
#include "tests/real/reference.h"

using namespace reckon;
using namespace reckon::real;
using namespace reckon::real::reference;
using cpu::Activation;
using cpu::NormShape;

TEST_CASE("norms and their gradients") {
  for (const bool layer_norm : {false, true})
    for (const auto& [rows, width] : {std::pair<Index, Index>{1, 1}, {3, 7}, {5, 33}, {2, 512}}) {
      CAPTURE(layer_norm, rows, width);
      const NormShape s{rows, width, 1e-5f, layer_norm};
      std::mt19937 engine(1);
      const Floats x = random_floats(rows * width, engine), w = random_floats(width, engine),
                   b = random_floats(width, engine), dy = random_floats(rows * width, engine);
      Floats y(x.size()), statistics(static_cast<std::size_t>(2 * rows));
      cpu::norm_forward(s, x.data(), w.data(), layer_norm ? b.data() : nullptr, y.data(),
                        statistics.data());
      // One element minus its own mean is 0: no digits to compare.
      const Doubles expected = norm(s, widen(x), widen(w), widen(b));
      CHECK(relative_error(y, expected) < 2e-6);

      Floats dx(x.size()), dw(w.size()), db(b.size());
      cpu::norm_backward(s, dy.data(), x.data(), w.data(), statistics.data(), dx.data(), dw.data(),
                         layer_norm ? db.data() : nullptr, false);
      const auto scalar = [&](const Doubles& x1, const Doubles& w1, const Doubles& b1) {
        return dot(norm(s, x1, w1, b1), widen(dy));
      };
      const Doubles xd = widen(x), wd = widen(w), bd = widen(b);
      if (width > 1) {  // dx of one element: 0 (layer norm), or of order eps
        CHECK(gradient_error([&](const Doubles& v) { return scalar(v, wd, bd); }, x, dx) < 1e-5);
        CHECK(gradient_error([&](const Doubles& v) { return scalar(xd, v, bd); }, w, dw) < 1e-5);
      } else {
        for (float d : dx) CHECK(std::abs(d) < 1e-3f);
      }
      if (layer_norm)
        CHECK(gradient_error([&](const Doubles& v) { return scalar(xd, wd, v); }, b, db) < 1e-5);

      Floats more = dx;
      cpu::norm_backward(s, dy.data(), x.data(), w.data(), statistics.data(), more.data(),
                         dw.data(), nullptr, true);
      Doubles twice = widen(dx);
      for (double& v : twice) v *= 2;
      if (width > 1) CHECK(relative_error(more, twice) < 1e-6);
    }
}

TEST_CASE("layer norm without bias, and norms of nothing") {
  const Floats x{1, 2, 3, 6}, w{1, 1, 1, 1};
  Floats y(4), statistics(2);
  const NormShape s{1, 4, 0, true};
  cpu::norm_forward(s, x.data(), w.data(), nullptr, y.data(), statistics.data());
  CHECK(statistics[0] == 3);
  CHECK(y[2] == 0);
  const NormShape empty{0, 4, 1e-5f};
  Floats dw{1, 2, 3, 4};
  cpu::norm_forward(empty, nullptr, w.data(), nullptr, nullptr, nullptr);
  cpu::norm_backward(empty, nullptr, nullptr, w.data(), nullptr, nullptr, dw.data(), nullptr,
                     false);
  CHECK(dw == Floats{1, 2, 3, 4});
}

TEST_CASE("activations and their gradients") {
  for (const Activation a :
       {Activation::SwiGlu, Activation::GeGlu, Activation::Gelu, Activation::SquaredRelu})
    for (const auto& [rows, width] : {std::pair<Index, Index>{1, 1}, {3, 5}, {2, 37}, {0, 4}}) {
      const bool gated = a == Activation::SwiGlu || a == Activation::GeGlu;
      CAPTURE(static_cast<int>(a), rows, width);
      std::mt19937 engine(2);
      const Floats x = random_floats(rows * width * (gated ? 2 : 1), engine, 2),
                   dy = random_floats(rows * width, engine);
      Floats y(dy.size()), dx(x.size()), again(dy.size());
      cpu::activation_forward(a, x.data(), y.data(), rows, width);
      CHECK(relative_error(y, activation(a, widen(x), rows, width)) < 1e-6);
      cpu::activation_backward(a, x.data(), dy.data(), dx.data(), again.data(), rows, width);
      const auto scalar = [&](const Doubles& v) {
        return dot(activation(a, v, rows, width), widen(dy));
      };
      CHECK(gradient_error(scalar, x, dx) < 1e-5);
      CHECK(relative_error(again, widen(y)) < 1e-6);
      Floats without(x.size());
      cpu::activation_backward(a, x.data(), dy.data(), without.data(), nullptr, rows, width);
      CHECK(relative_error(without, widen(dx)) < 1e-6);
    }
}

TEST_CASE("activations far from 0 do not overflow") {
  for (const Activation a : {Activation::SwiGlu, Activation::GeGlu}) {
    const Floats x{-200, 200, 1, 1}, dy{1, 1};
    Floats y(2), dx(4);
    cpu::activation_forward(a, x.data(), y.data(), 1, 2);
    CHECK(y[0] == 0);
    CHECK(y[1] == 200);
    cpu::activation_backward(a, x.data(), dy.data(), dx.data(), nullptr, 1, 2);
    CHECK(dx[0] == 0);
    CHECK(dx[1] == 1);
  }
}

TEST_CASE("rope turns pair (i, i + dim/2) by position * theta^(-2i/dim); inverse turns it back") {
  const Index rows = 5, heads = 2, stride = 11, offset = 3, dim = 6;
  const cpu::RopeTable table = cpu::rope_table({}, 20, dim);
  std::mt19937 engine(1);
  const Floats before = random_floats(rows * heads * stride, engine);
  const std::vector<std::int32_t> position{0, 1, 7, 19, 2};
  Floats x = before;
  const cpu::RopeView view{x.data(), rows, heads, stride, offset};
  cpu::rope(table, view, position.data(), false);
  Doubles expected = widen(before);
  for (Index r = 0; r < rows; ++r)
    for (Index h = 0; h < heads; ++h)
      for (Index i = 0; i < dim / 2; ++i) {
        const double angle = position[static_cast<std::size_t>(r)] *
                             std::pow(10000.0, -2.0 * static_cast<double>(i) / dim);
        const auto first = static_cast<std::size_t>((r * heads + h) * stride + offset + i);
        const std::size_t second = first + dim / 2;
        const double a = expected[first], b = expected[second];
        expected[first] = a * std::cos(angle) - b * std::sin(angle);
        expected[second] = b * std::cos(angle) + a * std::sin(angle);
      }
  CHECK(relative_error(x, expected) < 1e-6);
  cpu::rope(table, view, position.data(), true);
  CHECK(relative_error(x, widen(before)) < 1e-6);
}

TEST_CASE("YaRN leaves fast pairs alone, slows the slow ones by its factor, blends between") {
  // DeepSeek-V3's settings. Pair i turns 4096 / (2 pi 10000^(i/32)) times over 4096 positions:
  // 32 turns at i = 10.5 (rounded down to 10), one turn at i = 22.5 (up to 23).
  const cpu::RopeSettings s{.theta = 10000, .yarn_factor = 40};
  const cpu::RopeTable yarn = cpu::rope_table(s, 2, 64);
  const auto frequency = [&](Index i) {
    const auto at = static_cast<std::size_t>(32 + i);  // at position 1
    return std::atan2(static_cast<double>(yarn.sin[at]), static_cast<double>(yarn.cos[at]));
  };
  for (Index i = 0; i < 32; ++i) {
    const double plain = std::pow(10000.0, -static_cast<double>(i) / 32);
    const double slowed = std::clamp((static_cast<double>(i) - 10) / 13, 0.0, 1.0);
    CAPTURE(i);
    CHECK(frequency(i) == Approx(plain * (1 - slowed) + plain / 40 * slowed).epsilon(1e-5));
  }
  const cpu::RopeTable scaled = cpu::rope_table({.yarn_factor = 40, .yarn_mscale = 1.5}, 2, 64);
  CHECK(scaled.cos[0] == 1.5f);
}

TEST_CASE("the gradient through scaled rotations is that of finite differences") {
  // mscale multiplies the rotation, so its transpose is no longer its inverse.
  const cpu::RopeTable table = cpu::rope_table({.yarn_factor = 4, .yarn_mscale = 1.5}, 50, 8);
  std::mt19937 engine(3);
  const std::vector<std::int32_t> position{49, 3};
  const Floats x = random_floats(16, engine), through = random_floats(16, engine);
  const auto turned = [&](const Doubles& values) {
    Doubles y = values;
    for (std::size_t r = 0; r < 2; ++r)
      for (std::size_t i = 0; i < 4; ++i) {
        const std::size_t at = static_cast<std::size_t>(position[r]) * 4 + i, a = 8 * r + i;
        const double c = table.cos[at], s = table.sin[at];
        y[a] = values[a] * c - values[a + 4] * s;
        y[a + 4] = values[a + 4] * c + values[a] * s;
      }
    return y;
  };
  Floats y = x, gradient = through;
  cpu::rope(table, {y.data(), 2, 1, 8, 0}, position.data(), false);
  CHECK(relative_error(y, turned(widen(x))) < 1e-6);
  cpu::rope(table, {gradient.data(), 2, 1, 8, 0}, position.data(), true);
  CHECK(gradient_error([&](const Doubles& v) { return dot(turned(v), widen(through)); }, x,
                       gradient) < 1e-5);
}

TEST_CASE("a model's YaRN settings reach the kernels as DeepSeek-V3 and the paper have them") {
  plan::ModelShape m;
  CHECK(score_scale(m) == 1);
  CHECK(rope_settings(m).yarn_factor == 1);
  // DeepSeek-V3's config.json: m = 0.1 ln 40 + 1 = 1.36889 is taken off cosines and sines and put
  // on the scores, squared (its modeling_deepseek.py).
  m.yarn = plan::Yarn{.factor = 40, .original_positions = 4096, .mscale = 1, .mscale_all_dim = 1};
  CHECK(rope_settings(m).yarn_mscale == Approx(1));
  CHECK(score_scale(m) == Approx(1.873856).epsilon(1e-5));
  // The paper's equation 22: sqrt(1/t) = 0.1 ln s + 1 on queries and keys.
  m.yarn->mscale_all_dim = 0;
  CHECK(rope_settings(m).yarn_mscale == Approx(1.368888).epsilon(1e-5));
  CHECK(score_scale(m) == 1);
}
