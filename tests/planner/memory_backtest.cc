// Peak memory against published figures: prints the error table and bounds it.
//
// What is compared. Figures that are max_memory_allocated: our peak without Stack::reserve (context
// and communicators live outside the allocator). Figures that are peak reserved: the same times
// 1.053, the mean of reserved over allocated in SimuMax's nine distinct B200 runs. Rows by stage:
// the worst rank of each stage. Missing plan parts: 1F1B (interleaved with vpp > 1), sequence
// parallelism with tp > 1, a distributed optimizer with dp > 1, no recompute unless the source is
// torchtitan (its default is per-op selective), micro-batch 1. Savings of the Megatron-Core report
// are differences of two runs: the permutation's and the MLA up-projection's agree to 2 %; its
// SwiGLU figure is half of ours (what one byte per element gives: after fp8 activations), its norm
// figure a quarter more.
#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "hw-models/catalog.h"
#include "planner/memory.h"
#include "planner/scenario_json.h"

using nlohmann::json;
using namespace reckon;
using namespace reckon::plan;

namespace {

constexpr double kReservedOverAllocated = 1.053;

ModelShape read_model(const json& j) {
  ModelShape m;
  m.layers = j.at("layers");
  m.hidden = j.at("hidden");
  m.ffn = j.at("ffn");
  m.heads = j.at("heads");
  m.kv_heads = j.at("kv_heads");
  m.head_dim = j.value("head_dim", 0);
  m.vocab = j.at("vocab");
  m.mtp_depth = j.value("mtp", 0);
  m.tied_embeddings = j.value("tied", false);
  m.linear_bias = j.value("bias", false);
  m.qk_norm = j.value("qk_norm", false);
  m.max_positions = j.value("positions", 0);
  if (m.max_positions > 0) m.positions = Positions::Learned;
  if (j.value("norm", "rms") == "layernorm") m.norm = Norm::LayerNorm;
  const std::string mlp = j.value("mlp", "swiglu");
  m.mlp = mlp == "gelu" ? Mlp::Gelu : mlp == "squared-relu" ? Mlp::SquaredRelu : Mlp::SwiGlu;
  if (j.contains("mla")) {
    const json& a = j.at("mla");
    m.mla = Mla{.q_lora = a[0], .kv_lora = a[1], .qk_nope = a[2], .qk_rope = a[3], .v = a[4]};
  }
  if (j.contains("moe")) {
    const json& e = j.at("moe");
    m.moe = Moe{.experts = e.at("experts"),
                .top_k = e.at("top_k"),
                .ffn = e.at("ffn"),
                .shared_ffn = e.at("shared_ffn"),
                .score = e.at("score") == "sigmoid" ? RouterScore::Sigmoid : RouterScore::Softmax,
                .layers = std::vector<bool>(static_cast<std::size_t>(m.layers), true)};
    for (int l = 0; l < e.at("dense_layers").get<int>(); ++l)
      m.moe->layers[static_cast<std::size_t>(l)] = false;
  }
  return m;
}

hw::Stack read_stack(const json& source) {
  hw::Stack s = hw::stack(source.at("stack"));
  s.reserve = Bytes(0);
  const json set = source.value("set", json::object());
  s.logit_bytes = Bytes(set.value("logit_bytes", s.logit_bytes.si));
  s.grad_bytes = Bytes(set.value("grad_bytes", s.grad_bytes.si));
  s.optimizer_bytes = Bytes(set.value("optimizer_bytes", s.optimizer_bytes.si));
  s.fused_cross_entropy = set.value("fused_cross_entropy", s.fused_cross_entropy);
  s.fused_permute = set.value("fused_permute", s.fused_permute);
  return s;
}

const std::map<std::string, std::uint32_t>& recompute_modules() {
  static const std::map<std::string, std::uint32_t> names = {{"core-attention", kCoreAttention},
                                                             {"mla-up", kMlaUp},
                                                             {"activation", kActivation},
                                                             {"norm", kNorm}};
  return names;
}

Plan read_plan(const json& j, const ModelShape& m, const std::string& source) {
  Plan p;
  p.tp = j.value("tp", 1);
  p.pp = j.value("pp", 1);
  p.vpp = j.value("vpp", 1);
  p.dp = j.value("dp", 1);
  p.cp = j.value("cp", 1);
  p.ep = j.value("ep", 1);
  p.etp = j.value("etp", 1);
  p.micro_batch = j.value("micro_batch", 1);
  p.sequence_parallel = j.value("sequence_parallel", true);
  const std::map<std::string, ScheduleKind> schedules = {{"1f1b", ScheduleKind::OneFOneB},
                                                         {"interleaved", ScheduleKind::Interleaved},
                                                         {"zb-h1", ScheduleKind::ZbH1},
                                                         {"zb-h2", ScheduleKind::ZbH2}};
  p.schedule = schedules.at(j.value("schedule", "1f1b"));
  const std::map<std::string, Precision> precisions = {
      {"bf16", Precision::Bf16}, {"fp8", Precision::Fp8}, {"mxfp8", Precision::Mxfp8}};
  p.precision = precisions.at(j.value("precision", "bf16"));
  const bool titan = source.starts_with("torchtitan");
  p.zero = titan ? Zero::Full : Zero::Optimizer;
  if (j.value("zero", "") == "none") p.zero = Zero::None;
  if (j.value("zero", "") == "full") p.zero = Zero::Full;
  if (titan) p.recompute = {Recompute::Mode::Selective, kPerOp};
  if (j.value("recompute", "") == "full") p.recompute = {Recompute::Mode::Full};
  for (const auto& name : j.value("modules", json::array())) {
    p.recompute.mode = Recompute::Mode::Selective;
    p.recompute.modules |= recompute_modules().at(name);
  }
  const bool weigh = j.value("ends_count_as_layers", false);
  ModelParts parts{.layers = m.layers, .mtp = m.mtp_depth};
  if (weigh) parts.embedding = parts.head = 1;
  p.layout = balanced_layout(parts, p.pp * p.vpp, weigh);
  if (j.value("without_ends", false)) p.layout.front().embedding = p.layout.back().head = false;
  return p;
}

// A row of the file as our types.
struct MemoryCase {
  ModelShape model;
  hw::Stack stack;
  Plan plan;
  StepShape step;
  Schedule schedule;
};

MemoryCase read_case(const json& row, const json& file) {
  const std::string source = row.at("source");
  MemoryCase c;
  c.model = read_model(file.at("models").at(row.at("model").get<std::string>()));
  c.stack = read_stack(file.at("sources").at(source));
  c.plan = read_plan(row.at("plan"), c.model, source);
  Plan& p = c.plan;
  c.step.seq = row.at("seq");
  // Rows without a batch are torchtitan's 405B runs: 8 micro-batches per replica.
  c.step.global_batch = row.at("batch").is_null() ? 8 * p.dp : row.at("batch").get<int>();
  int micro_batches = static_cast<int>(c.step.global_batch / p.dp / p.micro_batch);
  // An automatic schedule that fills its limit: as many passes alive on every stage.
  const int fills = row.at("plan").value("fills", 0);
  if (fills > 0) p.schedule = ScheduleKind::GPipe, micro_batches = fills * p.pp;
  c.schedule = make_schedule(p.schedule, p.pp, p.vpp, micro_batches);
  return c;
}

struct Row {
  std::string id, source;
  double measured, predicted;
  bool difference = false;  // of two runs: printed, kept out of the mean
  double error() const { return predicted / measured - 1; }
};

double gib(Bytes b) {
  return b / GiB;
}

double cause_gib(const RankMemory& r, Cause c) {
  return gib(r.at_peak[static_cast<int>(c)]);
}

// Bytes that one layer leaves, relative to no recompute and no sequence parallelism.
double layer_percent(const ModelShape& m, const Plan& p, const hw::Stack& stack, int seq) {
  Plan base = p, mine = p;
  base.recompute = {};
  base.sequence_parallel = false;
  const auto total = [&](Plan& q) {
    q.layout = {{.first_layer = 0, .layers = 1}};
    q.pp = q.vpp = 1;
    Bytes sum;
    for (const ActivationShare& s : activation_bytes(m, q, stack, seq, 0)) sum += s.bytes;
    return sum;
  };
  return 100 * (total(mine) / total(base));
}

void predict_row(const json& row, const json& file, std::vector<Row>& out) {
  const std::string id = row.at("id"), what = row.value("what", "peak"), source = row.at("source");
  const MemoryCase c = read_case(row, file);
  if (row.contains("percent")) {
    out.push_back(
        {id, source, row.at("percent"), layer_percent(c.model, c.plan, c.stack, c.step.seq)});
    return;
  }
  const MemoryUse use = memory_use(c.model, c.plan, c.stack, c.step, c.schedule);
  const double factor =
      file.at("sources").at(source).at("measure") == "reserved" ? kReservedOverAllocated : 1;
  if (what == "saving") {
    MemoryCase less = c;
    const std::string without = row.at("without");
    if (without == "permute")
      less.stack.fused_permute = true;
    else
      less.plan.recompute = {Recompute::Mode::Selective, recompute_modules().at(without)};
    const MemoryUse saved = memory_use(less.model, less.plan, less.stack, less.step, less.schedule);
    const std::size_t stage = row.at("stage");
    out.push_back({id, source, row.at("GiB"),
                   cause_gib(use.ranks[stage], Cause::Activations) -
                       cause_gib(saved.ranks[stage], Cause::Activations),
                   true});
    return;
  }
  if (row.at("GiB").is_array()) {
    for (std::size_t r = 0; r < use.ranks.size(); ++r)
      out.push_back({fmt::format("{} stage {}", id, r), source, row.at("GiB").at(r),
                     factor * gib(use.ranks[r].peak)});
    return;
  }
  double predicted = 0;
  const int only = row.value("stage", -1);
  for (std::size_t i = 0; i < use.ranks.size(); ++i) {
    const RankMemory& r = use.ranks[i];
    if (only >= 0 && static_cast<int>(i) != only) continue;
    double x = gib(r.peak);
    if (what == "states")
      x = cause_gib(r, Cause::Weights) + cause_gib(r, Cause::Gradients) +
          cause_gib(r, Cause::Optimizer);
    if (what == "weights and gradients")
      x = cause_gib(r, Cause::Weights) + cause_gib(r, Cause::Gradients);
    if (what == "optimizer") x = cause_gib(r, Cause::Optimizer);
    if (what == "activations") x = cause_gib(r, Cause::Activations);
    predicted = std::max(predicted, x);
  }
  out.push_back({id, source, row.at("GiB"), factor * predicted});
}

json published_figure() {
  std::ifstream in(RECKON_SOURCE "/tests/planner/data/memory_runs.json");
  return json::parse(in);
}

// As the planner decides: peak with the stack's reserve against the device's memory.
bool fits(const json& row, const json& file) {
  const json& source = file.at("sources").at(row.at("source").get<std::string>());
  MemoryCase c = read_case(row, file);
  c.stack.reserve = hw::stack(source.at("stack")).reserve;
  const Bytes peak = memory_use(c.model, c.plan, c.stack, c.step, c.schedule).peak;
  UNSCOPED_INFO(row.at("id") << ": " << gib(peak) << " GiB");
  return peak < hw::gpu(source.at("gpu")).memory;
}

}  // namespace

