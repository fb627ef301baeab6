// The library's products as plain loops, in place of cuBLASLt.
#include "emulation.h"
#include "real/cuda/kernels_gemm.h"

namespace reckon::real::cuda {

namespace {

float at(ConstView x, Index i) {
  return x.element == Element::Bf16
             ? bits_to_float(std::uint32_t{static_cast<const std::uint16_t*>(x.at)[i]} << 16)
             : static_cast<const float*>(x.at)[i];
}

void put(View x, Index i, float value, bool accumulate) {
  if (accumulate) value += at(x, i);
  if (x.element == Element::Bf16)
    static_cast<std::uint16_t*>(x.at)[i] = static_cast<std::uint16_t>(pack_bf16(value, 0));
  else
    static_cast<float*>(x.at)[i] = value;
}

float scale(const Fp8Matrix& m, Index row, Index col) {
  return m.kind == Fp8Scales::PerRow ? m.scales[col / 128 * m.rows + row]
                                     : m.scales[row / 128 * fp8_square_stride(m.cols) + col / 128];
}

class Loops : public Multiplier {
 public:
  void multiply(const Context&, const Product& p, const Operand& a, const Operand& b,
                View out) override {
    for (Index i = 0; i < p.m; ++i)
      for (Index j = 0; j < p.n; ++j) {
        float sum = 0;
        for (Index l = 0; l < p.k; ++l)
          sum += at(a.at, a.transposed ? l * a.stride + i : i * a.stride + l) *
                 at(b.at, b.transposed ? j * b.stride + l : l * b.stride + j);
        put(out, i * p.n + j, sum, p.accumulate);
      }
  }

  // As cuBLASLt: only what comes in whole vectors.
  bool multiply_fp8(const Context&, const Fp8Matrix& a, const Fp8Matrix& b, View out,
                    bool accumulate) override {
    if (a.rows % 16 != 0 || b.rows % 16 != 0) return false;
    for (Index i = 0; i < a.rows; ++i)
      for (Index j = 0; j < b.rows; ++j) {
        float sum = 0;
        for (Index l = 0; l < a.cols; ++l)
          sum += widen_e4m3(a.codes[i * fp8_stride(a.cols) + l]) * scale(a, i, l) *
                 widen_e4m3(b.codes[j * fp8_stride(b.cols) + l]) * scale(b, j, l);
        put(out, i * b.rows + j, sum, accumulate);
      }
    return true;
  }
};

}  // namespace

std::unique_ptr<Multiplier> make_multiplier() {
  return std::make_unique<Loops>();
}

}  // namespace reckon::real::cuda
