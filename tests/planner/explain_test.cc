// Explanations: the accounts add up, elasticities are the differences of simulations, rungs of the
// ladder are the plans that they name, and each reason against a plan is the true one.
#include "planner/explain.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>

#include "hw-models/catalog.h"
#include "planner/bill.h"
#include "planner/plan_fields.h"
#include "planner/scenario_json.h"
#include "planner/step_use.h"
#include "planner/sweep.h"
#include "sim/cluster.h"
#include "tests/planner/scenarios.h"

using namespace reckon;
using namespace reckon::plan;

namespace {

constexpr const char* kWithPlans[] = {
    "deepseek-v3-2048-h800.json", "deepseek-v3-2048-h800-half-fabric.json",
    "deepseek-v3-2048-h100.json", "gpt3-175b-1024-a100.json",
    "llama3-405b-16k-h100.json",  "mixtral-8x22b-128-h100.json",
    "qwen3-235b-256-h100.json",   "tiny-moe-2-cpu.json"};

Scenario shipped(const std::string& name) {
  return read_scenario(test::kScenarios + name);
}

StepShape step_of_plan(const Scenario& s) {
  return step_shape(s.campaign[*searched_phase(s)]);
}

constexpr StepCause kComputeCauses[] = {
    StepCause::Products, StepCause::Experts,     StepCause::Attention, StepCause::Quantise,
    StepCause::Permute,  StepCause::Elementwise, StepCause::Ends,      StepCause::Optimizer,
    StepCause::Gaps,     StepCause::Contention};

Seconds at(const Causes& causes, StepCause c) {
  return causes[static_cast<std::size_t>(c)];
}

// A space of a few hundred plans, some of which exceed the memory.
Scenario small_space() {
  Scenario s = shipped("deepseek-v3-2048-h800.json");
  s.search.tp = {1, 2};
  s.search.pp = {8, 16};
  s.search.cp = {1};
  s.search.ep = {32, 64};
  s.search.etp = {1};
  s.search.micro_batch = {1, 2};
  s.search.precision = {Precision::Bf16, Precision::Fp8DeepSeek};
  s.search.zero = {Zero::Optimizer};
  s.search.schedule = {ScheduleKind::OneFOneB, ScheduleKind::Interleaved, ScheduleKind::DualPipe,
                       ScheduleKind::DualPipeV};
  return s;
}

}  // namespace

TEST_CASE("both accounts of a step add up to it, cause by cause") {
  for (const char* name : kWithPlans) {
    CAPTURE(name);
    const Scenario s = shipped(name);
    const StepShape step = step_of_plan(s);
    Predictor predictor(s.model, s.cluster, s.stack);
    const Predictor::Run run = predictor.run(*s.plan, step);
    const StepAccount a = step_account(run, predictor, s.stack);
    const double whole = run.prediction.step.si;
    CHECK(sum(a.mean).si == Approx(whole).epsilon(1e-9));
    CHECK(sum(a.path).si == Approx(whole).epsilon(1e-9));
    for (std::size_t c = 0; c < kStepCauses; ++c) {
      CAPTURE(key(static_cast<StepCause>(c)));
      CHECK(a.mean[c].si >= -1e-9);
      CHECK(a.path[c].si >= -1e-9);
    }
    CHECK(at(a.path, StepCause::Bubble).si == 0);
    CHECK(at(a.mean, StepCause::Host) == s.stack.host_per_step);

    // The mean's compute is what blocks call busy, of which time_block keeps its own account.
    double busy = 0, ranks = 0;
    for (const sim::Role& role : run.program.roles) {
      double of_role = 0;
      for (const sim::Slot& slot : role.slots)
        of_role +=
            sim::seconds(predictor.block_time(run.program.blocks[slot.block]).compute_busy).si;
      of_role += sim::seconds(predictor.block_time(run.program.blocks[role.tail]).compute_busy).si;
      busy += role.ranks * of_role;
      ranks += role.ranks;
    }
    double compute = 0;
    for (const StepCause c : kComputeCauses) compute += at(a.mean, c).si;
    CHECK(compute <= busy / ranks * (1 + 1e-6));
    CHECK(compute + at(a.mean, StepCause::Launches).si >= busy / ranks * (1 - 1e-6));
    // Waiting is bubble or a message on its way, or parameters.
    const Phases& p = run.prediction.phases;
    CHECK(at(a.mean, StepCause::Bubble).si <= p.bubble.si * (1 + 1e-9));
    double ops = 0;
    for (const auto& o : a.ops) ops += o.time.si;
    CHECK(ops <= whole);
  }
}

