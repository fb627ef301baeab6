#include "sim/units.h"

#include <catch2/catch.hpp>
#include <type_traits>

#include "sim/sim_time.h"
#include "sim/work.h"

using namespace reckon;

TEST_CASE("quantities keep their dimension") {
  static_assert(std::is_same_v<decltype(GB / s), BytesPerSecond>);
  static_assert(std::is_same_v<decltype(GB / (GB / s)), Seconds>);
  static_assert(std::is_same_v<decltype(GB / MB), double>);
  CHECK((400 * Gbit / s) / (GB / s) == 50);
  CHECK(GiB / byte == 1073741824);
}

TEST_CASE("the calendar counts picoseconds") {
  CHECK((sim::SimTime{} + 1.5 * us).ps == 1'500'000);
  CHECK(sim::seconds(sim::SimTime{2'000'000'000'000}) == 2 * s);
}

TEST_CASE("visible pairs equal a count over the mask, for all small shapes") {
  for (int q = 1; q <= 6; ++q)
    for (int k = q; k <= 8; ++k)
      for (int w = 0; w <= 8; ++w)
        for (bool causal : {true, false}) {
          double count = 0;
          for (int i = 0; i < q; ++i) {
            const int seen = causal ? k - q + i + 1 : k;
            count += w > 0 ? std::min(seen, w) : seen;
          }
          const sim::Attention a{.seq_q = q, .seq_k = k, .window = w, .causal = causal};
          CHECK(sim::visible_pairs(a) == count);
        }
}
