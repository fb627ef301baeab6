#include "sim/cluster.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "reference/ranks.h"

using namespace reckon;
using namespace reckon::sim;

namespace {

constexpr std::uint32_t kRanks = 8;

// MatMul::m, GroupedMatMul::m: microseconds. Others by bytes. No op shares a resource with another,
// so that ops run at their full speed whatever runs beside them.
OpCost cost_of(const Work& work) {
  OpCost c{.kernels = 0};
  if (const auto* m = std::get_if<MatMul>(&work)) c.alone = static_cast<double>(m->m) * us;
  if (const auto* g = std::get_if<GroupedMatMul>(&work)) c.alone = static_cast<double>(g->m) * us;
  if (const auto* t = std::get_if<Transfer>(&work)) c.alone = t->bytes.si * us;
  if (const auto* k = std::get_if<Collective>(&work))
    c = {.alone = k->bytes.si * us, .nic_share = 0.3};
  if (const auto* e = std::get_if<TokenExchange>(&work))
    c = {.alone = e->tokens * us, .nic_share = 0.3};
  return c;
}

class RandomProgram {
 public:
  explicit RandomProgram(unsigned seed) : random_(seed) {}

  Program make() {
    Program p;
    p.works.push_back(Transfer{.bytes = Bytes(3)});
    for (int b = 0; b < 5; ++b) p.blocks.push_back(block(b == 4));
    constexpr std::uint32_t kSlots = 6;
    for (std::uint32_t r = 0; r < 2; ++r) {
      Role role{.name = "r", .tail = 4, .ranks = kRanks};
      for (std::uint32_t i = 0; i < kSlots; ++i) {
        const bool pair = below(2) == 0;
        Slot slot{.block = below(4),
                  .phase = pair ? Phase::FB : Phase::F,
                  .chunk = static_cast<std::uint16_t>(r),
                  .chunk2 = static_cast<std::uint16_t>(r + 2),
                  .micro_batch = i,
                  .micro_batch2 = i + 10,
                  .first_message = static_cast<std::uint32_t>(role.messages.size())};
        if (r == 1) role.messages.push_back({.role = 0, .slot = i});
        if (r == 0 && i > 1) role.messages.push_back({.role = 1, .slot = i - 2});
        if (i > 2 && below(2) == 0) role.messages.push_back({.role = r, .slot = i - 1});
        slot.messages = static_cast<std::uint32_t>(role.messages.size()) - slot.first_message;
        role.slots.push_back(slot);
      }
      p.roles.push_back(std::move(role));
    }
    return p;
  }

 private:
  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(random_() % n); }

  // With `tail`: one op is a collective of both roles.
  std::shared_ptr<const Block> block(bool tail) {
    auto b = std::make_shared<Block>();
    for (std::uint32_t i = 0; i < 12; ++i) {
      Op op{.label = "op",
            .work = i,
            .phase = below(2) == 0 ? Phase::F : Phase::B,
            .part = static_cast<std::int16_t>(below(2)),
            .first_wait = static_cast<std::uint32_t>(b->waits.size())};
      const double size = 1 + below(9);
      switch (below(6)) {
        case 0:
        case 1: b->works.push_back(MatMul{.m = static_cast<std::int64_t>(size)}); break;
        case 2: b->works.push_back(GroupedMatMul{.m = static_cast<std::int64_t>(size)}); break;
        case 3:
          op.stream = Stream::Expert;
          b->works.push_back(
              TokenExchange{.tokens = size, .group = {.size = 4}, .combine = below(2) == 0});
          break;
        case 4:
          op.stream = Stream::Model;
          b->works.push_back(Collective{.bytes = Bytes(size), .group = {.size = 2}});
          break;
        case 5:
          op.stream = Stream::Data;
          b->works.push_back(Collective{.bytes = Bytes(size), .group = {.size = 4}});
          break;
      }
      for (std::uint32_t w = 0; i > 0 && w < below(3); ++w) {
        b->waits.push_back(below(i));
        ++op.waits;
      }
      if (tail && i == 6) {
        op.stream = Stream::Data;
        op.phase = Phase::Optimizer;
        b->works.back() = Collective{.bytes = Bytes(size), .group = {.size = 2 * kRanks}};
      }
      b->ops.push_back(op);
    }
    // Every part has an exchange in both halves, as in a mixture layer.
    for (int half = 0; half < 2; ++half)
      for (int part = 0; part < 2; ++part) {
        b->ops.push_back({.label = "exchange",
                          .work = static_cast<std::uint32_t>(b->works.size()),
                          .stream = Stream::Expert,
                          .phase = half == 0 ? Phase::F : Phase::B,
                          .part = static_cast<std::int16_t>(part)});
        b->works.push_back(TokenExchange{.tokens = 2, .group = {.size = 4}});
      }
    return b;
  }

