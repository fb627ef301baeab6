#include "planner/flow.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <unordered_map>

#include "hw-models/cost.h"
#include "planner/placement.h"
#include "planner/stragglers.h"
#include "planner/variant.h"
#include "sim/check.h"
#include "sim/input_error.h"

namespace reckon::plan {

namespace {

// Of the equations, the solvers and the layout of answers: part of every question to the cache.
constexpr std::uint64_t kVersion = 1;
constexpr double kTolerance = 1e-3;  // of a flow's rate

struct WorkHash {
  std::size_t operator()(const sim::Work& work) const { return sim::hash(work); }
};

// A communication op of the program, and how often the mean rank runs it in a step.
struct Use {
  sim::Work work;
  std::set<std::string> labels;
  double runs = 0;
};

bool communicates(const sim::Work& w) {
  return std::holds_alternative<sim::Collective>(w) ||
         std::holds_alternative<sim::TokenExchange>(w) || std::holds_alternative<sim::Transfer>(w);
}

// In the order of the program.
std::vector<Use> uses_of(const sim::Program& program) {
  std::vector<Use> out;
  std::unordered_map<sim::Work, std::size_t, WorkHash> index;  // looked up, never iterated
  const auto add = [&](const sim::Work& work, const char* label, double runs) {
    if (!communicates(work) || runs <= 0) return;
    const auto [it, added] = index.emplace(work, out.size());
    if (added) out.push_back({.work = work});
    out[it->second].labels.insert(label);
    out[it->second].runs += runs;
  };
  double ranks = 0;
  std::vector<double> calls(program.blocks.size(), 0), sent(program.works.size(), 0);
  for (const sim::Role& role : program.roles) {
    const double n = role.ranks;
    ranks += n;
    for (const sim::Slot& slot : role.slots) calls[slot.block] += n;
    calls[role.tail] += n;
    for (const sim::Message& m : role.messages) sent[m.work] += n;
  }
  for (std::size_t b = 0; b < calls.size(); ++b)
    for (const sim::Op& op : program.blocks[b]->ops)
      add(program.blocks[b]->works[op.work], op.label, calls[b] / ranks);
  for (std::size_t w = 0; w < sent.size(); ++w)
    add(program.works[w], "pipeline messages", sent[w] / ranks);
  for (const sim::Role& role : program.roles)
    for (const sim::Sync& sync : role.syncs)
      add(program.works[sync.work], sync.label,
          static_cast<double>(role.ranks) * sync.buckets / ranks);
  return out;
}

// One way to lay an op's groups out on the cluster.
struct Layout {
  std::string name;
  std::vector<std::vector<int>> groups;  // ranks, then GPUs
};

// Of a collective or an exchange.
sim::Group op_group(const sim::Work& work) {
  const auto* collective = std::get_if<sim::Collective>(&work);
  return collective != nullptr ? collective->group : std::get<sim::TokenExchange>(work).group;
}

std::vector<Layout> layouts_of(const sim::Work& work, const Plan& plan, const hw::Cluster& c) {
  if (std::holds_alternative<sim::Transfer>(work))
    return {{"outputs", stage_pairs(plan, true)}, {"gradients", stage_pairs(plan, false)}};
  const sim::Group group = op_group(work);
  std::vector<Layout> out;
  for (const GroupKind& k : kinds_of(group, plan, c)) out.push_back({k.name, groups_of(k, plan)});
  if (out.empty() && group.size == world_size(plan)) out.push_back({"all", all_ranks(plan)});
  if (out.empty() && group.size == 2) out.push_back({"ends", end_pairs(plan)});
  return out;
}

std::vector<hw::DeadCables> dead_cables(const Scenario& s) {
  std::vector<hw::DeadCables> out;
  if (s.disturbances)
    for (const DeadLinkSpec& d : s.disturbances->dead_links) out.push_back({d.from, d.to, d.count});
  return out;
}

std::vector<int> node_order(const hw::Cluster& c, const FlowSetting& setting) {
  std::vector<int> nodes(static_cast<std::size_t>(std::max(1, c.gpus / c.node.gpus)));
  std::iota(nodes.begin(), nodes.end(), 0);
  if (setting.order == NodeOrder::InOrder) return nodes;
  // Fisher and Yates; std::shuffle differs between libraries.
  std::mt19937_64 random(setting.seed);
  for (std::size_t i = nodes.size(); i > 1; --i) std::swap(nodes[i - 1], nodes[random() % i]);
  return nodes;
}

template <class T>
void append(std::string& out, const std::vector<T>& values) {
  const std::uint64_t count = values.size();
  out.append(reinterpret_cast<const char*>(&count), sizeof count);
  out.append(reinterpret_cast<const char*>(values.data()), count * sizeof(T));
}

// Solves batches of flows, or remembers what they gave.
class Solver {
 public:
  explicit Solver(const FlowSetting& setting) : simgrid_(setting.simgrid), cache_(setting.cache) {}

