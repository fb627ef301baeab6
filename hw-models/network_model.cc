// Collectives as NCCL runs them. With n ranks on m nodes of p = n / m members, buffer S:
//
//   pass  = r (n-1)/n S      bytes that each rank sends on a ring; r = 2 rounds for an all-reduce
//   rate  = min(ring_fraction NVLink, p nic_fraction NIC)
//           p rings leave a node over p NICs, each with a p-th of the buffer, so a group with one
//           member per node has one NIC and a group of whole nodes has them all
//   time  = base + hops + (pass + own_copy S / n) / rate + sqrt(ramp busy)
//
// The square root is the cost of filling a pipeline whose chunk size is chosen best: steps x chunk
// + total/chunk x overhead is least at 2 sqrt(...); it makes the bandwidth rise smoothly with size,
// as NCCL's change from LL over LL128 to Simple does. An all-reduce takes the fastest of ring, tree
// (rings' hops between nodes become log2 m) and, inside a node whose switch can add, NVLS.
// An all-to-all sends (p-1)/n S over NVLink and, at the same time, (n-p)/n S over the GPU's own
// NIC.
//
// Not modelled: NVLS and SHARP between nodes, CollNet, PXN, congestion between groups (the engines
// share NICs among the ops of one GPU), the layers above the leaf for rings (each ring crosses a
// leaf's uplinks a few times in all).
#include "hw-models/network_model.h"

#include <algorithm>
#include <cmath>

