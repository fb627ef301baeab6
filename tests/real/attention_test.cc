#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <numeric>

#include "real/kernels.h"
#include "tests/real/reference.h"

using namespace reckon::real;
using namespace reckon::real::reference;
using cpu::AttentionShape;

namespace {

struct Inputs {
  Floats q, k, v, dout;
};

Inputs inputs(const AttentionShape& s) {
  std::mt19937 engine(5);
  return {random_floats(s.batch * s.seq_q * s.heads * s.qk_dim, engine),
          random_floats(s.batch * s.seq_k * s.kv_heads * s.qk_dim, engine),
          random_floats(s.batch * s.seq_k * s.kv_heads * s.v_dim, engine),
          random_floats(s.batch * s.seq_q * s.heads * s.v_dim, engine)};
}

struct Results {
  Floats out, lse, dq, dk, dv;
};

Results run(const AttentionShape& s, const Inputs& in) {
  const float nan = std::nanf("");  // must be overwritten
  Results r{Floats(in.dout.size(), nan),
            Floats(static_cast<std::size_t>(s.batch * s.heads * s.seq_q), nan),
            Floats(in.q.size(), nan), Floats(in.k.size(), nan), Floats(in.v.size(), nan)};
  cpu::attention_forward(s, in.q.data(), in.k.data(), in.v.data(), r.out.data(), r.lse.data());
  cpu::attention_backward(s, in.q.data(), in.k.data(), in.v.data(), r.out.data(), r.lse.data(),
                          in.dout.data(), r.dq.data(), r.dk.data(), r.dv.data());
  return r;
}

void check_forward(const AttentionShape& s, const Inputs& in, const Results& r) {
  const AttentionResult expected = attention(s, widen(in.q), widen(in.k), widen(in.v));
  CHECK(relative_error(r.out, expected.out) < 2e-6);
  for (std::size_t i = 0; i < r.lse.size(); ++i) {
    const double lse = static_cast<double>(r.lse[i]);
    if (lse != expected.lse[i] && !(std::abs(lse - expected.lse[i]) < 1e-5))
      CHECK(lse == expected.lse[i]);
  }
}

void check_gradients(const AttentionShape& s, const Inputs& in, const Results& r) {
  const auto scalar = [&](const Doubles& q, const Doubles& k, const Doubles& v) {
    return dot(attention(s, q, k, v).out, widen(in.dout));
  };
  const Doubles q = widen(in.q), k = widen(in.k), v = widen(in.v);
  CHECK(gradient_error([&](const Doubles& x) { return scalar(x, k, v); }, in.q, r.dq) < 1e-5);
  CHECK(gradient_error([&](const Doubles& x) { return scalar(q, x, v); }, in.k, r.dk) < 1e-5);
  CHECK(gradient_error([&](const Doubles& x) { return scalar(q, k, x); }, in.v, r.dv) < 1e-5);
}

AttentionShape shape(Index seq, Index heads, Index kv_heads, Index qk_dim) {
  return {.batch = 1,
          .heads = heads,
          .kv_heads = kv_heads,
          .seq_q = seq,
          .seq_k = seq,
          .qk_dim = qk_dim,
          .v_dim = qk_dim,
          .scale = 1 / std::sqrt(static_cast<float>(qk_dim))};
}

}  // namespace

TEST_CASE("attention and its gradients, small: heads that share keys, windows, odd sizes") {
  for (const Index seq : {1, 2, 7, 13})
    for (const auto& [heads, kv_heads] : {std::pair<Index, Index>{1, 1}, {3, 1}, {4, 2}})
      for (const Index window : {0, 1, 4}) {
        AttentionShape s = shape(seq, heads, kv_heads, 5);
        s.v_dim = 3;
        s.batch = 2;
        s.window = window;
        CAPTURE(seq, heads, kv_heads, window);
        const Inputs in = inputs(s);
        const Results r = run(s, in);
        check_forward(s, in, r);
        check_gradients(s, in, r);
      }
}

TEST_CASE("attention over several tiles: MLA's 192 and 128, ends inside a tile") {
  AttentionShape s = shape(301, 2, 2, 192);
  s.v_dim = 128;
  const Inputs in = inputs(s);
  const Results r = run(s, in);
  check_forward(s, in, r);
}

