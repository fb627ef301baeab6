#include <catch2/catch.hpp>
#include <numeric>

#include "tests/real/cuda/arrays.h"

using namespace reckon::real;
using namespace reckon::real::cuda::test;
using cuda::Index;
using cuda::Numbers;

namespace {

std::size_t size(Index n) {
  return static_cast<std::size_t>(n);
}

struct Kinds {
  Element in, other, out;
};
constexpr Element kFp32 = Element::Fp32, kBf16 = Element::Bf16;
constexpr Kinds kMixtures[] = {{kFp32, kFp32, kFp32}, {kBf16, kBf16, kBf16}, {kBf16, kBf16, kFp32},
                               {kFp32, kBf16, kFp32}, {kFp32, kBf16, kBf16}, {kFp32, kFp32, kBf16}};

// Hopper adds products of E4M3 with some 14 bits (DeepSeek-V3 report, section 3.3.2); the emulated
// device in fp32.
#ifdef RECKON_CUDA_EMULATION
constexpr double kFp8Sums = 3e-6;
#else
constexpr double kFp8Sums = 1e-3;
#endif

double bound(Element out, Numbers numbers) {
  return tolerance(out, numbers == Numbers::Fp8Block ? kFp8Sums : 3e-6);
}

}  // namespace

TEST_CASE("cuda: linear layers and their gradients, in every mixture of numbers") {
  std::mt19937 engine(40);
  const auto& c = context();
  for (const Numbers numbers : {Numbers::Fp32, Numbers::Fp8Block})
    for (const auto& [in, other, out] : kMixtures)
      for (const auto& [m, n, k] :
           {std::tuple<Index, Index, Index>{1, 1, 1}, {5, 6, 7}, {16, 144, 48}, {130, 20, 136}}) {
        CAPTURE(static_cast<int>(numbers), static_cast<int>(in), static_cast<int>(other),
                static_cast<int>(out), m, n, k);
        const cpu::LinearShape s{m, n, k, numbers};
        const Array x = Array::random(m * k, in, engine), w = Array::random(n * k, other, engine),
                    dy = Array::random(m * n, in, engine), x_other = Array(x.host(), other);
        Floats y(size(m * n)), dx(size(m * k));
        cpu::linear_forward(s, x.host().data(), w.host().data(), y.data());
        const Array y_now(m * n, out);
        cuda::linear_forward(c, s, x, w, y_now);
        CHECK(error(y_now.now(), y) < bound(out, numbers));

        for (const bool accumulate : {false, true}) {
          const Array dx_now = Array::random(m * k, out, engine);
          dx = dx_now.host();
          cpu::linear_input_grad(s, dy.host().data(), w.host().data(), dx.data(), accumulate);
          cuda::linear_input_grad(c, s, dy, w, dx_now, accumulate);
          CHECK(error(dx_now.now(), dx) < bound(out, numbers));
        }
        const Array dw_now = Array::random(n * k, out, engine);
        Floats dw = dw_now.host();
        cpu::linear_weight_grad(s, dy.host().data(), x_other.host().data(), dw.data());
        cuda::linear_weight_grad(c, s, dy, x_other, dw_now);
        CHECK(error(dw_now.now(), dw) < bound(out, numbers));
      }
}

TEST_CASE("cuda: products of nothing") {
  const auto& c = context();
  for (const Numbers numbers : {Numbers::Fp32, Numbers::Fp8Block}) {
    const cpu::LinearShape s{0, 5, 7, numbers};
    const Array w(Floats(35, 2.0f), kFp32), dw(Floats(35, 3.0f), kFp32);
    cuda::linear_forward(c, s, {}, w, {});
    cuda::linear_input_grad(c, s, {}, w, {});
    cuda::linear_weight_grad(c, s, {}, {}, dw);
    CHECK(dw.now() == Floats(35, 3.0f));
  }
}

