// A catalogue file: an object of entries by name; an entry may start from another one of the file
// ({"base": name, changes...}).
#pragma once

#include "hw-models/json_fields.h"

namespace reckon::hw {

namespace detail {

constexpr int kMaxBases = 16;  // longer chains are cycles

template <class T>
T read_entry(const Value& file, const Value& entry, int depth = 0) {
  T out;
  entry.expect_object("an entry");
  const auto base = entry.find("base");
  if (base) {
    const std::string name = read_text(*base);
    const auto parent = file.find(name);
    if (!parent || depth == kMaxBases) base->fail("the name of another entry, without a cycle");
    out = read_entry<T>(file, *parent, depth + 1);
  }
  read_fields(entry, out, base.has_value(), {"base"});
  return out;
}

}  // namespace detail

// Entries are named by their keys.
template <class T>
std::map<std::string, T> read_catalogue(const Document& document) {
  std::map<std::string, T> entries;
  const Value file(document);
  file.expect_object("entries by name");
  for (const auto& [key, ignored] : document.root.items()) {
    T entry = detail::read_entry<T>(file, *file.find(key));
    if constexpr (requires { entry.name; }) entry.name = key;
    entries.emplace(key, std::move(entry));
  }
  return entries;
}

}  // namespace reckon::hw
