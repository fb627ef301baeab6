// The calendar of the simulators: integer picoseconds, so that sums in any order give the same
// tick.
#pragma once

#include <compare>
#include <cstdint>

#include "sim/units.h"

namespace reckon::sim {

// A point on, or a distance along, the simulated calendar. Range: 106 days in picoseconds.
struct SimTime {
  std::int64_t ps = 0;

  constexpr auto operator<=>(const SimTime&) const = default;
  friend constexpr SimTime operator+(SimTime a, SimTime b) { return {a.ps + b.ps}; }
  friend constexpr SimTime operator-(SimTime a, SimTime b) { return {a.ps - b.ps}; }
  friend constexpr SimTime operator*(std::int64_t n, SimTime a) { return {n * a.ps}; }
  constexpr SimTime& operator+=(SimTime o) { return ps += o.ps, *this; }
};

// Nearest tick; halves away from zero, as std::llround, which is a call into libm. The cast cuts
// the fraction off and the difference is exact.
constexpr SimTime ticks(Seconds d) {
  const double ps = d.si * 1e12;
  const auto whole = static_cast<std::int64_t>(ps);
  const double rest = ps - static_cast<double>(whole);
  return {whole + (rest >= 0.5 ? 1 : rest <= -0.5 ? -1 : 0)};
}
constexpr SimTime operator+(SimTime t, Seconds d) {
  return t + ticks(d);
}
constexpr Seconds seconds(SimTime t) {
  return Seconds(static_cast<double>(t.ps) * 1e-12);
}

}  // namespace reckon::sim
