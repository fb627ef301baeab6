#include "planner/report.h"

#include <catch2/catch.hpp>

#include "planner/plan_report.h"

namespace reckon::plan {
namespace {

// A prediction of one rank with a peak of 40 GiB.
Prediction prediction(double step_s) {
  Prediction p{.step = Seconds(step_s),
               .phases = {.fb = Seconds(0.75 * step_s), .bubble = Seconds(0.25 * step_s)},
               .mfu_causal = 0.25,
               .mfu_full = 0.5};
  RankMemory rank{.peak = 40 * GiB};
  rank.at_peak[static_cast<int>(Cause::Weights)] = 30 * GiB;
  rank.at_peak[static_cast<int>(Cause::Activations)] = 10 * GiB;
  p.memory = {.ranks = {rank}, .peak = rank.peak};
  return p;
}

Scenario tiny_scenario() {
  Scenario s;
  s.name = "test";
  s.model.name = "Tiny";
  s.cluster.gpu.name = "G";
  s.cluster.gpu.memory = 80 * GiB;
  s.cluster.gpus = 2048;
  s.cluster.price_per_gpu_hour = 2;
  s.campaign = {{.name = "pre-training", .seq = 4096, .global_batch = 1024, .tokens = 1e12}};
  return s;
}

PlanRow plan_row(double step_s, double gpu_hours) {
  const Scenario s = tiny_scenario();
  return {.plan = {.dp = 2048},
          .prediction = prediction(step_s),
          .bill = total({{.name = "pre-training",
                          .steps = 1000,
                          .tokens = 1e12,
                          .step = Seconds(step_s),
                          .gpu_hours = gpu_hours}},
                        s.cluster)};
}

}  // namespace

TEST_CASE("figures in words") {
  CHECK(grouped(0) == "0");
  CHECK(grouped(0.714) == "0.71");
  CHECK(grouped(5) == "5");
  CHECK(grouped(999.4) == "999");
  CHECK(grouped(2788000) == "2,788,000");
  CHECK(grouped(-1234.6) == "-1,235");
  CHECK(short_count(14.8e12) == "14.8T");
  CHECK(short_count(999.9) == "1K");
  CHECK(short_count(62914560) == "62.9M");
  CHECK(duration(Seconds(19.926)) == "19.93 s");
  CHECK(duration(Seconds(0.342)) == "342 ms");
  CHECK(duration(Seconds(12.1e-6)) == "12.1 us");
  CHECK(percent(0.0567) == "5.7 %");
  CHECK(gibibytes(61.25 * GiB) == "61.2 GiB");
}

TEST_CASE("a step's JSON has the keys that other programs read") {
  const Plan plan{.dp = 2048};
  const Prediction p = prediction(20);
  const StepAnswer a{.plan = plan,
                     .prediction = p,
                     .step = {.seq = 4096, .global_batch = 1024},
                     .memory_limit = 64 * GiB};
  const ordered_json json = to_json(a);
  CHECK(json["step_s"] == 20.0);
  double sum = 0;
  for (const auto& part : json["phases_s"]) sum += part.get<double>();
  CHECK(sum == Approx(20));
  CHECK(json["phases_s"]["bubble"] == 5.0);
  CHECK(json["mfu"]["causal"] == 0.25);
  CHECK(json["mfu"]["full"] == 0.5);
  CHECK(json["peak_memory_GiB"] == 40.0);
  // 1024 x 4096 tokens every 20 s.
  CHECK(json["tokens_per_day"] == Approx(1024. * 4096 * 86400 / 20));
  CHECK(to_text(a).find("Step 20.00 s") != std::string::npos);
  CHECK(to_text(a).find("peak 40.0 GiB of 64.0 GiB (62.5 %)") != std::string::npos);
}

TEST_CASE("the verdict comes first and names the line that binds") {
  Scenario s = tiny_scenario();
  s.budget = {.gpu_hours = 1000e3, .days = 30};
  PlanAnswer a;
  a.plans = {plan_row(20, 900e3), plan_row(24, 1080e3)};  // 18.3 and 22 days
  CHECK(a.meets(s.budget));
  const std::string text = to_text(a, s);
  CHECK(text.find("Verdict: THE BUDGET IS MET, by 1 of the 2 plans") < 120);
  CHECK(text.find("GPU-hours  met  900,000  of  1,000,000  90.0 %  binds") != std::string::npos);

  s.budget.gpu_hours = 800e3;
  CHECK_FALSE(a.meets(s.budget));
  CHECK(to_text(a, s).find("NO PLAN MEETS THE BUDGET") != std::string::npos);
  const ordered_json json = to_json(a, s);
  CHECK(json["meets_budget"] == false);
  CHECK(json["plans"][0]["gpu_hours"] == 900e3);
  CHECK(json["plans"][0]["cost"] == 1800e3);
  CHECK(json["plans"][1]["meets_budget"] == false);
  CHECK(json["campaign"]["phases"][0]["name"] == "pre-training");
  CHECK(json["budget"]["lines"][0]["binds"] == true);
}

TEST_CASE("no plan, no bill and no budget each have their own verdict") {
  Scenario s = tiny_scenario();
  PlanAnswer none;
  none.statistics.rejected["tp does not divide the heads"] = 12;
  CHECK_FALSE(none.meets(s.budget));
  CHECK(to_text(none, s).find("no plan of this search space can run") != std::string::npos);
  CHECK(to_text(none, s).find("12  tp does not divide the heads") != std::string::npos);
  CHECK(to_json(none, s)["plans"].empty());

  PlanAnswer no_bill;
  no_bill.plans = {plan_row(20, 1)};
  no_bill.plans[0].bill = NoBill{"long", {"a reason", "figures"}};
  CHECK_FALSE(no_bill.meets(s.budget));
  CHECK(to_text(no_bill, s).find("Phase \"long\" can't run: a reason (figures)") !=
        std::string::npos);
  CHECK(to_json(no_bill, s)["plans"][0]["gpu_hours"].is_null());

  PlanAnswer stopped = no_bill;
  stopped.interrupted = true;
  CHECK(to_text(stopped, s).find("interrupted before phase \"long\" had a plan") !=
        std::string::npos);
  CHECK(to_json(stopped, s)["interrupted"] == true);

  PlanAnswer free;
  free.plans = {plan_row(20, 900e3)};
  CHECK(free.meets(s.budget));
  CHECK(to_text(free, s).find("no budget is given") != std::string::npos);
}

TEST_CASE("a plan that does not fit in memory meets no budget") {
  PlanRow r = plan_row(20, 1);
  r.fits = false;
  CHECK_FALSE(r.meets({}));
}

}  // namespace reckon::plan
