#include "sim/folded_timeline.h"

#include <catch2/catch.hpp>

namespace reckon::sim {
namespace {

// A MatMul of m microseconds; a Transfer of as many microseconds as it has bytes.
OpCost micros(const Work& w) {
  if (const auto* g = std::get_if<MatMul>(&w))
    return {.alone = static_cast<double>(g->m) * us, .sm_share = 1};
  return {.alone = std::get<Transfer>(w).bytes.si * us};
}

constexpr std::int64_t kMicro = 1'000'000;

// Role 0 runs F (3 us + 4 us) of micro-batch 5; role 1 then, after a message of 2 us, a pair: F (3
// + 4) of chunk 0 and B (6) of chunk 2. Optimizers of 1 us.
Program one_pair(bool blocking) {
  Block forward{.name = "F",
                .ops = {{.label = "a", .work = 0}, {.label = "b", .work = 1}},
                .works = {MatMul{.m = 3}, MatMul{.m = 4}}};
  Block pair{.name = "FB",
             .ops = {{.label = "a", .work = 0},
                     {.label = "b", .work = 1},
                     {.label = "c", .work = 2, .phase = Phase::B}},
             .works = {MatMul{.m = 3}, MatMul{.m = 4}, MatMul{.m = 6}}};
  Block tail{.name = "optimizer",
             .ops = {{.label = "adam", .phase = Phase::Optimizer}},
             .works = {MatMul{.m = 1}}};
  Program p;
  for (const Block& b : {forward, pair, tail}) p.blocks.push_back(std::make_shared<const Block>(b));
  p.works = {Transfer{.bytes = Bytes(2)}};
  p.blocking_messages = blocking;
  p.roles.resize(2);
  p.roles[0] = {.name = "stage 0", .slots = {{.block = 0, .micro_batch = 5}}, .tail = 2};
  p.roles[1] = {.name = "stage 1",
                .slots = {{.block = 1,
                           .phase = Phase::FB,
                           .chunk = 0,
                           .chunk2 = 2,
                           .micro_batch = 5,
                           .micro_batch2 = 4,
                           .first_message = 0,
                           .messages = 1}},
                .messages = {{.role = 0, .slot = 0, .work = 0}},
                .tail = 2};
  return p;
}

}  // namespace

TEST_CASE("every op is there, at its tick, and works for its own half of a pair") {
  for (const bool blocking : {false, true}) {
    CAPTURE(blocking);
    const Program p = one_pair(blocking);
    BlockTimes times(micros, Seconds(0));
    const FoldedRun run = run_folded(p, times);
    const Timeline t = timeline(p, run, times);
    REQUIRE(t.events.size() == 7);
    CHECK(t.roles == std::vector<std::string>{"stage 0", "stage 1"});
    CHECK(t.labels == std::vector<std::string>{"a", "b", "adam", "c"});
    CHECK(t.events[1].start.ps == 3 * kMicro);
    CHECK(t.events[1].end.ps == 7 * kMicro);
    // After 7 us of the other stage and 2 us of message, whoever pays for it.
    CHECK(t.events[3].start.ps == 9 * kMicro);
    CHECK(t.events[5].end.ps == (9 + 13) * kMicro);
    CHECK(t.events[3].micro_batch == 5);
    CHECK(t.events[5].chunk == 2);
    CHECK(t.events[5].micro_batch == 4);
    CHECK(t.events[6].end == run.end);
  }
}

TEST_CASE("a stretched slot stretches its ops, which still meet end to end") {
  const Program p = one_pair(false);
  BlockTimes times(micros, Seconds(0));
  FoldedRun run = run_folded(p, times);
  run.slots[1][0].end += SimTime{7};  // 13 us and 7 ps for 13 us of ops
  const Timeline t = timeline(p, run, times);
  CHECK(t.events[3].end == t.events[4].start);
  CHECK(t.events[4].end == t.events[5].start);
  CHECK(t.events[5].end == run.slots[1][0].end);
}

}  // namespace reckon::sim
