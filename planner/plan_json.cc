#include "planner/plan_json.h"

#include <fmt/format.h>

namespace reckon::plan {

namespace {

bool is_balanced(const std::vector<ChunkLayout>& layout) {
  ModelParts parts;
  for (const ChunkLayout& c : layout) parts.layers += c.layers, parts.mtp += c.mtp;
  return !layout.empty() && layout == balanced_layout(parts, static_cast<int>(layout.size()));
}

// Layers in order, each once; one embedding, one head, every MTP module.
void check_layout(const hw::Value& v, const Plan& plan, const ModelShape& model) {
  const hw::Value at = v.find("layout").value_or(v);
  const auto want = static_cast<std::size_t>(plan.pp) * static_cast<std::size_t>(plan.vpp);
  if (plan.layout.size() != want) at.fail(fmt::format("pp * vpp = {} chunks", want));
  int next = 0, embeddings = 0, heads = 0, mtp = 0;
  for (const ChunkLayout& c : plan.layout) {
    if (c.first_layer != next)
      at.fail_got(fmt::format("chunks that hold every layer once, the next from layer {}", next),
                  fmt::format("a chunk from layer {}", c.first_layer));
    next += c.layers;
    embeddings += c.embedding;
    heads += c.head;
    mtp += c.mtp;
  }
  if (next != model.layers)
    at.fail_got(fmt::format("chunks that add up to {} layers", model.layers),
                fmt::format("{} layers", next));
  if (embeddings != 1 || heads != 1 || mtp != model.mtp_depth)
    at.fail_got(fmt::format("one embedding, one head, {} MTP modules", model.mtp_depth),
                fmt::format("{}, {} and {}", embeddings, heads, mtp));
}

}  // namespace

void read_custom(const hw::Value& v, ModuleSet& out, const hw::Rule&) {
  v.expect_array("module names");
  out.bits = 0;
  for (std::size_t i = 0; i < v.size(); ++i) {
    RecomputeModule m{};
    hw::read_value(v.at(i), m, {});
    if (out.bits & m) v.at(i).fail("every module once");
    out.bits |= m;
  }
}

hw::ordered_json write_custom(const ModuleSet& set) {
  if (set.bits == 0) return {};
  auto a = hw::ordered_json::array();
  for (const auto& s : spellings(RecomputeModule{}))
    if (set.bits & s.value) a.push_back(s.text);
  return a;
}

void read_custom(const hw::Value& v, LayoutChoice& out, const hw::Rule&) {
  out.chunks.clear();
  if (v.json().is_string()) {
    const std::string valid[] = {"balanced"};
    hw::read_choice(v, valid);
    return;
  }
  hw::read_value(v, out.chunks, {.doc = "\"balanced\" or a list of chunks"});
  if (out.chunks.empty()) v.fail("at least one chunk");
}

hw::ordered_json write_custom(const LayoutChoice& layout) {
  if (layout.chunks.empty() || is_balanced(layout.chunks)) return "balanced";
  return hw::to_json(layout.chunks);
}

void finish(const hw::Value& v, Recompute& r) {
  if (r.mode == Recompute::Mode::Selective && r.modules == 0)
    v.fail_got("the key \"modules\", with at least one module to recompute selectively", "none");
  if (r.mode != Recompute::Mode::Selective && r.modules != 0)
    v.find("modules").value_or(v).fail("modules only with mode \"selective\"");
  if (r.mode != Recompute::Mode::Full && r.full_layers != 0)
    v.find("full_layers").value_or(v).fail("full_layers only with mode \"full\"");
}

void complete_plan(const hw::Value& v, Plan& plan, const ModelShape& model,
                   const hw::Cluster& cluster) {
  const std::int64_t stage = std::int64_t{plan.tp} * plan.cp;
  const std::int64_t without_dp = stage * plan.pp;
  if (!v.find("dp")) {
    if (without_dp > cluster.gpus || cluster.gpus % without_dp != 0)
      v.fail_got(fmt::format("tp pp cp to divide the cluster's {} GPUs", cluster.gpus),
                 fmt::format("{} {} {}", plan.tp, plan.pp, plan.cp));
    plan.dp = static_cast<int>(cluster.gpus / without_dp);
  } else if (without_dp > cluster.gpus || without_dp * plan.dp != cluster.gpus) {
    v.find("dp")->fail_got(
        fmt::format("tp pp cp dp to multiply to the cluster's {} GPUs", cluster.gpus),
        fmt::format("{} {} {} {}", plan.tp, plan.pp, plan.cp, plan.dp));
  }
  const std::int64_t ranks = stage * plan.dp;
  const std::int64_t experts = std::int64_t{plan.ep} * plan.etp;
  if (ranks % experts != 0)
    v.find("ep").value_or(v).fail_got(
        fmt::format("ep etp to divide the {} ranks of a stage", ranks),
        fmt::format("{} {}", plan.ep, plan.etp));
  if (plan.layout.empty()) {
    if (std::int64_t{plan.pp} * plan.vpp > 100000)
      v.fail_got("at most 100000 chunks", fmt::format("pp {} vpp {}", plan.pp, plan.vpp));
    plan.layout = balanced_layout({model.layers, model.mtp_depth}, plan.pp * plan.vpp);
  } else {
    check_layout(v, plan, model);
  }
}

Plan plan_from_json(const hw::Document& document, const ModelShape& model,
                    const hw::Cluster& cluster) {
  const hw::Value v(document);
  Plan plan;
  hw::read_value(v, plan, {});
  complete_plan(v, plan, model, cluster);
  return plan;
}

hw::ordered_json plan_to_json(const Plan& plan) {
  return hw::to_json(plan);
}

}  // namespace reckon::plan
