#include "hw-models/measured.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "hw-models/catalog.h"
#include "hw-models/cost.h"
#include "sim/input_error.h"

using namespace reckon;
using namespace reckon::hw;

namespace {

// A device whose products take 1 ns per 1000 multiply-adds, measured at the corners of a cube.
MeasuredDevice cube() {
  MeasuredLevel level{.active = 1};
  for (const sim::Pass pass : {sim::Pass::Forward, sim::Pass::InputGrad, sim::Pass::WeightGrad}) {
    MeasuredProduct p{.pass = pass, .m = {16, 256}, .n = {16, 256}, .k = {16, 256}};
    for (double m : p.m)
      for (double n : p.n)
        for (double k : p.k) p.seconds.push_back(1e-12 * m * n * k);
    level.products.push_back(p);
  }
  for (bool backward : {false, true})
    level.attention.push_back({.backward = backward,
                               .seq = {64, 256},
                               .width = {32, 128},
                               .seconds = {1e-9, 2e-9, 1e-9, 2e-9}});
  level.memory.push_back(
      {.kind = sim::MemoryKind::Norm, .kernels = 1, .curve = {{1e3, 1e5}, {1e-6, 2e-5}}});
  level.collectives.push_back(
      {.kind = sim::CollectiveKind::AllReduce, .ranks = 2, .curve = {{1e2, 1e6}, {1e-6, 1e-4}}});
  level.drift = 1e-3;
  level.reference = Seconds(0.05);
  MeasuredDevice d{.machine = "test", .date = "2026-11-24", .command = "none"};
  d.levels = {level, level};
  d.levels[1].active = 4;
  d.levels[1].gap = Seconds(1e-6);
  return d;
}

double seconds(const MeasuredLevel& level, const sim::Work& work) {
  return measured_cost(level, work)->alone.si;
}

}  // namespace

TEST_CASE("measured tables are exact at their points and of constant rate between them") {
  const MeasuredDevice d = cube();
  const MeasuredLevel& l = d.levels[0];
  for (std::int64_t m : {16, 61, 256, 1000})
    for (std::int64_t n : {16, 200, 256})
      CHECK(seconds(l, sim::MatMul{.m = m, .n = n, .k = 100}) ==
            Approx(1e-12 * static_cast<double>(m * n * 100)));
  // Four experts with a quarter of the rows each.
  CHECK(seconds(l, sim::GroupedMatMul{.groups = 4, .m = 400, .n = 64, .k = 64}) ==
        Approx(1e-12 * 400 * 64 * 64));
  const sim::Attention a{
      .heads = 2, .kv_heads = 2, .seq_q = 128, .seq_k = 128, .qk_dim = 64, .v_dim = 64};
  CHECK(seconds(l, a) == Approx(2e-9 * 2 * sim::visible_pairs(a)));
  CHECK(seconds(l, sim::MemoryBound{.kind = sim::MemoryKind::Norm, .traffic = Bytes(1e5)}) ==
        Approx(2e-5));
  CHECK(seconds(l, sim::MemoryBound{.kind = sim::MemoryKind::Norm, .traffic = Bytes(1e7)}) ==
        Approx(2e-3));
  CHECK_FALSE(measured_cost(l, sim::MemoryBound{.kind = sim::MemoryKind::Router}));
  CHECK_FALSE(measured_cost(l, sim::Transfer{.bytes = Bytes(8)}));
}

TEST_CASE("a device's level is that of the ranks at work, and its costs replace the equations") {
  const MeasuredDevice d = cube();
  CHECK(d.level(1).active == 1);
  CHECK(d.level(3).active == 1);
  CHECK(d.level(8).active == 4);
  Cluster c = cluster("cpu-2");
  c.gpus = 4;
  c.measured = std::make_shared<MeasuredDevice>(d);
  const sim::MatMul op{.m = 64, .n = 64, .k = 64};
  CHECK(cost(op, c, stack("reckon-cpu")).alone.si == Approx(1e-12 * 64 * 64 * 64 + 1e-6));
  const sim::Collective sum{.bytes = Bytes(100), .group = {.size = 2, .per_node = 2}};
  CHECK(cost(sum, c, stack("reckon-cpu")).drift == 1e-3);
  // Without a table: the equation, uncalibrated.
  CHECK_FALSE(cost(sim::MemoryBound{.kind = sim::MemoryKind::Router, .traffic = Bytes(1e3)}, c,
                   stack("reckon-cpu"))
                  .calibrated);
}

TEST_CASE("plans that recompute every layer have levels of their own") {
  MeasuredDevice d = cube();
  CHECK(levels_for(d, true).levels.size() == 2);  // none were measured
  d.levels.insert(d.levels.begin() + 1, d.levels[0]);
  d.levels[1].recompute = true;
  CHECK(levels_for(d, true).levels.size() == 1);
  CHECK(levels_for(d, true).level(4).recompute);
  CHECK(levels_for(d, false).levels.size() == 2);
  CHECK(levels_for(d, false).level(4).gap == Seconds(1e-6));
}

TEST_CASE("a file of tables reads back as it was written, and damage is named") {
  const std::string file =
      (std::filesystem::temp_directory_path() / ("reckon-measured-" + std::to_string(::getpid())))
          .string();
  const auto text = to_json(cube()).dump(1);
  std::ofstream(file) << text;
  CHECK(to_json(read_measured(file)).dump(1) == text);
  const auto refused = [&](const std::string& from, const std::string& to, const char* part) {
    std::string other = text;
    other.replace(other.find(from), from.size(), to);
    std::ofstream(file) << other;
    CHECK_THROWS_WITH(read_measured(file), Catch::Contains(part));
  };
  refused("\"drift\"", "\"drifft\"", "drift");
  refused("\"active\": 1", "\"active\": -1", "/levels/0/active");
  refused("1e-06,", "", "one number per point");
  std::remove(file.c_str());
}
