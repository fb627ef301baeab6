// Numbers on the device for tests, with their values on the host. On a device, or on the emulated
// one (emulation.h): the same sources are built for both.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "real/cuda/kernels.h"
#include "real/cuda/launch.h"

namespace reckon::real::cuda::test {

using Floats = std::vector<float>;
using Ints = std::vector<std::int32_t>;

inline constexpr Element kKinds[] = {Element::Fp32, Element::Bf16};

float to_grid(float x, Element e);  // what x becomes when stored

// n bytes of device memory between two guards, which are looked at when it ends. Begins as NaN.
class Memory {
 public:
  explicit Memory(std::size_t bytes);
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  void* at() const;
  void write(const void* from, std::size_t bytes);
  void read(void* to, std::size_t bytes) const;

 private:
  unsigned char* whole_;
  std::size_t bytes_;
};

class Array {
 public:
  // Values are put on e's grid first.
  Array(const Floats& values, Element e);
  // NaN: to be written.
  Array(Index n, Element e) : Array(Floats(static_cast<std::size_t>(n), std::nanf("")), e) {}
  static Array random(Index n, Element e, std::mt19937& engine, float size = 1);

  const Floats& host() const { return host_; }  // as constructed
  float* host_floats() { return host_.data(); }
  Floats now() const;  // on the device
  View view() const { return {memory_.at(), element_}; }
  operator View() const { return view(); }
  operator ConstView() const { return view(); }
  float* floats() const { return static_cast<float*>(memory_.at()); }
  Element element() const { return element_; }

 private:
  Element element_;
  Floats host_;
  Memory memory_;
};

class IntArray {
 public:
  explicit IntArray(const Ints& values);
  explicit IntArray(Index n) : IntArray(Ints(static_cast<std::size_t>(n), -77)) {}
  const Ints& host() const { return host_; }
  Ints now() const;
  std::int32_t* at() const { return static_cast<std::int32_t*>(memory_.at()); }

 private:
  Ints host_;
  Memory memory_;
};

class DoubleOnDevice {
 public:
  explicit DoubleOnDevice(double x) : memory_(sizeof(double)) { memory_.write(&x, sizeof x); }
  double now() const {
    double x = 0;
    memory_.read(&x, sizeof x);
    return x;
  }
  double* at() const { return static_cast<double*>(memory_.at()); }

 private:
  Memory memory_;
};

// |a - b| / |b|, Euclidean; |a| where b is 0. Infinite where one is NaN and the other isn't, equal
// infinities don't count.
double error(const Floats& a, const Floats& b);

// The error that rounding a result to `e` allows for: bf16 has 8 bits.
inline double tolerance(Element e, double fp32) {
  return e == Element::Bf16 ? 4e-3 : fp32;
}

Context& context(bool deterministic = true);

}  // namespace reckon::real::cuda::test