  std::mt19937 random_;
};

std::vector<Disturbances> disturbances() {
  std::vector<Disturbances> out(8);
  out[1].device.spread = 0.1;
  out[2].slot.quantiles = {0.9, 1.0, 1.5};
  out[3].load = {.kind = Load::Kind::Dirichlet, .spread = 0.3, .reference = 1.2};
  out[4].devices = {{{0, 3}, 0.5}};
  out[4].links = {{{1, 6}, 0.1}};
  out[5].load = {.kind = Load::Kind::Zipf, .exponent = 1, .items = 3, .per_micro_batch = false};
  out[6] = {.device = {.spread = 0.05},
            .slot = {.spread = 0.05},
            .load = {.kind = Load::Kind::Dirichlet, .spread = 0.2},
            .devices = {{{1, 0}, 0.8}},
            .links = {{{0, 1}, 0.2}},
            .seed = 9};
  // Links that are down or slow for a while, at several times of some steps of 100 to 300 us.
  const auto at = [](double from) { return ticks(from * us); };
  out[7].links = {{{0, 1}, 0.5}};
  out[7].flaps = {{{0, 1}, at(20), at(15), 0},
                  {{0, 1}, at(90), at(40), 0.25},
                  {{1, 6}, at(0), at(30), 0.1},
                  {{1, 2}, at(60), at(1000), 0.3}};
  return out;
}

}  // namespace

TEST_CASE("every rank of random programs ends every slot when the op-by-op reference says") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    const Program program = RandomProgram(seed).make();
    for (const Disturbances& d : disturbances()) {
      BlockTimes times(cost_of, Seconds(0));
      const ClusterRun run = run_cluster(program, times, d);
      const auto expected = reference::run_ranks(program, cost_of, d);
      double end = 0;
      for (std::uint32_t r = 0; r < 2; ++r)
        for (std::uint32_t i = 0; i < kRanks; ++i) {
          for (std::uint32_t s = 0; s < program.roles[r].slots.size(); ++s) {
            const double got = seconds(run.slots[r][s * kRanks + i].end).si;
            REQUIRE(std::abs(got - expected[r][s][i]) < 200e-12);  // roundings of a tick each
          }
          end = std::max(end, expected[r].back()[i]);
        }
      REQUIRE(std::abs(seconds(run.end).si - end) < 200e-12);
    }
  }
}

// The chain has no gaps: its steps add up to the end of the run, to a tick each.
TEST_CASE("a critical path adds up to the step, and goes over the rank that made it long") {
  for (unsigned seed = 0; seed < 30; ++seed) {
    const Program program = RandomProgram(seed).make();
    for (const Disturbances& d : disturbances()) {
      BlockTimes times(cost_of, Seconds(0));
      const ClusterRun run = run_cluster(program, times, d);
      const auto path = critical_path(program, times, d, run);
      SimTime sum;
      for (const PathStep& p : path) sum += p.time;
      REQUIRE(std::abs((sum - run.end).ps) <= static_cast<std::int64_t>(2 * path.size()));
      REQUIRE(path.front().rank.role == run.slowest.role);
    }
    // A device of a tenth of the speed is on every path.
    Disturbances d;
    d.devices = {{{0, 5}, 0.1}};
    BlockTimes times(cost_of, Seconds(0));
    const ClusterRun run = run_cluster(program, times, d);
    SimTime slow;
    for (const PathStep& p : critical_path(program, times, d, run))
      if (p.rank == RankId{0, 5}) slow += p.time;
    CHECK(2 * slow > run.end);
  }
}

