#include "planner/placement.h"

#include <algorithm>
#include <numeric>

#include "planner/groups.h"

namespace reckon::plan {

namespace {

int stage_ranks(const Plan& p) {
  return p.tp * p.cp * p.dp;
}

}  // namespace

std::vector<GroupKind> kinds_of(const sim::Group& group, const Plan& p,
                                const hw::Cluster& cluster) {
  const int node = std::max(1, std::min(cluster.node.gpus, world_size(p)));
  const bool both = p.schedule == ScheduleKind::DualPipe;
  const int stage = stage_ranks(p), experts = p.ep * p.etp;
  const int shard = p.shard_group > 0 ? p.shard_group : p.dp * p.cp;
  const int edp = std::max(1, stage / experts);
  const GroupKind all[] = {
      {"ep", p.ep, p.etp},
      {"tp", p.tp, 1},
      {"etp", p.etp, 1},
      {"cp", p.cp, p.tp},
      {"dp", p.dp * p.cp, p.tp, both},
      {"dp", p.dp, p.tp * p.cp},
      {"dp shard", shard, p.tp, both},
      {"dp copies", std::max(1, p.dp * p.cp / shard), p.tp * shard},
      {"expert dp", edp, experts, both},
      {"expert dp shard", p.shard_group > 0 ? std::min(edp, shard) : edp, experts, both},
  };
  std::vector<GroupKind> out;
  for (const GroupKind& k : all) {
    const bool same_shape = k.size * (k.mirrored ? 2 : 1) == group.size &&
                            std::clamp(node / k.stride, 1, k.size) == group.per_node;
    const bool known = std::any_of(out.begin(), out.end(), [&](const GroupKind& o) {
      return o.size == k.size && o.stride == k.stride && o.mirrored == k.mirrored;
    });
    if (same_shape && !known && group.size > 1 && stage % (k.size * k.stride) == 0)
      out.push_back(k);
  }
  return out;
}

std::vector<std::vector<int>> groups_of(const GroupKind& k, const Plan& p) {
  const int stage = stage_ranks(p), block = k.size * k.stride;
  std::vector<std::vector<int>> out;
  for (int s = 0; s < (k.mirrored ? p.pp / 2 : p.pp); ++s)
    for (int b = 0; b < stage; b += block)
      for (int first = 0; first < k.stride; ++first) {
        auto& group = out.emplace_back();
        for (int at : {s, p.pp - 1 - s}) {
          for (int i = 0; i < k.size; ++i) group.push_back(at * stage + b + first + i * k.stride);
          if (!k.mirrored) break;
        }
      }
  return out;
}

std::vector<std::vector<int>> all_ranks(const Plan& p) {
  std::vector<int> ranks(static_cast<std::size_t>(world_size(p)));
  std::iota(ranks.begin(), ranks.end(), 0);
  return {ranks};
}

std::vector<std::vector<int>> end_pairs(const Plan& p) {
  std::vector<std::vector<int>> out;
  for (int i = 0; i < stage_ranks(p); ++i) out.push_back({i, (p.pp - 1) * stage_ranks(p) + i});
  return out;
}

std::vector<std::vector<int>> stage_pairs(const Plan& p, bool outputs) {
  const int stage = stage_ranks(p);
  std::vector<std::vector<int>> out;
  // The last rank passes to the first where a rank's chunks are not neighbours.
  const int pairs = p.schedule == ScheduleKind::Interleaved && p.pp > 2 ? p.pp : p.pp - 1;
  for (int s = 0; s < pairs; ++s)
    for (int i = 0; i < stage; ++i) {
      std::vector<int> ends = {s * stage + i, (s + 1) % p.pp * stage + i};
      if (!outputs) std::swap(ends[0], ends[1]);
      out.push_back(std::move(ends));
    }
  return out;
}

}  // namespace reckon::plan
