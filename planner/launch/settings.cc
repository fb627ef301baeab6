#include "planner/launch/settings.h"

#include <algorithm>
#include <sstream>
#include <toml.hpp>

#include "hw-models/strict_json.h"

namespace reckon::plan::launch {

namespace {

nlohmann::ordered_json plain(const toml::value& v) {
  switch (v.type()) {
    case toml::value_t::boolean: return v.as_boolean();
    case toml::value_t::integer: return v.as_integer();
    case toml::value_t::floating: return v.as_floating();
    case toml::value_t::string: return v.as_string().str;
    case toml::value_t::array: {
      auto a = nlohmann::ordered_json::array();
      for (const toml::value& item : v.as_array()) a.push_back(plain(item));
      return a;
    }
    default: return nullptr;
  }
}

void flatten(const toml::value& v, const std::string& prefix, const std::string& file,
             std::vector<Setting>& out) {
  for (const auto& [name, value] : v.as_table()) {
    const std::string key = prefix.empty() ? name : prefix + "." + name;
    if (value.is_table())
      flatten(value, key, file, out);
    else
      out.push_back({key, plain(value), fmt::format("{}:{}", file, value.location().line())});
  }
}

[[noreturn]] void unknown(const Setting& s, const std::vector<std::string>& keys,
                          const char* framework) {
  const std::string nearest = hw::nearest_spelling(s.key, keys);
  throw InputError(fmt::format("{}: {}: no such key of {}{}", s.where, s.key, framework,
                               nearest.empty() ? "" : "; did you mean \"" + nearest + "\"?"));
}

void check_type(const Setting& s, KeyTable table) {
  const std::string type = key_type(table, s.key);
  const auto& v = s.value;
  const bool whole =
      v.is_number_float() && v.get<double>() == static_cast<double>(v.get<std::int64_t>());
  const bool right =
      v.is_null() || v == "auto" || type == "any" || (type == "bool" && v.is_boolean()) ||
      (type == "int" && (v.is_number_integer() || whole)) || (type == "float" && v.is_number()) ||
      (type == "text" && v.is_string()) || (type == "list" && v.is_array());
  if (!right)
    throw InputError(fmt::format("{}: {}: expected {}, got {}", s.where, s.key, type, v.dump()));
}

std::string toml_value(const nlohmann::ordered_json& v) {
  if (!v.is_array()) return v.dump();
  std::string text = "[";
  for (const auto& item : v) text += (text.size() > 1 ? ", " : "") + toml_value(item);
  return text + "]";
}

// Sections that DeepSpeed hands on unread to others.
bool is_free(const std::string& key) {
  static constexpr const char* sections[] = {"optimizer",
                                             "scheduler",
                                             "aio",
                                             "amp",
                                             "autotuning",
                                             "comms_logger",
                                             "flops_profiler",
                                             "tensorboard",
                                             "wandb",
                                             "csv_monitor",
                                             "comet",
                                             "compression_training",
                                             "elasticity",
                                             "data_efficiency",
                                             "eigenvalue",
                                             "progressive_layer_drop",
                                             "torch_autocast",
                                             "nebula",
                                             "data_types",
                                             "checkpoint",
                                             "timers",
                                             "curriculum_learning",
                                             "sparse_attention",
                                             "weight_quantization",
                                             "quantize_training",
                                             "tensor_parallel.partition_config"};
  return std::any_of(std::begin(sections), std::end(sections), [&](const std::string& section) {
    return key == section || key.starts_with(section + ".");
  });
}

void flatten(const hw::Value& v, const std::string& prefix, std::vector<Setting>& out) {
  for (const auto& [name, value] : v.json().items()) {
    const std::string key = prefix.empty() ? name : prefix + "." + name;
    const hw::Value at = *v.find(name);
    if (is_free(key)) continue;
    if (value.is_object())
      flatten(at, key, out);
    else if (value != "auto")
      out.push_back({key, value, at.where()});
  }
}

}  // namespace

std::vector<Setting> read_toml(const std::string& file, const std::string& text, KeyTable table) {
  std::istringstream in(text);
  std::vector<Setting> out;
  try {
    flatten(toml::parse(in, file), "", file, out);
  } catch (const toml::exception& e) {
    throw InputError(fmt::format("{}:{}: not TOML: {}", file, e.location().line(), e.what()));
  }
  std::sort(out.begin(), out.end(),
            [](const Setting& a, const Setting& b) { return a.key < b.key; });
  for (const Setting& s : out) {
    if (s.key.starts_with("experimental.")) continue;
    if (key_type(table, s.key) == nullptr) unknown(s, keys_of(table), "torchtitan v0.2.2");
    check_type(s, table);
  }
  return out;
}

std::vector<Setting> read_deepspeed_json(const std::string& file, const std::string& text) {
  const hw::Document document = hw::parse_json(file, text);
  const hw::Value root(document);
  root.expect_object("a DeepSpeed configuration");
  std::vector<Setting> out;
  flatten(root, "", out);
  for (const Setting& s : out) {
    if (key_type(KeyTable::DeepSpeed, s.key) == nullptr)
      unknown(s, keys_of(KeyTable::DeepSpeed), "DeepSpeed 0.19");
    check_type(s, KeyTable::DeepSpeed);
  }
  return out;
}

std::string to_toml(const std::vector<Setting>& settings, const std::string& comment) {
  std::string text = comment, current;
  for (const Setting& s : settings) {
    const std::size_t dot = s.key.rfind('.');
    const std::string section = s.key.substr(0, dot);
    if (section != current) {
      text += fmt::format("\n[{}]\n", section);
      current = section;
    }
    text += fmt::format("{} = {}\n", s.key.substr(dot + 1), toml_value(s.value));
  }
  return text;
}

std::string to_nested_json(const std::vector<Setting>& settings) {
  nlohmann::ordered_json root;
  for (const Setting& s : settings) {
    nlohmann::ordered_json* at = &root;
    std::size_t begin = 0;
    for (std::size_t dot; (dot = s.key.find('.', begin)) != std::string::npos; begin = dot + 1)
      at = &(*at)[s.key.substr(begin, dot - begin)];
    (*at)[s.key.substr(begin)] = s.value;
  }
  return root.dump(2) + "\n";
}

}  // namespace reckon::plan::launch
