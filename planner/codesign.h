// Co-design: the model's shape, the machines and the plan chosen together. Every shape that keeps
// to the parameter targets, on every machine, with a plan searched for each pair; what a token's
// training flops then cost.
//
// Not modelled: how well a shape learns. Activated flops per token (and parameters) stand for it;
// laws that say how loss follows from a shape can be laid over the points.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "planner/codesign_spec.h"
#include "planner/scenario.h"
#include "planner/sweep.h"

namespace reckon::plan {

// Of one model shape.
struct ShapeFigures {
  std::int64_t total = 0;      // parameters, MTP modules not counted
  std::int64_t activated = 0;  // of them, by one token
  Flops per_token;             // to train on one token, causal attention counted half
};
ShapeFigures shape_figures(const ModelShape& model, int seq);

struct Codesign {
  Sweep sweep;  // its points are the shapes that keep to the targets, times machines
  std::vector<ShapeFigures> figures;           // of each point's model
  std::size_t shapes = 0;                      // tried
  std::size_t kept = 0;                        // of them
  std::map<std::string, std::size_t> dropped;  // of them, by reason
};

// `more`: further parts of the scenario to vary. Errors: InputError without a "codesign" in the
// scenario, for more than 200,000 shapes, and if none is left.
Codesign codesign(const hw::Document& scenario, const std::vector<Variation>& more);

enum class CostMetric { GpuHours, Days, Money };
std::optional<double> cost_of(const nlohmann::ordered_json& answer, CostMetric metric);

// Points that no other beats: none has as large a value at as small a cost, and one of them better.
// By value, ascending. A point without a cost is on no front.
std::vector<std::size_t> pareto_front(const std::vector<double>& value,
                                      const std::vector<std::optional<double>>& cost);

struct CodesignFronts {
  std::vector<std::size_t> flops, activated, total;  // points: most of it for the cost
};
CodesignFronts fronts(const Codesign& c, const std::vector<nlohmann::ordered_json>& answers,
                      CostMetric metric);

}  // namespace reckon::plan
