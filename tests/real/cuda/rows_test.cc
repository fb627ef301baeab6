#include <algorithm>
#include <catch2/catch.hpp>

#include "tests/real/cuda/arrays.h"

using namespace reckon::real;
using namespace reckon::real::cuda::test;
using cuda::Index;

namespace {

std::size_t size(Index n) {
  return static_cast<std::size_t>(n);
}

Ints random_ints(Index n, std::int32_t below, std::mt19937& engine) {
  Ints x(size(n));
  for (std::int32_t& v : x) v = static_cast<std::int32_t>(engine() % static_cast<unsigned>(below));
  return x;
}

}  // namespace

TEST_CASE("cuda: rows are gathered, combined, and their gradients sent back") {
  std::mt19937 engine(20);
  const auto& c = context();
  for (const Element e : kKinds)
    for (const Index width : {1, 5, 264})
      for (const bool weighted : {false, true}) {
        CAPTURE(static_cast<int>(e), width, weighted);
        const Index tokens = 11, top_k = 3, copies = tokens * top_k;
        Ints row(size(copies));  // a permutation: each copy has its own row
        for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<std::int32_t>(i);
        std::shuffle(row.begin(), row.end(), engine);
        const IntArray rows(row);
        const Array x = Array::random(copies * width, e, engine),
                    dout = Array::random(tokens * width, e, engine),
                    weight = Array::random(copies, Element::Fp32, engine);
        const float* w_cpu = weighted ? weight.host().data() : nullptr;
        const float* w = weighted ? weight.floats() : nullptr;

        Floats gathered(size(copies * width));
        const Array gathered_now(copies * width, e);
        cpu::gather_rows(x.host().data(), row.data(), copies, width, gathered.data());
        cuda::gather_rows(c, x, rows.at(), copies, width, gathered_now);
        CHECK(gathered_now.now() == gathered);

        for (const bool accumulate : {false, true}) {
          const Array out = Array::random(tokens * width, e, engine);
          Floats expected = out.host();
          cpu::combine_rows(x.host().data(), row.data(), w_cpu, tokens, top_k, width,
                            expected.data(), accumulate);
          cuda::combine_rows(c, x, rows.at(), w, tokens, top_k, width, out, accumulate);
          CHECK(error(out.now(), expected) < tolerance(e, 1e-6));
        }

        Floats dx(size(copies * width)), dweight(size(copies));
        const Array dx_now(copies * width, e), dweight_now(copies, Element::Fp32);
        cpu::combine_rows_backward(dout.host().data(), x.host().data(), row.data(), w_cpu, tokens,
                                   top_k, width, dx.data(), weighted ? dweight.data() : nullptr);
        cuda::combine_rows_backward(c, dout, x, rows.at(), w, tokens, top_k, width, dx_now,
                                    weighted ? dweight_now.floats() : nullptr);
        CHECK(error(dx_now.now(), dx) < tolerance(e, 1e-6));
        if (weighted) CHECK(error(dweight_now.now(), dweight) < 1e-5);
      }
  const IntArray values({7, 8, 9}), which({2, 0, 2}), out(3);
  cuda::gather_rows(c, values.at(), which.at(), 3, 1, out.at());
  CHECK(out.now() == Ints{9, 7, 9});
}

TEST_CASE("cuda: embedding of a slice of the vocabulary, and its gradient in the order of tokens") {
  std::mt19937 engine(21);
  for (const Element e : kKinds)
    for (const bool same_bits : {true, false})
      for (const auto& [n, width, begin, end] : {std::tuple<Index, Index, int, int>{0, 3, 0, 5},
                                                 {9, 5, 2, 7},
                                                 {1500, 8, 100, 1900},
                                                 {40, 16, 0, 1}}) {
        CAPTURE(static_cast<int>(e), same_bits, n, width);
        const auto& c = context(same_bits);
        Ints id = random_ints(n, end + 3, engine);
        for (std::size_t i = 0; i < id.size(); i += 3) id[i] = begin;  // a frequent word
        if (n > 1) id[1] = -1;
        const IntArray ids(id);
        const Array table = Array::random((end - begin) * width, e, engine),
                    dout = Array::random(n * width, e, engine),
                    dtable = Array::random((end - begin) * width, Element::Fp32, engine);
        Floats out(size(n * width)), dtable_expected = dtable.host();
        cpu::embedding_forward(table.host().data(), id.data(), n, width, begin, end, out.data());
        cpu::embedding_backward(dout.host().data(), id.data(), n, width, begin, end,
                                dtable_expected.data());
        const Array out_now(n * width, e);
        cuda::embedding_forward(c, table, ids.at(), n, width, begin, end, out_now);
        cuda::embedding_backward(c, dout, ids.at(), n, width, begin, end, dtable);
        CHECK(out_now.now() == out);
        // The same sums in the same order.
        CHECK(error(dtable.now(), dtable_expected) <= (same_bits ? 0 : 1e-6));
      }
}

