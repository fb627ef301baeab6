// Ranks that read each other's memory, as those that share a GPU do, here on the CPU: the same bits
// as over the Transport, since sums are taken in the same order.
#include <catch2/catch.hpp>

#include "tests/real/training.h"

using namespace reckon;
using namespace reckon::plan;
using namespace reckon::real;

namespace {

std::unique_ptr<Equipment> sharing(Transport& transport) {
  auto e = std::make_unique<Equipment>();
  e->device = make_cpu_device();
  e->communicator = make_shared_communicator(*e->device, transport);
  return e;
}

}  // namespace

TEST_CASE("ranks that share memory train as those that send messages, bit for bit") {
  using enum ScheduleKind;
  const Overlap pairs{.expert = Overlap::Expert::Pair};
  const Plan plans[] = {
      {.pp = 2, .dp = 2, .ep = 2, .schedule = DualPipe, .overlap = pairs},
      {.pp = 2, .vpp = 2, .dp = 2, .ep = 2, .schedule = ZbV},
      {.tp = 2, .pp = 2, .cp = 2, .ep = 4},
      {.dp = 4, .ep = 2, .zero = Zero::None},
  };
  for (const Plan& p : plans) {
    CAPTURE(describe(p));
    const Job job = tiny_job(tiny_deepseek(), p);
    CHECK(identical(trained(job, 3), trained(job, 3, sharing)));
  }
}
