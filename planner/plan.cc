// Layer-to-chunk layouts, and a plan in one line.
#include "planner/plan.h"

#include <fmt/format.h>

#include "planner/plan_fields.h"
#include "sim/check.h"

namespace reckon::plan {

// Water filling: layer by layer to the chunk that carries least so far.
std::vector<ChunkLayout> balanced_layout(ModelParts model, int chunks, bool weigh_ends) {
  check(chunks >= 1, "a layout has at least one chunk");
  const auto n = static_cast<std::size_t>(chunks);
  std::vector<ChunkLayout> layout(n);
  layout.front().embedding = true;
  layout.back().head = true;
  layout.back().mtp = model.mtp;

  std::vector<int> load(n, 0);
  if (weigh_ends) {
    load.front() += model.embedding;
    load.back() += model.head + model.mtp * (1 + model.head);
  }
  // Among equal loads: the chunk before the last one, and so on down to the first, then the last.
  std::vector<std::size_t> by_preference;
  for (std::size_t c = n - 1; c-- > 0;) by_preference.push_back(c);
  by_preference.push_back(n - 1);
  auto add_layer = [&](std::size_t c) { ++layout[c].layers, ++load[c]; };

  int left = model.layers;
  for (std::size_t c : by_preference)
    if (left > 0) add_layer(c), --left;
  for (; left > 0; --left) {
    std::size_t least = by_preference.front();
    for (std::size_t c : by_preference)
      if (load[c] < load[least]) least = c;
    add_layer(least);
  }
  int first = 0;
  for (ChunkLayout& c : layout) {
    c.first_layer = first;
    first += c.layers;
  }
  return layout;
}

namespace {

// Layers per chunk, in runs: "3 4x14 2".
std::string name(const std::vector<ChunkLayout>& layout) {
  std::string text;
  for (std::size_t i = 0, run = 0; i < layout.size(); i += run) {
    for (run = 1; i + run < layout.size() && layout[i + run].layers == layout[i].layers;) ++run;
    if (!text.empty()) text += ' ';
    text += fmt::format("{}", layout[i].layers);
    if (run > 1) text += fmt::format("x{}", run);
  }
  return text;
}

}  // namespace

std::string describe(const Recompute& recompute) {
  if (recompute.mode == Recompute::Mode::None) return "none";
  if (recompute.mode == Recompute::Mode::Full)
    return recompute.full_layers == 0 ? "full" : fmt::format("full:{}", recompute.full_layers);
  std::string text;
  for (const auto& module : spellings(RecomputeModule{})) {
    if (!(recompute.modules & module.value)) continue;
    if (!text.empty()) text += '+';
    text += module.text;
  }
  return text;
}

// Degrees of 1 are left out, tp and pp excepted; so is what most plans have (ZeRO-1, no recompute,
// an even layout).
std::string describe(const Plan& p) {
  std::string text = fmt::format("tp{} pp{}", p.tp, p.pp);
  auto degree = [&](const char* what, int n) {
    if (n > 1) text += fmt::format(" {}{}", what, n);
  };
  degree("vpp", p.vpp);
  degree("cp", p.cp);
  text += fmt::format(" dp{}", p.dp);
  degree("ep", p.ep);
  degree("etp", p.etp);
  if (p.pp > 1) text += fmt::format(" {}", hw::spelling(p.schedule));
  text += fmt::format(" {} mbs{}", hw::spelling(p.precision), p.micro_batch);
  if (p.zero != Zero::Optimizer) text += fmt::format(" zero{}", static_cast<int>(p.zero));
  if (p.recompute.mode != Recompute::Mode::None)
    text += fmt::format(" recompute {}", describe(p.recompute));
  int layers = 0, mtp = 0;
  for (const ChunkLayout& c : p.layout) layers += c.layers, mtp += c.mtp;
  if (!p.layout.empty() &&
      p.layout != balanced_layout({.layers = layers, .mtp = mtp}, p.pp * p.vpp))
    text += fmt::format(" layers {}", name(p.layout));
  return text;
}

}  // namespace reckon::plan
