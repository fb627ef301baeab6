#include "planner/model.h"

#include <catch2/catch.hpp>

using namespace reckon::plan;

TEST_CASE("DeepSeek-V3 has 671.0B parameters, 37B activated (report, section 4.2)") {
  ModelShape m{.layers = 61, .hidden = 7168, .ffn = 18432, .heads = 128, .kv_heads = 128};
  m.mla = Mla{.q_lora = 1536, .kv_lora = 512, .qk_nope = 128, .qk_rope = 64, .v = 128};
  m.moe = Moe{.experts = 256,
              .top_k = 8,
              .ffn = 2048,
              .shared_ffn = 2048,
              .score = RouterScore::Sigmoid,
              .groups = 8,
              .limited_groups = 4,
              .layers = std::vector<bool>(61, true)};
  for (int l = 0; l < 3; ++l) m.moe->layers[static_cast<std::size_t>(l)] = false;
  m.vocab = 129280;
  m.mtp_depth = 1;
  CHECK(static_cast<double>(parameters(m).total(false)) == Approx(671.0e9).epsilon(0.001));
  CHECK(static_cast<double>(activated_parameters(m)) == Approx(37.6e9).epsilon(0.005));
}