// The cluster engine walks its own critical path, rank by rank; undisturbed, the same kinds of
// things are on it. Where two chains end at the same tick the walks may take different ones.
TEST_CASE("the critical path is the cluster engine's", "[heavy]") {
  for (const char* name :
       {"deepseek-v3-2048-h800.json", "mixtral-8x22b-128-h100.json", "gpt3-175b-1024-a100.json"}) {
    CAPTURE(name);
    const Scenario s = shipped(name);
    Predictor predictor(s.model, s.cluster, s.stack);
    const Predictor::Run run = predictor.run(*s.plan, step_of_plan(s));
    const StepAccount a = step_account(run, predictor, s.stack);
    const sim::Disturbances none;
    const sim::ClusterRun cluster = run_cluster(run.program, predictor.times(), none);
    double compute = 0, exchange = 0;
    for (const sim::PathStep& p : critical_path(run.program, predictor.times(), none, cluster)) {
      if (p.kind != sim::PathStep::Kind::Op) continue;
      if (p.stream == sim::Stream::Compute) compute += sim::seconds(p.time).si;
      if (p.stream == sim::Stream::Expert) exchange += sim::seconds(p.time).si;
    }
    double own = 0;
    for (const StepCause c : kComputeCauses) own += at(a.path, c).si;
    const double step = run.prediction.step.si;
    CHECK(std::abs(own - compute) < 0.02 * step);
    CHECK(std::abs(at(a.path, StepCause::Exchange).si - exchange) < 0.02 * step);
  }
}

// less = 1 - t(1.01) / t(1), with t simulated from a scenario file in which the part is changed: as
// `reckon sweep --plan fixed` does. And the derivative is no artefact of the 1 %: a central
// difference over 0.5 % agrees to a tenth of it, or 3e-5 of the step where waves of SMs and choices
// of algorithms make it jump.
TEST_CASE("elasticities are finite differences of full simulations") {
  const std::map<std::string, std::vector<std::pair<std::string, bool>>> kPaths = {
      {"nic_bandwidth", {{"cluster.fabric.nic", true}}},
      {"network_latency", {{"cluster.fabric.latency", false}}},
      {"nvlink_bandwidth", {{"cluster.node.nvlink", true}}},
      {"pcie_bandwidth", {{"cluster.node.pcie", true}}},
      {"memory_bandwidth", {{"cluster.gpu.memory_rate", true}}},
      {"flops",
       {{"cluster.gpu.peak_fp32", true},
        {"cluster.gpu.peak_tf32", true},
        {"cluster.gpu.peak_bf16", true},
        {"cluster.gpu.peak_fp8", true},
        {"cluster.gpu.peak_fp4", true}}},
      {"launch_speed",
       {{"stack.host_per_kernel", false},
        {"stack.kernel_gap", false},
        {"stack.host_per_step", false}}}};
  int compared = 0;
  for (const char* name :
       {"deepseek-v3-2048-h800.json", "gpt3-175b-1024-a100.json", "mixtral-8x22b-128-h100.json",
        "qwen3-235b-256-h100.json", "tiny-moe-2-cpu.json"}) {
    CAPTURE(name);
    const hw::Document document = hw::read_json_file(test::kScenarios + name);
    const Scenario s = scenario_from_json(document);
    const StepShape step = step_of_plan(s);
    const Variant v = variant(s, *s.plan);
    const double now = step_of(v, step).si;
    const auto whole = scenario_to_json(s);
    // The step of the scenario with one resource scaled, through its text.
    const auto changed = [&](const std::string& resource, double factor) {
      Sweep sweep{.scenario = document, .variations = {}, .search = false};
      SweepPoint point;
      for (const auto& [path, rate] : kPaths.at(resource)) {
        nlohmann::ordered_json part = whole;
        std::string rest = path;
        while (!rest.empty()) {
          const std::size_t dot = std::min(rest.find('.'), rest.size());
          part = nlohmann::ordered_json(part.at(rest.substr(0, dot)));
          rest = dot < rest.size() ? rest.substr(dot + 1) : "";
        }
        const std::string text = part.get<std::string>();
        const std::size_t space = text.find(' ');
        const double value = std::stod(text);
        char number[64];
        std::snprintf(number, sizeof number, "%.17g", rate ? value * factor : value / factor);
        sweep.variations.push_back({.path = path, .values = {}});
        point.push_back(number + text.substr(space));
      }
      const auto answer = answer_at(sweep, point);
      REQUIRE(answer.contains("step_s"));
      return answer["step_s"].get<double>();
    };
    for (const Elasticity& e : elasticities(v, step, 1)) {
      if (!kPaths.contains(e.key)) continue;  // SMs: below
      CAPTURE(e.key);
      CHECK(e.less == Approx(1 - changed(e.key, 1.01) / now).margin(1e-10));
      const double central = (changed(e.key, 0.995) - changed(e.key, 1.005)) / (0.01 * now) * 0.01;
      CHECK(std::abs(e.less - central) <= 0.1 * std::abs(central) + 3e-5);
      CHECK(e.twice <= e.half);
      ++compared;
    }
  }
  CHECK(compared >= 25);
}

