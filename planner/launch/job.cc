#include "planner/launch/job.h"

#include <fmt/format.h>

#include <algorithm>

namespace reckon::plan::launch {

Plan canonical(Plan p, const ModelShape& model) {
  const bool ranks_share = std::int64_t{p.dp} * p.cp > 1;
  if (p.pp == 1) {
    p.schedule = ScheduleKind::OneFOneB;
    p.overlap.p2p = false;
  }
  if (p.tp == 1) p.overlap.tp = false, p.sequence_parallel = false;
  if (!model.moe || p.ep == 1) {
    p.overlap.expert = p.schedule == ScheduleKind::DualPipe || p.schedule == ScheduleKind::DualPipeV
                           ? Overlap::Expert::Pair
                           : Overlap::Expert::None;
    p.comm_sms = 0;
  }
  if (!model.moe) p.etp = 1;
  if (!ranks_share) p.overlap.grad_reduce = p.overlap.param_gather = false;
  if (p.zero == Zero::None) p.overlap.param_gather = false, p.shard_group = 0;
  if (p.shard_group == p.dp * p.cp) p.shard_group = 0;
  if (p.layout.empty())
    p.layout = balanced_layout({.layers = model.layers, .mtp = model.mtp_depth}, p.pp * p.vpp);
  int longest = 0;
  for (const ChunkLayout& c : p.layout) longest = std::max(longest, c.layers);
  if (p.recompute.full_layers >= longest) p.recompute.full_layers = 0;
  return p;
}

Hosts hosts_of(const Job& job) {
  const int gpus = world_size(job.plan), domain = std::max(1, job.cluster.node.gpus);
  constexpr int kHostOfDomain = 4;  // GPUs of a compute tray of an NVL72
  const int per_host = std::min(gpus, domain > 8 ? kHostOfDomain : domain);
  const int count = (gpus + per_host - 1) / per_host;
  return {
      .count = count, .gpus = per_host, .domain = std::min(count, std::max(1, domain / per_host))};
}

}  // namespace reckon::plan::launch
