// What `reckon codesign` varies, as a scenario states it: the model's own shape and the machines.
// Fields: codesign_fields.h; what follows: codesign.h.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "hw-models/machine.h"

namespace reckon::plan {

// Values to try for each part of the model; empty: as the scenario's model has it.
struct ShapeSpace {
  std::vector<int> layers, hidden, heads, kv_heads, ffn;  // ffn: of dense layers
  std::vector<int> experts, top_k, expert_ffn, shared_ffn, groups, limited_groups;
  std::vector<int> mtp_depth;
};

// Of the cluster.
struct HardwareSpace {
  std::vector<int> gpus;
  std::vector<std::string> gpu;  // names of the catalogue
  std::vector<BytesPerSecond> nic, nvlink;
};

// A number of parameters that shapes must have.
struct ParameterTarget {
  double parameters = 0;
  double within = 0.02;  // parts of it, either way
};

enum class ShapeDimension {
  Layers,
  Hidden,
  Heads,
  KvHeads,
  Ffn,
  Experts,
  TopK,
  ExpertFfn,
  SharedFfn,
  Groups,
  LimitedGroups,
  MtpDepth
};

struct CodesignSpec {
  ShapeSpace shape;
  HardwareSpace hardware;
  std::optional<ParameterTarget> total, activated;
  // Of shapes that differ in this dimension alone, the one nearest to the targets is kept.
  std::optional<ShapeDimension> nearest;
};

}  // namespace reckon::plan
