// The shapes of the grid are read one by one, as sweeps read their points, so that a shape that is
// no model (100 experts in 8 groups) is dropped with the reader's reason.
#include "planner/codesign.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "planner/bill.h"
#include "planner/scenario_fields.h"
#include "planner/scenario_json.h"

namespace reckon::plan {

namespace {

constexpr std::size_t kMostShapes = 200'000;

struct ShapePath {
  ShapeDimension dimension;
  const char* path;
  std::vector<int> ShapeSpace::*values;
};

constexpr ShapePath kShapePaths[] = {
    {ShapeDimension::Layers, "model.layers", &ShapeSpace::layers},
    {ShapeDimension::Hidden, "model.hidden", &ShapeSpace::hidden},
    {ShapeDimension::Heads, "model.heads", &ShapeSpace::heads},
    {ShapeDimension::KvHeads, "model.kv_heads", &ShapeSpace::kv_heads},
    {ShapeDimension::Ffn, "model.ffn", &ShapeSpace::ffn},
    {ShapeDimension::Experts, "model.moe.experts", &ShapeSpace::experts},
    {ShapeDimension::TopK, "model.moe.top_k", &ShapeSpace::top_k},
    {ShapeDimension::ExpertFfn, "model.moe.ffn", &ShapeSpace::expert_ffn},
    {ShapeDimension::SharedFfn, "model.moe.shared_ffn", &ShapeSpace::shared_ffn},
    {ShapeDimension::Groups, "model.moe.groups", &ShapeSpace::groups},
    {ShapeDimension::LimitedGroups, "model.moe.limited_groups", &ShapeSpace::limited_groups},
    {ShapeDimension::MtpDepth, "model.mtp_depth", &ShapeSpace::mtp_depth},
};

const char* path_of(ShapeDimension d) {
  for (const ShapePath& p : kShapePaths)
    if (p.dimension == d) return p.path;
  return "";
}

std::vector<Variation> shape_variations(const ShapeSpace& s) {
  std::vector<Variation> out;
  for (const ShapePath& p : kShapePaths)
    if (!(s.*p.values).empty()) {
      Variation& v = out.emplace_back(Variation{.path = p.path, .values = {}});
      v.values.assign((s.*p.values).begin(), (s.*p.values).end());
    }
  return out;
}

std::vector<Variation> hardware_variations(const HardwareSpace& h) {
  std::vector<Variation> out;
  const auto add = [&](const char* path, const auto& values, auto json) {
    if (values.empty()) return;
    Variation& v = out.emplace_back(Variation{.path = path, .values = {}});
    for (const auto& value : values) v.values.push_back(json(value));
  };
  const auto same = [](const auto& value) { return nlohmann::json(value); };
  const auto rate = [](BytesPerSecond value) {
    return nlohmann::json(hw::quantity_text(value.si, hw::bandwidth_units()));
  };
  // The device first: it may come with a name of its own, the rest changes it.
  add("cluster.gpu", h.gpu, same);
  add("cluster.gpus", h.gpus, same);
  add("cluster.fabric.nic", h.nic, rate);
  add("cluster.node.nvlink", h.nvlink, rate);
  return out;
}

// How far figures are from the targets, added up; nothing if one is missed.
std::optional<double> miss(const ShapeFigures& f, const CodesignSpec& spec) {
  double sum = 0;
  for (const auto& [target, value] :
       {std::pair(spec.total, f.total), std::pair(spec.activated, f.activated)}) {
    if (!target) continue;
    const double off = std::abs(static_cast<double>(value) - target->parameters);
    if (off > target->within * target->parameters) return std::nullopt;
    sum += off / target->parameters;
  }
  return sum;
}

}  // namespace

void finish(const hw::Value& v, HardwareSpace& h) {
  const auto names = hw::catalogue_names<hw::Gpu>();
  for (std::size_t i = 0; i < h.gpu.size(); ++i)
    if (std::find(names.begin(), names.end(), h.gpu[i]) == names.end())
      v.find("gpu")->at(i).fail("the name of a GPU in the catalogue",
                                hw::nearest_spelling(h.gpu[i], names));
}

void finish(const hw::Value& v, CodesignSpec& c) {
  for (const char* part : {"shape", "hardware"})
    if (const auto p = v.find(part))
      for (const auto& [key, list] : p->json().items())
        if (list.is_array() && list.empty()) p->find(key)->fail("at least one value");
  if (v.find("shape")->json().empty()) v.find("shape")->fail("at least one part of the model");
  if (!c.nearest) return;
  const hw::Value nearest = *v.find("nearest");
  if (!c.total && !c.activated) nearest.fail("\"total\" or \"activated\" beside it");
  for (const ShapePath& p : kShapePaths)
    if (p.dimension == *c.nearest && (c.shape.*p.values).empty())
      nearest.fail("a part that \"shape\" varies");
}

ShapeFigures shape_figures(const ModelShape& model, int seq) {
  return {.total = parameters(model).total(false),
          .activated = activated_parameters(model),
          .per_token = train_flops_per_token(model, seq, true)};
}

Codesign codesign(const hw::Document& document, const std::vector<Variation>& more) {
  const Scenario s = scenario_from_json(document);
  const auto given = hw::Value(document).find("codesign");
  if (!given)
    throw InputError(document.file + ": expected the key \"codesign\" (what varies of the model)");
  CodesignSpec spec;
  hw::read_value(*given, spec, {});
  const std::optional<std::size_t> phase = searched_phase(s);
  if (!phase)
    throw InputError(document.file +
                     ": /campaign: expected at least one phase whose gpu_hours are not given");

  Codesign c;
  c.sweep.scenario = document;
  c.sweep.scenario.root.erase("codesign");
  Sweep shapes{.scenario = c.sweep.scenario, .variations = shape_variations(spec.shape)};
  double combinations = 1;
  for (const Variation& v : shapes.variations) combinations *= static_cast<double>(v.values.size());
  if (combinations > static_cast<double>(kMostShapes))
    throw InputError(
        fmt::format("{}: /codesign/shape: expected at most {} combinations, got {:.0f}",
                    document.file, kMostShapes, combinations));

  struct Kept {
    SweepPoint point;
    ShapeFigures figures;
    double distance = 0;
  };
  std::vector<Kept> kept;
  for (const SweepPoint& point : points(shapes)) {
    ++c.shapes;
    try {
      const ModelShape model = model_at(shapes, point);
      const ShapeFigures figures = shape_figures(model, s.campaign[*phase].seq);
      if (const auto off = miss(figures, spec))
        kept.push_back({point, figures, *off});
      else
        ++c.dropped["misses a parameter target"];
    } catch (const InputError& e) {
      ++c.dropped[reason_of(e)];
    }
  }
  if (spec.nearest) {
    std::size_t at = 0;
    while (shapes.variations[at].path != path_of(*spec.nearest)) ++at;
    std::map<std::string, std::size_t> nearest;  // the others' values -> index into kept
    for (std::size_t i = 0; i < kept.size(); ++i) {
      SweepPoint others = kept[i].point;
      others[at] = nullptr;
      const auto [it, fresh] = nearest.try_emplace(nlohmann::json(others).dump(), i);
      if (!fresh && kept[i].distance < kept[it->second].distance) it->second = i;
    }
    std::vector<std::size_t> chosen;
    for (const auto& [others, i] : nearest) chosen.push_back(i);
    std::sort(chosen.begin(), chosen.end());
    if (const std::size_t left_out = kept.size() - chosen.size(); left_out > 0)
      c.dropped["another is nearer to the targets"] = left_out;
    std::vector<Kept> only;
    for (const std::size_t i : chosen) only.push_back(std::move(kept[i]));
    kept = std::move(only);
  }
  if (kept.empty()) {
    std::string why;
    for (const auto& [reason, n] : c.dropped) why += fmt::format("; {}: {}", n, reason);
    throw InputError(fmt::format("{}: /codesign: none of the {} shapes is left{}", document.file,
                                 c.shapes, why));
  }

  c.kept = kept.size();
  Sweep machines{.scenario = c.sweep.scenario, .variations = hardware_variations(spec.hardware)};
  machines.variations.insert(machines.variations.end(), more.begin(), more.end());
  c.sweep.variations = shapes.variations;
  c.sweep.variations.insert(c.sweep.variations.end(), machines.variations.begin(),
                            machines.variations.end());
  const std::vector<SweepPoint> on = points(machines);
  for (const SweepPoint& machine : on)
    for (const Kept& k : kept) {
      SweepPoint point = k.point;
      point.insert(point.end(), machine.begin(), machine.end());
      c.sweep.chosen.push_back(std::move(point));
      c.figures.push_back(k.figures);
    }
  return c;
}

std::optional<double> cost_of(const nlohmann::ordered_json& answer, CostMetric metric) {
  const char* key = metric == CostMetric::GpuHours ? "gpu_hours"
                    : metric == CostMetric::Days   ? "days"
                                                   : "money";
  if (!answer.is_object() || !answer.contains(key)) return std::nullopt;
  return answer[key].get<double>();
}

std::vector<std::size_t> pareto_front(const std::vector<double>& value,
                                      const std::vector<std::optional<double>>& cost) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < value.size(); ++i)
    if (cost[i]) order.push_back(i);
  // By cost; of equal ones the largest value first.
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::tuple(*cost[a], -value[a], a) < std::tuple(*cost[b], -value[b], b);
  });
  std::vector<std::size_t> front;
  double most = -std::numeric_limits<double>::infinity();
  for (const std::size_t i : order) {
    // Equal in both to one on the front: neither beats the other.
    const bool twin =
        !front.empty() && value[i] == value[front.back()] && *cost[i] == *cost[front.back()];
    if (value[i] > most || twin) front.push_back(i);
    most = std::max(most, value[i]);
  }
  return front;
}

CodesignFronts fronts(const Codesign& c, const std::vector<nlohmann::ordered_json>& answers,
                      CostMetric metric) {
  std::vector<std::optional<double>> cost;
  for (const auto& a : answers) {
    const bool runs = a.is_object() && (!a.contains("fits") || a["fits"].get<bool>());
    cost.push_back(runs ? cost_of(a, metric) : std::nullopt);
  }
  const auto front = [&](auto figure) {
    std::vector<double> value;
    for (const ShapeFigures& f : c.figures) value.push_back(figure(f));
    return pareto_front(value, cost);
  };
  return {
      .flops = front([](const ShapeFigures& f) { return f.per_token.si; }),
      .activated = front([](const ShapeFigures& f) { return static_cast<double>(f.activated); }),
      .total = front([](const ShapeFigures& f) { return static_cast<double>(f.total); })};
}

}  // namespace reckon::plan