  hw::Both<double> slow_down(const hw::PhaseFlows& flows) {
    const sim::HostFlows& b = flows.batch;
    if (b.flows.empty()) return {1, 1};
    std::vector<std::uint64_t> head = {kVersion, simgrid_ ? 1u : 0u, flows.network_flows};
    std::vector<double> numbers = {flows.ideal.network.si * flows.scale,
                                   flows.ideal.inside.si * flows.scale, kTolerance};
    for (const auto rate : b.link_rates) numbers.push_back(rate.si);
    for (const auto& f : b.flows) numbers.push_back(f.bytes.si);
    std::vector<std::uint32_t> ways;
    for (const auto& r : b.routes) {
      ways.insert(ways.end(), {r.from, r.to, static_cast<std::uint32_t>(r.links.size())});
      ways.insert(ways.end(), r.links.begin(), r.links.end());
    }
    std::string question;
    append(question, head);
    append(question, numbers);
    append(question, ways);
    const DiskCache::Key key = DiskCache::key_of(question);
    double found[2] = {};
    if (const auto it = known_.find({key.high, key.low}); it != known_.end()) return it->second;
    hw::Both<double> answer;
    if (const auto entry = cache_.read(key); entry && entry->size() == sizeof found) {
      std::copy(entry->begin(), entry->end(), reinterpret_cast<char*>(found));
      answer = {found[0], found[1]};
      ++cached;
    } else {
      answer = hw::slow_down(flows, ends(b));
      ++solved;
      const double both[2] = {answer.network, answer.inside};
      std::string why;
      if (!cache_.write(key, {reinterpret_cast<const char*>(both), sizeof both}, &why))
        failure = why;
    }
    known_[{key.high, key.low}] = answer;
    return answer;
  }

  std::size_t solved = 0, cached = 0;
  std::string failure;

 private:
  std::vector<sim::SimTime> ends(const sim::HostFlows& b) const {
#ifdef RECKON_SIMGRID
    if (simgrid_) {
      std::set<std::pair<std::uint32_t, std::uint32_t>> pairs;
      for (const auto& r : b.routes)
        if (!pairs.emplace(r.from, r.to).second)
          throw InputError(
              fmt::format("--solver simgrid: SimGrid takes one way between two hosts, and the "
                          "messages from GPU {} to GPU {} have several",
                          r.from, r.to));
      sim::SimGridRun run = sim::simgrid_flow_ends(b);
      if (run.ends.empty()) throw InputError("SimGrid failed (above); --solver fluid needs it not");
      return run.ends;
    }
#endif
    std::vector<std::vector<sim::LinkId>> routes;
    routes.reserve(b.routes.size());
    for (const auto& r : b.routes) routes.push_back(r.links);
    std::vector<sim::SimTime> out;
    // As `reckon topology`: rates to a part in a thousand save most of the work.
    for (const auto& end : sim::flow_ends(b.link_rates, routes, b.flows, kTolerance))
      out.push_back(end.value());
    return out;
  }

