#include "planner/plan.h"

#include <algorithm>
#include <catch2/catch.hpp>

using namespace reckon::plan;

namespace {

std::vector<int> layers_of(const std::vector<ChunkLayout>& layout) {
  std::vector<int> layers;
  for (const ChunkLayout& c : layout) layers.push_back(c.layers);
  return layers;
}

}  // namespace

TEST_CASE("balanced layout drops no layer, for any count of layers and chunks") {
  for (int layers = 1; layers <= 70; ++layers)
    for (int chunks = 1; chunks <= std::min(layers, 40); ++chunks)
      for (int mtp : {0, 1, 2})
        for (bool weigh_ends : {false, true}) {
          const auto layout = balanced_layout({.layers = layers, .mtp = mtp}, chunks, weigh_ends);
          REQUIRE(layout.size() == static_cast<std::size_t>(chunks));
          int next = 0, fewest = layers, most = 0;
          for (std::size_t c = 0; c < layout.size(); ++c) {
            REQUIRE(layout[c].first_layer == next);
            REQUIRE(layout[c].layers >= 1);
            REQUIRE(layout[c].embedding == (c == 0));
            REQUIRE(layout[c].head == (c + 1 == layout.size()));
            REQUIRE(layout[c].mtp == (layout[c].head ? mtp : 0));
            next += layout[c].layers;
            fewest = std::min(fewest, layout[c].layers);
            most = std::max(most, layout[c].layers);
          }
          REQUIRE(next == layers);
          if (!weigh_ends) REQUIRE(most - fewest <= 1);
        }
}

TEST_CASE("ends give up layers for what they carry") {
  // Llama 3 405B, report section 3.3.2: 126 layers on 16 stages of 8, one layer less on the first
  // and the last.
  CHECK(layers_of(balanced_layout({.layers = 126}, 16, true)) ==
        std::vector<int>{7, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 7});
  // 61 layers, embedding 1, head 1, MTP 2 (a layer and the head again): 65 over 16.
  CHECK(layers_of(balanced_layout({.layers = 61, .mtp = 1}, 16, true)) ==
        std::vector<int>{3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 5, 1});
  CHECK(layers_of(balanced_layout({.layers = 61, .mtp = 1}, 16, false)) ==
        std::vector<int>{3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 3});
}

TEST_CASE("a plan in one line") {
  Plan p{.pp = 16, .dp = 128, .ep = 64, .schedule = ScheduleKind::DualPipe};
  p.precision = Precision::Fp8DeepSeek;
  CHECK(describe(p) == "tp1 pp16 dp128 ep64 DualPipe fp8-deepseek mbs1");
  p.recompute = {.mode = Recompute::Mode::Selective, .modules = kNorm | kMlaUp};
  p.zero = Zero::None;
  CHECK(describe(p) ==
        "tp1 pp16 dp128 ep64 DualPipe fp8-deepseek mbs1 zero0 recompute norm+mla-up");
  p.layout = balanced_layout({.layers = 61, .mtp = 1}, 16);
  CHECK(describe(p) ==
        "tp1 pp16 dp128 ep64 DualPipe fp8-deepseek mbs1 zero0 recompute norm+mla-up");
  p.layout = balanced_layout({.layers = 61, .mtp = 1}, 16, true);
  CHECK(describe(p) ==
        "tp1 pp16 dp128 ep64 DualPipe fp8-deepseek mbs1 zero0 recompute norm+mla-up layers 3 4x13 "
        "5 1");
  CHECK(describe(Plan{}) == "tp1 pp1 dp1 bf16 mbs1");
}
