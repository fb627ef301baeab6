// Max-min sharing by the textbook loop, and an event loop that shares everything anew at every
// event. Slow, obvious; the fast solver (sim/fluid.h) is held against it.
#pragma once

#include "sim/fluid.h"

namespace reckon::reference {

// Rate of each flow; `flows` are the links that each crosses.
std::vector<double> max_min_rates(const std::vector<double>& link_rates,
                                  const std::vector<std::vector<sim::LinkId>>& flows);

// sim::flow_ends by max_min_rates over all active flows at every start and end, in seconds as
// doubles.
std::vector<std::optional<double>> flow_ends(const std::vector<double>& link_rates,
                                             const std::vector<std::vector<sim::LinkId>>& routes,
                                             const std::vector<sim::FlowOf>& flows);

}  // namespace reckon::reference