TEST_CASE("more SMs for communication: one of them, scaled to a hundredth") {
  Scenario s = shipped("deepseek-v3-2048-h800.json");
  const StepShape step = step_of_plan(s);
  const Variant v = variant(s, *s.plan);
  const int sms = v.stack.comm_sms;
  s.stack.comm_sms = sms + 1;
  const double more = predict(s.model, s.cluster, s.stack, *s.plan, step).step.si;
  for (const Elasticity& e : elasticities(v, step, 2))
    if (std::string(e.key) == "communication_sms") {
      CHECK(e.less == Approx((1 - more / step_of(v, step).si) * sms / 100).margin(1e-12));
      return;
    }
  FAIL("no elasticity of SMs");
}

TEST_CASE("more memory buys what a search with so much memory finds", "[heavy]") {
  Scenario s = small_space();
  s.constraints.memory_margin = 20 * GiB;
  const StepShape step = step_of_plan(s);
  const SearchResult now = search(s, step, {.keep = 1});
  REQUIRE_FALSE(now.best.empty());
  const Seconds best = now.best.front().prediction.step;
  const MemoryElasticity e = memory_elasticity(s, step, best, {});
  REQUIRE_FALSE(e.gains.empty());
  Seconds before = best;
  for (const MemoryGain& g : e.gains) {
    CHECK(g.step < before);
    Scenario more = s;
    more.cluster.gpu.memory += g.more + Bytes(1);
    CHECK(search(more, step, {.keep = 1}).best.front().prediction.step == g.step);
    more.cluster.gpu.memory -= 1 * MiB;
    CHECK(search(more, step, {.keep = 1}).best.front().prediction.step == before);
    before = g.step;
  }
  Scenario hundredth = s;
  hundredth.cluster.gpu.memory *= 1.01;
  CHECK(e.less ==
        Approx(1 - search(hundredth, step, {.keep = 1}).best.front().prediction.step / best)
            .margin(1e-12));
}

