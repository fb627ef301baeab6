// Configuration files as "section.key" settings, and the tables that turn them into structs and
// back: fields(v, T&) with v(key, member) as in megatron_args.h.
#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "planner/launch/option_table.h"

namespace reckon::plan::launch {

struct Setting {
  std::string key;  // "parallelism.tensor_parallel_degree"
  nlohmann::ordered_json value;
  std::string where;  // for errors: "file:line"
};

// Every leaf of the file, in order. Errors: InputError for a file that can't be read as such, or a
// key that the framework does not have; with the nearest.
std::vector<Setting> read_toml(const std::string& file, const std::string& text, KeyTable table);
std::vector<Setting> read_deepspeed_json(const std::string& file, const std::string& text);

// TOML with one table per section.
std::string to_toml(const std::vector<Setting>& settings, const std::string& comment);
// JSON with nested objects.
std::string to_nested_json(const std::vector<Setting>& settings);

// Collects the settings of a struct: optionals that are set, lists that are not empty, the rest
// always.
struct SettingWriter {
  std::vector<Setting> out = {};
  template <class T>
  void operator()(const char* key, const T& member) {
    if (*key != '\0') out.push_back({key, member, ""});
  }
  template <class T>
  void operator()(const char* key, const std::optional<T>& member) {
    if (member) (*this)(key, *member);
  }
  template <class T>
  void operator()(const char* key, const std::vector<T>& member) {
    if (!member.empty() && *key != '\0') out.push_back({key, member, ""});
  }
};

struct SettingReader {
  const std::vector<Setting>& settings;

  const Setting* find(const char* key) const {
    for (const Setting& s : settings)
      if (s.key == key) return &s;
    return nullptr;
  }
  template <class T>
  static void read(const Setting& s, T& member) {
    try {
      member = s.value.get<T>();
    } catch (const nlohmann::json::exception&) {
      throw InputError(
          fmt::format("{}: {}: a value of the wrong type: {}", s.where, s.key, s.value.dump()));
    }
  }
  template <class T>
  void operator()(const char* key, T& member) {
    if (const Setting* s = find(key)) read(*s, member);
  }
  template <class T>
  void operator()(const char* key, std::optional<T>& member) {
    if (const Setting* s = find(key)) read(*s, member.emplace());
  }
};

}  // namespace reckon::plan::launch
