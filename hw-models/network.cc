// Communication: the bytes that cross NVLink and the NIC, over rate, plus latency.
#include <algorithm>

#include "hw-models/cost.h"

namespace reckon::hw {

namespace {

constexpr double kNvlinkEfficiency = 0.8, kNicEfficiency = 0.9;

BytesPerSecond nvlink(const Cluster& c) {
  return (c.node.nvlink.si > 0 ? c.node.nvlink : c.node.pcie) * kNvlinkEfficiency;
}
BytesPerSecond nic(const Cluster& c) {
  return c.fabric.nic * kNicEfficiency;
}

// Both links move their bytes at the same time.
Cost links(Bytes over_nvlink, Bytes over_nic, Seconds latency, const Cluster& c, const Stack& s) {
  const Seconds inside = over_nvlink / nvlink(c);
  const Seconds outside = over_nic.si > 0 ? over_nic / nic(c) : Seconds(0);
  const Seconds busy = std::max(inside, outside);
  const Seconds alone = (busy + latency) / s.comm_efficiency;
  return {.alone = alone,
          .sm_share = std::min(1.0, static_cast<double>(s.comm_sms) / c.gpu.sms),
          .hbm_share = std::min(1.0, 2 * (over_nvlink + over_nic) / alone / c.gpu.memory_rate),
          .nvlink_share = inside / alone,
          .nic_share = outside / alone};
}

}  // namespace

Cost network_cost(const sim::Collective& op, const Cluster& c, const Stack& s) {
  const double n = op.group.size, p = std::min(op.group.per_node, op.group.size);
  if (n <= 1) return {};
  const double nodes = n / p;
  const double rounds = op.kind == sim::CollectiveKind::AllReduce ? 2 : 1;
  const Seconds latency =
      rounds * ((p - 1) * c.node.nvlink_latency + (nodes - 1) * c.fabric.latency);
  if (op.kind == sim::CollectiveKind::AllToAll)
    return links(op.bytes * ((p - 1) / n), op.bytes * ((n - p) / n), latency, c, s);
  // A ring: every rank passes (n - 1) / n of the buffer; p rings leave a node over p NICs.
  const Bytes passed = rounds * ((n - 1) / n) * op.bytes;
  return links(p > 1 ? passed : Bytes(0), nodes > 1 ? passed / p : Bytes(0), latency, c, s);
}

Cost network_cost(const sim::TokenExchange& op, const Cluster& c, const Stack& s) {
  if (op.group.size <= 1) return {};
  const Bytes once = op.tokens * op.bytes_per_token;
  const double off_node = op.node_forwarding ? op.remote_nodes : op.off_node_ranks;
  return links(op.local_ranks * once, off_node * once, c.fabric.latency + c.node.nvlink_latency, c,
               s);
}

Cost network_cost(const sim::Transfer& op, const Cluster& c, const Stack& s) {
  const Bytes none(0);
  return links(op.inter_node ? none : op.bytes, op.inter_node ? op.bytes : none,
               op.inter_node ? c.fabric.latency : c.node.nvlink_latency, c, s);
}

Cost network_cost(const sim::Barrier& op, const Cluster& c, const Stack&) {
  if (op.group.size <= 1) return {};
  return {.alone = op.group.size > op.group.per_node ? c.fabric.latency : c.node.nvlink_latency};
}

}  // namespace reckon::hw
