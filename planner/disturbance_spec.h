// Disturbances as a scenario states them. Fields: disturbance_fields.h.
#pragma once

#include <optional>
#include <string>
#include <vector>

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

struct DisturbanceSpec {
  std::optional<JitterSpec> device, slot;
  std::optional<ExpertLoadSpec> expert_load;
  std::vector<SlowSpec> slow_gpus, slow_links;
};

}  // namespace reckon::plan