TEST_CASE(
    "cuda: products of groups of rows: empty ones, ends inside tiles, rows that belong to none") {
  std::mt19937 engine(41);
  const auto& c = context();
  struct Groups {
    Ints rows;
    Index spare;  // behind the last group
  };
  const Groups all[] = {{{0, 3, 0, 1}, 0}, {{130, 0, 260, 7, 1}, 5}, {{0, 0}, 4}, {{40}, 0}};
  for (const Numbers numbers : {Numbers::Fp32, Numbers::Fp8Block})
    for (const auto& [in, other, out] : kMixtures)
      for (const Groups& g : all)
        for (const auto& [n, k] : {std::pair<Index, Index>{6, 7}, {136, 72}}) {
          // Several tiles in one mixture of each path alone: they take the emulated device long.
          const bool several = g.rows.size() == 5, in_vectors = n == 136;
          const bool narrow = in == kBf16 && other == kBf16 && out == kFp32;
          const bool mixed = in == kFp32 && other == kBf16 && out == kBf16;
          if (several ? !in_vectors || !(narrow || (mixed && numbers == Numbers::Fp32))
                      : in_vectors && !narrow && !mixed)
            continue;
          Ints offsets(g.rows.size() + 1, 0);
          std::partial_sum(g.rows.begin(), g.rows.end(), offsets.begin() + 1);
          const IntArray offset(offsets);
          const Index groups = static_cast<Index>(g.rows.size());
          const Index used = offsets.back(), rows = used + g.spare;
          CAPTURE(static_cast<int>(numbers), static_cast<int>(in), static_cast<int>(other),
                  static_cast<int>(out), groups, rows, n, k);
          const cuda::GroupedShape s{rows, groups, n, k, numbers};
          const Array x = Array::random(rows * k, in, engine),
                      w = Array::random(groups * n * k, other, engine),
                      dy = Array::random(rows * n, in, engine), x_other(x.host(), other);
          const Array y = Array::random(rows * n, out, engine),
                      dx = Array::random(rows * k, out, engine),
                      dx_added = Array::random(rows * k, out, engine),
                      dw = Array::random(groups * n * k, out, engine);
          Floats y_expected = y.host(), dx_expected = dx.host(), added_expected = dx_added.host(),
                 dw_expected = dw.host();
          for (Index i = 0; i < groups; ++i) {
            const Index first = offsets[size(i)];
            const cpu::LinearShape of{g.rows[size(i)], n, k, numbers};
            const float* w_of = w.host().data() + i * n * k;
            cpu::linear_forward(of, x.host().data() + first * k, w_of,
                                y_expected.data() + first * n);
            cpu::linear_input_grad(of, dy.host().data() + first * n, w_of,
                                   dx_expected.data() + first * k);
            cpu::linear_input_grad(of, dy.host().data() + first * n, w_of,
                                   added_expected.data() + first * k, true);
            cpu::linear_weight_grad(of, dy.host().data() + first * n,
                                    x_other.host().data() + first * k,
                                    dw_expected.data() + i * n * k);
          }
          cuda::linear_grouped_forward(c, s, offset.at(), x, w, y);
          cuda::linear_grouped_input_grad(c, s, offset.at(), dy, w, dx);
          cuda::linear_grouped_input_grad(c, s, offset.at(), dy, w, dx_added, true);
          cuda::linear_grouped_weight_grad(c, s, offset.at(), dy, x_other, dw);
          CHECK(error(y.now(), y_expected) < bound(out, numbers));
          CHECK(error(dx.now(), dx_expected) < bound(out, numbers));
          CHECK(error(dx_added.now(), added_expected) < bound(out, numbers));
          CHECK(error(dw.now(), dw_expected) < bound(out, numbers));
          // Rows behind the last group stay as they are.
          const Floats y_now = y.now();
          CHECK(std::equal(y_now.begin() + used * n, y_now.end(), y.host().begin() + used * n));
        }
}

