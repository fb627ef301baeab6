// One table of fields per struct, from which it is read, written, and described as a JSON Schema,
// so that the three can't drift. A table is a function found beside the struct:
//
//   template <class V>
//   void fields(V& v, Fabric& f) {
//     v("nic", f.nic, {.doc = "per GPU and direction", .required = true});
//     v("latency", f.latency, {.doc = "of one message, end to end", .max = 1});
//   }
//
// Members may be bool, int, double (with .unit: a quantity in text), std::string, Quantity, enum
// (spelled by `spellings(E)`), std::optional, std::vector, structs with fields, and types with
// their own read_custom / write_custom / schema_custom. A struct may add finish(Value, T&), run
// after its fields are read, to refuse combinations.
//
// v.notes(key, doc) is an object of texts by key (sources of figures), v.ignored(key, doc) a text
// for other programs.
//
// Parts with a Catalogue can be given by name ("h800-2048"), in full, or by name with changes
// ({"base": "h800-2048", "gpus": 1024}).
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#include "hw-models/strict_json.h"
#include "sim/units.h"

namespace reckon::hw {

using nlohmann::ordered_json;

// What a field accepts. Ranges bind numbers and quantities (as stored), element by element in
// arrays.
struct Rule {
  const char* doc = "";
  bool required = false;  // but not in a part that starts from a base
  double min = 0;
  double max = std::numeric_limits<double>::infinity();  // of quantities: the family's own
  const UnitFamily* unit = nullptr;                      // of a double that is written with a unit
};

template <class E>
struct Spelling {
  E value;
  const char* text;
};

// Entries by name. Specialised for the parts that have a catalogue.
template <class T>
struct Catalogue {
  static constexpr bool exists = false;
  // static constexpr const char* what;  "a GPU"; also names the schema's definition
  // static const std::map<std::string, T>& entries();
};

namespace detail {
template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};
template <class T>
struct UnitsOf {
  static constexpr bool exists = false;
};
#define RECKON_UNITS(type, function)                         \
  template <>                                                \
  struct UnitsOf<type> {                                     \
    static constexpr bool exists = true;                     \
    static const UnitFamily& family() { return function(); } \
  }
RECKON_UNITS(Bytes, byte_units);
RECKON_UNITS(BytesPerSecond, bandwidth_units);
RECKON_UNITS(Seconds, time_units);
RECKON_UNITS(FlopsPerSecond, flop_rate_units);
#undef RECKON_UNITS
}  // namespace detail

template <class E>
std::vector<std::string> spelling_texts() {
  std::vector<std::string> v;
  for (const auto& s : spellings(E{})) v.emplace_back(s.text);
  return v;
}

template <class E>
const char* spelling(E value) {
  for (const auto& s : spellings(E{}))
    if (s.value == value) return s.text;
  return "?";
}

template <class T>
std::vector<std::string> catalogue_names() {
  std::vector<std::string> names;
  for (const auto& [name, entry] : Catalogue<T>::entries()) names.push_back(name);
  return names;
}

// ---- reading

// Collects the keys of a table.
struct KeyList {
  std::vector<std::string> keys;
  template <class T>
  void operator()(const char* key, T&&, const Rule&) {
    keys.emplace_back(key);
  }
  void notes(const char* key, const char*) { keys.emplace_back(key); }
  void ignored(const char* key, const char*) { keys.emplace_back(key); }
};

// An object of texts, whose keys are keys of the struct: where each figure is from.
void read_notes(const Value& v, std::span<const std::string> keys);

template <class T>
void read_value(const Value& v, T& out, const Rule& rule, bool overlay = false);

// Reads the fields of one object. `overlay`: the struct holds a base already, so nothing is
// required.
class Reader {
 public:
  Reader(const Value& value, std::span<const std::string> keys, bool overlay)
      : value_(value), keys_(keys), overlay_(overlay) {}

  template <class T>
  void operator()(const char* key, T&& member, const Rule& rule) {
    if (const auto v = value_.find(key))
      read_value(*v, member, rule, overlay_);
    else if (rule.required && !overlay_)
      value_.fail_got(std::string("the key \"") + key + "\" (" + rule.doc + ")",
                      "an object without it");
  }
  void notes(const char* key, const char*) {
    if (const auto v = value_.find(key)) read_notes(*v, keys_);
  }
  void ignored(const char* key, const char*) {
    if (const auto v = value_.find(key)) read_text(*v);
  }

 private:
  const Value& value_;
  std::span<const std::string> keys_;
  bool overlay_;
};

// `extra`: keys that the caller reads itself.
template <class T>
void read_fields(const Value& v, T& out, bool overlay, std::vector<std::string> extra = {}) {
  v.expect_object("an object");
  KeyList list;
  fields(list, out);
  list.keys.insert(list.keys.end(), extra.begin(), extra.end());
  for (const auto& [key, ignored] : v.json().items())
    if (std::find(list.keys.begin(), list.keys.end(), key) == list.keys.end())
      v.fail_key(key, list.keys);
  Reader reader(v, list.keys, overlay);
  fields(reader, out);
  if constexpr (requires { finish(v, out); }) finish(v, out);
}

