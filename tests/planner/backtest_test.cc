#include "planner/backtest.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "planner/stack_fit.h"
#include "sim/input_error.h"

using namespace reckon;
using namespace reckon::plan;

namespace {

std::vector<PublishedRun> runs_from(const std::string& text) {
  return published_runs(hw::parse_json("runs.json", text));
}

// A dense model on 8 to 16 GPUs; `plan` and `rest` are spliced in.
std::string row(const std::string& id, const std::string& plan, const std::string& rest) {
  return fmt::format(
      R"({{"id": "{}", "source": "vTrain", "tier": "A", "family": "dense",
    "model": {{"name": "GPT", "layers": 24, "hidden": 2048, "heads": 16, "ffn": 8192,
              "mlp": "gelu", "vocab": 51200, "seq_len": 1024, "attention": "MHA causal"}},
    "gpu": {{"name": "A100", "mem_gb": 80}}, "network": "8x HDR200", "gpus": 16,
    "plan": {{{}}}{}}})",
      id, plan, rest);
}

std::string list(const std::vector<std::string>& rows) {
  return fmt::format("[{}]", fmt::join(rows, ", "));
}

std::string with(const std::string& plan, const std::string& more) {
  return fmt::format("{}, {}", plan, more);
}

RunCase case_of(const std::string& text) {
  const auto c = run_case(runs_from(list({text})).at(0));
  if (const auto* no = std::get_if<NoCase>(&c)) FAIL(no->reason);
  return std::get<RunCase>(c);
}

std::string reason_of(const std::string& text) {
  const auto c = run_case(runs_from(list({text})).at(0));
  return std::holds_alternative<NoCase>(c) ? std::get<NoCase>(c).reason : "";
}

const std::string kPlan = R"("tp": 2, "pp": 2, "global_batch": 64, "micro_batch": 2)";

// Time that depends on the constants as a step does: products, memory, host.
std::variant<CaseTime, NoCase> toy(const RunCase& c, const hw::Stack& s) {
  const double tokens = static_cast<double>(c.step.global_batch) * c.step.seq;
  const double flops = tokens * train_flops_per_token(c.model, c.step.seq, true).si;
  const double products = flops / (200e12 * s.gemm_efficiency * c.cluster.gpus);
  const double memory = tokens * c.model.hidden * c.model.layers * 100 /
                        (1.5e12 * s.memory_efficiency * c.cluster.gpus);
  return CaseTime{.step = Seconds(products + memory) + s.host_per_step};
}

}  // namespace

TEST_CASE("a row is read with its defaults, and says which were assumed") {
  const RunCase c = case_of(row("a", kPlan, R"(, "step_s": 1.5)"));
  CHECK(c.stack == "deepspeed-megatron");
  CHECK(c.plan.dp == 4);
  CHECK(c.plan.recompute.mode == Recompute::Mode::Full);
  CHECK(c.plan.zero == Zero::None);
  CHECK_FALSE(c.plan.sequence_parallel);
  CHECK(c.plan.schedule == ScheduleKind::OneFOneB);
  CHECK(c.plan.layout.size() == 2);
  CHECK(c.plan.precision == Precision::Bf16);
  CHECK(c.model.positions == Positions::Learned);
  CHECK(c.cluster.fabric.nic == 25 * GB / s);
  CHECK(std::find(c.assumed.begin(), c.assumed.end(), "recompute full") != c.assumed.end());
}

TEST_CASE("words of a plan") {
  const auto plan = [](const std::string& more) {
    return case_of(row("a", with(kPlan, more), R"(, "step_s": 1)")).plan;
  };
  CHECK(plan(R"("schedule": "interleaved 1F1B", "vpp": 3)").schedule == ScheduleKind::Interleaved);
  CHECK(plan(R"("schedule": "interleaved 1F1B, one layer per chunk")").vpp == 12);
  CHECK(plan(R"("schedule": "ZB-1p")").schedule == ScheduleKind::ZbH1);
  CHECK(plan(R"+("schedule": "ZB-2p (zero bubble)")+").schedule == ScheduleKind::ZbH2);
  CHECK(plan(R"("zero": "distributed optimizer")").zero == Zero::Optimizer);
  CHECK(plan(R"("zero": "FSDP FULL_SHARD")").zero == Zero::Full);
  CHECK(plan(R"("zero": "FSDP SHARD_GRAD_OP")").zero == Zero::Gradients);
  CHECK(plan(R"("zero": "ZeRO-1 inside each group of 2")").shard_group == 2);
  CHECK(plan(R"("recompute": "none")").recompute.mode == Recompute::Mode::None);
  const Recompute r =
      plan(R"("recompute": "selective", "recompute_modules": "mlp + mla_up_proj")").recompute;
  CHECK(r.modules == (kMlp | kMlaUp));
  CHECK(plan(R"("recompute": "selective", "recompute_modules": "layernorm, moe_act")")
            .recompute.modules == (kNorm | kActivation));
  CHECK(plan(R"("precision": "fp16/bf16 mixed")").precision == Precision::Fp16);
}

