#include "reference/ranks.h"

#include <algorithm>
#include <map>
#include <variant>

#include "sim/block_time.h"

namespace reckon::reference {

using namespace sim;

namespace {

// Members of a rank's group.
std::vector<std::uint32_t> group_of(const Work& work, Stream stream, std::uint32_t member,
                                    std::uint32_t ranks) {
  int size = 1;
  if (const auto* c = std::get_if<Collective>(&work)) size = c->group.size;
  if (const auto* e = std::get_if<TokenExchange>(&work)) size = e->group.size;
  if (const auto* b = std::get_if<Barrier>(&work)) size = b->group.size;
  const auto n = std::min(static_cast<std::uint32_t>(size), ranks);
  std::vector<std::uint32_t> out;
  for (std::uint32_t i = 0; i < ranks; ++i) {
    const bool together =
        stream == Stream::Data ? i % (ranks / n) == member % (ranks / n) : i / n == member / n;
    if (together) out.push_back(i);
  }
  return out;
}

// How many times longer than `length` work takes that starts at `from` and gets on at the speed of
// the NIC: by halving, the end at which it has got as far.
double flapped(const std::vector<Flap>& flaps, RankId rank, double from, double length) {
  const auto done = [&](double at) {
    double sum = at - from;
    for (const Flap& f : flaps) {
      if (f.rank != rank) continue;
      const double start = std::max(from, seconds(f.start).si);
      const double end = std::min(at, seconds(f.start + f.duration).si);
      if (end > start) sum -= (end - start) * (1 - f.speed);
    }
    return sum;
  };
  double low = from, high = from + 1e6 * length + 1;
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2;
    (done(middle) < length ? low : high) = middle;
  }
  return length > 0 ? (high - from) / length : 1;
}

}  // namespace

Ends run_ranks(const Program& program, const CostOf& cost_of, const Disturbances& d) {
  const Draws draws(d);
  const std::uint32_t ranks = program.roles[0].ranks;
  Ends ends(program.roles.size());
  const auto slow = [](const std::vector<SlowRank>& list, RankId rank) {
    double factor = 1;
    for (const SlowRank& s : list)
      if (s.rank == rank) factor /= s.speed;
    return factor;
  };
  // Returns when the role comes to its collective of several roles, which starts at `met` or later.
  const auto run_slot = [&](std::uint32_t r, const Slot& slot, std::uint32_t index, double met) {
    double there = 0;
    const Block& block = *program.blocks[slot.block];
    const double length = seconds(time_block(block, cost_of, Seconds(0)).duration).si;
    std::vector<double> start(ranks, 0);
    for (std::uint32_t i = 0; i < ranks; ++i) {
      if (index > 0) start[i] = ends[r][index - 1][i];
      for (std::uint32_t k = 0; k < slot.messages; ++k) {
        const Message& m = program.roles[r].messages[slot.first_message + k];
        const std::uint32_t from = m.role == r ? (i + ranks / 2) % ranks : i;
        start[i] = std::max(start[i],
                            ends[m.role][m.slot][from] + cost_of(program.works[m.work]).alone.si);
      }
    }
    std::vector<std::vector<double>> done(block.ops.size(), std::vector<double>(ranks));
    std::map<Stream, std::size_t> last;
    std::vector<double> slot_end = start;
    for (std::size_t o = 0; o < block.ops.size(); ++o) {
      const Op& op = block.ops[o];
      const Work& work = block.works[op.work];
      const OpCost cost = cost_of(work);
      std::vector<double> ready = start, factor(ranks, 1);
      for (std::uint32_t i = 0; i < ranks; ++i) {
        if (last.contains(op.stream)) ready[i] = std::max(ready[i], done[last[op.stream]][i]);
        for (std::uint32_t w = 0; w < op.waits; ++w)
          ready[i] = std::max(ready[i], done[block.waits[op.first_wait + w]][i]);
      }
      last[op.stream] = o;
      for (std::uint32_t i = 0; i < ranks; ++i) {
        const auto group = group_of(work, op.stream, i, ranks);
        double begin = 0;
        for (std::uint32_t j : group) begin = std::max(begin, ready[j]);
        const auto* collective = std::get_if<Collective>(&work);
        if (collective != nullptr && collective->group.size > static_cast<int>(ranks)) {
          there = begin;
          begin = std::max(begin, met);
        }
        // Times of the group's members, by what they have to do.
        const auto load = [&](std::uint32_t j) {
          if (!d.load.any()) return 1.0;
          const auto n = static_cast<std::uint32_t>(4);
          std::vector<double> parts(n);
          const bool second = op.phase != Phase::F && slot.phase == Phase::FB;
          draws.load({.group = r * ranks + j / n * n,
                      .chunk = second ? slot.chunk2 : slot.chunk,
                      .part = static_cast<std::uint32_t>(op.part),
                      .micro_batch = second ? slot.micro_batch2 : slot.micro_batch},
                     n, parts.data());
          return parts[j % n] / d.load.reference;
        };
        const auto nic = [&](std::uint32_t j) {
          return std::max(1.0, cost.nic_share * slow(d.links, {r, j}) *
                                   flapped(d.flaps, {r, j}, start[j], length));
        };
        const auto compute = [&](std::uint32_t j) {
          return draws.device({r, j}) * draws.slot({r, j}, index) * slow(d.devices, {r, j});
        };
        double longest = 0;
        if (std::holds_alternative<MatMul>(work)) longest = compute(i);
        if (std::holds_alternative<GroupedMatMul>(work)) longest = compute(i) * load(i);
        if (std::holds_alternative<Collective>(work))
          for (std::uint32_t j : group) longest = std::max(longest, nic(j));
        if (const auto* e = std::get_if<TokenExchange>(&work)) {
          for (std::uint32_t j : group)
            longest = std::max(longest, e->combine ? nic(j) * load(j) : nic(j));
          if (!e->combine) longest *= load(i);
        }
        done[o][i] = begin + longest * cost.alone.si;
        slot_end[i] = std::max(slot_end[i], done[o][i]);
      }
    }
    ends[r].push_back(slot_end);
    return there;
  };
  for (std::uint32_t index = 0; index < program.roles[0].slots.size(); ++index)
    for (std::uint32_t r = 0; r < program.roles.size(); ++r)
      run_slot(r, program.roles[r].slots[index], index, 0);
  const auto run_tail = [&](std::uint32_t r, double met) {
    return run_slot(r, {.block = program.roles[r].tail, .phase = Phase::Optimizer},
                    static_cast<std::uint32_t>(program.roles[r].slots.size()), met);
  };
  double met = 0;
  for (std::uint32_t r = 0; r < program.roles.size(); ++r) {
    met = std::max(met, run_tail(r, 0));
    ends[r].pop_back();
  }
  for (std::uint32_t r = 0; r < program.roles.size(); ++r) run_tail(r, met);
  return ends;
}

}  // namespace reckon::reference
