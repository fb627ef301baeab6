#include "planner/launch/models.h"

namespace reckon::plan::launch {

namespace {

// A window pattern written out over the layers; empty where no layer has one.
std::vector<int> windows(const ModelShape& m) {
  std::vector<int> all;
  bool any = false;
  for (int l = 0; l < m.layers && !m.windows.empty(); ++l) {
    all.push_back(m.windows[static_cast<std::size_t>(l) % m.windows.size()]);
    any = any || all.back() > 0;
  }
  return any ? all : std::vector<int>{};
}

ModelShape compared(ModelShape m, const SameModel& same) {
  m.name.clear();
  m.windows = windows(m);
  if (m.positions != Positions::Learned) m.max_positions = 0;
  if (same.without_mtp) m.mtp_depth = 0;
  if (same.without_vocab) m.vocab = 0;
  if (m.moe && m.moe->limited_groups == m.moe->groups) m.moe->groups = m.moe->limited_groups = 1;
  // What no layer uses.
  bool dense = !m.moe;
  if (m.moe)
    for (bool mixture : m.moe->layers) dense = dense || !mixture;
  if (!dense) m.ffn = 0;
  return m;
}

}  // namespace

std::string catalogue_name(const ModelShape& model, const SameModel& same) {
  const ModelShape wanted = compared(model, same);
  for (const auto& [name, entry] : hw::Catalogue<ModelShape>::entries())
    if (compared(entry, same) == wanted) return name;
  return {};
}

}  // namespace reckon::plan::launch