  bool simgrid_;
  DiskCache cache_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, hw::Both<double>> known_;
};

std::string listed(const std::set<std::string>& labels) {
  constexpr std::size_t kMost = 3;
  std::string out;
  std::size_t n = 0;
  for (const std::string& l : labels) {
    if (++n > kMost) return out + fmt::format(" and {} more", labels.size() - kMost);
    out += (n > 1 ? ", " : "") + l;
  }
  return out;
}

// As Predictor::step, with other costs.
Seconds step_with(const sim::Program& program, const Variant& v, const sim::CostOf& cost) {
  const hw::Stack& stack = v.stack;
  sim::BlockTimes times(cost, stack.cuda_graphs ? Seconds(0) : stack.host_per_kernel);
  const Seconds end = sim::seconds(sim::run_folded(program, times).end);
  return end +
         (stack.host_per_step + straggler_wait(stack.name, v.plan, end + stack.host_per_step));
}

// How often all groups of a layout do what the mean of all ranks does once: some ranks may be in
// none of them. A message has one rank that runs it, its receiver.
double rounds(const Layout& layout, const sim::Work& work, const Plan& plan) {
  const std::size_t each =
      std::holds_alternative<sim::Transfer>(work) ? 1 : layout.groups.front().size();
  return world_size(plan) / static_cast<double>(layout.groups.size() * each);
}

void sum_up(FlowAnswer& a, const hw::Topology& t, const std::vector<double>& carried) {
  struct Sum {
    double bytes = 0, use = 0, most = 0, links = 0;
  };
  std::map<std::string, Sum> layers;
  for (sim::LinkId l = 0; l < carried.size(); ++l) {
    if (carried[l] <= 0) continue;
    Sum& sum = layers[t.layer(l)];
    const double use = Bytes(carried[l]) / t.link_rates()[l] / a.step;
    sum.bytes += carried[l];
    sum.use += use;
    sum.most = std::max(sum.most, use);
    sum.links += 1;
  }
  for (const auto& [name, sum] : layers)
    a.layers.push_back({name, Bytes(sum.bytes), sum.use / sum.links, sum.most});
}

}  // namespace

bool simgrid_available() {
#ifdef RECKON_SIMGRID
  return true;
#else
  return false;
#endif
}

std::variant<FlowAnswer, Unreachable> flow_answer(const Scenario& scenario, const Plan& plan,
                                                  const StepShape& step,
                                                  const FlowSetting& setting) {
  const hw::Cluster& c = scenario.cluster;
  const hw::Topology topology(c, dead_cables(scenario));
  const std::vector<int> order = node_order(c, setting);
  const auto gpu_of = [&](int rank) {
    const int per_node = std::min(c.node.gpus, c.gpus);
    return order[static_cast<std::size_t>(rank / per_node)] * per_node + rank % per_node;
  };
  const hw::Cluster unshared = hw::slowed(c, {1, 1});  // nothing above the NICs slows anything down

  const Variant v = variant(scenario, plan);  // the stack with the plan's SMs for communication
  const hw::Stack& stack = v.stack;
  Predictor folded(scenario.model, c, stack);
  const Predictor::Run run = folded.run(plan, step);
  FlowAnswer a{.folded = run.prediction.step,
               .ideal = step_with(run.program, v,
                                  [&](const sim::Work& w) { return hw::cost(w, unshared, stack); }),
               .solver = setting.simgrid ? "SimGrid" : "fluid"};
  Solver solver(setting);
  std::unordered_map<sim::Work, sim::OpCost, WorkHash> costs;  // looked up, never iterated
  std::vector<double> carried(topology.link_rates().size(), 0);
  const std::vector<Use> uses = uses_of(run.program);
  for (std::size_t u = 0; u < uses.size(); ++u) {
    const Use& use = uses[u];
    if (setting.progress)
      setting.progress(static_cast<double>(u) / static_cast<double>(uses.size()));
    std::vector<Layout> layouts = layouts_of(use.work, plan, c);
    FlowPhase phase{.labels = listed(use.labels), .work = use.work, .runs = use.runs};
    hw::Both<double> worst{0, 0};
    Seconds latency;
    for (Layout& layout : layouts) {
      for (auto& group : layout.groups)
        for (int& member : group) member = gpu_of(member);
      const hw::PhaseFlows flows = hw::phase_flows(
          hw::phase_messages(use.work, layout.groups, topology), topology, c, setting.seed);
      if (flows.cut) return Unreachable{flows.cut->first, flows.cut->second, phase.labels};
      const hw::Both<double> slow = solver.slow_down(flows);
      for (std::size_t l = 0; l < carried.size(); ++l)
        carried[l] += use.runs * rounds(layout, use.work, plan) /
                      static_cast<double>(layouts.size()) * flows.link_bytes[l].si;
      if (std::max(slow.network, slow.inside) <= std::max(worst.network, worst.inside)) continue;
      worst = slow;
      latency = flows.latency;
      phase.groups = fmt::format("{} of {}, {}", layout.groups.size(), layout.groups.front().size(),
                                 layout.name);
      phase.sent = flows.sent;
      phase.bottleneck = flows.bottleneck;
      phase.flows = flows.batch.flows.size();
    }
    if (layouts.empty() && op_group(use.work).size > 1) a.unplaced.push_back(phase.labels);
    if (layouts.empty() || phase.flows == 0) continue;
    phase.slow_down = worst;
    const sim::OpCost cost = hw::cost(use.work, hw::slowed(c, worst, latency), stack);
    phase.ideal = hw::cost(use.work, hw::slowed(c, {1, 1}, latency), stack).alone;
    phase.flow = cost.alone;
    costs.emplace(use.work, cost);
    a.phases.push_back(std::move(phase));
  }
  if (setting.progress) setting.progress(1);
  if (scenario.disturbances && !scenario.disturbances->dead_links.empty()) {
    Scenario intact = scenario;
    intact.disturbances->dead_links.clear();
    const auto other = flow_answer(intact, plan, step, setting);
    if (const auto* whole = std::get_if<FlowAnswer>(&other)) a.intact = whole->step;
  }
  std::stable_sort(a.phases.begin(), a.phases.end(), [](const FlowPhase& x, const FlowPhase& y) {
    return x.runs * x.flow > y.runs * y.flow;
  });

  a.step = step_with(run.program, v, [&](const sim::Work& w) {
    const auto it = costs.find(w);
    return it != costs.end() ? it->second : hw::cost(w, unshared, stack);
  });
  a.solved = solver.solved;
  a.cached = solver.cached;
  a.cache_failure = solver.failure;
  sum_up(a, topology, carried);
  return a;
}

}  // namespace reckon::plan
