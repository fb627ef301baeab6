#include "sim/cluster_block.h"

#include <algorithm>
#include <array>
#include <limits>
#include <variant>

#include "sim/check.h"

namespace reckon::sim {

namespace {

using Kind = BlockPlan::Kind;

Kind kind_of(const Work& work, Stream stream) {
  if (std::holds_alternative<GroupedMatMul>(work)) return Kind::Grouped;
  if (const auto* exchange = std::get_if<TokenExchange>(&work))
    return exchange->combine ? Kind::Combine : Kind::Dispatch;
  if (std::holds_alternative<Collective>(work) || std::holds_alternative<Barrier>(work))
    return Kind::Collective;
  const bool compute = stream == Stream::Compute || stream == Stream::Compute2;
  return compute ? Kind::Compute : Kind::Local;
}

std::uint32_t group_size(const Work& work) {
  if (const auto* c = std::get_if<Collective>(&work))
    return static_cast<std::uint32_t>(c->group.size);
  if (const auto* e = std::get_if<TokenExchange>(&work))
    return static_cast<std::uint32_t>(e->group.size);
  if (const auto* b = std::get_if<Barrier>(&work)) return static_cast<std::uint32_t>(b->group.size);
  return 1;
}

double ps(SimTime t) {
  return static_cast<double>(t.ps);
}

// a[i] = max over the group of i.
void level(double* a, std::uint32_t n, std::uint32_t group, std::uint32_t stride) {
  if (group <= 1) return;
  if (stride == 1) {
    for (std::uint32_t base = 0; base < n; base += group) {
      const double most = *std::max_element(a + base, a + base + group);
      std::fill(a + base, a + base + group, most);
    }
    return;
  }
  for (std::uint32_t offset = 0; offset < stride; ++offset) {
    double most = a[offset];
    for (std::uint32_t i = offset; i < n; i += stride) most = std::max(most, a[i]);
    for (std::uint32_t i = offset; i < n; i += stride) a[i] = most;
  }
}

}  // namespace

BlockPlan block_plan(const Block& block, const BlockTime& time, BlockTimes& costs,
                     std::uint32_t ranks) {
  BlockPlan plan;
  plan.duration = ps(time.duration);
  plan.host_slack = ps(time.duration - time.host);
  double kernels = 0, launched = 0;  // by the host, in all and before the op
  for (const Op& op : block.ops) kernels += costs.cost(block.works[op.work]).kernels;
  const double per_kernel = kernels > 0 ? ps(time.host) / kernels : 0;
  constexpr std::uint32_t kNone = ~0u;
  std::array<std::uint32_t, kStreams> last;
  last.fill(kNone);
  for (std::uint32_t i = 0; i < block.ops.size(); ++i) {
    const Op& op = block.ops[i];
    const Work& work = block.works[op.work];
    BlockPlan::Op p{.kind = kind_of(work, op.stream),
                    .first_half = op.phase == Phase::F || op.phase == Phase::Optimizer,
                    .part = static_cast<std::uint16_t>(std::max<int>(0, op.part)),
                    .first = static_cast<std::uint32_t>(plan.dependencies.size()),
                    .start = ps(time.spans[i].start),
                    .duration = ps(time.spans[i].end - time.spans[i].start)};
    const double slack_of_launch = p.start - launched * per_kernel;
    p.host_slack = slack_of_launch < 2 ? 0 : slack_of_launch;  // ticks are rounded
    launched += costs.cost(work).kernels;
    const auto depend = [&](std::uint32_t on) {
      const double slack = p.start - ps(time.spans[on].end);
      check(slack >= 0, "an op starts after what it waits for");
      plan.dependencies.push_back({on, slack});
    };
    auto& before = last[static_cast<std::size_t>(op.stream)];
    if (before != kNone) depend(before);
    before = i;
    for (std::uint32_t w = 0; w < op.waits; ++w) depend(block.waits[op.first_wait + w]);
    p.count = static_cast<std::uint32_t>(plan.dependencies.size()) - p.first;
    if (p.kind != Kind::Compute && p.kind != Kind::Grouped)
      p.nic_share = costs.cost(work).nic_share;

    const std::uint32_t size = std::min(group_size(work), ranks);
    if (size > 1) {
      const bool whole = ranks % size != 0;  // a group that does not share out the role: all of it
      p.group = whole ? ranks : size;
      if (op.stream == Stream::Data) p.stride = ranks / p.group;
      plan.together = std::max(plan.together, p.stride > 1 ? ranks : p.group);
    }
    plan.ops.push_back(p);
    if (p.kind != Kind::Dispatch && p.kind != Kind::Combine) continue;
    const auto same = [&](const BlockPlan::Uneven& u) {
      return u.first_half == p.first_half && u.part == p.part;
    };
    if (p.group > 1 && std::none_of(plan.uneven.begin(), plan.uneven.end(), same))
      plan.uneven.push_back({p.first_half, p.part, p.group});
    plan.parts = std::max<std::uint16_t>(plan.parts, static_cast<std::uint16_t>(p.part + 1));
  }
  // Groups that lie side by side nest or not: a multiple of all of them that divides the role.
  for (const BlockPlan::Op& p : plan.ops)
    if (p.stride == 1 && plan.together % p.group != 0) plan.together = ranks;
  // At least 32 at once, for the inner loops.
  while (plan.together < 32 && ranks % (2 * plan.together) == 0) plan.together *= 2;
  for (std::uint32_t i : last)
    if (i != kNone) plan.ends.push_back({i, plan.duration - ps(time.spans[i].end)});
  return plan;
}

void evaluate(const BlockPlan& plan, const Factors& f, std::uint32_t n, double* late,
              Lateness& rows) {
  check(n == plan.together, "groups are evaluated whole");
  rows.start.resize(plan.ops.size() * n);
  rows.end.resize(plan.ops.size() * n);
  std::vector<double> factor(n);
  for (std::size_t o = 0; o < plan.ops.size(); ++o) {
    const BlockPlan::Op& op = plan.ops[o];
    double* start = &rows.start[o * n];
    double* end = &rows.end[o * n];
    if (op.count == 0) {
      // From the start of the block: no op waits for nothing and starts later than its launch.
      for (std::uint32_t i = 0; i < n; ++i) start[i] = late[i] - op.host_slack;
    } else {
      const BlockPlan::Dependency* d = &plan.dependencies[op.first];
      const double* row = &rows.end[std::size_t{d->op} * n];
      for (std::uint32_t i = 0; i < n; ++i) start[i] = row[i] - d->slack;
      for (std::uint32_t k = 1; k < op.count; ++k) {
        const double slack = d[k].slack;
        row = &rows.end[std::size_t{d[k].op} * n];
        for (std::uint32_t i = 0; i < n; ++i) {
          const double other = row[i] - slack;
          start[i] = start[i] < other ? other : start[i];
        }
      }
    }
    // The host launches the block's ops from its start on.
    for (std::uint32_t i = 0; i < n; ++i) start[i] = std::max(start[i], late[i] - op.host_slack);
    level(start, n, op.group, op.stride);
    if (o == f.held_op)
      for (std::uint32_t i = 0; i < n; ++i) start[i] = std::max(start[i], f.held);

    // How much longer than undisturbed: factor - 1.
    const double* load = f.load[op.first_half ? 0 : 1];
    if (load != nullptr) load = op.part < plan.parts ? load + std::size_t{op.part} * n : nullptr;
    const auto nic = [&](std::uint32_t i) { return std::max(1.0, op.nic_share * f.nic[i]); };
    const bool slow_links = f.nic != nullptr && op.nic_share > 0;
    switch (op.kind) {
      case Kind::Compute:
      case Kind::Grouped: {
        const bool uneven = op.kind == Kind::Grouped && load != nullptr;
        if (f.compute == nullptr && !uneven) {
          std::copy(start, start + n, end);
          continue;
        }
        for (std::uint32_t i = 0; i < n; ++i) {
          const double x = (f.compute != nullptr ? f.compute[i] : 1) * (uneven ? load[i] : 1);
          end[i] = start[i] + op.duration * (x - 1);
        }
        continue;
      }
      case Kind::Local:
      case Kind::Collective:
        if (!slow_links) {
          std::copy(start, start + n, end);
          continue;
        }
        for (std::uint32_t i = 0; i < n; ++i) factor[i] = nic(i);
        level(factor.data(), n, op.group, op.stride);
        break;
      case Kind::Dispatch:  // a rank waits for its own tokens, and for slow senders
      case Kind::Combine:   // everyone waits for the rank with most
        if (!slow_links && load == nullptr) {
          std::copy(start, start + n, end);
          continue;
        }
        for (std::uint32_t i = 0; i < n; ++i) factor[i] = slow_links ? nic(i) : 1;
        if (op.kind == Kind::Dispatch) level(factor.data(), n, op.group, op.stride);
        if (load != nullptr)
          for (std::uint32_t i = 0; i < n; ++i) factor[i] *= load[i];
        if (op.kind == Kind::Combine) level(factor.data(), n, op.group, op.stride);
        break;
    }
    for (std::uint32_t i = 0; i < n; ++i) end[i] = start[i] + op.duration * (factor[i] - 1);
  }
  for (std::uint32_t i = 0; i < n; ++i) late[i] -= plan.host_slack;
  for (const BlockPlan::Dependency& d : plan.ends) {
    const double* row = &rows.end[std::size_t{d.op} * n];
    for (std::uint32_t i = 0; i < n; ++i) late[i] = std::max(late[i], row[i] - d.slack);
  }
}

}  // namespace reckon::sim