TEST_CASE("the ladder: each rung is the step without one thing") {
  const Scenario s = shipped("deepseek-v3-2048-h800.json");
  const StepShape step = step_of_plan(s);
  const Variant v = variant(s, *s.plan);
  const Ladder l = ladder(v, s.campaign[0], memory_limit(s), 2);
  const auto rung = [&](const std::string& what) {
    const auto it =
        std::find_if(l.rungs.begin(), l.rungs.end(), [&](const Rung& r) { return r.what == what; });
    REQUIRE(it != l.rungs.end());
    return *it;
  };
  const auto predicted = [&](const Scenario& other, const Plan& plan) {
    return predict(other.model, other.cluster, other.stack, plan, step);
  };
  CHECK(l.step == predicted(s, *s.plan).step);

  Plan bf16 = *s.plan;
  bf16.precision = Precision::Bf16;
  CHECK(rung("precision").step == predicted(s, bf16).step);
  CHECK(rung("precision").memory == predicted(s, bf16).memory.peak);
  CHECK(rung("precision").worth == rung("precision").step - l.step);

  Plan plain = *s.plan;
  plain.schedule = ScheduleKind::OneFOneB;
  plain.overlap.expert = Overlap::Expert::None;
  CHECK(rung("schedule").step == predicted(s, plain).step);

  Plan kept = *s.plan;
  kept.recompute = {};
  CHECK(rung("recompute").step == predicted(s, kept).step);
  CHECK(rung("recompute").worth.si < 0);  // it costs time, and pays in memory
  CHECK(rung("recompute").memory > predicted(s, *s.plan).memory.peak);
  CHECK(rung("recompute").fits == (rung("recompute").memory <= memory_limit(s)));

  Scenario free = s;
  free.model.moe->limited_groups = free.model.moe->groups;
  CHECK(rung("node-limited routing").step == predicted(free, *s.plan).step);
  CHECK(rung("node-limited routing").worth.si > 0);

  // What no plan says: the same plan with longer exchanges, and with its pairs one after the other.
  CHECK(rung("dispatch").worth.si >= 0);
  CHECK(rung("F&B pairs").worth.si > 0);
  // Pairs in turn never take less than their passes alone, and gain nothing from each other.
  CHECK(rung("F&B pairs").step > rung("schedule").step * 0.7);
  CHECK(rung("ZeRO-1").memory > predicted(s, *s.plan).memory.peak);
  for (const Rung& r : l.rungs) {
    CAPTURE(r.what);
    CHECK((r.illegal.has_value() || r.step.si > 0));
    if (!r.illegal) CHECK(r.gpu_hours.has_value());
    // Worth in GPU-hours has the sign of that in seconds: the batch ramp has the same plan.
    if (r.gpu_hours && std::abs(r.worth.si) > 1e-3) CHECK(*r.gpu_hours * r.worth.si > 0);
  }
}

TEST_CASE("a rung that can't be taken says why") {
  const Scenario s = shipped("mixtral-8x22b-128-h100.json");
  const Plan p = *s.plan;
  REQUIRE(p.tp > 1);
  const Ladder l = ladder(variant(s, p), s.campaign[0], memory_limit(s), 1);
  for (const Rung& r : l.rungs)
    if (r.what == "sequence parallelism") {
      REQUIRE(r.illegal.has_value());
      CHECK(std::string(r.illegal->why) ==
            "a mixture with tensor parallelism needs sequence parallelism");
      return;
    }
  FAIL("no rung without sequence parallelism");
}

TEST_CASE("named fields are read strictly") {
  const NamedFields n =
      read_named_fields("tp=8,mbs=2,zero=0,recompute=norm+mla-up,overlap.p2p=false");
  CHECK(n.fields["tp"] == 8);
  CHECK(n.fields["micro_batch"] == 2);
  CHECK(n.fields["zero"] == "none");
  CHECK(n.fields["recompute"]["modules"].size() == 2);
  CHECK(n.fields["overlap"]["p2p"] == false);
  const std::pair<const char*, const char*> wrong[] = {{"", "KEY=VALUE"},
                                                       {"tp", "KEY=VALUE"},
                                                       {"tp=", "KEY=VALUE"},
                                                       {"tp=1,tp=2", "twice"},
                                                       {"tp=0", "/tp"},
                                                       {"tp=one", "/tp"},
                                                       {"schedul=1F1B", "schedule"},
                                                       {"schedule=1F1", "1F1B"},
                                                       {"recompute=nrom", "norm"},
                                                       {"overlap.p2=true", "p2p"}};
  for (const auto& [text, says] : wrong) {
    CAPTURE(text);
    CHECK_THROWS_WITH(read_named_fields(text), Catch::Contains(says));
  }
}

