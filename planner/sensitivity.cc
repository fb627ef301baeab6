#include "planner/sensitivity.h"

#include <algorithm>

namespace reckon::plan {
namespace {

struct Machine {
  hw::Cluster cluster;
  hw::Stack stack;
};

struct Resource {
  const char* key;
  const char* description;
  bool (*has)(const Machine&);
  void (*scale)(Machine&, double factor);
};

constexpr Resource kResources[] = {
    {"nic_bandwidth", "NIC bandwidth", [](const Machine& m) { return m.cluster.fabric.nic.si > 0; },
     [](Machine& m, double f) { m.cluster.fabric.nic *= f; }},
    {"network_latency", "network speed-up (shorter latency)",
     [](const Machine& m) { return m.cluster.fabric.latency.si > 0; },
     [](Machine& m, double f) { m.cluster.fabric.latency *= 1 / f; }},
    {"nvlink_bandwidth", "NVLink bandwidth",
     [](const Machine& m) { return m.cluster.node.nvlink.si > 0; },
     [](Machine& m, double f) { m.cluster.node.nvlink *= f; }},
    {"memory_bandwidth", "memory bandwidth", [](const Machine&) { return true; },
     [](Machine& m, double f) { m.cluster.gpu.memory_rate *= f; }},
    {"matrix_rate", "matrix rate", [](const Machine&) { return true; },
     [](Machine& m, double f) {
       hw::Gpu& g = m.cluster.gpu;
       for (FlopsPerSecond* p :
            {&g.peak_fp32, &g.peak_tf32, &g.peak_bf16, &g.peak_fp8, &g.peak_fp4})
         *p *= f;
     }},
    {"launch_rate", "kernel launches per second",
     [](const Machine& m) { return !m.stack.cuda_graphs && m.stack.host_per_kernel.si > 0; },
     [](Machine& m, double f) { m.stack.host_per_kernel *= 1 / f; }},
};

}  // namespace

std::vector<Sensitivity> sensitivities(const Scenario& s, const Plan& plan, const StepShape& step) {
  std::vector<Sensitivity> out;
  if (s.cluster.measured) return out;
  const Machine machine{s.cluster, s.stack};
  const auto time = [&](const Resource& r, double factor) {
    Machine changed = machine;
    r.scale(changed, factor);
    return Predictor(s.model, changed.cluster, changed.stack).step(plan, step);
  };
  const Seconds now = Predictor(s.model, s.cluster, s.stack).step(plan, step);
  for (const Resource& r : kResources)
    if (r.has(machine))
      out.push_back({.key = r.key,
                     .description = r.description,
                     .less = 1 - time(r, 1.01) / now,
                     .half = time(r, 0.5),
                     .twice = time(r, 2)});
  std::stable_sort(out.begin(), out.end(),
                   [](const Sensitivity& a, const Sensitivity& b) { return a.less > b.less; });
  return out;
}

}  // namespace reckon::plan