TEST_CASE("network prose becomes a rate per GPU") {
  const auto nic = [](const std::string& gpu, const std::string& prose) {
    PublishedRun run{.gpu = gpu, .network = prose, .gpus = 64, .memory_gb = 80};
    return std::get<hw::Cluster>(cluster_of(run)).fabric.nic.si / 1e9;
  };
  CHECK(nic("A100", "A100 nodes, 1600 Gb/s RoCE") == Approx(25));
  CHECK(nic("A100", "A100 SXM, 800 Gb/s inter-node per node (as stated)") == Approx(12.5));
  CHECK(nic("A100", "8x A100-80G per node, 4x100 Gb/s RoCE per node") == Approx(6.25));
  CHECK(nic("A100", "400 Gb/s per node") == Approx(6.25));
  CHECK(nic("A100", "DGX A100 Selene, 8x HDR200") == Approx(25));
  CHECK(nic("A100", "NVLink3; 4x200 Gb/s-class NICs per node") == Approx(12.5));
  CHECK(nic("H100", "NVLink4, InfiniBand 8x50 GB/s per node") == Approx(50));
  CHECK(nic("H100", "Eos DGX H100, NVLink4 + 8x400Gb/s InfiniBand") == Approx(50));
  CHECK(nic("H100", "DGX H100: NVLink4 (450 GB/s/dir/GPU), fabric not stated") == Approx(50));
  CHECK(nic("H100", "800 Gb/s per node") == Approx(12.5));
  CHECK(nic("H100", "Grand Teton, 8 H100/node, 400 Gb/s RoCE per GPU, 24K cluster") == Approx(50));
  CHECK(nic("H200", "400 Gb/s CX-7 per GPU") == Approx(50));
  CHECK(nic("H800",
            "H800: NVLink 400 GB/s (about 160 GB/s per direction usable), 8x400 Gb/s InfiniBand") ==
        Approx(50));
  CHECK(nic("H100", "") == Approx(50));
}

TEST_CASE("what can't be expressed is skipped with its reason") {
  CHECK(reason_of(row("a", kPlan, "")) == "no measured step time");
  CHECK(reason_of(row("a", R"("tp": 3, "pp": 1, "global_batch": 64)", R"(, "step_s": 1)")) ==
        "tp * pp * cp does not divide the number of GPUs");
  CHECK(reason_of(row("a", R"("tp": 1, "pp": 1)", R"(, "step_s": 1)")) ==
        "the global batch is not printed");
  CHECK(reason_of(row("a", with(kPlan, R"("precision": "nvfp4")"), R"(, "step_s": 1)")) ==
        "fp4 products are not modelled");
  CHECK(reason_of(row("a", with(kPlan, R"("schedule": "of our own")"), R"(, "step_s": 1)")) ==
        "schedule \"of our own\" is not understood");
  CHECK(reason_of(row("a", with(kPlan, R"("other": "LoRA fine-tune")"), R"(, "step_s": 1)")) ==
        "frozen base weights (LoRA) are not modelled");
}

TEST_CASE("rows of the wrong type are refused where they stand") {
  CHECK_THROWS_WITH(runs_from(list({row("a", R"("tp": "two")", "")})),
                    Catch::Contains("/0/plan/tp: expected a whole number"));
  CHECK_THROWS_WITH(runs_from(R"([{"source": "x"}])"), Catch::Contains("/0: expected the key"));
  CHECK_THROWS_WITH(runs_from(R"([{"id": "x"}, {"id": "x"}])"),
                    Catch::Contains("/1/id: expected an id that no other row has"));
  CHECK_THROWS_AS(runs_from(R"({"rows": []})"), InputError);
  CHECK_THROWS_WITH(runs_from(R"([{"id": "x", "step_s": 0}])"), Catch::Contains("/0/step_s"));
}

