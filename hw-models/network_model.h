// The equations of the network model: fitted constants and a message in, time and occupied links
// out. Stacks and shares are network.cc's business; `reckon-fit` fits through these functions.
#pragma once

#include "hw-models/machine.h"
#include "hw-models/network_fit.h"
#include "sim/work.h"

namespace reckon::hw {

// INVARIANT: nvlink and nic <= alone. Bytes and seconds are of one rank and one direction.
struct NetworkTime {
  Seconds alone;
  Seconds nvlink, nic;  // that the link takes at its reachable rate
  Bytes traffic;        // of device memory
};

// The reachable rates of one GPU's links.
BytesPerSecond ring_rate_inside(const NetworkFit& fit, const Cluster& cluster, int members);
BytesPerSecond nic_rate(const NetworkFit& fit, const Cluster& cluster);

NetworkTime collective_time(const NetworkFit& fit, const sim::Collective& op,
                            const Cluster& cluster);

// `sms` of the exchange kernel. `beside_compute`: compute kernels run meanwhile, as in training.
// `release`: rate between nodes of the kernels' release, over that of the release fitted to.
struct ExchangeSetting {
  int sms = 20;
  bool beside_compute = true;
  double release = 1;
};
NetworkTime exchange_time(const NetworkFit& fit, const sim::TokenExchange& op,
                          const Cluster& cluster, ExchangeSetting setting);

NetworkTime transfer_time(const NetworkFit& fit, const sim::Transfer& op, const Cluster& cluster);
NetworkTime barrier_time(const NetworkFit& fit, const sim::Group& group, const Cluster& cluster);

}  // namespace reckon::hw
