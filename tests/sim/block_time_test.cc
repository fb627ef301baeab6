#include "sim/block_time.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

using namespace reckon;
using namespace reckon::sim;

namespace {

// Costs are smuggled in as the work's size: a MatMul of m microseconds. Communication: a Transfer
// of as many bytes.
OpCost plain_cost(const Work& w) {
  if (const auto* g = std::get_if<MatMul>(&w))
    return {.alone = static_cast<double>(g->m) * us, .sm_share = 1};
  const auto& t = std::get<Transfer>(w);
  return {.alone = t.bytes.si * us, .sm_share = 0.15, .nic_share = 1};
}

OpCost no_contention(const Work& w) {
  OpCost c = plain_cost(w);
  c.sm_share = c.nic_share = 0;
  return c;
}

void add(Block& b, Stream s, double microseconds, std::vector<std::uint32_t> waits = {}) {
  const bool compute = s == Stream::Compute || s == Stream::Compute2;
  b.ops.push_back({.label = "op",
                   .work = static_cast<std::uint32_t>(b.works.size()),
                   .stream = s,
                   .first_wait = static_cast<std::uint32_t>(b.waits.size()),
                   .waits = static_cast<std::uint32_t>(waits.size())});
  b.waits.insert(b.waits.end(), waits.begin(), waits.end());
  if (compute)
    b.works.push_back(MatMul{.m = static_cast<std::int64_t>(microseconds)});
  else
    b.works.push_back(Transfer{.bytes = Bytes(microseconds)});
}

// Without contention: start = max(end of the stream's previous op, ends of the waits). No events,
// no streams' state.
std::vector<SimTime> reference_ends(const Block& b) {
  std::vector<SimTime> end(b.ops.size());
  for (std::size_t i = 0; i < b.ops.size(); ++i) {
    SimTime start;
    for (std::size_t j = 0; j < i; ++j)
      if (b.ops[j].stream == b.ops[i].stream) start = std::max(start, end[j]);
    for (std::uint32_t k = 0; k < b.ops[i].waits; ++k)
      start = std::max(start, end[b.waits[b.ops[i].first_wait + k]]);
    end[i] = start + no_contention(b.works[b.ops[i].work]).alone;
  }
  return end;
}

// Max-min fairness from its definition: raise all speeds in small steps while nothing is full.
std::vector<double> reference_speeds(const std::vector<OpCost>& ops,
                                     const std::vector<bool>& comm) {
  double held = 0, wanted = 0;
  for (std::size_t i = 0; i < ops.size(); ++i) (comm[i] ? held : wanted) += ops[i].sm_share;
  const double left = std::max(0.05, 1 - held);
  std::vector<double> speed(ops.size(), 0);
  constexpr double kStep = 1e-4;
  for (bool moved = true; moved;) {
    moved = false;
    std::vector<bool> can(ops.size());
    for (std::size_t i = 0; i < ops.size(); ++i) {
      const double cap = comm[i] || wanted <= left ? 1 : left / wanted;
      can[i] = speed[i] + kStep / 2 < cap;
      double hbm = 0, nvlink = 0, nic = 0;
      for (std::size_t j = 0; j < ops.size(); ++j) {
        hbm += speed[j] * ops[j].hbm_share, nvlink += speed[j] * ops[j].nvlink_share,
            nic += speed[j] * ops[j].nic_share;
      }
      if (ops[i].hbm_share > 0 && hbm >= 1) can[i] = false;
      if (ops[i].nvlink_share > 0 && nvlink >= 1) can[i] = false;
      if (ops[i].nic_share > 0 && nic >= 1) can[i] = false;
    }
    for (std::size_t i = 0; i < ops.size(); ++i)
      if (can[i]) speed[i] += kStep, moved = true;
  }
  return speed;
}

}  // namespace

TEST_CASE("one stream adds up, two overlap, a wait joins them") {
  Block b;
  add(b, Stream::Compute, 10);
  add(b, Stream::Expert, 30);
  add(b, Stream::Compute, 5, {1});
  CHECK(time_block(b, no_contention, Seconds(0)).duration.ps == 35'000'000);
}