TEST_CASE("why not: illegal, too large, slower, cut by its bound, outside of the space",
          "[heavy]") {
  const Scenario s = small_space();
  const StepShape step = step_of_plan(s);
  const SearchResult found = search(s, step, {.keep = 2});
  REQUIRE(found.best.size() == 2);
  const FoundPlan& best = found.best.front();
  const auto ask = [&](const char* text) {
    return why_not(s, step, best, read_named_fields(text), {});
  };
  using Verdict = WhyNotCase::Verdict;

  const WhyNot odd = ask("tp=3");
  CHECK(odd.as_best.verdict == Verdict::Illegal);
  CHECK(std::string(odd.as_best.illegal->why) == "tp x cp x pp does not divide the GPUs");
  CHECK_FALSE(odd.searched.has_value());
  CHECK(odd.rejected.at("tp x cp x pp does not divide the GPUs") == odd.candidates);
  CHECK(odd.outside == std::vector<std::string>{"tp=3"});

  const WhyNot large = ask("tp=1,recompute=none,precision=bf16,schedule=DualPipe,pp=16,ep=32");
  CHECK(large.as_best.verdict == Verdict::TooLarge);
  REQUIRE(large.searched.has_value());
  CHECK(large.searched->verdict == Verdict::TooLarge);
  CHECK(large.searched->result->prediction.memory.peak > memory_limit(s));

  const WhyNot slow = ask("precision=bf16");
  REQUIRE(slow.searched.has_value());
  CHECK(slow.searched->verdict == Verdict::Slower);
  Scenario fixed = s;
  fixed.search.precision = {Precision::Bf16};
  CHECK(slow.searched->plan == search(fixed, step, {.keep = 1}).best.front().plan);
  CHECK(slow.searched->in_space);
  REQUIRE(slow.searched->bound.has_value());
  CHECK(*slow.searched->bound <= slow.searched->result->prediction.step);
  CHECK(slow.outside.empty());

  const WhyNot runner_up =
      ask(found.best[1].plan.schedule == best.plan.schedule
              ? "micro_batch=2"
              : ("schedule=" + std::string(hw::spelling(found.best[1].plan.schedule))).c_str());
  REQUIRE(runner_up.searched.has_value());
  CHECK(runner_up.searched->verdict == Verdict::Slower);

  const WhyNot own = ask("tp=1");
  REQUIRE(own.searched.has_value());
  CHECK(own.searched->verdict == (best.plan.tp == 1 ? Verdict::Same : Verdict::Slower));

  // Fields that no search varies: the best plan with them.
  const WhyNot switched = ask("overlap.p2p=false");
  CHECK_FALSE(switched.search_asked);
  CHECK_FALSE(switched.as_best.in_space);
  Plan waits = best.plan;
  waits.overlap.p2p = false;
  CHECK(switched.as_best.plan == waits);
  CHECK(switched.as_best.result->prediction.step ==
        predict(s.model, s.cluster, s.stack, waits, step).step);

  // Data-parallel ranks: what is left, so a restriction of the others.
  const WhyNot dp = ask("dp=128");
  REQUIRE(dp.searched.has_value());
  CHECK(dp.searched->plan.dp == 128);

  for (const WhyNot* w : {&odd, &large, &slow, &switched, &dp}) {
    CHECK(to_text(*w, best, s, step).find("Why not " + w->named.text) == 0);
    CHECK(to_json(*w, best, s)["rest_as_in_best"].contains("verdict"));
  }
}