TEST_CASE("no plan known to run is called out of memory, none known to fail is called fitting") {
  const json file = published_figure();
  for (const json& row : file.at("rows"))
    if (file.at("sources").at(row.at("source").get<std::string>()).contains("gpu"))
      CHECK(fits(row, file));
  for (const json& row : file.at("outcomes")) CHECK(fits(row, file) == row.at("runs").get<bool>());
}

TEST_CASE("the published plans of the shipped scenarios fit their devices") {
  for (const char* name : {"deepseek-v3-2048-h800", "gpt3-175b-1024-a100", "llama3-405b-16k-h100",
                           "mixtral-8x22b-128-h100", "qwen3-235b-256-h100"}) {
    const Scenario s = read_scenario(fmt::format("{}/scenarios/{}.json", RECKON_SOURCE, name));
    const PhaseOfCampaign& phase = s.campaign.front();
    const Plan& p = phase.plan ? *phase.plan : *s.plan;
    const int micro_batches = static_cast<int>(phase.global_batch / p.dp / p.micro_batch);
    const MemoryUse use =
        memory_use(s.model, p, s.stack, {.seq = phase.seq, .global_batch = phase.global_batch},
                   make_schedule(p.schedule, p.pp, p.vpp, micro_batches));
    fmt::print("{:30} {:50} {:6.1f} of {:6.1f} GiB\n", name, describe(p), gib(use.peak),
               gib(s.cluster.gpu.memory));
    CHECK(use.peak < s.cluster.gpu.memory);
  }
}