TEST_CASE("communication keeps its SMs, compute gets the rest") {
  Block b;
  add(b, Stream::Compute, 100);
  add(b, Stream::Expert, 50);
  // 50 us at speed 0.85, then 57.5 us left alone.
  CHECK(time_block(b, plain_cost, Seconds(0)).duration.ps == 107'500'000);
}

TEST_CASE("communication that compute disturbs slows down only while compute runs") {
  Block b;
  add(b, Stream::Compute, 20);
  add(b, Stream::Expert, 30);
  const auto disturbed = [](const Work& w) {
    OpCost c = no_contention(w);
    c.beside_compute = 0.75;
    return c;
  };
  // 15 us of it done after 20 us, the other 15 at full speed.
  CHECK(time_block(b, disturbed, Seconds(0)).duration.ps == 35'000'000);
}

TEST_CASE("two transfers share a NIC") {
  Block b;
  add(b, Stream::Expert, 40);
  add(b, Stream::Pipe, 20);
  const BlockTime t = time_block(b, plain_cost, Seconds(0));
  CHECK(t.spans[1].end.ps == 40'000'000);  // both at half speed
  CHECK(t.duration.ps == 60'000'000);
  CHECK(t.nic_share == Approx(1));
}

TEST_CASE("a block is never faster than its launches") {
  Block b;
  for (int i = 0; i < 10; ++i) add(b, Stream::Compute, 1);
  CHECK(time_block(b, plain_cost, 3 * us).duration.ps == 30'000'000);
  CHECK(time_block(b, plain_cost, 0.5 * us).duration.ps == 10'000'000);
}

TEST_CASE("a long op behind short ones starts when the host has come to it") {
  Block b;
  for (int i = 0; i < 10; ++i) add(b, Stream::Compute, 1);
  add(b, Stream::Compute, 50);
  const BlockTime t = time_block(b, plain_cost, 3 * us);
  CHECK(t.spans[10].start.ps == 30'000'000);  // not 10 us, though its launches take 33 us in all
  CHECK(t.duration.ps == 80'000'000);
}

TEST_CASE("without contention every op ends when the reference says, on random blocks") {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    Block b;
    const int n = 1 + static_cast<int>(random() % 40);
    for (int i = 0; i < n; ++i) {
      std::vector<std::uint32_t> waits;
      for (int k = 0; i > 0 && k < static_cast<int>(random() % 3); ++k)
        waits.push_back(static_cast<std::uint32_t>(random() % static_cast<unsigned>(i)));
      add(b, static_cast<Stream>(random() % kStreams), 1 + random() % 50, waits);
    }
    const BlockTime t = time_block(b, no_contention, Seconds(0));
    const auto expected = reference_ends(b);
    for (int i = 0; i < n; ++i)
      CHECK(std::abs(t.spans[static_cast<std::size_t>(i)].end.ps -
                     expected[static_cast<std::size_t>(i)].ps) <= 1);
  }
}

TEST_CASE("speeds are max-min fair, for all small inputs") {
  const double shares[] = {0, 0.4, 1};
  for (double h0 : shares)
    for (double h1 : shares)
      for (double n0 : shares)
        for (double n1 : shares)
          for (double h2 : {0.0, 0.7})
            for (bool c1 : {false, true}) {
              const std::vector<OpCost> ops = {
                  {.sm_share = 1, .hbm_share = h0, .nic_share = n0},
                  {.sm_share = 0.2, .hbm_share = h1, .nic_share = n1},
                  {.sm_share = 0.1, .hbm_share = h2, .nvlink_share = 0.5}};
              const std::vector<bool> comm = {false, c1, true};
              const auto fast = fair_speeds(ops, comm), slow = reference_speeds(ops, comm);
              for (std::size_t i = 0; i < ops.size(); ++i)
                CHECK(fast[i] == Approx(slow[i]).margin(3e-4));
            }
}