namespace reckon::hw {

namespace {

// Leaf switches of 64 ports in a non-blocking tree connect 32 nodes per rail; all-to-all traffic
// between more nodes climbs above the leaf, where the fabric may be oversubscribed.
constexpr double kLeafNodes = 32;

struct Layout {
  double ranks, per_node, nodes;
};

Layout layout(const sim::Group& g) {
  const int p = std::clamp(g.per_node, 1, std::max(1, g.size));
  const double nodes = std::ceil(static_cast<double>(g.size) / p);
  return {static_cast<double>(g.size), static_cast<double>(p), nodes};
}

// A hop's latency rises from the small to the large value around ramp_bytes.
Seconds hop(double small, double large, Bytes message, const BetweenFit& fit, const Cluster& c) {
  const double x = message.si / (message.si + fit.ramp_bytes);
  return (small + (large - small) * x) * c.fabric.latency;
}

BytesPerSecond all_to_all_rate_inside(const NetworkFit& fit, const Cluster& c, int members) {
  if (c.node.nvlink.si > 0)
    return inside_fit(fit, c.gpu.architecture).all_to_all_fraction * c.node.nvlink;
  const double crossing = members > PcieFit::kSocket ? fit.pcie.all_to_all_crossing : 1;
  return fit.pcie.all_to_all_fraction * crossing * c.node.pcie;
}

Seconds ramp(double ramp_seconds, Seconds busy) {
  return Seconds(std::sqrt(ramp_seconds * busy.si));
}

// Bytes over the NIC as if the fabric had no oversubscription: what climbs above the leaf counts
// `oversubscription` times.
double climb(const Layout& l, const Cluster& c) {
  if (l.nodes <= kLeafNodes) return 1;
  const double above = (l.nodes - kLeafNodes) / (l.nodes - 1);
  return 1 + above * (std::max(1.0, c.fabric.oversubscription) - 1);
}

// Pairwise messages: `inside` and `outside` bytes leave each rank, over NVLink and its NIC.
NetworkTime pairwise_time(const NetworkFit& fit, Bytes inside, Bytes outside,
                          const sim::Group& group, const Cluster& c) {
  const Layout l = layout(group);
  const InsideFit& in = inside_fit(fit, c.gpu.architecture);
  NetworkTime t;
  t.nvlink = inside / all_to_all_rate_inside(fit, c, static_cast<int>(l.per_node));
  Seconds latency = Seconds(in.base_seconds) + in.hop * c.node.nvlink_latency;
  if (l.nodes > 1) {
    t.nic = climb(l, c) * outside / (fit.between.all_to_all_fraction * c.fabric.nic);
    latency += (1 + fit.between.message * (l.ranks - l.per_node)) * c.fabric.latency;
  }
  t.alone = latency + std::max(t.nvlink + ramp(in.ramp_seconds, t.nvlink), t.nic);
  t.traffic = 2.0 * (inside + outside);
  return t;
}

Seconds own_copy(const InsideFit& in, Bytes buffer, const Layout& l, BytesPerSecond rate) {
  return in.own_copy * buffer / l.ranks / rate;
}

}  // namespace

BytesPerSecond ring_rate_inside(const NetworkFit& fit, const Cluster& c, int members) {
  if (c.node.nvlink.si > 0)
    return inside_fit(fit, c.gpu.architecture).ring_fraction * c.node.nvlink;
  const double crossing = members > PcieFit::kSocket ? fit.pcie.ring_crossing : 1;
  return fit.pcie.ring_fraction * crossing * c.node.pcie;
}

BytesPerSecond nic_rate(const NetworkFit& fit, const Cluster& c) {
  return fit.between.ring_fraction * c.fabric.nic;
}

NetworkTime collective_time(const NetworkFit& fit, const sim::Collective& op, const Cluster& c) {
  const Layout l = layout(op.group);
  if (l.ranks <= 1) return {};
  const InsideFit& in = inside_fit(fit, c.gpu.architecture);
  if (op.kind == sim::CollectiveKind::AllToAll) {
    const BytesPerSecond rate = all_to_all_rate_inside(fit, c, static_cast<int>(l.per_node));
    NetworkTime t = pairwise_time(fit, op.bytes * ((l.per_node - 1) / l.ranks),
                                  op.bytes * ((l.ranks - l.per_node) / l.ranks), op.group, c);
    t.alone += own_copy(in, op.bytes, l, rate);
    return t;
  }

  const bool all_reduce = op.kind == sim::CollectiveKind::AllReduce;
  const double rounds = all_reduce ? 2 : 1;
  const Bytes pass = rounds * ((l.ranks - 1) / l.ranks) * op.bytes;
  const BytesPerSecond inside = ring_rate_inside(fit, c, static_cast<int>(l.per_node));
  NetworkTime t;
  t.traffic = (op.kind == sim::CollectiveKind::AllGather ? 2.0 : 3.0) * pass;
  Seconds busy, fill;
  if (l.per_node > 1) {
    t.nvlink = pass / inside;
    busy = t.nvlink + own_copy(in, op.bytes, l, inside);
    fill = ramp(in.ramp_seconds, busy);
  }
  if (l.nodes > 1) {
    t.nic = pass / l.per_node / nic_rate(fit, c);
    busy = std::max(busy, t.nic);
  }
  const Seconds base(in.base_seconds), step = in.hop * c.node.nvlink_latency;
  const BetweenFit& b = fit.between;
  t.alone = base + busy + fill +
            rounds * ((l.ranks - l.nodes) * step +
                      (l.nodes - 1) * hop(b.ring_hop_small, b.ring_hop_large, op.bytes, b, c));
  if (!all_reduce) return t;

  if (l.nodes > 1) {
    const Seconds tree =
        base + busy + fill + 2 * (l.per_node - 1) * step +
        std::log2(l.nodes) * hop(b.tree_hop_small, b.tree_hop_large, op.bytes, b, c);
    t.alone = std::min(t.alone, tree);
  } else if (in.nvls_fraction > 0 && c.node.nvlink.si > 0) {
    const Seconds reduced = op.bytes / (in.nvls_fraction * c.node.nvlink);
    const Seconds nvls = base + 2 * step + reduced + ramp(in.nvls_ramp_seconds, reduced);
    if (nvls < t.alone) {
      t.alone = nvls;
      t.nvlink = reduced;
      t.traffic = 2.0 * op.bytes;
    }
  }
  return t;
}

// With node forwarding the two stages run as a pipeline, so the slower one counts: each token once
// per remote node over the NIC, and over NVLink to every other rank. Source of the scheme: DeepEP
// (deepseek-ai/DeepEP), csrc/kernels/internode.cu and intranode.cu.
NetworkTime exchange_time(const NetworkFit& fit, const sim::TokenExchange& op, const Cluster& c,
                          ExchangeSetting setting) {
  const Layout l = layout(op.group);
  if (l.ranks <= 1) return {};
  const Bytes once = op.tokens * op.bytes_per_token;
  if (!op.node_forwarding)
    return pairwise_time(fit, op.local_copies * once, op.off_node_copies * once, op.group, c);

  const ExchangeFit& e = fit.exchange;
  const BytesPerSecond link = c.node.nvlink.si > 0
                                  ? e.nvlink_fraction * c.node.nvlink
                                  : all_to_all_rate_inside(fit, c, static_cast<int>(l.per_node));
  const double per_sm = c.gpu.architecture == "blackwell" ? e.blackwell_per_sm : e.hopper_per_sm;
  const BytesPerSecond kernel(per_sm * std::max(1, setting.sms));
  const Bytes inside = op.local_copies * once;
  NetworkTime t;
  t.nvlink = inside / link;
  Seconds busy = inside / std::min(link, kernel);
  Seconds latency = Seconds(e.base_seconds) + c.node.nvlink_latency;
  if (l.nodes > 1) {
    const double sent = op.tokens * op.remote_nodes;
    t.nic =
        climb(l, c) * op.bytes_per_token * sent / (setting.release * e.nic_fraction * c.fabric.nic);
    busy = std::max(busy, t.nic + Seconds(setting.beside_compute ? sent * e.token_seconds : 0));
    latency += c.fabric.latency;
  }
  t.alone = latency + busy;
  t.traffic = 2.0 * (inside + op.remote_nodes * once) + once;
  return t;
}

NetworkTime transfer_time(const NetworkFit& fit, const sim::Transfer& op, const Cluster& c) {
  const InsideFit& in = inside_fit(fit, c.gpu.architecture);
  NetworkTime t;
  t.traffic = op.bytes;
  if (op.inter_node) {
    t.nic = op.bytes / nic_rate(fit, c);
    t.alone =
        Seconds(in.base_seconds) +
        hop(fit.between.ring_hop_small, fit.between.ring_hop_large, op.bytes, fit.between, c) +
        t.nic;
  } else {
    t.nvlink = op.bytes / all_to_all_rate_inside(fit, c, 2);
    t.alone = Seconds(in.base_seconds) + in.hop * c.node.nvlink_latency + t.nvlink +
              ramp(in.ramp_seconds, t.nvlink);
  }
  return t;
}

// An all-reduce of nothing.
NetworkTime barrier_time(const NetworkFit& fit, const sim::Group& group, const Cluster& c) {
  return collective_time(fit, {sim::CollectiveKind::AllReduce, Bytes(0), group}, c);
}

}  // namespace reckon::hw