TEST_CASE("error summaries and rank correlation") {
  const ErrorSummary s = summary({0.9, 1.0, 1.1, 1.3, 1.2}, 2);
  CHECK(s.scored == 5);
  CHECK(s.skipped == 2);
  CHECK(s.mape == Approx((0.1 + 0 + 0.1 + 0.3 + 0.2) / 5));
  CHECK(s.median_ape == Approx(0.1));
  CHECK(s.p90_ape == Approx(0.26));  // between 0.2 and 0.3
  CHECK(spearman({1, 2, 3, 4}, {10, 20, 30, 40}) == Approx(1));
  CHECK(spearman({1, 2, 3, 4}, {4, 3, 2, 1}) == Approx(-1));
  CHECK(spearman({1, 2, 2, 3}, {1, 2, 2, 3}) == Approx(1));
  CHECK(spearman({1, 2, 3}, {1, 3, 2}) == Approx(0.5));
}

TEST_CASE("regret is the measured price of the plan that was predicted best") {
  Backtest b;
  const auto add = [&](const std::string& plan, double measured, double predicted) {
    b.rows.push_back({.id = plan,
                      .source = "s",
                      .group = "g",
                      .plan = plan,
                      .scored = true,
                      .measured_s = measured,
                      .predicted_s = predicted});
  };
  add("a", 1.0, 1.3);
  add("b", 1.2, 1.1);  // predicted best
  add("c", 1.5, 1.4);
  add("d", 2.0, 1.9);
  add("d", 2.5, 1.9);  // an older release of the same plan counts for nothing
  summarise(b);
  REQUIRE(b.groups.size() == 1);
  CHECK(b.groups[0].plans == 4);
  CHECK(b.groups[0].regret == Approx(0.2));
  CHECK(b.groups[0].spearman == Approx(0.8));  // two of four swapped: 1 - 6 * 2 / 60
}

// Steps made with known constants: the fit finds them, as far as its priors let it, and a source
// that was left out is predicted nearly as well.
TEST_CASE("the fit finds constants that made the data") {
  const auto base = [](const std::string&) {
    hw::Stack s;
    s.host_per_step = 20 * ms;
    return s;
  };
  std::vector<std::string> rows;
  for (int i = 0; i < 24; ++i)
    rows.push_back(fmt::format(
        R"({{"id": "r{0}", "source": "vTrain {1}", "tier": "A", "family": "dense",
             "model": {{"name": "m{0}", "layers": {2}, "hidden": {3}, "heads": 16, "ffn": 4096,
                       "vocab": 1024, "seq_len": 1024, "mlp": "gelu"}},
             "gpu": {{"name": "A100", "mem_gb": 80}}, "gpus": 8, "step_s": 1,
             "plan": {{"tp": 1, "pp": 1, "global_batch": 64, "micro_batch": 1}}}})",
        i, i % 2 ? "one" : "two", 8 + 4 * (i % 6), 1024 << (i % 3)));
  auto runs = runs_from(list(rows));
  for (PublishedRun& run : runs) {
    const auto read = run_case(run);
    if (const auto* no = std::get_if<NoCase>(&read)) FAIL(no->reason);
    const RunCase c = std::get<RunCase>(read);
    hw::Stack truth = base("");
    truth.gemm_efficiency = 0.85;
    truth.memory_efficiency = 0.7;
    truth.host_per_step = 60 * ms;
    run.step_s = std::get<CaseTime>(toy(c, truth)).step.si;
  }
  runs[3].step_s = *runs[3].step_s * 4;  // a row that contradicts the rest
  const Backtest before = backtest(runs, base, toy, 1);
  const Backtest after = fitted_backtest(runs, base, toy, {.cross_validate = true, .threads = 2});
  CHECK(before.all.median_ape > 0.15);
  CHECK(after.all.median_ape < 0.01);
  REQUIRE(after.left_out);
  CHECK(after.left_out->median_ape < 0.02);
  REQUIRE(after.fitted.size() == 1);
  CHECK(after.fitted[0].stack.gemm_efficiency == Approx(0.85).epsilon(0.03));
  CHECK(after.fitted[0].stack.attention_efficiency == Approx(1).epsilon(1e-6));  // no data on it
}

TEST_CASE("the report names every row once, scored or with a reason") {
  const auto runs = runs_from(list({row("a", kPlan, R"(, "step_s": 1)"), row("b", kPlan, "")}));
  const Backtest b = backtest(
      runs, [](const std::string&) { return hw::Stack{}; }, toy, 2);
  const auto json = to_json(b);
  CHECK(json["rows"][0]["status"] == "scored");
  CHECK(json["rows"][0]["error"].get<double>() ==
        Approx(json["rows"][0]["predicted_s"].get<double>() - 1));
  CHECK(json["rows"][1]["status"] == "skipped");
  CHECK(json["rows"][1]["reason"] == "no measured step time");
  CHECK(json["summary"]["scored"] == 1);
  CHECK(json["summary"]["skipped"] == 1);
  for (const char* key : {"mape", "median_ape", "p90_ape"}) CHECK(json["summary"].contains(key));
}
