#include <catch2/catch.hpp>

#include "tests/real/cuda/arrays.h"

using namespace reckon::real;
using namespace reckon::real::cuda::test;
using cuda::Fp8Matrix;
using cuda::Fp8Scales;
using cuda::Index;

namespace {

std::size_t size(Index n) {
  return static_cast<std::size_t>(n);
}

// Numbers of very different sizes, so that blocks have scales of their own.
Array uneven(Index n, Element e, std::mt19937& engine) {
  Floats x(size(n));
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (float& v : x) v = uniform(engine) * std::exp2(static_cast<float>(engine() % 24) - 12);
  return {x, e};
}

}  // namespace

TEST_CASE("cuda: E4M3 rounding is the CPU's to the bit") {
  std::mt19937 engine(30);
  const auto& c = context();
  for (const Element e : kKinds)
    for (const auto& [m, n] : {std::pair<Index, Index>{1, 1}, {3, 130}, {140, 260}})
      for (const auto& [rows, cols] : {std::pair<Index, Index>{1, 128}, {128, 1}, {128, 128}}) {
        CAPTURE(static_cast<int>(e), m, n, rows, cols);
        const Array x = uneven(m * n, e, engine), out(m * n, Element::Fp32);
        Floats expected(size(m * n));
        cpu::round_fp8(x.host().data(), expected.data(), m, n, rows, cols);
        cuda::round_fp8(c, x, out, m, n, rows, cols);
        CHECK(out.now() == expected);
      }
}

TEST_CASE("cuda: every E4M3 code that fp32 numbers round to") {
  const auto& c = context();
  Floats x{448, -448};  // keeps the scale at 1
  for (int i = 0; i <= 4096; ++i) x.push_back(static_cast<float>(i) / 8192);
  for (int i = 0; i <= 2000; ++i) x.push_back(static_cast<float>(i) / 4);
  for (float& v : x) v = std::min(v, 448.0f);
  const auto n = static_cast<Index>(x.size());
  const Array in(x, Element::Fp32), out(n, Element::Fp32);
  Floats expected(x.size());
  cpu::round_fp8(x.data(), expected.data(), n, 1, n, 1);
  cuda::round_fp8(c, in, out, n, 1, n, 1);
  CHECK(out.now() == expected);
}

TEST_CASE("cuda: quantised matrices, straight and transposed, are what rounding gives") {
  std::mt19937 engine(31);
  const auto& c = context();
  for (const Element e : kKinds)
    for (const auto& [m, n] : {std::pair<Index, Index>{1, 1}, {5, 130}, {200, 264}})
      for (const Fp8Scales kind : {Fp8Scales::PerRow, Fp8Scales::Square})
        for (const bool transposed : {false, true}) {
          CAPTURE(static_cast<int>(e), m, n, static_cast<int>(kind), transposed);
          const Array x = uneven(m * n, e, engine);
          const bool square = kind == Fp8Scales::Square;
          Floats expected(size(m * n));
          cpu::round_fp8(x.host().data(), expected.data(), m, n, square || transposed ? 128 : 1,
                         square || !transposed ? 128 : 1);

          Fp8Matrix out{.rows = transposed ? n : m, .cols = transposed ? m : n, .kind = kind};
          const Index stride = cuda::fp8_stride(out.cols);
          Memory codes(size(out.rows * stride));
          const Array scales(cuda::fp8_scale_count(out.rows, out.cols, kind), Element::Fp32);
          out.codes = static_cast<std::uint8_t*>(codes.at());
          out.scales = scales.floats();
          if (transposed)
            cuda::quantise_transposed(c, x, out);
          else
            cuda::quantise(c, x, out);

          std::vector<std::uint8_t> code(size(out.rows * stride));
          codes.read(code.data(), code.size());
          const Floats scale = scales.now();
          // Values of codes: what the CPU's rounding makes of 0, 1, ... is their list.
          const auto value = [](std::uint8_t bits) {
            const int exponent = bits >> 3 & 15, mantissa = bits & 7;
            const float of = exponent == 0
                                 ? std::ldexp(static_cast<float>(mantissa), -9)
                                 : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
            return bits & 0x80 ? -of : of;
          };
          Floats now(size(m * n));
          bool padded = true;
          for (Index i = 0; i < out.rows; ++i)
            for (Index j = 0; j < stride; ++j) {
              const float v = value(code[size(i * stride + j)]);
              if (j >= out.cols) {
                padded = padded && v == 0;
                continue;
              }
              const Index at = square ? i / 128 * cuda::fp8_square_stride(out.cols) + j / 128
                                      : j / 128 * out.rows + i;
              now[size(transposed ? j * n + i : i * n + j)] = v * scale[size(at)];
            }
          CHECK(padded);
          CHECK(now == expected);
        }
}

