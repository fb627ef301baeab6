// Numbers in memory whose type is known when the program runs: what ops hand to kernels. A view
// owns nothing and does not say where the memory is (host or device).
#pragma once

#include <cstddef>
#include <cstdint>

#include "sim/check.h"

namespace reckon::real {

enum class Element : std::uint8_t { Fp32, Bf16, Int32 };

constexpr std::int64_t bytes_of(Element e) {
  return e == Element::Bf16 ? 2 : 4;
}

struct View {
  void* at = nullptr;
  Element element = Element::Fp32;

  View() = default;
  constexpr View(void* memory, Element e) : at(memory), element(e) {}
  constexpr View(float* x) : at(x) {}
  constexpr View(std::int32_t* x) : at(x), element(Element::Int32) {}
  explicit operator bool() const { return at != nullptr; }
};

struct ConstView {
  const void* at = nullptr;
  Element element = Element::Fp32;

  ConstView() = default;
  constexpr ConstView(const void* memory, Element e) : at(memory), element(e) {}
  constexpr ConstView(const View& v) : at(v.at), element(v.element) {}
  constexpr ConstView(const float* x) : at(x) {}
  constexpr ConstView(const std::int32_t* x) : at(x), element(Element::Int32) {}
  explicit operator bool() const { return at != nullptr; }
};

// The view that begins n elements further on.
inline View operator+(View v, std::int64_t n) {
  return {static_cast<unsigned char*>(v.at) + n * bytes_of(v.element), v.element};
}
inline ConstView operator+(ConstView v, std::int64_t n) {
  return {static_cast<const unsigned char*>(v.at) + n * bytes_of(v.element), v.element};
}

inline float* floats(View v) {
  check(v.element == Element::Fp32, "the view is of fp32 numbers");
  return static_cast<float*>(v.at);
}
inline const float* floats(ConstView v) {
  check(v.element == Element::Fp32, "the view is of fp32 numbers");
  return static_cast<const float*>(v.at);
}
inline std::int32_t* ints(View v) {
  check(v.element == Element::Int32, "the view is of 32-bit integers");
  return static_cast<std::int32_t*>(v.at);
}
inline const std::int32_t* ints(ConstView v) {
  check(v.element == Element::Int32, "the view is of 32-bit integers");
  return static_cast<const std::int32_t*>(v.at);
}

}  // namespace reckon::real
