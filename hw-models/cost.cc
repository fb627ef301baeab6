#include "hw-models/cost.h"

#include <algorithm>

#include "hw-models/measured.h"

namespace reckon::hw {

namespace {

// Kernels of matrix products may be confined to the SMs that communication leaves; all others take
// whatever SMs are free (the engines share them).
struct CostOf {
  const Cluster& cluster;
  const Stack& stack;

  int gemm_sms() const {
    const int sms = cluster.gpu.sms;
    return stack.static_sm_partition ? std::max(1, sms - stack.comm_sms) : sms;
  }
  Cost operator()(const sim::MatMul& op) const {
    return compute_cost(op, cluster.gpu, stack, gemm_sms());
  }
  Cost operator()(const sim::GroupedMatMul& op) const {
    return compute_cost(op, cluster.gpu, stack, gemm_sms());
  }
  Cost operator()(const sim::Attention& op) const {
    return compute_cost(op, cluster.gpu, stack, cluster.gpu.sms);
  }
  Cost operator()(const sim::MemoryBound& op) const {
    return compute_cost(op, cluster.gpu, stack, cluster.gpu.sms);
  }
  template <class Communication>
  Cost operator()(const Communication& op) const {
    return network_cost(op, cluster, stack);
  }
};

}  // namespace

Cost cost(const sim::Work& work, const Cluster& cluster, const Stack& stack) {
  if (cluster.measured)
    if (const auto c = measured_cost(cluster.measured->level(cluster.gpus), work)) return *c;
  return std::visit(CostOf{cluster, stack}, work);
}

}  // namespace reckon::hw
