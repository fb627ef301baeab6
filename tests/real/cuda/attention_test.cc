#include <catch2/catch.hpp>

#include "tests/real/cuda/arrays.h"

using namespace reckon::real;
using namespace reckon::real::cuda::test;
using cpu::AttentionShape;
using cuda::Index;

namespace {

struct Case {
  AttentionShape shape;
  Ints positions;  // empty: 0, 1, ...
};

AttentionShape shape(Index seq, Index heads, Index kv_heads, Index qk_dim, Index v_dim) {
  return {.batch = 1,
          .heads = heads,
          .kv_heads = kv_heads,
          .seq_q = seq,
          .seq_k = seq,
          .qk_dim = qk_dim,
          .v_dim = v_dim,
          .scale = 1 / std::sqrt(static_cast<float>(qk_dim))};
}

// Forward and backward of both, with gradients of the CPU's own out and lse.
void compare(const Case& of, Element e) {
  const AttentionShape& s = of.shape;
  CAPTURE(static_cast<int>(e), s.batch, s.heads, s.kv_heads, s.seq_q, s.seq_k, s.qk_dim, s.v_dim,
          s.window);
  std::mt19937 engine(13);
  const auto& c = context();
  const Array q = Array::random(s.batch * s.seq_q * s.heads * s.qk_dim, e, engine, 2),
              k = Array::random(s.batch * s.seq_k * s.kv_heads * s.qk_dim, e, engine, 2),
              v = Array::random(s.batch * s.seq_k * s.kv_heads * s.v_dim, e, engine),
              dout = Array::random(s.batch * s.seq_q * s.heads * s.v_dim, e, engine);
  const auto room = [](const Array& like) { return Floats(like.host().size()); };
  AttentionShape on_cpu = s, on_device = s;
  const IntArray positions(of.positions);
  if (!of.positions.empty()) {
    on_cpu.positions = of.positions.data();
    on_device.positions = positions.at();
  }
  Floats out = room(dout), lse(static_cast<std::size_t>(s.batch * s.heads * s.seq_q)), dq = room(q),
         dk = room(k), dv = room(v);
  cpu::attention_forward(on_cpu, q.host().data(), k.host().data(), v.host().data(), out.data(),
                         lse.data());
  const auto count = [](const Array& like) { return static_cast<Index>(like.host().size()); };
  const Array out_now(count(dout), e), lse_now(s.batch * s.heads * s.seq_q, Element::Fp32);
  cuda::attention_forward(c, on_device, q, k, v, out_now, lse_now.floats());
  // Probabilities are rounded to bf16 in front of the second product, as everywhere.
  CHECK(error(out_now.now(), out) < tolerance(e, 2e-6));
  CHECK(error(lse_now.now(), lse) < 1e-5);

  const Array out_given(out, e), lse_given(lse, Element::Fp32);
  cpu::attention_backward(on_cpu, q.host().data(), k.host().data(), v.host().data(),
                          out_given.host().data(), lse.data(), dout.host().data(), dq.data(),
                          dk.data(), dv.data());
  const Array dq_now(count(q), e), dk_now(count(k), e), dv_now(count(v), e);
  cuda::attention_backward(c, on_device, q, k, v, out_given, lse_given.floats(), dout, dq_now,
                           dk_now, dv_now);
  CHECK(error(dq_now.now(), dq) < tolerance(e, 5e-6));
  CHECK(error(dk_now.now(), dk) < tolerance(e, 5e-6));
  CHECK(error(dv_now.now(), dv) < tolerance(e, 5e-6));
}

}  // namespace

TEST_CASE("cuda: attention of every head size, heads that share keys, ends inside tiles") {
  for (const Element e : kKinds) {
    compare({shape(70, 2, 2, 192, 128), {}}, e);
    compare({shape(3, 1, 1, 128, 128), {}}, e);
    compare({shape(130, 2, 1, 64, 64), {}}, e);
    compare({shape(150, 1, 1, 128, 128), {}}, e);
    compare({shape(33, 4, 2, 40, 24), {}}, e);  // smaller than any instance
    compare({shape(19, 3, 1, 7, 5), {}}, e);    // not in vectors
    AttentionShape s = shape(65, 2, 2, 96, 64);
    s.batch = 2;
    compare({s, {}}, e);
    compare({shape(20, 1, 1, 200, 136), {}}, e);  // larger than any instance
  }
}

TEST_CASE("cuda: attention within windows, and with fewer or more keys than queries") {
  for (const Element e : kKinds)
    for (const Index window : {3, 64, 70}) {
      AttentionShape s = shape(100, 2, 1, 64, 64);
      s.window = window;
      compare({s, {}}, e);
      s.seq_k = 70;
      compare({s, {}}, e);
      s.seq_q = 40;
      s.seq_k = 130;
      compare({s, {}}, e);
    }
}

TEST_CASE("cuda: attention of queries at given positions, some of which see nothing") {
  Ints zigzag;  // two runs, as a rank of context parallelism has them
  for (std::int32_t i = 0; i < 70; ++i) zigzag.push_back(i + 10);
  for (std::int32_t i = 0; i < 70; ++i) zigzag.push_back(i + 200);
  const Ints any{4, 0, -3, 9, 2, 3, 40, -1, 270, 100};
  const Ints none(66, -1);
  for (const Element e : kKinds)
    for (const Ints& positions : {zigzag, any, none})
      for (const Index window : {0, 30}) {
        AttentionShape s = shape(static_cast<Index>(positions.size()), 2, 2, 64, 48);
        s.seq_k = 280;
        s.window = window;
        compare({s, positions}, e);
      }
}

TEST_CASE("cuda: scores too large for exp without the running maximum") {
  for (const Element e : kKinds) {
    AttentionShape s = shape(100, 1, 1, 64, 64);
    s.scale = 3;
    std::mt19937 engine(14);
    const auto& c = context();
    const Index n = 100 * 64;
    const Array q = Array::random(n, e, engine, 3), k = Array::random(n, e, engine, 3),
                v = Array::random(n, e, engine);
    Floats out(static_cast<std::size_t>(n)), lse(100);
    cpu::attention_forward(s, q.host().data(), k.host().data(), v.host().data(), out.data(),
                           lse.data());
    const Array out_now(n, e), lse_now(100, Element::Fp32);
    cuda::attention_forward(c, s, q, k, v, out_now, lse_now.floats());
    CHECK(error(out_now.now(), out) < tolerance(e, 1e-4));
    CHECK(error(lse_now.now(), lse) < 1e-5);
  }
}

TEST_CASE("cuda: attention of nothing") {
  const auto& c = context();
  cuda::attention_forward(c, shape(0, 2, 1, 4, 4), {}, {}, {}, {}, nullptr);
  cuda::attention_backward(c, shape(0, 2, 1, 4, 4), {}, {}, {}, {}, nullptr, {}, {}, {}, {});
}
