// Hardware and software by name, from the embedded catalog/*.json: gpus, nodes, fabrics, clusters,
// stacks.
#pragma once

#include <string>

#include "hw-models/hardware_fields.h"

namespace reckon::hw {

// Errors: InputError that names the nearest entry.
const Gpu& gpu(const std::string& name);
const Node& node(const std::string& name);
const Fabric& fabric(const std::string& name);
const Cluster& cluster(const std::string& name);
const Stack& stack(const std::string& name);

}  // namespace reckon::hw
