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

TEST_CASE("cuda: sums, casts and rounding of odd and even lengths") {
  std::mt19937 engine(1);
  const auto& c = context();
  for (const Element e : kKinds)
    for (const Index n : {0, 1, 7, 8, 1000, 1003}) {
      CAPTURE(static_cast<int>(e), n);
      const Array a = Array::random(n, e, engine), b = Array::random(n, Element::Fp32, engine);
      Floats expected(size(n));
      cpu::add(a.host().data(), b.host().data(), expected.data(), n);
      const Array out(n, e), back(n, Element::Fp32), sum(a.host(), e);
      cuda::add(c, a, b, out, n);
      CHECK(error(out.now(), expected) <= tolerance(e, 0));
      cuda::add_to(c, sum, b, n);
      CHECK(sum.now() == out.now());
      cuda::cast(c, out, back, n);
      CHECK(back.now() == out.now());
      const Array rounded(b.host(), Element::Fp32), narrow(n, Element::Bf16);
      cuda::round_bf16(c, rounded, n);
      cuda::cast(c, b, narrow, n);
      Floats to_round = b.host();
      cpu::round_bf16(to_round.data(), n);
      CHECK(rounded.now() == to_round);
      CHECK(narrow.now() == to_round);
      cuda::zero(c, rounded, n);
      CHECK(rounded.now() == Floats(size(n), 0));
    }
}

TEST_CASE("cuda: biases and their gradients") {
  std::mt19937 engine(2);
  const auto& c = context();
  for (const Element e : kKinds)
    for (const auto& [m, n] : {std::pair<Index, Index>{1, 1}, {5, 7}, {333, 24}, {70, 136}}) {
      CAPTURE(static_cast<int>(e), m, n);
      const Array y = Array::random(m * n, e, engine), b = Array::random(n, e, engine),
                  db = Array::random(n, Element::Fp32, engine);
      Floats db_expected = db.host(), y_expected = y.host();
      cpu::bias_grad(y.host().data(), db_expected.data(), m, n);
      cuda::bias_grad(c, y, db, m, n);
      CHECK(error(db.now(), db_expected) < 1e-6);
      cpu::add_bias(y_expected.data(), b.host().data(), m, n);
      cuda::add_bias(c, y, b, m, n);
      CHECK(error(y.now(), y_expected) <= tolerance(e, 0));
    }
}

TEST_CASE("cuda: rotary embedding of part of a vector, and back") {
  std::mt19937 engine(3);
  const auto& c = context();
  for (const Element e : kKinds) {
    const Index rows = 9, heads = 3, dim = 6, stride = 11, positions = 20;
    const cpu::RopeTable table = cpu::rope_table({}, positions, dim);
    const Array cosine(table.cos, Element::Fp32), sine(table.sin, Element::Fp32);
    const IntArray position({0, 19, 3, 3, 7, 1, 2, 18, 5});
    const Array x = Array::random(rows * heads * stride, e, engine);
    Floats expected = x.host();
    for (const bool inverse : {false, true}) {
      cpu::rope(table, {expected.data(), rows, heads, stride, 4}, position.host().data(), inverse);
      cuda::rope(c, {dim, positions, cosine.floats(), sine.floats()},
                 {x.view(), rows, heads, stride, 4}, position.at(), inverse);
      CHECK(error(x.now(), expected) < tolerance(e, 1e-6));
    }
    CHECK(error(x.now(), x.host()) < tolerance(e, 1e-6));
  }
}