TEST_CASE("cuda: AdamW of many pieces, with masters and 16-bit moments, and clipping") {
  std::mt19937 engine(32);
  const auto& c = context();
  for (const bool bf16 : {false, true})
    for (const bool clipped : {false, true}) {
      CAPTURE(bf16, clipped);
      const Element moments = bf16 ? Element::Bf16 : Element::Fp32;
      cpu::Adam adam{.lr = 1e-2,
                     .beta1 = 0.9,
                     .beta2 = 0.95,
                     .eps = 1e-8,
                     .weight_decay = 0,
                     .gradient_scale = clipped ? 0.5 : 1,
                     .step = 3,
                     .bf16_moments = bf16};
      struct Piece {
        Array grad, w, master, m, v;
        double decay;
      };
      std::vector<Piece> pieces;
      std::vector<cuda::AdamPiece> views;
      for (int i = 0; i < 90; ++i) {
        const Index n = i == 7 ? 20001 : static_cast<Index>(engine() % 50);
        Floats squares = Array::random(n, Element::Fp32, engine).host();
        for (float& v : squares) v *= v;
        pieces.push_back({Array::random(n, Element::Fp32, engine), Array(n, Element::Bf16),
                          Array::random(n, Element::Fp32, engine),
                          Array::random(n, moments, engine), Array(squares, moments),
                          i % 2 == 0 ? 0.1 : 0});
      }
      for (Piece& p : pieces)
        views.push_back({p.grad, bf16 ? p.w.view() : p.master.view(),
                         bf16 ? p.master.floats() : nullptr, p.m, p.v,
                         static_cast<Index>(p.grad.host().size()), p.decay});
      const Array scale(Floats{0.5f}, Element::Fp32);
      // Once from the host, once from the device: both say 0.5.
      cuda::adam_update(c, adam, views.data(), views.size(), clipped ? scale.floats() : nullptr);
      for (const Piece& p : pieces) {
        const auto n = static_cast<Index>(p.grad.host().size());
        Floats w = p.master.host(), m = p.m.host(), v = p.v.host();
        adam.weight_decay = p.decay;
        cpu::adam_update(adam, p.grad.host().data(), w.data(), m.data(), v.data(), n);
        REQUIRE(error(p.master.now(), w) < 1e-6);
        REQUIRE(error(p.m.now(), m) < tolerance(moments, 1e-6));
        REQUIRE(error(p.v.now(), v) < tolerance(moments, 1e-6));
        if (!bf16) continue;
        Floats narrow = p.master.now();
        cpu::round_bf16(narrow.data(), n);
        REQUIRE(p.w.now() == narrow);
      }
    }
}

TEST_CASE("cuda: sums of squares, and the scale that clips") {
  std::mt19937 engine(33);
  const auto& c = context();
  for (const Element e : kKinds)
    for (const Index n : {0, 1, 9, 5000, 70001}) {
      const Array x = Array::random(n, e, engine);
      const DoubleOnDevice sum(1);
      cuda::square_sum(c, x, n, sum.at());
      CHECK(sum.now() == Approx(1 + cpu::square_sum(x.host().data(), n)).epsilon(1e-12));
    }
  const DoubleOnDevice square(16);
  const Array scale(1, Element::Fp32);
  cuda::clip_scale(c, square.at(), 1, scale.floats());
  CHECK(scale.now()[0] == 0.25f);
  cuda::clip_scale(c, square.at(), 5, scale.floats());
  CHECK(scale.now()[0] == 1);
  cuda::clip_scale(c, square.at(), 0, scale.floats());
  CHECK(scale.now()[0] == 1);
}