// A name, an object in full, or {"base": name, changes...}. `overlay`: an object without a base
// changes what `out` holds.
template <class T>
void read_part(const Value& v, T& out, bool overlay) {
  const auto named = [](const Value& name) {
    const auto& entries = Catalogue<T>::entries();
    const std::string expected =
        std::string("the name of ") + Catalogue<T>::what + " in the catalogue";
    if (!name.json().is_string()) name.fail(expected);
    const auto it = entries.find(name.json().template get<std::string>());
    if (it == entries.end()) {
      const auto names = catalogue_names<T>();
      std::string all;
      for (const auto& n : names) {
        all += all.empty() ? ": " : ", ";
        all += n;
      }
      name.fail(expected + all, nearest_spelling(name.json().template get<std::string>(), names));
    }
    return it->second;
  };
  if (v.json().is_string()) {
    out = named(v);
    return;
  }
  v.expect_object(std::string(Catalogue<T>::what) + ": a catalogue name, or its fields");
  if (const auto base = v.find("base")) {
    out = named(*base);
    overlay = true;
  }
  read_fields(v, out, overlay, {"base"});
}

template <class T>
void read_value(const Value& v, T& out, const Rule& rule, bool overlay) {
  if constexpr (requires { read_custom(v, out, rule); }) {
    read_custom(v, out, rule);
  } else if constexpr (std::is_same_v<T, bool>) {
    out = read_bool(v);
  } else if constexpr (std::is_integral_v<T>) {
    out = static_cast<T>(read_integer(
        v, rule.min, std::min(rule.max, static_cast<double>(std::numeric_limits<int>::max()))));
  } else if constexpr (std::is_same_v<T, double>) {
    out = rule.unit ? read_quantity(v, *rule.unit, rule.min, std::min(rule.max, rule.unit->max))
                    : read_number(v, rule.min, rule.max);
  } else if constexpr (std::is_same_v<T, std::string>) {
    out = read_text(v);
  } else if constexpr (detail::UnitsOf<T>::exists) {
    const UnitFamily& family = detail::UnitsOf<T>::family();
    out = T(read_quantity(v, family, rule.min, std::min(rule.max, family.max)));
  } else if constexpr (std::is_enum_v<T>) {
    out = spellings(T{})[read_choice(v, spelling_texts<T>())].value;
  } else if constexpr (detail::IsOptional<T>::value) {
    const bool had = out.has_value();
    if (!had) out.emplace();
    read_value(v, *out, rule, overlay && had);
  } else if constexpr (detail::IsVector<T>::value) {
    v.expect_array(rule.doc);
    out.clear();
    for (std::size_t i = 0; i < v.size(); ++i) {
      typename T::value_type item{};
      read_value(v.at(i), item, rule);
      out.push_back(item);
    }
  } else if constexpr (Catalogue<T>::exists) {
    read_part(v, out, overlay);
  } else {
    read_fields(v, out, overlay);
  }
}

// ---- writing

template <class T>
ordered_json to_json_value(const T& value, const Rule& rule);

// Every field, except empty texts, arrays and optionals, and zeros that stand for "not given" (an
// optional field whose range excludes 0).
struct Writer {
  ordered_json out = ordered_json::object();
  template <class T>
  void operator()(const char* key, T&& member, const Rule& rule) {
    if constexpr (std::is_arithmetic_v<std::remove_cvref_t<T>>)
      if (member == 0 && rule.min > 0 && !rule.required) return;
    ordered_json j = to_json_value(member, rule);
    if (!j.is_null()) out[key] = std::move(j);
  }
  void notes(const char*, const char*) {}
  void ignored(const char*, const char*) {}
};

template <class T>
ordered_json to_json_value(const T& value, const Rule& rule) {
  if constexpr (requires { write_custom(value); }) {
    return write_custom(value);
  } else if constexpr (std::is_same_v<T, double>) {
    if (rule.unit) return quantity_text(value, *rule.unit);
    return value;
  } else if constexpr (std::is_arithmetic_v<T>) {
    return value;
  } else if constexpr (std::is_same_v<T, std::string>) {
    return value.empty() ? ordered_json() : ordered_json(value);
  } else if constexpr (detail::UnitsOf<T>::exists) {
    return quantity_text(value.si, detail::UnitsOf<T>::family());
  } else if constexpr (std::is_enum_v<T>) {
    return spelling(value);
  } else if constexpr (detail::IsOptional<T>::value) {
    return value ? to_json_value(*value, rule) : ordered_json();
  } else if constexpr (detail::IsVector<T>::value) {
    if (value.empty()) return {};
    ordered_json a = ordered_json::array();
    for (const auto& item : value) a.push_back(to_json_value(item, rule));
    return a;
  } else {
    Writer w;
    T copy = value;  // tables take their struct by reference
    fields(w, copy);
    return std::move(w.out);
  }
}

template <class T>
ordered_json to_json(const T& value) {
  return to_json_value(value, Rule{});
}

}  // namespace reckon::hw