TEST_CASE("cuda: ids of a rank's tokens") {
  const auto& c = context();
  Ints token(30);
  for (std::size_t i = 0; i < token.size(); ++i) token[i] = static_cast<std::int32_t>(i);
  const IntArray tokens(token), positions({4, 0, 9}), ids(6);
  cuda::token_ids(c, tokens.at(), 2, 15, positions.at(), 3, 2, ids.at());
  CHECK(ids.now() == Ints{6, 2, 11, 21, 17, 26});
}

TEST_CASE("cuda: cross-entropy over slices of the vocabulary, and its gradient") {
  std::mt19937 engine(22);
  const auto& c = context();
  for (const Element e : kKinds)
    for (const auto& [n, slice, ranks] :
         {std::tuple<Index, Index, Index>{0, 4, 1}, {5, 7, 1}, {9, 2056, 1}, {13, 24, 3}}) {
      CAPTURE(static_cast<int>(e), n, slice, ranks);
      Ints target = random_ints(n, static_cast<std::int32_t>(slice * ranks), engine);
      if (n > 3) target[3] = -1;
      const IntArray targets(target);
      std::vector<Array> logits;
      Floats partials(size(ranks * n * 3)), lse(size(n));
      const Array partials_now(ranks * n * 3, Element::Fp32), lse_now(n, Element::Fp32);
      for (Index r = 0; r < ranks; ++r) {
        logits.push_back(Array::random(n * slice, e, engine, 20));
        const auto begin = static_cast<std::int32_t>(r * slice);
        cpu::loss_partial(logits.back().host().data(), target.data(), n, slice, begin,
                          partials.data() + r * n * 3);
        cuda::loss_partial(c, logits.back(), targets.at(), n, slice, begin,
                           partials_now.floats() + r * n * 3);
      }
      CHECK(error(partials_now.now(), partials) < 1e-6);
      const DoubleOnDevice loss(3);
      const double expected =
          cpu::loss_combine(partials.data(), target.data(), ranks, n, lse.data());
      cuda::loss_combine(c, partials_now.floats(), targets.at(), ranks, n, lse_now.floats(),
                         loss.at());
      CHECK(loss.now() == Approx(3 + expected).epsilon(1e-6));
      CHECK(error(lse_now.now(), lse) < 1e-6);
      for (Index r = 0; r < ranks; ++r) {
        const auto begin = static_cast<std::int32_t>(r * slice);
        Array& mine = logits[size(r)];
        Floats d = mine.host();
        cpu::loss_backward(d.data(), target.data(), lse.data(), n, slice, begin, 0.25f);
        cuda::loss_backward(c, mine, targets.at(), lse_now.floats(), n, slice, begin, 0.25f);
        CHECK(error(mine.now(), d) < tolerance(e, 2e-5));  // exp of differences of tens
      }
    }
}

TEST_CASE("cuda: a row of logits that are all -inf") {
  const auto& c = context();
  const Array logits(Floats(16, -INFINITY), Element::Fp32), partial(6, Element::Fp32);
  const IntArray target({0, 1});
  cuda::loss_partial(c, logits, target.at(), 2, 8, 0, partial.floats());
  Floats expected(6);
  cpu::loss_partial(logits.host().data(), target.host().data(), 2, 8, 0, expected.data());
  CHECK(partial.now() == expected);
}
