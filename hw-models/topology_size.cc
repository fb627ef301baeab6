// What a topology is worth: its bisection, and the sizes of others to compare with.
#include <algorithm>
#include <boost/graph/adjacency_list.hpp>
#include <boost/graph/boykov_kolmogorov_max_flow.hpp>

#include "hw-models/topology.h"
#include "sim/check.h"

namespace reckon::hw {

namespace {

using Traits = boost::adjacency_list_traits<boost::vecS, boost::vecS, boost::directedS>;
struct VertexState {
  boost::default_color_type color{};
  double distance = 0;
  Traits::edge_descriptor predecessor{};
};
struct EdgeState {
  double capacity = 0, residual = 0;
  Traits::edge_descriptor reverse{};
};
using Graph =
    boost::adjacency_list<boost::vecS, boost::vecS, boost::directedS, VertexState, EdgeState>;

// An edge each way; the algorithm wants both.
void connect(Graph& graph, std::size_t from, std::size_t to, double capacity, double back) {
  const auto there = boost::add_edge(from, to, graph).first;
  const auto here = boost::add_edge(to, from, graph).first;
  graph[there] = {.capacity = capacity, .reverse = here};
  graph[here] = {.capacity = back, .reverse = there};
}

}  // namespace

namespace {

// Where a file says the ways: the rate at which every GPU of the first half can send to those of
// the second in turn, all at once.
BytesPerSecond bisection_by_ways(const Topology& t) {
  constexpr int kMostTurns = 64;
  const int nodes = t.count(VertexKind::NvSwitch), half = t.gpus() / nodes * (nodes / 2);
  std::vector<double> load(t.link_rates().size(), 0);
  double messages = 0;
  for (int turn = 0; turn < std::min(half, kMostTurns); ++turn)
    for (int from = 0; from < half; ++from) {
      for (sim::LinkId l : t.route(from, half + (from + turn) % half)) load[l] += 1;
      messages += 1;
    }
  double longest = 0;
  for (std::size_t l = 0; l < load.size(); ++l)
    if (load[l] > 0) longest = std::max(longest, load[l] / t.link_rates()[l].si);
  return BytesPerSecond(messages / longest);
}

}  // namespace

BytesPerSecond bisection(const Topology& t) {
  if (t.shape().kind == TopologyShape::Kind::Platform) return bisection_by_ways(t);
  const auto& vertices = t.vertices();
  const int nodes = t.count(VertexKind::NvSwitch);
  check(nodes >= 2, "a bisection has two halves");
  // Switches alone, and a source and a sink in place of the GPUs of the two halves. Parallel cables
  // are one edge.
  const std::size_t source = vertices.size(), sink = source + 1;
  const int half = t.gpus() / nodes * (nodes / 2);
  std::map<std::pair<std::size_t, std::size_t>, double> merged;
  for (const Cable& c : t.cables()) {
    if (vertices[c.to] == VertexKind::NvSwitch) continue;
    if (vertices[c.from] != VertexKind::Gpu)
      merged[{c.from, c.to}] += c.rate.si;
    else
      merged[{static_cast<int>(c.from) < half ? source : sink, c.to}] += c.rate.si;
  }
  Graph graph(vertices.size() + 2);
  for (const auto& [ends, rate] : merged) connect(graph, ends.first, ends.second, rate, rate);
  const double flow = boost::boykov_kolmogorov_max_flow(
      graph, boost::get(&EdgeState::capacity, graph), boost::get(&EdgeState::residual, graph),
      boost::get(&EdgeState::reverse, graph), boost::get(&VertexState::predecessor, graph),
      boost::get(&VertexState::color, graph), boost::get(&VertexState::distance, graph),
      boost::get(boost::vertex_index, graph), source, sink);
  return BytesPerSecond(flow);
}

// Fat-trees: k ports, half down and half up; every layer below the top has as many cables up as
// there are GPUs. Slim fly (Besta and Hoefler, SC 2014, section II): 2 q^2 switches of (3 q - d) /
// 2 cables each, q = 4 w + d with d in {-1, 0, 1}, and half as many GPUs on each; the largest q
// that the ports allow, a prime power or not, as in the published table (its q is 28). Dragonfly:
// as in topology.cc; the published one of 64 ports leaves two of its 513 groups out.
std::vector<FabricSize> largest_fabrics(int radix, int planes) {
  const std::int64_t k = radix, half = k / 2;
  const std::int64_t two = k * half, three = k * half * half;
  std::vector<FabricSize> out = {
      {"2-layer fat-tree", two, k + half, two},
      {"multi-plane fat-tree", planes * two, planes * (k + half), planes * two},
      {"3-layer fat-tree", three, 5 * half * half, 2 * three}};
  for (std::int64_t q = k; q >= 3; --q) {
    const std::int64_t d = q % 4 == 3 ? -1 : q % 4;
    const std::int64_t degree = (3 * q - d) / 2, gpus = (degree + 1) / 2;
    if (d == 2 || degree + gpus > k) continue;
    out.push_back({"slim fly", 2 * q * q * gpus, 2 * q * q, q * q * degree});
    break;
  }
  const std::int64_t p = (k + 1) / 4, a = 2 * p, h = p, groups = a * h + 1;
  out.push_back(
      {"dragonfly", groups * a * p, groups * a, groups * a * (a - 1) / 2 + groups * a * h / 2});
  return out;
}

}  // namespace reckon::hw
