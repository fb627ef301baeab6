// Costs of communication: network_model.cc's times, the stack's efficiency, and shares of what the
// op holds while it runs at its own speed.
#include <algorithm>

#include "hw-models/cost.h"
#include "hw-models/kernel_model.h"
#include "hw-models/network_model.h"

namespace reckon::hw {

namespace {

Cost as_cost(NetworkTime t, double sms, const Cluster& c, const Stack& s) {
  if (t.alone.si <= 0) return {.kernels = 0};
  const Seconds alone = t.alone / s.comm_efficiency;
  return {.alone = alone,
          .sm_share = std::clamp(sms / c.gpu.sms, 0.0, 1.0),
          .hbm_share = hbm_share(t.traffic.si, alone, c.gpu),
          .nvlink_share = std::min(1.0, t.nvlink / alone),
          .nic_share = std::min(1.0, t.nic / alone),
          .calibrated = inside_fit(network_fit(), c.gpu.architecture).calibrated};
}

// Point-to-point kernels of NCCL run on a few channels, one SM each.
constexpr double kTransferSms = 4;

}  // namespace

Cost network_cost(const sim::Collective& op, const Cluster& c, const Stack& s) {
  return as_cost(collective_time(network_fit(), op, c), s.comm_sms, c, s);
}

Cost network_cost(const sim::TokenExchange& op, const Cluster& c, const Stack& s) {
  const auto time = [&](bool beside_compute) {
    return exchange_time(
        network_fit(), op, c,
        {.sms = s.comm_sms, .beside_compute = beside_compute, .release = s.exchange_release});
  };
  const NetworkTime alone = time(false);
  Cost cost = as_cost(alone, s.comm_sms, c, s);
  if (alone.alone.si > 0) cost.beside_compute = alone.alone / time(true).alone;
  return cost;
}

Cost network_cost(const sim::Transfer& op, const Cluster& c, const Stack& s) {
  return as_cost(transfer_time(network_fit(), op, c), std::min<double>(kTransferSms, s.comm_sms), c,
                 s);
}

Cost network_cost(const sim::Barrier& op, const Cluster& c, const Stack& s) {
  return as_cost(barrier_time(network_fit(), op.group, c), 0, c, s);
}

}  // namespace reckon::hw
