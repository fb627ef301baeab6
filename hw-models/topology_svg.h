// A topology as a picture.
#pragma once

#include <string>

#include "hw-models/topology.h"

namespace reckon::hw {

// SVG text: nodes below, switches above them layer by layer (a dragonfly's routers in a ring), one
// line for all cables between two of them. Lines beyond 20,000 are left out, which the picture
// says.
std::string svg(const Topology& topology, const std::string& title);

}  // namespace reckon::hw
