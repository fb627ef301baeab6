#include <bit>
#include <catch2/catch.hpp>
#include <cmath>

#include "real/kernels.h"
#include "tests/real/reference.h"

using namespace reckon::real;
using namespace reckon::real::reference;

TEST_CASE("AdamW over some steps equals its equations") {
  const Index n = 37;
  std::mt19937 engine(1);
  Floats w = random_floats(n, engine), m(37), v(37);
  Doubles wd = widen(w), md(37), vd(37);
  for (int step = 1; step <= 5; ++step) {
    const cpu::Adam a{.lr = 0.01,
                      .beta1 = 0.9,
                      .beta2 = 0.95,
                      .eps = 1e-8,
                      .weight_decay = 0.1,
                      .gradient_scale = 0.5,
                      .step = step};
    const Floats grad = random_floats(n, engine);
    cpu::adam_update(a, grad.data(), w.data(), m.data(), v.data(), n);
    for (std::size_t i = 0; i < wd.size(); ++i) {
      const double g = 0.5 * static_cast<double>(grad[i]);
      md[i] = 0.9 * md[i] + 0.1 * g;
      vd[i] = 0.95 * vd[i] + 0.05 * g * g;
      const double m_hat = md[i] / (1 - std::pow(0.9, step));
      const double v_hat = vd[i] / (1 - std::pow(0.95, step));
      wd[i] -= 0.01 * (m_hat / (std::sqrt(v_hat) + 1e-8) + 0.1 * wd[i]);
    }
  }
  CHECK(relative_error(w, wd) < 1e-6);
  CHECK(relative_error(m, md) < 1e-6);
  CHECK(relative_error(v, vd) < 1e-6);
}

TEST_CASE("bf16 moments lie on the grid and follow the fp32 ones") {
  const Index n = 21;
  std::mt19937 engine(1);
  Floats w = random_floats(n, engine), m(21), v(21);
  const Floats grad = random_floats(n, engine);
  Floats w32 = w, m32 = m, v32 = v;
  cpu::Adam a{.lr = 0.01,
              .beta1 = 0.9,
              .beta2 = 0.95,
              .eps = 1e-8,
              .weight_decay = 0,
              .gradient_scale = 1,
              .step = 1};
  cpu::adam_update(a, grad.data(), w32.data(), m32.data(), v32.data(), n);
  a.bf16_moments = true;
  cpu::adam_update(a, grad.data(), w.data(), m.data(), v.data(), n);
  CHECK(w == w32);  // the update itself uses the moments before they are rounded
  cpu::round_bf16(m32.data(), n);
  cpu::round_bf16(v32.data(), n);
  CHECK(m == m32);
  CHECK(v == v32);
}

TEST_CASE("a gradient of zeros moves nothing but the decay") {
  Floats w{2, -4}, m(2), v(2);
  const Floats grad(2);
  cpu::adam_update({.lr = 0.5,
                    .beta1 = 0.9,
                    .beta2 = 0.95,
                    .eps = 1e-8,
                    .weight_decay = 0.5,
                    .gradient_scale = 1,
                    .step = 1},
                   grad.data(), w.data(), m.data(), v.data(), 2);
  CHECK(w == Floats{1.5f, -3});
}

TEST_CASE("sums") {
  std::mt19937 engine(1);
  const Floats x = random_floats(1003, engine), y = random_floats(1003, engine);
  CHECK(cpu::square_sum(x.data(), 1003) == Approx(dot(widen(x), widen(x))).epsilon(1e-14));
  CHECK(cpu::square_sum(x.data(), 1003) == cpu::square_sum(x.data(), 1003));
  CHECK(cpu::square_sum(nullptr, 0) == 0);
  Floats sum(x.size()), to = x;
  cpu::add(x.data(), y.data(), sum.data(), 1003);
  cpu::add_to(to.data(), y.data(), 1003);
  CHECK(sum == to);
  CHECK(sum[1002] == x[1002] + y[1002]);
}
