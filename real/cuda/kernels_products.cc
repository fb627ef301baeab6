// Linear layers and their gradients through the library of kernels_gemm.h. Operands of two kinds
// are multiplied in fp32, for which the bf16 one is widened into scratch; so is a bf16 result of
// fp32 operands. With Fp8Block both operands are quantised into scratch, scaled in blocks along the
// dimension that is summed over, as on the CPU.
#include "real/cuda/kernels_gemm.h"
#include "real/cuda/launch.h"

namespace reckon::real::cuda {

namespace {

Index elements(const Operand& o, Index rows, Index cols) {
  return o.transposed ? cols * rows : rows * cols;
}

// out[m,n] (+)= a[m,k] b[k,n]
void product(const Context& c, const Product& p, Operand a, Operand b, View out) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {
    if (!p.accumulate) zero(c, out, p.m * p.n);
    return;
  }
  Multiplier& multiplier = *c.library().multiplier;
  const bool mixed = a.at.element != b.at.element;
  const bool fp32 = mixed || a.at.element == Element::Fp32;
  const bool through_fp32 = fp32 && out.element == Element::Bf16;
  if (!mixed && !through_fp32) return multiplier.multiply(c, p, a, b, out);

  const Index of_a = elements(a, p.m, p.k), of_b = elements(b, p.k, p.n);
  Operand* narrow = a.at.element == Element::Bf16 ? &a : &b;
  const Index count = narrow == &a ? of_a : of_b;
  Carver sizes(nullptr);
  if (mixed) sizes.take<float>(count);
  if (through_fp32) sizes.take<float>(p.m * p.n);
  Carver carve(c.scratch(sizes.used()));
  if (mixed) {
    auto* wide = carve.take<float>(count);
    cast(c, narrow->at, wide, count);
    narrow->at = wide;
  }
  if (!through_fp32) return multiplier.multiply(c, p, a, b, out);
  auto* sum = carve.take<float>(p.m * p.n);
  multiplier.multiply(c, {p.m, p.n, p.k, false}, a, b, sum);
  if (p.accumulate)
    add_to(c, out, sum, p.m * p.n);
  else
    cast(c, sum, out, p.m * p.n);
}

// One operand of an E4M3 product: x[rows, cols], or x^T.
struct Quantised {
  ConstView x;
  Index rows, cols;
  bool transposed;
  Fp8Scales kind;

  Fp8Matrix room(Carver& carve) const {
    Fp8Matrix m{.rows = transposed ? cols : rows, .cols = transposed ? rows : cols, .kind = kind};
    m.codes = carve.take<std::uint8_t>(m.rows * fp8_stride(m.cols));
    m.scales = carve.take<float>(fp8_scale_count(m.rows, m.cols, kind));
    return m;
  }
};

void fp8_product(const Context& c, const Quantised& left, const Quantised& right, View out,
                 bool accumulate) {
  Carver sizes(nullptr);
  left.room(sizes);
  right.room(sizes);
  Carver carve(c.scratch(sizes.used()));
  const Fp8Matrix a = left.room(carve), b = right.room(carve);
  quantise_rows(c, {.rows = left.rows, .cols = left.cols, .transposed = left.transposed}, left.x,
                a);
  quantise_rows(c, {.rows = right.rows, .cols = right.cols, .transposed = right.transposed},
                right.x, b);
  linear_fp8(c, a, b, out, accumulate);
}

}  // namespace

void linear_fp8(const Context& c, const Fp8Matrix& a, const Fp8Matrix& b, View y, bool accumulate) {
  if (a.rows == 0 || b.rows == 0 || a.cols == 0) return;
  if (c.library().multiplier->multiply_fp8(c, a, b, y, accumulate)) return;
  own_fp8_product(c, {.rows = a.rows}, a, b, y, accumulate);
}

// Rows of a group on average from which on the library's speed outweighs one launch per group, and
// tiles of one group at a time on all SMs. An estimate: four rows of 128-row tiles.
constexpr Index kLibraryRows = 512;

bool library_grouped_product(const Context& c, const GroupedShape& s, const GroupedCall& call) {
  const auto& [pass, a, b, out, accumulate] = call;
  const bool direct =
      a.element == b.element && (a.element == Element::Bf16 || out.element == Element::Fp32);
  if (s.host_offset == nullptr || !direct || s.rows < s.groups * kLibraryRows) return false;
  const Index a_width = pass == Pass::Forward ? s.k : s.n;
  for (Index g = 0; g < s.groups; ++g) {
    const Index first = s.host_offset[g], rows = s.host_offset[g + 1] - first;
    if (rows == 0) continue;
    const ConstView a_of = a + first * a_width;
    Multiplier& multiplier = *c.library().multiplier;
    if (pass == Pass::Forward)
      multiplier.multiply(c, {rows, s.n, s.k, accumulate, true}, {a_of, s.k},
                          {b + g * s.n * s.k, s.k, true}, out + first * s.n);
    else if (pass == Pass::InputGrad)
      multiplier.multiply(c, {rows, s.k, s.n, accumulate, true}, {a_of, s.n},
                          {b + g * s.n * s.k, s.k}, out + first * s.k);
    else
      multiplier.multiply(c, {s.n, s.k, rows, accumulate, true}, {a_of, s.n, true},
                          {b + first * s.k, s.k}, out + g * s.n * s.k);
  }
  return true;
}

void linear_forward(const Context& c, const LinearShape& s, ConstView x, ConstView w, View y) {
  if (s.numbers == Numbers::Fp8Block)
    return fp8_product(c, {x, s.m, s.k, false, Fp8Scales::PerRow},
                       {w, s.n, s.k, false, Fp8Scales::Square}, y, false);
  product(c, {s.m, s.n, s.k}, {x, s.k}, {w, s.k, true}, y);
}

void linear_input_grad(const Context& c, const LinearShape& s, ConstView dy, ConstView w, View dx,
                       bool accumulate) {
  if (s.numbers == Numbers::Fp8Block)
    return fp8_product(c, {dy, s.m, s.n, false, Fp8Scales::PerRow},
                       {w, s.n, s.k, true, Fp8Scales::Square}, dx, accumulate);
  product(c, {s.m, s.k, s.n, accumulate}, {dy, s.n}, {w, s.k}, dx);
}

void linear_weight_grad(const Context& c, const LinearShape& s, ConstView dy, ConstView x,
                        View dw) {
  if (s.numbers == Numbers::Fp8Block)
    return fp8_product(c, {dy, s.m, s.n, true, Fp8Scales::PerRow},
                       {x, s.m, s.k, true, Fp8Scales::PerRow}, dw, true);
  product(c, {s.n, s.k, s.m, true}, {dy, s.n, true}, {x, s.k}, dw);
}

}  // namespace reckon::real::cuda
