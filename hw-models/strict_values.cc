// Scalars, quantities with units and spellings: from text to value and back.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "hw-models/strict_json.h"

namespace reckon::hw {

namespace {

using Unit = UnitFamily::Unit;

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substitute = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({substitute, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

std::string number_text(double x) {
  if (std::abs(x) < 1e15 && x == std::floor(x)) return fmt::format("{:.0f}", x);
  return fmt::format("{}", x);
}

// digits [. digits] [e [sign] digits] at the start of `text`; its length, 0 if there is none.
std::size_t number_length(std::string_view text) {
  std::size_t i = 0;
  const auto digits = [&] {
    const std::size_t start = i;
    while (i < text.size() && text[i] >= '0' && text[i] <= '9') ++i;
    return i > start;
  };
  if (i < text.size() && text[i] == '-') ++i;  // refused later, as out of range
  if (!digits()) return 0;
  if (i < text.size() && text[i] == '.') {
    ++i;
    if (!digits()) return 0;
  }
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    const std::size_t before = i++;
    if (i < text.size() && (text[i] == '-' || text[i] == '+')) ++i;
    if (!digits()) i = before;
  }
  return i;
}

std::string join_units(const UnitFamily& f, std::string_view separator) {
  std::string s;
  for (const Unit& u : f.units) {
    if (!s.empty()) s += separator;
    s += u.name;
  }
  return s;
}

std::string unit_names(const UnitFamily& f) {
  return join_units(f, ", ");
}

// Bits are only for network rates, whose boxes print them.
constexpr Unit kBytes[] = {
    {"bytes", 1}, {"B", 1},       {"kB", 1e3},       {"MB", 1e6},          {"GB", 1e9},
    {"TB", 1e12}, {"KiB", 1024.}, {"MiB", 1048576.}, {"GiB", 1073741824.}, {"TiB", 1099511627776.}};
constexpr Unit kBandwidths[] = {{"bytes/s", 1},         {"B/s", 1},          {"kB/s", 1e3},
                                {"MB/s", 1e6},          {"GB/s", 1e9},       {"TB/s", 1e12},
                                {"GiB/s", 1073741824.}, {"Gbit/s", 1e9 / 8}, {"Tbit/s", 1e12 / 8}};
constexpr Unit kTimes[] = {{"s", 1},    {"ms", 1e-3}, {"us", 1e-6},    {"ns", 1e-9},
                           {"min", 60}, {"h", 3600},  {"hours", 3600}, {"days", 86400}};
constexpr Unit kFlopRates[] = {
    {"FLOP/s", 1}, {"GFLOP/s", 1e9}, {"TFLOP/s", 1e12}, {"PFLOP/s", 1e15}};
constexpr Unit kPowers[] = {{"W", 1}, {"kW", 1e3}};
constexpr Unit kTokens[] = {
    {"tokens", 1}, {"K tokens", 1e3}, {"M tokens", 1e6}, {"B tokens", 1e9}, {"T tokens", 1e12}};
constexpr Unit kGpuHours[] = {{"GPU-hours", 1}, {"K GPU-hours", 1e3}, {"M GPU-hours", 1e6}};
constexpr Unit kDays[] = {{"days", 1}, {"hours", 1. / 24}, {"weeks", 7}};

constexpr UnitFamily kByteFamily{"a size", "80 GiB", 1e15, kBytes};
constexpr UnitFamily kBandwidthFamily{"a bandwidth", "50 GB/s", 1e15, kBandwidths};
constexpr UnitFamily kTimeFamily{"a time", "2 us", 3.2e8, kTimes};
constexpr UnitFamily kFlopRateFamily{"a compute rate", "989 TFLOP/s", 1e18, kFlopRates};
constexpr UnitFamily kPowerFamily{"a power", "700 W", 1e5, kPowers};
constexpr UnitFamily kTokenFamily{"a number of tokens", "14.8 T tokens", 1e16, kTokens};
constexpr UnitFamily kGpuHourFamily{"GPU-hours", "2788 K GPU-hours", 1e11, kGpuHours};
constexpr UnitFamily kDayFamily{"a duration", "60 days", 36525, kDays};

}  // namespace

const UnitFamily& byte_units() {
  return kByteFamily;
}
const UnitFamily& bandwidth_units() {
  return kBandwidthFamily;
}
const UnitFamily& time_units() {
  return kTimeFamily;
}
const UnitFamily& flop_rate_units() {
  return kFlopRateFamily;
}
const UnitFamily& power_units() {
  return kPowerFamily;
}
const UnitFamily& token_units() {
  return kTokenFamily;
}
const UnitFamily& gpu_hour_units() {
  return kGpuHourFamily;
}
const UnitFamily& day_units() {
  return kDayFamily;
}

std::string nearest_spelling(std::string_view text, std::span<const std::string> valid) {
  std::string best;
  std::size_t distance = std::max<std::size_t>(2, text.size() / 3) + 1;
  for (const std::string& v : valid)
    if (const std::size_t d = edit_distance(text.substr(0, 100), v); d < distance) {
      distance = d;
      best = v;
    }
  return best;
}

std::string unit_pattern(const UnitFamily& family) {
  return fmt::format("^[0-9]+(\\.[0-9]+)?([eE][+-]?[0-9]+)? ?({})$", join_units(family, "|"));
}

bool read_bool(const Value& v) {
  if (!v.json().is_boolean()) v.fail("true or false");
  return v.json().get<bool>();
}

std::int64_t read_integer(const Value& v, double min, double max) {
  const auto& j = v.json();
  const std::string expected =
      fmt::format("an integer from {} to {}", number_text(min), number_text(max));
  if (!j.is_number_integer()) v.fail(expected);
  const double x = j.get<double>();
  if (!(x >= min && x <= max)) v.fail(expected);
  return j.get<std::int64_t>();
}

double read_number(const Value& v, double min, double max) {
  const std::string expected =
      fmt::format("a number from {} to {}", number_text(min), number_text(max));
  if (!v.json().is_number()) v.fail(expected);
  const double x = v.json().get<double>();
  if (!(x >= min && x <= max)) v.fail(expected);
  return x;
}

std::string read_text(const Value& v) {
  if (!v.json().is_string()) v.fail("a text (a string)");
  return v.json().get<std::string>();
}

double read_quantity(const Value& v, const UnitFamily& family, double min, double max) {
  const std::string with_unit =
      fmt::format("{} with its unit, such as \"{}\"", family.what, family.example);
  if (!v.json().is_string()) v.fail(fmt::format("{} (units: {})", with_unit, unit_names(family)));
  const std::string text = v.json().get<std::string>();
  const std::size_t n = number_length(text);
  if (n == 0) v.fail(with_unit);
  std::string unit = text.substr(n);
  if (!unit.empty() && unit[0] == ' ') unit.erase(0, 1);
  const auto found = std::find_if(family.units.begin(), family.units.end(),
                                  [&](const Unit& u) { return u.name == unit; });
  if (found == family.units.end()) {
    std::vector<std::string> names;
    for (const Unit& u : family.units) names.emplace_back(u.name);
    const std::string nearest = unit.empty() ? "" : nearest_spelling(unit, names);
    v.fail(fmt::format("{} (units: {})", with_unit, unit_names(family)),
           nearest.empty() ? "" : text.substr(0, n) + " " + nearest);
  }
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + n, number);
  const double x = number * found->factor;
  if (error != std::errc() || end != text.data() + n || !(x >= min && x <= max) ||
      std::signbit(number))
    v.fail(fmt::format("{} from {} to {}", family.what, quantity_text(min, family),
                       quantity_text(max, family)));
  return x;
}

std::size_t read_choice(const Value& v, std::span<const std::string> valid) {
  const std::string expected = fmt::format("one of \"{}\"", fmt::join(valid, "\", \""));
  if (!v.json().is_string()) v.fail(expected);
  const std::string text = v.json().get<std::string>();
  const auto it = std::find(valid.begin(), valid.end(), text);
  if (it == valid.end()) v.fail(expected, nearest_spelling(text, valid));
  return static_cast<std::size_t>(it - valid.begin());
}

std::string quantity_text(double value, const UnitFamily& family) {
  const auto read_back = [](const std::string& s, double factor) {
    double x = 0;
    std::from_chars(s.data(), s.data() + s.size(), x);
    return x * factor;
  };
  if (value == 0) return fmt::format("0 {}", family.units[0].name);
  std::string best;  // ties go to the later, larger unit
  for (const Unit& u : family.units) {
    const std::string number = number_text(value / u.factor);
    if (read_back(number, u.factor) != value) continue;
    std::string text = fmt::format("{} {}", number, u.name);
    if (best.empty() || text.size() <= best.size()) best = std::move(text);
  }
  return best;  // the first unit has factor 1: never empty
}

}  // namespace reckon::hw