TEST_CASE("undisturbed random programs take what the folded engine says, on every rank") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    Program program = RandomProgram(seed).make();
    // Bucketed reductions of the last slot, a parameter gather, and blocking messages.
    program.works.push_back(Collective{.bytes = Bytes(5), .group = {.size = 4}});
    program.blocking_messages = seed % 3 == 0;
    for (Role& role : program.roles) {
      role.syncs.push_back({.work = 1, .slot = 1, .buckets = 2, .before = true});
      role.syncs.push_back({.work = 1, .slot = 3, .buckets = 3});
      role.syncs.push_back({.work = 1, .slot = 5, .buckets = 4});
    }
    BlockTimes times(cost_of, 0.3 * us);
    const FoldedRun folded = run_folded(program, times);
    const ClusterRun run = run_cluster(program, times, {});
    INFO("seed " << seed << ": " << run.end.ps << " and " << folded.end.ps);
    REQUIRE(run.end == folded.end);
    for (std::uint32_t r = 0; r < 2; ++r)
      for (std::uint32_t i = 0; i < kRanks; ++i)
        for (std::uint32_t s = 0; s < program.roles[r].slots.size(); ++s) {
          REQUIRE(run.slots[r][s * kRanks + i].start == folded.slots[r][s].start);
          REQUIRE(run.slots[r][s * kRanks + i].end == folded.slots[r][s].end);
        }
    SimTime sum;
    const auto path = critical_path(program, times, {}, run);
    for (const PathStep& p : path) sum += p.time;
    REQUIRE(std::abs((sum - run.end).ps) <= static_cast<std::int64_t>(2 * path.size()));
  }
}

TEST_CASE("a link that is slow for the whole step is a slow link; one that flaps costs less") {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const Program program = RandomProgram(seed).make();
    BlockTimes times(cost_of, Seconds(0));
    const auto end = [&](const Disturbances& d) { return run_cluster(program, times, d).end; };
    const SimTime hour = ticks(3600 * s);
    Disturbances slow, flap;
    slow.links = {{{0, 2}, 0.1}};
    flap.flaps = {{{0, 2}, SimTime{}, hour, 0.1}};
    REQUIRE(std::abs((end(flap) - end(slow)).ps) < 100);
    flap.flaps = {{{0, 2}, hour, hour, 0}};  // after the step
    REQUIRE(end(flap) == end({}));
    // A link that is down holds its own rank up as long, and others maybe less.
    flap.flaps = {{{0, 2}, ticks(20 * us), ticks(50 * us), 0}};
    REQUIRE(end(flap) >= end({}));
    REQUIRE(end(flap) < end({}) + ticks(6 * 50 * us));
  }
}

// Means and deviations of what is drawn, over many draws.
TEST_CASE("draws have the distribution that was asked for") {
  Disturbances d;
  d.device.spread = 0.1;
  d.load = {.kind = Load::Kind::Dirichlet, .spread = 0.25};
  const Draws draws(d);
  double sum = 0, squares = 0;
  constexpr std::uint32_t kDraws = 20000;
  for (std::uint32_t i = 0; i < kDraws; ++i) {
    const double x = draws.device({0, i});
    sum += x, squares += x * x;
  }
  const double mean = sum / kDraws;
  CHECK(mean == Approx(1).margin(0.005));
  CHECK(std::sqrt(squares / kDraws - mean * mean) == Approx(0.1).epsilon(0.03));

  double spread = 0;
  std::vector<double> parts(256);
  for (std::uint32_t g = 0; g < 40; ++g) {
    draws.load({.group = g}, 256, parts.data());
    double total = 0;
    for (double x : parts) total += x, spread += (x - 1) * (x - 1);
    CHECK(total == Approx(256));
  }
  CHECK(std::sqrt(spread / (40 * 256)) == Approx(0.25).epsilon(0.05));

  // Zipf with one item a rank: the most popular rank has n / (sum of 1 / j) times the mean.
  d.load = {.kind = Load::Kind::Zipf, .exponent = 1};
  parts.resize(8);
  Draws(d).load({}, 8, parts.data());
  double harmonic = 0;
  for (int j = 1; j <= 8; ++j) harmonic += 1.0 / j;
  CHECK(*std::max_element(parts.begin(), parts.end()) == Approx(8 / harmonic));
}
