// How much less a step takes with a little more of each resource, the plan held; and with more
// memory, where other plans fit, the best of them.
//
// By perturbation: the plan is simulated again on the changed machine. A resource of whole numbers
// (SMs) is changed by one and the effect scaled.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "planner/search.h"
#include "planner/variant.h"

namespace reckon::plan {

struct Elasticity {
  const char* key;          // of JSON, e.g. "nic_bandwidth"
  const char* description;  // e.g. "NIC bandwidth"
  double less = 0;          // of the step, in parts of it, with 1 % more
  Seconds half, twice;      // the step with so much of it; 0: not asked
};

// Of NIC, its latency, NVLink, memory bandwidth, matrix rates, SMs for communication, launches;
// those that the cluster has. Nothing where tables of `reckon calibrate` stand in for the
// equations.
std::vector<Elasticity> elasticities(const Variant& v, const StepShape& step, int threads);

// A machine with `factor` as much of the resource `key`, as elasticities() changes it. REQUIRES:
// one of its keys; of SMs: a factor that makes a whole number of them.
Variant with_more(Variant v, const std::string& key, double factor);

// The fastest plan with some amount of memory on each GPU.
struct MemoryGain {
  Bytes more;  // than each GPU has
  Seconds step;
  Plan plan;
};

struct MemoryElasticity {
  double less = 0;                // of the best plan's step, with 1 % more memory
  std::vector<MemoryGain> gains;  // each faster than all before it; up to twice the memory
};

// `best`: the fastest plan's step with the memory that there is. Searches once.
MemoryElasticity memory_elasticity(const Scenario& s, const StepShape& step, Seconds best,
                                   const SearchOptions& options);

}  // namespace reckon::plan