TEST_CASE("attention gradients over several tiles") {
  // Key tiles of the windowed case begin and end inside tiles of queries.
  for (const Index window : {0, 90}) {
    AttentionShape s = shape(333, 2, 1, 6);
    s.v_dim = 4;
    s.window = window;
    CAPTURE(window);
    const Inputs in = inputs(s);
    const Results r = run(s, in);
    check_forward(s, in, r);
    check_gradients(s, in, r);
  }
}

TEST_CASE("queries at given positions: the two chunks of zigzag context parallelism") {
  // Rank r of n holds chunks r and 2n - 1 - r of 2n, and all keys.
  const Index ranks = 2, chunk = 37, seq = 2 * ranks * chunk;
  const AttentionShape whole = shape(seq, 2, 1, 4);
  const Inputs in = inputs(whole);
  const Results all = run(whole, in);
  Doubles dk_sum(in.k.size()), dv_sum(in.v.size());
  for (Index rank = 0; rank < ranks; ++rank) {
    std::vector<std::int32_t> positions;
    for (const Index c : {rank, 2 * ranks - 1 - rank})
      for (Index i = 0; i < chunk; ++i)
        positions.push_back(static_cast<std::int32_t>(c * chunk + i));
    AttentionShape s = whole;
    s.seq_q = 2 * chunk;
    s.positions = positions.data();
    const auto rows = [&](const Floats& x) {
      Floats out;
      const Index width = static_cast<Index>(x.size()) / seq;
      for (const Index p : positions)
        out.insert(out.end(), x.begin() + p * width, x.begin() + (p + 1) * width);
      return out;
    };
    const Inputs part{rows(in.q), in.k, in.v, rows(in.dout)};
    const Results r = run(s, part);
    check_forward(s, part, r);
    check_gradients(s, part, r);
    CHECK(relative_error(r.out, widen(rows(all.out))) < 1e-6);
    CHECK(relative_error(r.dq, widen(rows(all.dq))) < 1e-5);
    for (std::size_t i = 0; i < dk_sum.size(); ++i) dk_sum[i] += static_cast<double>(r.dk[i]);
    for (std::size_t i = 0; i < dv_sum.size(); ++i) dv_sum[i] += static_cast<double>(r.dv[i]);
  }
  CHECK(relative_error(all.dk, dk_sum) < 1e-5);
  CHECK(relative_error(all.dv, dv_sum) < 1e-5);
}

TEST_CASE("positions in any order, before all keys and after the last one") {
  const std::vector<std::int32_t> positions{4, 0, -3, 9, 2, 3, 40, -1};
  for (const Index window : {0, 3}) {
    AttentionShape s = shape(8, 2, 1, 3);
    s.seq_k = 10;
    s.positions = positions.data();
    s.window = window;
    const Inputs in = inputs(s);
    const Results r = run(s, in);
    check_forward(s, in, r);
    check_gradients(s, in, r);
    // Who sees nothing gives nothing, and no NaN.
    CHECK(r.lse[2] == -INFINITY);
    CHECK(r.out[2 * 2 * 3] == 0);
  }
}

TEST_CASE("scores too large for exp without the running maximum") {
  AttentionShape s = shape(300, 1, 1, 8);
  s.scale = 40;
  const Inputs in = inputs(s);
  const Results r = run(s, in);
  const AttentionResult expected = attention(s, widen(in.q), widen(in.k), widen(in.v));
  CHECK(relative_error(r.out, expected.out) < 1e-4);  // scores of some 1e3, known to 1e-7 of that
  for (float d : r.dq) CHECK(std::isfinite(d));
}

TEST_CASE("attention of nothing") {
  AttentionShape s = shape(0, 2, 1, 4);
  cpu::attention_forward(s, nullptr, nullptr, nullptr, nullptr, nullptr);
  cpu::attention_backward(s, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                          nullptr);
}

TEST_CASE("attention gives the same bits in every run") {
  AttentionShape s = shape(300, 4, 2, 64);
  const Inputs in = inputs(s);
  const Results a = run(s, in), b = run(s, in);
  CHECK(a.out == b.out);
  CHECK(a.dq == b.dq);
  CHECK(a.dk == b.dk);
  CHECK(a.dv == b.dv);
}
