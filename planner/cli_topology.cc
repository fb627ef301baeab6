// `reckon topology`: the network of a scenario's cluster as a graph, what it costs, and how traffic
// fares on it.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "hw-models/hardware_fields.h"
#include "hw-models/topology.h"
#include "hw-models/topology_svg.h"
#include "hw-models/traffic.h"
#include "planner/cli.h"
#include "planner/file.h"
#include "planner/report.h"
#include "planner/scenario_json.h"
#include "planner/table.h"
#include "sim/input_error.h"

namespace reckon::plan {
namespace {

using hw::TopologyShape;
using hw::VertexKind;

struct Part {
  const char* name;
  VertexKind kind;
};
constexpr Part kSwitches[] = {{"leaf switches", VertexKind::Leaf},
                              {"aggregation switches", VertexKind::Aggregation},
                              {"spine switches", VertexKind::Spine},
                              {"routers", VertexKind::Router}};

struct Hops {  // from GPU 0 to every other
  int switches = 0;
  int gpus = 0;
};

std::vector<Hops> hops_of(const hw::Topology& t) {
  std::map<int, int> count;
  for (int g = 1; g < t.gpus(); ++g) ++count[t.hops(0, g)];
  std::vector<Hops> out;
  for (const auto& [switches, gpus] : count) out.push_back({switches, gpus});
  return out;
}

std::string rate_text(BytesPerSecond r) {
  return r.si >= 1e12 ? fmt::format("{:.1f} TB/s", r / (TB / s))
                      : fmt::format("{:.1f} GB/s", r / (GB / s));
}

std::string shape_text(const hw::Topology& t, const hw::Cluster& c) {
  const TopologyShape& shape = t.shape();
  if (shape.kind == TopologyShape::Kind::Platform)
    return fmt::format("as {} says, {} links", shape.platform,
                       grouped(static_cast<double>(t.link_rates().size() - 2 * t.cables().size())));
  if (shape.kind == TopologyShape::Kind::Edges)
    return fmt::format("{} layers of switches, given link by link, {} routing", t.layers(),
                       shape.routing == TopologyShape::Routing::Ecmp ? "ECMP" : "adaptive");
  std::string out = shape.kind == TopologyShape::Kind::Dragonfly
                        ? std::string("dragonfly")
                        : fmt::format("{}-layer fat-tree", t.layers());
  if (shape.wiring == TopologyShape::Wiring::Rail) out += ", rail-optimised";
  if (shape.wiring == TopologyShape::Wiring::Plane) out += ", multi-plane";
  out +=
      fmt::format(", switches of {} ports at {}, {} routing", shape.radix, rate_text(c.fabric.nic),
                  shape.routing == TopologyShape::Routing::Ecmp ? "ECMP" : "adaptive");
  if (c.fabric.oversubscription > 1 && t.layers() > 1)
    out += fmt::format(", oversubscribed {:g}:1 at the top", c.fabric.oversubscription);
  return out;
}

double price(const TopologyShape& shape, double switches, double cables) {
  return switches * shape.switch_price + cables * shape.cable_price;
}
double price(const TopologyShape& shape, const hw::FabricSize& f) {
  return price(shape, static_cast<double>(f.switches), static_cast<double>(f.cables));
}

hw::AllToAll pattern_of(const TopologyOptions& o, const hw::Cluster& c) {
  const int whole = std::min(c.gpus, 64);
  hw::AllToAll p{.group = o.group > 0 ? o.group : whole,
                 .strided = o.strided,
                 .spread = o.spread,
                 .seed = o.seed};
  if (p.group < 2 || c.gpus % p.group != 0)
    throw InputError(fmt::format(
        "--group {}: expected a divisor of the cluster's {} GPUs, at least 2", p.group, c.gpus));
  constexpr double kMostFlows = 2e7;
  if (static_cast<double>(c.gpus) * (p.group - 1) > kMostFlows)
    throw InputError(fmt::format("--group {}: that makes {:.0f} flows, more than {:.0f}", p.group,
                                 static_cast<double>(c.gpus) * (p.group - 1), kMostFlows));
  const hw::Document text = hw::parse_json("--message", nlohmann::json(o.message).dump());
  p.message = Bytes(hw::read_quantity(hw::Value(text), hw::byte_units(), 1, 1e12));
  return p;
}

}  // namespace

int topology_command(const TopologyOptions& options, const CommonOptions& common) {
  const Scenario scenario = read_scenario(options.scenario);
  const hw::Cluster& c = scenario.cluster;
  if (!c.fabric.topology)
    throw InputError(options.scenario +
                     ": /cluster/fabric: expected the key \"topology\" (switches and cables), or a "
                     "fabric of the catalogue that has one");
  const hw::Topology t(c);
  const int nodes = t.count(VertexKind::NvSwitch);
  const auto half = nodes > 1 ? hw::bisection(t) : BytesPerSecond(0);
  const BytesPerSecond full = (t.gpus() / nodes * (nodes / 2)) * c.fabric.nic;
  const int radix = t.shape().radix;  // 0: not a network by rule
  const auto hops = hops_of(t);
  const bool file = t.shape().kind == TopologyShape::Kind::Platform;  // of links, not of switches
  const bool priced = !file && t.shape().switch_price > 0 && t.shape().cable_price > 0;
  const double cost = price(t.shape(), t.switches(), t.fabric_cables());
  const auto others = radix > 0 ? hw::largest_fabrics(radix, std::min(c.node.gpus, 8))
                                : std::vector<hw::FabricSize>{};
  if (!options.svg.empty())
    write_file(options.svg, hw::svg(t, fmt::format("{}: {} GPUs, {}", scenario.name,
                                                   grouped(t.gpus()), shape_text(t, c))));
  std::optional<hw::AllToAll> pattern;
  std::optional<hw::TrafficResult> traffic;
  if (options.all_to_all) {
    pattern = pattern_of(options, c);
    traffic = hw::run(*pattern, t, c);
  }

  if (common.json) {
    ordered_json out = {{"scenario", scenario.name},
                        {"topology", hw::to_json(t.shape())},
                        {"layers", t.layers()},
                        {"gpus", t.gpus()},
                        {"nodes", nodes}};
    out["switches"] = ordered_json::object();
    for (const Part& p : kSwitches)
      if (t.count(p.kind) > 0) out["switches"][p.name] = t.count(p.kind);
    out["cables_to_gpus"] = file ? ordered_json() : ordered_json(t.endpoint_cables());
    out["cables_between_switches"] = file ? ordered_json() : ordered_json(t.fabric_cables());
    out["bisection_bytes_per_s"] = half.si;
    out["bisection_share"] = full.si > 0 ? half / full : 0;
    out["hops"] = ordered_json::array();
    for (const Hops& h : hops) out["hops"].push_back({{"switches", h.switches}, {"gpus", h.gpus}});
    out["cost"] = priced ? ordered_json(cost) : ordered_json();
    out["currency"] = c.currency;
    out["largest_fabrics"] = ordered_json::array();
    for (const hw::FabricSize& f : others)
      out["largest_fabrics"].push_back(
          {{"name", f.name},
           {"gpus", f.endpoints},
           {"switches", f.switches},
           {"cables_between_switches", f.cables},
           {"cost", priced ? ordered_json(price(t.shape(), f)) : ordered_json()}});
    if (traffic) {
      ordered_json& j = out["all_to_all"];
      j = {{"group", pattern->group},
           {"strided", pattern->strided},
           {"message_bytes", pattern->message.si},
           {"spread", pattern->spread},
           {"seed", pattern->seed},
           {"flows", traffic->flows},
           {"end_s", traffic->end.si},
           {"endpoints_alone_s", traffic->endpoints.si},
           {"bytes_per_s_per_gpu", traffic->per_gpu.si}};
      j["layers"] = ordered_json::array();
      for (const hw::LayerUse& l : traffic->layers)
        j["layers"].push_back({{"name", l.layer}, {"mean_use", l.mean}, {"busiest_use", l.most}});
    }
    fmt::print("{}\n", out.dump(2));
    return kDone;
  }

  fmt::print("{}: {} GPUs in {} nodes\n{}\n\n", scenario.name, grouped(t.gpus()), grouped(nodes),
             shape_text(t, c));
  Table parts{.columns = {{"", Align::Left}, {"", Align::Right}}, .header = false};
  for (const Part& p : kSwitches)
    if (t.count(p.kind) > 0) parts.rows.push_back({p.name, grouped(t.count(p.kind))});
  if (!file) {
    parts.rows.push_back({"cables between switches", grouped(t.fabric_cables())});
    parts.rows.push_back({"cables to GPUs", grouped(t.endpoint_cables())});
  }
  if (priced)
    parts.rows.push_back({fmt::format("cost, {}", c.currency), grouped(cost)}),
        parts.rows.push_back({"  per GPU", grouped(cost / t.gpus())});
  if (nodes > 1)
    parts.rows.push_back(
        {"bisection, one way", fmt::format("{}, {} of what the GPUs' NICs could send",
                                           rate_text(half), percent(half / full))});
  for (const Hops& h : hops)
    parts.rows.push_back({h.switches == 0 ? std::string("GPUs that GPU 0 reaches over NVLink alone")
                                          : fmt::format("  over {} switch{}", h.switches,
                                                        h.switches > 1 ? "es" : ""),
                          grouped(h.gpus)});
  fmt::print("{}", text(parts));

  if (radix > 0) fmt::print("\nThe largest fabrics of {}-port switches, one NIC a GPU\n", radix);
  Table table{.columns = {{"", Align::Left}, {"GPUs"}, {"switches"}, {"cables between"}}};
  if (priced) table.columns.insert(table.columns.end(), {{"cost, M " + c.currency}, {"per GPU"}});
  for (const hw::FabricSize& f : others) {
    const double total = price(t.shape(), f);
    std::vector<std::string> row = {f.name, grouped(static_cast<double>(f.endpoints)),
                                    grouped(static_cast<double>(f.switches)),
                                    grouped(static_cast<double>(f.cables))};
    if (priced)
      row.insert(row.end(), {fmt::format("{:.1f}", total / 1e6),
                             grouped(total / static_cast<double>(f.endpoints))});
    table.rows.push_back(row);
  }
  if (radix > 0) fmt::print("{}", text(table));
  if (!priced && !file)
    fmt::print("{}",
               wrapped("No cost: the topology gives no \"switch_price\" and \"cable_price\"."));

  if (traffic) {
    fmt::print("\nAll-to-alls in groups of {} {} GPUs, messages of {}{}, {} flows\n",
               pattern->group, pattern->strided ? "strided" : "neighbouring",
               hw::quantity_text(pattern->message.si, hw::byte_units()),
               pattern->spread > 0 ? fmt::format(" +-{}", percent(pattern->spread)) : "",
               grouped(static_cast<double>(traffic->flows)));
    Table use{.columns = {{"", Align::Left}, {"mean use"}, {"busiest"}}};
    for (const hw::LayerUse& l : traffic->layers)
      use.rows.push_back({l.layer, percent(l.mean), percent(l.most)});
    fmt::print("  all ended after {}, {:.2f} times what the GPUs' own links need; {} a GPU\n{}",
               duration(traffic->end), traffic->end / traffic->endpoints,
               rate_text(traffic->per_gpu), text(use));
  }
  return kDone;
}

}  // namespace reckon::plan
