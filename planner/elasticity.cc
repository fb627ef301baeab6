#include "planner/elasticity.h"

#include <algorithm>
#include <cmath>

#include "planner/parallel.h"
#include "planner/report.h"
#include "sim/check.h"

namespace reckon::plan {

namespace {

struct Resource {
  const char *key, *description;
  bool (*exists)(const Variant&);
  void (*scale)(Variant&, double factor);
  bool whole = false;  // comes in whole numbers
};

bool any(const Variant&) {
  return true;
}
bool between_nodes(const Variant& v) {
  return v.cluster.gpus > v.cluster.node.gpus;
}

const Resource kResources[] = {
    {"nic_bandwidth", "NIC bandwidth", between_nodes,
     [](Variant& v, double f) { v.cluster.fabric.nic *= f; }},
    {"network_latency", "speed of the network's latency", between_nodes,
     [](Variant& v, double f) { v.cluster.fabric.latency /= f; }},
    {"nvlink_bandwidth", "NVLink bandwidth",
     [](const Variant& v) { return v.cluster.node.nvlink.si > 0; },
     [](Variant& v, double f) { v.cluster.node.nvlink *= f; }},
    {"pcie_bandwidth", "PCIe bandwidth",
     [](const Variant& v) { return v.cluster.node.nvlink.si == 0; },
     [](Variant& v, double f) { v.cluster.node.pcie *= f; }},
    {"memory_bandwidth", "memory (HBM) bandwidth", any,
     [](Variant& v, double f) { v.cluster.gpu.memory_rate *= f; }},
    {"flops", "matrix FLOPS", any,
     [](Variant& v, double f) {
       hw::Gpu& g = v.cluster.gpu;
       for (FlopsPerSecond* rate :
            {&g.peak_fp32, &g.peak_tf32, &g.peak_bf16, &g.peak_fp8, &g.peak_fp4})
         *rate *= f;
     }},
    {"communication_sms", "SMs for communication",
     [](const Variant& v) {
       return v.stack.comm_sms > 1 && v.cluster.gpu.architecture != "cpu" &&
              v.stack.comm_sms + 1 < v.cluster.gpu.sms;
     },
     [](Variant& v, double f) {
       v.stack.comm_sms = static_cast<int>(std::lround(f * v.stack.comm_sms));
     },
     true},
    // Of the host's launches, the gaps that they leave on the device, and its work between steps.
    {"launch_speed", "speed of launches and host", any,
     [](Variant& v, double f) {
       v.stack.host_per_kernel /= f;
       v.stack.kernel_gap /= f;
       v.stack.host_per_step /= f;
     }},
};

}  // namespace

Variant with_more(Variant v, const std::string& key, double factor) {
  for (const Resource& r : kResources)
    if (key == r.key) {
      r.scale(v, factor);
      return v;
    }
  check(false, "a resource has one of the keys");
  return v;
}

std::vector<Elasticity> elasticities(const Variant& v, const StepShape& step, int threads) {
  if (v.cluster.measured) return {};
  std::vector<const Resource*> resources;
  for (const Resource& r : kResources)
    if (r.exists(v)) resources.push_back(&r);
  const Seconds now = step_of(v, step);
  std::vector<Elasticity> out(resources.size());
  for_each_index(resources.size(), threads, [&](std::size_t i) {
    const Resource& r = *resources[i];
    const auto at = [&](double factor) { return step_of(with_more(v, r.key, factor), step); };
    // One SM more, scaled to a hundredth of them.
    const double more = r.whole ? 1.0 / v.stack.comm_sms : 0.01;
    out[i] = {
        .key = r.key, .description = r.description, .less = (1 - at(1 + more) / now) * 0.01 / more};
    if (r.whole && (v.stack.comm_sms % 2 != 0 || 2 * v.stack.comm_sms >= v.cluster.gpu.sms)) return;
    out[i].half = at(0.5);
    out[i].twice = at(2);
  });
  return out;
}

MemoryElasticity memory_elasticity(const Scenario& s, const StepShape& step, Seconds best,
                                   const SearchOptions& options) {
  // Everything between the memory that there is and twice as much is on one front.
  Scenario larger = s;
  larger.cluster.gpu.memory *= 2;
  SearchOptions front = options;
  front.keep = 1;
  front.front_within = 2;
  const SearchResult found = search(larger, step, front);
  MemoryElasticity e;
  // Fastest first, so smallest last.
  for (auto it = found.pareto.rbegin(); it != found.pareto.rend(); ++it) {
    const Bytes more = it->prediction.memory.peak - memory_limit(s);
    const Seconds time = it->prediction.step;
    if (more.si <= 0 || !(time < (e.gains.empty() ? best : e.gains.back().step))) continue;
    if (more <= 0.01 * s.cluster.gpu.memory) e.less = 1 - time / best;
    e.gains.push_back({.more = more, .step = time, .plan = it->plan});
  }
  return e;
}

}  // namespace reckon::plan
