// `flow` fidelity: every communication op of a plan as flows on the cluster's topology. What the
// flows lose against links of their own slows the op down, and the folded engine runs the step
// again with those ops.
//
// Not modelled, beyond hw-models/phase.h: that an op is slower for some groups than for others. It
// takes everywhere as long as where it is slowest, as in a step whose ranks wait for each other.
#pragma once

#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "hw-models/phase.h"
#include "planner/disk_cache.h"
#include "planner/predict.h"
#include "planner/report.h"

namespace reckon::plan {

// Where the ranks of a plan lie.
enum class NodeOrder {
  InOrder,   // rank by rank, node by node
  Scattered  // node by node, in a random order of the nodes: what a busy cluster's scheduler gives
};

struct FlowSetting {
  bool simgrid = false;  // instead of our own solver. REQUIRES: simgrid_available()
  NodeOrder order = NodeOrder::InOrder;
  std::uint64_t seed = 1;                // of the order, and of ECMP's hash
  std::string cache;                     // folder of results; empty: none
  std::function<void(double)> progress;  // called with the part done, 0 to 1; may be empty
};

// An op, run by all its groups at once.
struct FlowPhase {
  std::string labels;  // of the ops that do this
  sim::Work work;
  std::string groups;   // "128 of 16 (ep)"
  double runs = 0;      // in a step, by the mean rank
  Seconds ideal, flow;  // start to end on links of its own, and on the topology's
  hw::Both<Bytes> sent;
  hw::Both<double> slow_down;
  std::string bottleneck;
  std::size_t flows = 0;
};

struct FlowAnswer {
  Seconds intact;                 // the step if no link were dead; 0: none is
  Seconds folded, ideal, step;    // folded's step; with no contention above the NICs; with flows
  std::vector<FlowPhase> phases;  // those that cost most of a step first
  struct Layer {                  // over the step
    std::string name;
    Bytes carried;              // by all its links
    double mean = 0, most = 0;  // use of its links, of the busiest one
  };
  std::vector<Layer> layers;
  std::vector<std::string> unplaced;   // ops whose groups' places are not known: left as they are
  std::size_t solved = 0, cached = 0;  // problems
  std::string solver, cache_failure;   // empty: none
};

struct Unreachable {  // some GPUs of a group can't reach each other over the links that are left
  int from = 0, to = 0;
  std::string op;
};

bool simgrid_available();
constexpr int kMostSimGridHosts = 256;  // beyond, SimGrid takes minutes a phase

// REQUIRES: the cluster has a topology; the plan is legal.
std::variant<FlowAnswer, Unreachable> flow_answer(const Scenario& s, const Plan& plan,
                                                  const StepShape& step,
                                                  const FlowSetting& setting);

ordered_json to_json(const FlowAnswer& a);
std::string to_text(const FlowAnswer& a);

}  // namespace reckon::plan
