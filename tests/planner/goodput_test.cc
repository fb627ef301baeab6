#include "planner/goodput.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "planner/bill.h"
#include "planner/campaign.h"
#include "planner/failure_fields.h"
#include "planner/scenario_json.h"

using namespace reckon;
using namespace reckon::plan;

namespace {

FailureSpec spec() {
  return {.classes = {{"software", 1e-3, false}},
          .detect = Seconds(60),
          .restart = Seconds(240),
          .repair = 24 * hour,
          .storage = 100 * GB / s,
          .stall = 1,
          .interval = Seconds(3000)};
}

CampaignRun campaign() {
  return {.gpus = 1000, .training = 50 * day, .checkpoint = 10 * TB, .runs = 2000};
}

}  // namespace

// With failures at rate r, cycles of I work and C stall, and D down (itself hit by failures): a
// segment of length a = I + C takes (1/r + E) (e^(r a) - 1) on average, where E is the mean down
// time, (e^(r D) - 1) / r (Daly, FGCS 22, 2006, equation 13, restarts included).
TEST_CASE("the mean length of a campaign is the analytical one") {
  for (double per_day : {0.2, 1.0, 10.0}) {
    FailureSpec f = spec();
    f.classes[0].per_gpu_day = per_day / 1000;
    const Goodput g = goodput(f, campaign());
    const double r = per_day / 86400, a = 3000 + 100, down = 60 + 240 + 100;
    const double segments = 50 * 86400.0 / 3000;
    const double expected =
        segments * (1 / r + (std::exp(r * down) - 1) / r) * (std::exp(r * a) - 1);
    CAPTURE(per_day);
    CHECK(50 * day / Seconds(expected) == Approx(g.effective).epsilon(0.003));
    const Seconds parts = 50 * day + g.rework + g.down + g.checkpoints + g.waiting;
    CHECK(parts.si == Approx(50 * day.si / g.effective).epsilon(1e-9));
    CHECK(g.p10 <= g.p50);
    CHECK(g.p50 <= g.p90);
    CHECK(g.budgeted == g.p90);
  }
}

TEST_CASE("a job that never fails pays for its checkpoints alone") {
  FailureSpec f = spec();
  f.classes[0].per_gpu_day = 0;
  const Goodput g = goodput(f, campaign());
  CHECK(g.failures == 0);
  CHECK(g.rework.si == 0);
  CHECK(g.p90.si == Approx(50 * 86400 + 1439 * 100.0));  // 1,440 stretches of 3,000 s
}

TEST_CASE("no interval between checkpoints does better than the one that is chosen") {
  FailureSpec f = spec();
  f.interval = Seconds(0);
  const Goodput best = goodput(f, campaign());
  CHECK(best.interval.si == Approx(std::sqrt(2 * 100 * 86400.0)));
  for (double factor : {0.4, 0.7, 1.5, 2.5}) {
    f.interval = factor * best.interval;
    CHECK(goodput(f, campaign()).effective < best.effective + 0.0005);
  }
}

TEST_CASE("lost hosts: spares keep the job running, without them it waits for repairs") {
  FailureSpec f = spec();
  f.classes[0].host_lost = true;
  f.classes[0].per_gpu_day = 2e-3;
  const Goodput none = goodput(f, campaign());
  CHECK(none.waiting > 20 * day);  // about 100 failures, a day each less what was repaired before
  f.spare_hosts = 10;
  CHECK(goodput(f, campaign()).waiting < 0.01 * day);
}

// Llama 3 report, arXiv 2407.21783, section 3.3.4: 54 days on 16,384 GPUs, 419 unexpected
// interruptions, more than 90 % effective training time.
TEST_CASE("Llama 3's failures on its cluster leave more than 90 % effective training time") {
  const FailureSpec& f = hw::Catalogue<FailureSpec>::entries().at("llama3-2024");
  const Goodput g =
      goodput(f, {.gpus = 16384, .training = 54 * 0.92 * day, .checkpoint = 405e9 * 14.0 * byte});
  CHECK(g.failures == Approx(419).epsilon(0.03));
  CHECK(g.effective > 0.90);
  CHECK(g.effective < 0.97);
  CHECK(g.p50 / day == Approx(54).epsilon(0.03));
}

TEST_CASE("failures enter the bill and the verdict on the budget") {
  const Scenario plain = read_scenario(RECKON_SOURCE_DIR "/scenarios/deepseek-v3-2048-h800.json");
  Scenario s = plain;
  s.failures = hw::Catalogue<FailureSpec>::entries().at("llama3-2024");
  Predictor predictor(s.model, s.cluster, s.stack);
  s.campaign.resize(1);
  Scenario undisturbed = s;
  undisturbed.failures.reset();
  const Bill with = std::get<Bill>(predicted_bill(s, {*s.plan}, predictor));
  const Bill without = std::get<Bill>(predicted_bill(undisturbed, {*s.plan}, predictor));
  REQUIRE(with.goodput.has_value());
  CHECK_FALSE(without.goodput.has_value());
  CHECK(with.days == Approx(with.goodput->budgeted / day));
  CHECK(with.days > without.days);
  CHECK(with.gpu_hours == Approx(with.days * 24 * (2048 + 16 * 8)));
  CHECK(with.phases.back().failures);
  const Budget tight{.days = (with.days + without.days) / 2};
  CHECK(verdict(without, tight).meets);
  CHECK_FALSE(verdict(with, tight).meets);
}
