// Disturbances as a scenario states them. Fields: disturbance_fields.h.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sim/units.h"

namespace reckon::plan {

struct JitterSpec {
  double spread = 0;              // standard deviation, relative
  std::vector<double> quantiles;  // instead: factors on times, least to largest
};

struct ExpertLoadSpec {
  enum class Kind { Dirichlet, Zipf, File } kind = Kind::Dirichlet;
  double spread = 0;    // of Dirichlet
  double exponent = 0;  // of Zipf
  std::string file;     // of File
  bool per_micro_batch = true;
};

struct SlowSpec {
  std::vector<int> gpus;
  double speed = 1;
};

// Cables of the fabric's topology that are dead: `count` of those between two ends, as
// hw::DeadCables names them.
struct DeadLinkSpec {
  std::string from, to;
  int count = 0;  // 0: all
};

// NICs that go down, or slow, and come back.
struct FlapSpec {
  std::vector<int> gpus;
  Seconds start, duration, every;  // every: from the start of one to the next
  int times = 1;
  double speed = 0;
};

struct DisturbanceSpec {
  std::optional<JitterSpec> device, slot;
  std::optional<ExpertLoadSpec> expert_load;
  std::vector<SlowSpec> slow_gpus, slow_links;
  std::vector<DeadLinkSpec> dead_links;  // `simulate --fidelity flow`
  std::vector<FlapSpec> flaps;
};

}  // namespace reckon::plan
