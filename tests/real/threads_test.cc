// Four ranks of three threads each, every schedule: what the thread sanitizer looks at. Small, as
// everything takes ten times longer under it: preset tsan, real-tests "[threads]".
#include <catch2/catch.hpp>

#include "tests/real/training.h"

using namespace reckon;
using namespace reckon::plan;
using namespace reckon::real;

TEST_CASE("four ranks train with every schedule", "[threads]") {
  using enum ScheduleKind;
  const Overlap pairs{.expert = Overlap::Expert::Pair};
  const Plan plans[] = {
      {.pp = 4, .schedule = GPipe},
      {.pp = 2, .dp = 2, .ep = 2, .schedule = GPipe},
      {.pp = 4, .schedule = OneFOneB},
      {.pp = 2, .dp = 2, .ep = 2, .schedule = OneFOneB},
      {.pp = 2, .vpp = 2, .dp = 2, .ep = 2, .schedule = Interleaved},
      {.pp = 4, .schedule = ZbH1},
      {.pp = 2, .dp = 2, .ep = 2, .schedule = ZbH1},
      {.pp = 4, .schedule = ZbH2},
      {.tp = 2, .pp = 2, .schedule = ZbH2},
      {.pp = 2, .vpp = 2, .dp = 2, .ep = 2, .schedule = ZbV},
      {.pp = 4, .schedule = DualPipe, .overlap = pairs},
      {.pp = 2, .dp = 2, .ep = 2, .schedule = DualPipe, .overlap = pairs},
      {.pp = 2, .vpp = 2, .dp = 2, .ep = 2, .schedule = DualPipeV, .overlap = pairs},
      {.pp = 2, .cp = 2, .ep = 2, .schedule = OneFOneB},
      {.tp = 2, .dp = 2, .ep = 4},
      {.dp = 4, .ep = 4, .recompute = {Recompute::Mode::Full}},
  };
  for (const Plan& p : plans) {
    const Job job = tiny_job(tiny_deepseek(), p);
    CAPTURE(describe(job.plan));
    const Outcome a = trained(job, 2);
    CHECK(identical(a, trained(job, 2)));  // no timing reaches the result
  }
}