TEST_CASE("cuda: MLA's keys are put together and their gradients taken apart") {
  std::mt19937 engine(4);
  const auto& c = context();
  for (const Element e : kKinds)
    for (const cuda::KeysShape s : {cuda::KeysShape{3, 2, 3, 2, 5}, {5, 3, 16, 8, 8}}) {
      CAPTURE(static_cast<int>(e), s.nope);
      const Index heads = s.tokens * s.heads, key = s.nope + s.rope, per_head = s.nope + s.v;
      const Array kv = Array::random(heads * per_head, e, engine),
                  rotated = Array::random(s.tokens * s.rope, e, engine);
      const Array k(heads * key, e), v(heads * s.v, e);
      cuda::assemble_keys(c, s, kv, rotated, k, v);
      Floats k_expected, v_expected;
      for (Index h = 0; h < heads; ++h) {
        const auto from = kv.host().begin() + h * per_head;
        const auto turned = rotated.host().begin() + h / s.heads * s.rope;
        k_expected.insert(k_expected.end(), from, from + s.nope);
        k_expected.insert(k_expected.end(), turned, turned + s.rope);
        v_expected.insert(v_expected.end(), from + s.nope, from + per_head);
      }
      CHECK(k.now() == k_expected);
      CHECK(v.now() == v_expected);

      const Array dk = Array::random(heads * key, e, engine),
                  dv = Array::random(heads * s.v, e, engine);
      const Array d_kv(heads * per_head, e), d_rotated(s.tokens * s.rope, e);
      cuda::assemble_keys_backward(c, s, dk, dv, d_kv, d_rotated);
      Floats d_kv_expected, d_rotated_expected(size(s.tokens * s.rope), 0.0f);
      for (Index h = 0; h < heads; ++h) {
        const auto from_k = dk.host().begin() + h * key;
        const auto from_v = dv.host().begin() + h * s.v;
        d_kv_expected.insert(d_kv_expected.end(), from_k, from_k + s.nope);
        d_kv_expected.insert(d_kv_expected.end(), from_v, from_v + s.v);
        for (Index i = 0; i < s.rope; ++i)
          d_rotated_expected[size(h / s.heads * s.rope + i)] += *(from_k + s.nope + i);
      }
      CHECK(d_kv.now() == d_kv_expected);
      CHECK(error(d_rotated.now(), d_rotated_expected) < tolerance(e, 1e-6));
    }
}

TEST_CASE("cuda: activations, with and without gates and weights of rows") {
  std::mt19937 engine(5);
  const auto& c = context();
  for (const Element e : kKinds)
    for (const auto a : {cpu::Activation::SwiGlu, cpu::Activation::GeGlu, cpu::Activation::Gelu,
                         cpu::Activation::SquaredRelu})
      for (const auto& [rows, width] : {std::pair<Index, Index>{3, 5}, {7, 264}, {0, 8}}) {
        CAPTURE(static_cast<int>(e), static_cast<int>(a), rows, width);
        const bool gated = a == cpu::Activation::SwiGlu || a == cpu::Activation::GeGlu;
        const Index in = rows * width * (gated ? 2 : 1);
        const Array x = Array::random(in, e, engine, 3),
                    dy = Array::random(rows * width, e, engine),
                    weight = Array::random(rows, Element::Fp32, engine);
        Floats y(size(rows * width)), dx(size(in)), again(y.size());
        cpu::activation_forward(a, x.host().data(), y.data(), rows, width);
        cpu::activation_backward(a, x.host().data(), dy.host().data(), dx.data(), again.data(),
                                 rows, width);
        const Array out(rows * width, e), out_again(rows * width, e), d(in, e), d_alone(in, e);
        cuda::activation_forward(c, a, x, out, rows, width);
        cuda::activation_backward(c, a, x, dy, d, out_again, rows, width);
        cuda::activation_backward(c, a, x, dy, d_alone, {}, rows, width);
        CHECK(error(out.now(), y) < tolerance(e, 1e-6));
        CHECK(error(out_again.now(), again) < tolerance(e, 1e-6));
        CHECK(error(d.now(), dx) < tolerance(e, 1e-6));
        CHECK(d_alone.now() == d.now());

        // y = weight act(x): everything scales with the row's weight.
        Floats dweight(size(rows));
        for (Index r = 0; r < rows; ++r) {
          const float w = weight.host()[size(r)];
          double dot = 0;
          for (Index j = 0; j < width; ++j) {
            const std::size_t at = size(r * width + j);
            dot += static_cast<double>(dy.host()[at]) * static_cast<double>(y[at]);
            y[at] *= w;
          }
          const Index wide = gated ? 2 * width : width;
          for (Index j = 0; j < wide; ++j) dx[size(r * wide + j)] *= w;
          dweight[size(r)] = static_cast<float>(dot);
        }
        const Array dw(rows, Element::Fp32);
        cuda::weighted_activation_forward(c, a, x, weight.floats(), out, rows, width);
        cuda::weighted_activation_backward(c, a, x, weight.floats(), dy, d, out_again, dw.floats(),
                                           rows, width);
        CHECK(error(out.now(), y) < tolerance(e, 1e-6));
        CHECK(error(out_again.now(), y) < tolerance(e, 1e-6));
        CHECK(error(d.now(), dx) < tolerance(e, 1e-6));
        CHECK(error(dw.now(), dweight) < 1e-5);
      }
}
