#include "planner/launch/option_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>

#include "hw-models/strict_json.h"
#include "planner/launch/embedded.h"
#include "sim/check.h"

namespace reckon::plan::launch {

const hw::EmbeddedFile& embedded_file(const char* name) {
  for (const hw::EmbeddedFile& file : embedded_files())
    if (file.name == std::string(name)) return file;
  check(false, "an option table is compiled in by this name");
  std::abort();
}

namespace {

constexpr unsigned kAllReleases = (1u << 6) - 1;

struct MegatronOption {
  unsigned releases = 0;  // bit of each MegatronRelease
  std::string takes;      // "nothing", "int", "text", "ints", "3 ints", ..., "unknown"
};

struct MegatronOptions {
  std::map<std::string, MegatronOption> options;
  std::map<std::string, std::vector<std::string>> choices;
  std::vector<std::string> releases, names;
};

const MegatronOptions& megatron_options() {
  static const MegatronOptions table = [] {
    MegatronOptions t;
    const auto root = nlohmann::json::parse(embedded_file("megatron_options.json").text);
    root.at("releases").get_to(t.releases);
    for (const auto& group : root.at("options")) {
      unsigned bits = kAllReleases;
      if (group.at("releases").is_array()) {
        bits = 0;
        for (const auto& release : group.at("releases"))
          for (std::size_t i = 0; i < t.releases.size(); ++i)
            if (t.releases[i] == release.get<std::string>()) bits |= 1u << i;
      }
      for (const auto& name : group.at("names"))
        t.options[name.get<std::string>()] = {bits, group.at("takes").get<std::string>()};
    }
    root.at("choices").get_to(t.choices);
    for (const auto& [name, option] : t.options) t.names.push_back(name);
    return t;
  }();
  return table;
}

bool is_integer(const std::string& text) {
  long long value = 0;
  const char* end = text.data() + text.size();
  const char* begin = text.data() + (text.size() > 1 && text[0] == '+' ? 1 : 0);
  const auto [at, error] = std::from_chars(begin, end, value);
  return error == std::errc() && at == end;
}

bool is_number(const std::string& text) {
  if (text.empty()) return false;
  char* end = nullptr;
  std::strtod(text.c_str(), &end);
  return end == text.c_str() + text.size();
}

// What argparse would say of the values, or "".
std::string wrong_values(const std::string& takes, const std::vector<std::string>& values) {
  if (takes == "unknown") return {};
  if (takes == "nothing") return values.empty() ? "" : "takes no value";
  std::string type = takes;
  if (const std::size_t space = takes.find(' '); space != std::string::npos) {
    if (values.size() != static_cast<std::size_t>(std::atoi(takes.c_str())))
      return fmt::format("takes {}", takes);
    type = takes.substr(space + 1);
  } else if (takes.back() == 's') {
    if (values.empty()) return "takes at least one value";
  } else if (values.size() != 1) {
    return "takes one value";
  }
  for (const std::string& value : values) {
    if (type.starts_with("int") && !is_integer(value))
      return fmt::format("takes an integer, got \"{}\"", value);
    if (type.starts_with("float") && !is_number(value))
      return fmt::format("takes a number, got \"{}\"", value);
  }
  return {};
}

struct Keys {
  std::map<std::string, std::string> type;
  std::map<std::string, std::vector<std::string>> choices;
};

const Keys& keys(KeyTable table) {
  static const auto read = [](const char* name) {
    Keys k;
    const auto root = nlohmann::json::parse(embedded_file(name).text);
    for (const auto& [type, names] : root.at("keys").items())
      for (const auto& key : names) k.type[key.get<std::string>()] = type;
    for (const auto& [key, choices] : root.at("choices").items())
      for (const auto& c : choices)
        k.choices[key].push_back(c.is_string() ? c.get<std::string>() : c.dump());
    return k;
  };
  static const Keys titan = read("torchtitan_0.2.2_keys.json"),
                    titan_main = read("torchtitan_main_keys.json"),
                    deepspeed = read("deepspeed_keys.json");
  switch (table) {
    case KeyTable::Torchtitan: return titan;
    case KeyTable::TorchtitanMain: return titan_main;
    case KeyTable::DeepSpeed: break;
  }
  return deepspeed;
}

}  // namespace

std::vector<std::string> megatron_releases() {
  return megatron_options().releases;
}

std::optional<MegatronRelease> megatron_release(const std::string& text) {
  const auto& releases = megatron_options().releases;
  std::string wanted = text;
  for (const char* prefix : {"core_v", "core_r", "v"})
    if (wanted.starts_with(prefix)) wanted = wanted.substr(std::string(prefix).size());
  for (std::size_t i = 0; i < releases.size(); ++i)
    if (releases[i] == wanted || releases[i] == wanted + ".0")
      return static_cast<MegatronRelease>(i);
  return std::nullopt;
}

bool megatron_accepts(const std::string& option, std::optional<MegatronRelease> release) {
  const auto it = megatron_options().options.find(option);
  if (it == megatron_options().options.end()) return false;
  const unsigned needed = release ? 1u << static_cast<unsigned>(*release) : kAllReleases;
  return (it->second.releases & needed) == needed;
}

std::optional<Refusal> megatron_parser_refusal(std::span<const Option> options,
                                               std::optional<MegatronRelease> release) {
  const MegatronOptions& table = megatron_options();
  for (const Option& o : options) {
    if (!megatron_accepts(o.name, release)) {
      const std::string nearest = hw::nearest_spelling(o.name, table.names);
      std::string detail = o.name;
      if (table.options.count(o.name))
        detail += release ? " (not in this release)" : " (not in every release; give one)";
      else if (!nearest.empty())
        detail += fmt::format("; did you mean {}?", nearest);
      return Refusal{"unrecognized arguments", "argparse", detail};
    }
    if (const std::string wrong = wrong_values(table.options.at(o.name).takes, o.values);
        !wrong.empty())
      return Refusal{"a wrong value of an argument", "argparse", o.name + " " + wrong};
    if (const auto it = table.choices.find(o.name); it != table.choices.end())
      for (const std::string& value : o.values)
        if (std::find(it->second.begin(), it->second.end(), value) == it->second.end())
          return Refusal{
              "a wrong value of an argument", "argparse",
              fmt::format("{} takes {}, got \"{}\"", o.name, fmt::join(it->second, ", "), value)};
  }
  return std::nullopt;
}

const char* key_type(KeyTable table, const std::string& key) {
  const auto& types = keys(table).type;
  const auto it = types.find(key);
  return it == types.end() ? nullptr : it->second.c_str();
}

std::vector<std::string> keys_of(KeyTable table) {
  std::vector<std::string> all;
  for (const auto& [key, type] : keys(table).type) all.push_back(key);
  return all;
}

std::vector<std::string> key_choices(KeyTable table, const std::string& key) {
  const auto& choices = keys(table).choices;
  const auto it = choices.find(key);
  return it == choices.end() ? std::vector<std::string>{} : it->second;
}

}  // namespace reckon::plan::launch
