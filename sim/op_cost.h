// What one op costs when it runs alone, and which shared resources it holds meanwhile. The models
// fill it, engines read it.
#pragma once

#include <functional>

#include "sim/units.h"
#include "sim/work.h"

namespace reckon::sim {

// INVARIANT: each *_share is in [0, 1]: the part of that resource in use while the op runs at its
// own speed.
struct OpCost {
  Seconds alone;  // start to end with the device to itself, launch latency and the gap after it
                  // included
  double sm_share = 0;   // of the SMs; communication keeps what it holds, compute shares the rest
  double hbm_share = 0;  // of the memory bandwidth that streaming kernels reach
  double nvlink_share = 0;
  double nic_share = 0;
  double beside_compute =
      1;  // speed of a communication op while compute kernels run, relative to alone
  // Ranks whose ops take a little more or less time, each by its own luck, drift apart as a random
  // walk does: seconds that a collective waits for the others, per root of the seconds since they
  // last met.
  double drift = 0;
  int kernels = 1;  // launches, for the host's side of the bill
  bool calibrated =
      true;  // false: no measurement of this device, dtype or op stands behind `alone`
};

using CostOf = std::function<OpCost(const Work&)>;

}  // namespace reckon::sim