TEST_CASE("peak memory against published runs") {
  const json file = published_figure();
  std::vector<Row> rows;
  for (const json& row : file.at("rows")) predict_row(row, file, rows);

  std::map<std::string, std::pair<int, double>> by_source;
  double sum = 0, worst = 0;
  int scored = 0;
  std::map<std::pair<std::string, double>, double> distinct;  // measured, repeats counted once
  fmt::print("{:58} {:>10} {:>10} {:>8}\n", "memory", "measured", "predicted", "error");
  for (const Row& r : rows) {
    fmt::print("{:58} {:10.2f} {:10.2f} {:7.1f}%\n", r.id, r.measured, r.predicted,
               100 * r.error());
    if (r.difference) continue;
    ++scored;
    sum += std::abs(r.error());
    worst = std::max(worst, std::abs(r.error()));
    if (r.source != "korthikanti") distinct[{r.source, r.measured}] = std::abs(r.error());
    auto& s = by_source[r.source];
    ++s.first, s.second += std::abs(r.error());
  }
  for (const json& u : file.at("unscored"))
    fmt::print("{:58} not scored: {}\n", u[0].get<std::string>(), u[1].get<std::string>());
  for (const auto& [name, s] : by_source)
    fmt::print("  {:34} {:3} rows, mean error {:5.1f}%\n", name, s.first, 100 * s.second / s.first);
  const double mape = 100 * sum / scored;
  fmt::print("  scored {} figures, not scored {}: MAPE {:.2f}%, worst {:.1f}%\n", scored,
             file.at("unscored").size(), mape, 100 * worst);
  double distinct_sum = 0;
  for (const auto& [row, error] : distinct) distinct_sum += error;
  const double distinct_mape = 100 * distinct_sum / static_cast<double>(distinct.size());
  fmt::print(
      "  without the paper formulas, equal figures of a source counted once: {} figures, MAPE "
      "{:.2f}%\n",
      distinct.size(), distinct_mape);
  CHECK(mape <= 3);
  CHECK(distinct_mape <= 6);
}