TEST_CASE("cuda: large groups go through the library where the host has their offsets") {
  std::mt19937 engine(43);
  const auto& c = context();
  const Ints offsets{0, 0, 1100, 1536};
  const IntArray offset(offsets);
  const Index rows = 1536, groups = 3, n = 6, k = 5;
  for (const Element in : kKinds) {
    cuda::GroupedShape s{rows, groups, n, k};
    const Array x = Array::random(rows * k, in, engine),
                w = Array::random(groups * n * k, in, engine),
                dy = Array::random(rows * n, in, engine);
    const Array y[] = {Array(rows * n, kFp32), Array(rows * n, kFp32)},
                dx[] = {Array(rows * k, kFp32), Array(rows * k, kFp32)},
                dw[] = {Array(w.host(), kFp32), Array(w.host(), kFp32)};
    for (const int known : {0, 1}) {
      s.host_offset = known ? offsets.data() : nullptr;
      cuda::linear_grouped_forward(c, s, offset.at(), x, w, y[known]);
      cuda::linear_grouped_input_grad(c, s, offset.at(), dy, w, dx[known]);
      cuda::linear_grouped_weight_grad(c, s, offset.at(), dy, x, dw[known]);
    }
    CHECK(error(y[1].now(), y[0].now()) < 1e-6);
    CHECK(error(dx[1].now(), dx[0].now()) < 1e-6);
    CHECK(error(dw[1].now(), dw[0].now()) < 1e-6);
  }
}

TEST_CASE("cuda: E4M3 products by warp groups are those by warps") {
  std::mt19937 engine(44);
  const auto& c = context();
  cuda::Context by_groups(nullptr);
  by_groups.warp_groups = true;
  const Ints offsets{0, 3, 3, 200};
  const IntArray offset(offsets);
  const Index rows = 200, groups = 3, n = 136, k = 140;
  const cuda::GroupedShape s{rows, groups, n, k, Numbers::Fp8Block};
  const Array x = Array::random(rows * k, kBf16, engine),
              w = Array::random(groups * n * k, kBf16, engine),
              dy = Array::random(rows * n, kBf16, engine);
  const Array y[] = {Array(rows * n, kFp32), Array(rows * n, kFp32)},
              dx[] = {Array(rows * k, kFp32), Array(rows * k, kFp32)},
              dw[] = {Array(w.host(), kFp32), Array(w.host(), kFp32)};
  for (const int way : {0, 1}) {
    const cuda::Context& on = way == 0 ? c : by_groups;
    cuda::linear_grouped_forward(on, s, offset.at(), x, w, y[way]);
    cuda::linear_grouped_input_grad(on, s, offset.at(), dy, w, dx[way]);
    cuda::linear_grouped_weight_grad(on, s, offset.at(), dy, x, dw[way]);
  }
  CHECK(error(y[1].now(), y[0].now()) < kFp8Sums);
  CHECK(error(dx[1].now(), dx[0].now()) < kFp8Sums);
  CHECK(error(dw[1].now(), dw[0].now()) < kFp8Sums);
}

TEST_CASE("cuda: E4M3 products of operands quantised before are those quantised on the way") {
  std::mt19937 engine(42);
  const auto& c = context();
  const Index m = 48, n = 160, k = 200;
  const Array x = Array::random(m * k, kBf16, engine), w = Array::random(n * k, kBf16, engine);
  Memory x_codes(size(m * cuda::fp8_stride(k))), w_codes(size(n * cuda::fp8_stride(k)));
  const Array x_scales(cuda::fp8_scale_count(m, k, cuda::Fp8Scales::PerRow), kFp32),
      w_scales(cuda::fp8_scale_count(n, k, cuda::Fp8Scales::Square), kFp32);
  const cuda::Fp8Matrix a{static_cast<std::uint8_t*>(x_codes.at()), x_scales.floats(), m, k,
                          cuda::Fp8Scales::PerRow},
      b{static_cast<std::uint8_t*>(w_codes.at()), w_scales.floats(), n, k, cuda::Fp8Scales::Square};
  cuda::quantise(c, x, a);
  cuda::quantise(c, w, b);
  const Array y(m * n, kFp32), y_apart(m * n, kFp32);
  cuda::linear_fp8(c, a, b, y);
  cuda::linear_forward(c, {m, n, k, Numbers::Fp8Block}, x, w, y_apart);
  CHECK(y.now() == y_apart.now());
  cuda::linear_fp8(c, a, b, y, true);
  Floats twice = y_apart.now();
  for (float& v : twice) v *= 2;
  CHECK(error(y.now(), twice) < 1e-6);
}
