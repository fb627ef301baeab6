#include <fmt/format.h>

#include <algorithm>

#include "hw-models/catalogue_file.h"
#include "planner/embedded.h"
#include "planner/model_fields.h"

namespace reckon::plan {

void read_custom(const hw::Value& v, DenseLayers& out, const hw::Rule&) {
  v.expect_array("layer indices");
  out.mixture.clear();
  for (std::size_t i = 0; i < v.size(); ++i) {
    const auto l = static_cast<std::size_t>(hw::read_integer(v.at(i), 0, kMaxLayers - 1));
    if (l >= out.mixture.size()) out.mixture.resize(l + 1, true);
    if (!out.mixture[l]) v.at(i).fail("every layer once");
    out.mixture[l] = false;
  }
}

hw::ordered_json write_custom(const DenseLayers& layers) {
  auto a = hw::ordered_json::array();
  for (std::size_t l = 0; l < layers.mixture.size(); ++l)
    if (!layers.mixture[l]) a.push_back(l);
  return a.empty() ? hw::ordered_json() : a;
}

void read_custom(const hw::Value& v, WindowPattern& out, const hw::Rule&) {
  v.expect_array("attention windows");
  out.windows.clear();
  for (std::size_t i = 0; i < v.size(); ++i)
    out.windows.push_back(static_cast<int>(hw::read_integer(v.at(i), 0, 1e9)));
}

hw::ordered_json write_custom(const WindowPattern& pattern) {
  const auto& w = pattern.windows;
  for (std::size_t period = 1; period <= w.size(); ++period) {
    bool repeats = true;
    for (std::size_t i = period; i < w.size(); ++i) repeats = repeats && w[i] == w[i - period];
    if (repeats)
      return std::vector<int>(w.begin(), w.begin() + static_cast<std::ptrdiff_t>(period));
  }
  return {};
}

void finish(const hw::Value& v, Moe& m) {
  const auto at = [&](const char* key) { return v.find(key).value_or(v); };
  if (m.top_k > m.experts)
    at("top_k").fail_got(fmt::format("at most the {} experts", m.experts),
                         fmt::format("{}", m.top_k));
  if (m.experts % m.groups != 0)
    at("groups").fail_got(fmt::format("a divisor of the {} experts", m.experts),
                          fmt::format("{}", m.groups));
  if (!v.find("limited_groups") && v.find("groups")) m.limited_groups = m.groups;
  if (m.limited_groups > m.groups)
    at("limited_groups")
        .fail_got(fmt::format("at most the {} groups", m.groups),
                  fmt::format("{}", m.limited_groups));
  if (const int open = m.experts / m.groups * m.limited_groups; m.top_k > open)
    at("top_k").fail_got(fmt::format("at most the {} experts of {} groups", open, m.limited_groups),
                         fmt::format("{}", m.top_k));
}

void finish(const hw::Value& v, Yarn& y) {
  if (y.beta_slow >= y.beta_fast)
    v.find("beta_slow")
        .value_or(v)
        .fail_got(fmt::format("fewer turns than beta_fast, {}", y.beta_fast),
                  fmt::format("{}", y.beta_slow));
}

void finish(const hw::Value& v, ModelShape& m) {
  const auto at = [&](const char* key) { return v.find(key).value_or(v); };
  if (m.heads % m.kv_heads != 0)
    at("kv_heads")
        .fail_got(fmt::format("a divisor of the {} heads", m.heads), fmt::format("{}", m.kv_heads));
  if (!m.mla && m.head_dim == 0)
    v.fail_got("the key \"head_dim\" (head width), or \"mla\"", "neither");
  if (m.positions == Positions::Learned && m.max_positions == 0)
    v.fail_got("the key \"max_positions\" with learned positions", "none");
  if (m.yarn && m.positions != Positions::Rope)
    at("yarn").fail("rotary positions (\"positions\": \"rope\") to scale");
  const auto layers = static_cast<std::size_t>(m.layers);
  if (m.moe) {
    const auto given = v.find("moe") ? v.find("moe")->find("dense_layers") : std::nullopt;
    if (given && m.moe->layers.size() > layers)
      given->fail_got(fmt::format("indices below the {} layers", m.layers),
                      fmt::format("{}", m.moe->layers.size() - 1));
    m.moe->layers.resize(layers, true);
  }
  const bool any_dense =
      !m.moe || std::find(m.moe->layers.begin(), m.moe->layers.end(), false) != m.moe->layers.end();
  if (any_dense && m.ffn == 0) at("ffn").fail("a width above 0 for the dense layers");
  if (!m.windows.empty()) {
    const std::vector<int> pattern = m.windows;
    m.windows.resize(layers);
    for (std::size_t l = 0; l < layers; ++l) m.windows[l] = pattern[l % pattern.size()];
  }
}

const ModelShape& model(const std::string& name) {
  const auto& entries = hw::Catalogue<ModelShape>::entries();
  const auto it = entries.find(name);
  if (it == entries.end())
    throw InputError(fmt::format(
        "expected the name of a model in the catalogue, got \"{}\"; did you mean \"{}\"?", name,
        hw::nearest_spelling(name, hw::catalogue_names<ModelShape>())));
  return it->second;
}

}  // namespace reckon::plan

namespace reckon::hw {

const std::map<std::string, plan::ModelShape>& Catalogue<plan::ModelShape>::entries() {
  static const auto all = read_catalogue<plan::ModelShape>(
      parse_json("catalog/models.json", plan::embedded_files().front().text));
  return all;
}

}  // namespace reckon::hw
