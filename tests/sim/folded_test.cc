#include "sim/folded.h"

#include <catch2/catch.hpp>

using namespace reckon;
using namespace reckon::sim;

namespace {

// A MatMul of m microseconds, a Transfer or Collective of as many bytes.
OpCost cost(const Work& w) {
  if (const auto* g = std::get_if<MatMul>(&w))
    return {.alone = static_cast<double>(g->m) * us, .sm_share = 1};
  if (const auto* c = std::get_if<Collective>(&w)) return {.alone = c->bytes.si * us};
  return {.alone = std::get<Transfer>(w).bytes.si * us};
}

std::shared_ptr<const Block> block(int microseconds) {
  Block b;
  b.ops.push_back({.label = "op"});
  b.works.push_back(MatMul{.m = microseconds});
  return std::make_shared<const Block>(b);
}

constexpr std::int64_t kUs = 1'000'000;

// Two stages, F 10 us, BW 20 us, messages of 1 us, `m` micro-batches in 1F1B order; an optimizer of
// 5 us.
Program two_stages(std::uint32_t m) {
  Program p;
  p.blocks = {block(10), block(20), block(5)};
  p.works = {Transfer{.bytes = Bytes(1)}};
  p.roles.resize(2);
  std::vector<std::uint32_t> f[2], b[2];
  for (std::uint32_t r = 0; r < 2; ++r) {
    f[r].resize(m), b[r].resize(m);
    std::uint32_t nf = 0, nb = 0;
    const std::uint32_t warm = 1 - r;
    const auto put = [&](bool forward) {
      const auto slot = static_cast<std::uint32_t>(p.roles[r].slots.size());
      (forward ? f[r][nf] : b[r][nb]) = slot;
      p.roles[r].slots.push_back({.block = forward ? 0u : 1u,
                                  .phase = forward ? Phase::F : Phase::BW,
                                  .micro_batch = forward ? nf : nb});
      ++(forward ? nf : nb);
    };
    for (std::uint32_t i = 0; i < std::min(warm, m); ++i) put(true);
    while (nb < m) {
      if (nf < m) put(true);
      put(false);
    }
    p.roles[r].tail = 2;
  }
  const auto link = [&](std::uint32_t to, std::uint32_t slot, std::uint32_t from,
                        std::uint32_t source) {
    Slot& s = p.roles[to].slots[slot];
    s.first_message = static_cast<std::uint32_t>(p.roles[to].messages.size());
    s.messages = 1;
    p.roles[to].messages.push_back({.role = from, .slot = source, .work = 0});
  };
  for (std::uint32_t i = 0; i < m; ++i) {
    link(1, f[1][i], 0, f[0][i]);
    link(0, b[0][i], 1, b[1][i]);
  }
  return p;
}

}  // namespace

TEST_CASE("two stages of 1F1B: one round trip of the pipeline, then steady work") {
  // Stage 1: starts after F and a message, then m (F + BW) without waiting: each F was sent long
  // before. Stage 0 ends a message and a BW later. 11 + 30 m + 1 + 20, and the optimizer.
  for (std::uint32_t m : {1u, 2u, 5u, 40u}) {
    BlockTimes times(cost, Seconds(0));
    const FoldedRun run = run_folded(two_stages(m), times);
    CHECK(run.end.ps == (11 + 30 * std::int64_t{m} + 2 * ((m - 1) / 2) + 21 + 5) * kUs);
    CHECK(run.slowest == 0);
    for (const RoleTime& r : run.roles)
      CHECK((r.f + r.b + r.w + r.bw + r.fb + r.wait + r.gradients + r.tail + r.idle).ps ==
            run.end.ps);
  }
}

TEST_CASE("blocking messages hold both ends") {
  Program p = two_stages(4);
  p.blocking_messages = true;
  BlockTimes times(cost, Seconds(0));
  const FoldedRun run = run_folded(p, times);
  // Every slot with a message is 1 us longer: on stage 1 each F, on stage 0 each BW.
  CHECK(run.roles[1].f.ps == 4 * 11 * kUs);
  CHECK(run.roles[0].bw.ps == 4 * 21 * kUs);
}

TEST_CASE("two messages of one slot to one role share the wire") {
  const auto end = [](std::uint32_t second_from) {
    Program p;
    p.blocks = {block(20), block(5)};
    p.works = {Transfer{.bytes = Bytes(1)}};
    p.roles.resize(2);
    p.roles[0].slots = {{.block = 0}, {.block = 0}};
    p.roles[1].slots = {{.block = 0, .messages = 2}};
    p.roles[1].messages = {{.role = 0, .slot = 1, .work = 0},
                           {.role = 0, .slot = second_from, .work = 0}};
    p.roles[0].tail = p.roles[1].tail = 1;
    BlockTimes times(cost, Seconds(0));
    return run_folded(p, times).end.ps / kUs;
  };
  CHECK(end(0) == 40 + 1 + 20 + 5);  // one is there already
  CHECK(end(1) == 40 + 2 + 20 + 5);
}

TEST_CASE("gradient reductions overlap the last backward pass bucket by bucket") {
  const auto step = [](std::uint32_t buckets, double piece) {
    Program p;
    p.blocks = {block(20), block(5)};
    p.works = {Collective{.bytes = Bytes(piece), .group = {.size = 2}}};
    p.roles.resize(1);
    p.roles[0].slots = {{.block = 0, .phase = Phase::BW}};
    p.roles[0].syncs = {{.work = 0, .slot = 0, .buckets = buckets}};
    p.roles[0].tail = 1;
    BlockTimes times(cost, Seconds(0));
    return run_folded(p, times).end.ps / kUs;
  };
  CHECK(step(1, 8) == 20 + 8 + 5);   // one bucket: after the pass
  CHECK(step(4, 2) == 20 + 2 + 5);   // four: only the last is exposed
  CHECK(step(4, 10) == 5 + 40 + 5);  // slower than compute: from the first bucket on
}

TEST_CASE("parameter gathers delay the first slot only as far as they must") {
  const auto step = [](std::uint32_t buckets, double piece) {
    Program p;
    p.blocks = {block(20), block(5)};
    p.works = {Collective{.bytes = Bytes(piece), .group = {.size = 2}}};
    p.roles.resize(1);
    p.roles[0].slots = {{.block = 0}, {.block = 0, .phase = Phase::BW}};
    p.roles[0].syncs = {{.work = 0, .slot = 0, .buckets = buckets, .before = true}};
    p.roles[0].tail = 1;
    BlockTimes times(cost, Seconds(0));
    return run_folded(p, times).end.ps / kUs;
  };
  CHECK(step(1, 8) == 8 + 40 + 5);
  CHECK(step(4, 2) == 2 + 40 + 5);
  CHECK(step(4, 10) == 40 + 20 + 5);  // the last bucket gates the end of the first slot
}
