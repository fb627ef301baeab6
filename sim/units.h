// Physical quantities with their dimension in the type: seconds, bytes, flops and the rates made of
// them. A Quantity compiles to one double. Values are SI inside: seconds, bytes, floating-point
// operations.
#pragma once

#include <compare>

namespace reckon {

// S, B, F: exponents of second, byte and flop.
template <int S, int B, int F>
struct Quantity {
  double si = 0;  // value in s^S byte^B flop^F

  constexpr Quantity() = default;
  constexpr explicit Quantity(double value) : si(value) {}

  constexpr auto operator<=>(const Quantity&) const = default;
  constexpr Quantity operator-() const { return Quantity(-si); }
  constexpr Quantity& operator+=(Quantity o) { return si += o.si, *this; }
  constexpr Quantity& operator-=(Quantity o) { return si -= o.si, *this; }
  constexpr Quantity& operator*=(double x) { return si *= x, *this; }
  constexpr Quantity& operator/=(double x) { return si /= x, *this; }

  friend constexpr Quantity operator+(Quantity a, Quantity b) { return Quantity(a.si + b.si); }
  friend constexpr Quantity operator-(Quantity a, Quantity b) { return Quantity(a.si - b.si); }
  friend constexpr Quantity operator*(Quantity a, double x) { return Quantity(a.si * x); }
  friend constexpr Quantity operator*(double x, Quantity a) { return Quantity(x * a.si); }
  friend constexpr Quantity operator/(Quantity a, double x) { return Quantity(a.si / x); }
};

template <int S1, int B1, int F1, int S2, int B2, int F2>
constexpr auto operator*(Quantity<S1, B1, F1> a, Quantity<S2, B2, F2> b) {
  if constexpr (S1 + S2 == 0 && B1 + B2 == 0 && F1 + F2 == 0)
    return a.si * b.si;
  else
    return Quantity<S1 + S2, B1 + B2, F1 + F2>(a.si * b.si);
}

template <int S1, int B1, int F1, int S2, int B2, int F2>
constexpr auto operator/(Quantity<S1, B1, F1> a, Quantity<S2, B2, F2> b) {
  if constexpr (S1 == S2 && B1 == B2 && F1 == F2)
    return a.si / b.si;
  else
    return Quantity<S1 - S2, B1 - B2, F1 - F2>(a.si / b.si);
}

using Seconds = Quantity<1, 0, 0>;
using Bytes = Quantity<0, 1, 0>;
using Flops = Quantity<0, 0, 1>;  // one multiply-add is 2 flops
using BytesPerSecond = Quantity<-1, 1, 0>;
using FlopsPerSecond = Quantity<-1, 0, 1>;

inline constexpr Seconds s{1}, ms{1e-3}, us{1e-6}, ns{1e-9}, hour{3600}, day{86400};
inline constexpr Bytes byte{1}, kB{1e3}, MB{1e6}, GB{1e9}, TB{1e12};
inline constexpr Bytes KiB{1024.}, MiB{1024. * 1024}, GiB{1024. * 1024 * 1024};
inline constexpr Bytes Gbit{1e9 / 8};  // bits exist only as unit constants
inline constexpr Flops GFLOP{1e9}, TFLOP{1e12};

}  // namespace reckon
