#include "real/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "planner/model_fields.h"
#include "planner/predict.h"
#include "planner/schedule.h"
#include "sim/check.h"
#include "sim/input_error.h"

namespace reckon::real {

namespace {

// Chunks that a pipeline rank holds, in order.
std::vector<int> chunks_of(const plan::Plan& p, const plan::Schedule& s, int pp) {
  std::set<int> held;
  for (int c = 0; c < s.chunks; ++c)
    for (int mb : {0, s.micro_batches - 1})
      if (plan::rank_of(p.schedule, p.pp, p.vpp, s.micro_batches, c, mb) == pp) held.insert(c);
  return {held.begin(), held.end()};
}

// The ranks at this rank's place of the stages that hold a copy of the embedding; this one among
// them, or none.
std::vector<int> embedding_copies(const Job& job, const plan::Schedule& s, const Place& place) {
  const plan::Plan& p = job.plan;
  std::set<int> ranks;
  bool mine = false;
  for (int pp = 0; pp < p.pp; ++pp) {
    // Mirror images hold the same chunks and are data-parallel to each other.
    if (s.bidirectional && (pp < p.pp / 2) != (place.pp < p.pp / 2)) continue;
    for (int c : chunks_of(p, s, pp))
      if (uses_embedding(job.model, p.layout[static_cast<std::size_t>(c)])) {
        ranks.insert(rank_at(p, place, pp));
        mine |= pp == place.pp;
      }
  }
  if (!mine || ranks.size() < 2) return {};
  return {ranks.begin(), ranks.end()};
}

Groups make_groups(const Job& job, const plan::Schedule& s, const Place& place,
                   Communicator& communicator) {
  const Peers peers = peers_of(job.plan, place);
  Groups g;
  std::uint32_t id = 0;
  const auto make = [&](std::vector<int> members) {
    return communicator.group(std::move(members), id++);
  };
  g.tp = make(peers.tp);
  g.tp_data = make(peers.tp);
  g.cp = make(peers.cp);
  g.tp_cp = make(peers.tp_cp);
  g.ep = make(peers.ep);
  g.dp_cp = make(peers.dp_cp);
  g.edp = make(peers.edp);
  g.stage = make(peers.stage);
  std::vector<int> all;
  for (int r = 0; r < communicator.transport().size(); ++r) all.push_back(r);
  g.world = make(all);
  if (const std::vector<int> copies = embedding_copies(job, s, place); !copies.empty())
    g.copies = make(copies);
  return g;
}

plan::Schedule schedule_of(const plan::Plan& p, std::int64_t global_batch) {
  const auto micro_batches =
      static_cast<int>(global_batch / (static_cast<std::int64_t>(p.dp) * p.micro_batch));
  return plan::make_schedule(p.schedule, p.pp, p.vpp, micro_batches);
}

// Batches that the plan can run, from the ramp's first on.
std::vector<std::int64_t> legal_batches(const Job& job) {
  const std::int64_t full = job.step.global_batch;
  const auto quantum = static_cast<std::int64_t>(job.plan.dp) * job.plan.micro_batch;
  std::vector<std::int64_t> batches;
  if (job.ramp.from > 0 && job.ramp.tokens > 0)
    for (std::int64_t b = (job.ramp.from + quantum - 1) / quantum * quantum; b < full; b += quantum)
      if (!plan::why_illegal(job.model, job.cluster, job.stack, job.plan,
                             {.seq = job.step.seq, .global_batch = b}))
        batches.push_back(b);
  batches.push_back(full);
  return batches;
}

Setting setting_of(const Job& job, const Place& place, std::int64_t global_batch) {
  return {.model = job.model,
          .plan = job.plan,
          .recipe = job.recipe,
          .place = place,
          .seq = job.step.seq,
          .global_tokens = global_batch * job.step.seq,
          .global_sequences = global_batch};
}

}  // namespace

std::optional<std::string> why_untrainable(const Job& job) {
  const plan::ModelShape& m = job.model;
  const plan::Plan& p = job.plan;
  if (!job.stack.reckon_ops) return "the scenario's stack is not reckon's own (reckon-cpu)";
  if (m.positions == plan::Positions::Alibi) return "the trainer has no ALiBi";
  if (m.parallel_residual) return "the trainer has no parallel residual";
  if (m.moe && (m.moe->shared_gate || m.moe->expert_bias))
    return "the trainer has no gated shared experts and no biases inside experts";
  if (plan::is_gated(m.mlp) && m.linear_bias) return "the trainer has no biases in gated MLPs";
  if (m.mla && m.mla->q_lora == 0 && p.tp > 1)
    return "tensor parallelism of MLA needs compressed queries (q_lora)";
  if (!m.mla && m.kv_heads % p.tp != 0) return "tp exceeds the key-value heads";
  if (m.moe && m.linear_bias && m.moe->shared_ffn > 0)
    return "the trainer has no biases in shared experts";
  if (p.recompute.mode == plan::Recompute::Mode::Selective &&
      (p.recompute.modules & plan::kPerOp) != 0)
    return "the trainer has no per-op recomputation";
  if (p.precision == plan::Precision::Fp8 || p.precision == plan::Precision::Mxfp8 ||
      p.precision == plan::Precision::Fp16)
    return "the trainer has fp32, bf16 and DeepSeek's fp8 recipe";
  for (const plan::ChunkLayout& c : p.layout)
    if (c.mtp > 0 && (!c.head || c.mtp != m.mtp_depth))
      return "MTP modules belong to the chunk with the head";
  return std::nullopt;
}

Trainer::Trainer(const Job& job, Transport& transport, Sequences sequences,
                 std::unique_ptr<Equipment> equipment)
    : job_(job),
      place_(place_of(job.plan, transport.rank())),
      batches_(legal_batches(job)),
      lowering_(job.model, job.cluster, job.stack),
      equipment_(equipment ? std::move(equipment) : cpu_equipment(transport)),
      meter_(std::make_unique<Meter>(equipment_->device->memory())),
      sequences_(std::move(sequences)) {
  check(!why_untrainable(job), "the trainer is asked for what it can do");
  check(transport.size() == plan::world_size(job.plan), "one rank per device of the plan");
  lower(next_batch());
  groups_ = make_groups(job_, run_->schedule, place_, *equipment_->communicator);
  weights_ = std::make_unique<Weights>(job_.model, job_.plan, place_,
                                       chunks_of(job_.plan, run_->schedule, place_.pp), job_.recipe,
                                       Weights::Room{*meter_, *equipment_->device});
  // Of the program it reads the buckets of gradients, which don't depend on the batch.
  const sim::Program& program = run_->program;
  const int roles = static_cast<int>(program.roles.size());
  const int role = place_.pp < roles ? place_.pp : job_.plan.pp - 1 - place_.pp;
  optimizer_ = std::make_unique<Optimizer>(
      setting_of(job_, place_, run_->step.global_batch), *weights_, groups_,
      program.roles[static_cast<std::size_t>(role)], *meter_, *equipment_->device);
  make_executor();
}

std::int64_t Trainer::next_batch() const {
  if (batches_.size() == 1) return batches_[0];
  const auto from = static_cast<double>(job_.ramp.from);
  const auto full = static_cast<double>(job_.step.global_batch);
  const double tokens = static_cast<double>(sequences_done_) * job_.step.seq;
  const double batch = from + (full - from) * std::min(1.0, tokens / job_.ramp.tokens);
  // The largest that is not larger, or the smallest there is.
  const auto above =
      std::upper_bound(batches_.begin(), batches_.end(), batch,
                       [](double x, std::int64_t b) { return x < static_cast<double>(b); });
  return above == batches_.begin() ? *above : *std::prev(above);
}

void Trainer::lower(std::int64_t global_batch) {
  run_ = std::make_unique<Run>();
  run_->step = {.seq = job_.step.seq, .global_batch = global_batch};
  run_->schedule = schedule_of(job_.plan, global_batch);
  run_->program = lowering_.lower(job_.plan, run_->step, run_->schedule);
}

void Trainer::make_executor() {
  const Setting setting = setting_of(job_, place_, run_->step.global_batch);
  run_->ops = std::make_unique<Ops>(setting, *weights_, groups_, *meter_, *equipment_->device);
  run_->executor =
      std::make_unique<Executor>(run_->program, run_->schedule, setting,
                                 Executor::Rank{.ops = *run_->ops,
                                                .weights = *weights_,
                                                .optimizer = *optimizer_,
                                                .communicator = *equipment_->communicator,
                                                .meter = *meter_,
                                                .device = *equipment_->device});
}

// Sequences of a step are numbered through: first by data-parallel replica, then by micro-batch.
void Trainer::ids(std::uint32_t micro_batch, std::int32_t* out) const {
  const std::int64_t per_replica = run_->step.global_batch / job_.plan.dp;
  const std::int64_t first =
      sequences_done_ + place_.dp * per_replica + std::int64_t{micro_batch} * job_.plan.micro_batch;
  const std::int64_t stride = run_->ops->token_stride();
  for (int i = 0; i < job_.plan.micro_batch; ++i, out += stride) {
    if (sequences_) {
      sequences_(first + i, out);
      continue;
    }
    // Without data: pseudo-random ids of the sequence's own.
    std::uint64_t x =
        job_.recipe.seed * 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(first + i);
    for (std::int64_t k = 0; k < stride; ++k) {
      x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9u + 0x94d049bb133111ebu;
      out[k] = static_cast<std::int32_t>((x >> 33) % static_cast<std::uint64_t>(job_.model.vocab));
    }
  }
}

StepResult Trainer::step(bool record) {
  if (const std::int64_t batch = next_batch(); batch != run_->step.global_batch) {
    lower(batch);
    make_executor();
  }
  Ops& ops = *run_->ops;
  ops.clear_losses();
  meter_->reset_peak();
  const auto start = std::chrono::steady_clock::now();
  run_->executor->run_step(
      done_ + 1, [this](std::uint32_t mb, std::int32_t* out) { ids(mb, out); }, record);
  const Ops::Losses losses = ops.losses();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  double sums[2] = {losses.next, losses.mtp};
  world().all_reduce(sums, 2);
  ++done_;
  sequences_done_ += run_->step.global_batch;
  const double tokens = static_cast<double>(run_->step.global_batch) * run_->step.seq;
  const StepResult result{
      .step = done_,
      .loss = sums[0] / tokens,
      .mtp_loss = job_.model.mtp_depth > 0 ? sums[1] / tokens / job_.model.mtp_depth : 0,
      .gradient_norm = optimizer_->gradient_norm(),
      .lr = learning_rate(job_.recipe, done_),
      .sequences = run_->step.global_batch,
      .seconds = took.count(),
      .peak = meter_->peak(),
      .at_peak = meter_->at_peak()};
  if (!std::isfinite(result.loss) || !std::isfinite(result.mtp_loss))
    throw Diverged(fmt::format("step {}: the loss is not finite", done_));
  return result;
}

// ---- checkpoints

std::string Trainer::metadata() const {
  return nlohmann::ordered_json{
      {"step", done_},
      {"sequences_seen", sequences_done_},
      {"seed", job_.recipe.seed},
      {"vocabulary", job_.vocabulary},
      {"model", hw::to_json(job_.model)},
      {"plan", plan::describe(job_.plan)},
  }
      .dump();
}

void Trainer::save(const std::string& directory, int keep) {
  save_checkpoint(directory, {.step = done_, .metadata = metadata(), .pieces = optimizer_->saved()},
                  keep, world());
}

namespace {

// The first key in which two models differ, but for their names; empty if none. Sources of figures
// don't count.
std::string difference(const nlohmann::json& saved, const nlohmann::json& own) {
  const nlohmann::json none;
  const auto value = [&](const nlohmann::json& j, const std::string& key) -> const nlohmann::json& {
    return j.contains(key) ? j.at(key) : none;
  };
  std::set<std::string> keys;
  for (const nlohmann::json* j : {&saved, &own})
    for (const auto& item : j->items()) keys.insert(item.key());
  for (const std::string& key : keys) {
    if (key == "name" || key == "sources") continue;
    const nlohmann::json &a = value(saved, key), &b = value(own, key);
    if (a == b) continue;
    if (a.is_object() && b.is_object()) return key + "." + difference(a, b);
    return fmt::format("{} {}, here {}", key, a.is_null() ? "absent" : a.dump(),
                       b.is_null() ? "absent" : b.dump());
  }
  return "";
}

// The sequences that the run of the checkpoint has seen. Throws InputError where it was another
// run than this one.
std::int64_t sequences_seen(const Checkpoint& checkpoint, const Job& job) {
  const auto fail = [&](const std::string& what) {
    throw InputError(checkpoint.folder() + ": " + what);
  };
  try {
    const auto saved = nlohmann::json::parse(checkpoint.metadata());
    const nlohmann::json own_model = hw::to_json(job.model);
    if (const std::string d = difference(saved.at("model"), own_model); !d.empty())
      fail("a checkpoint of another model: " + d);
    if (const auto seed = saved.at("seed").get<std::uint64_t>(); seed != job.recipe.seed)
      fail(fmt::format("a checkpoint of seed {}, here {}: the order of the data would change", seed,
                       job.recipe.seed));
    const auto vocabulary = saved.at("vocabulary").get<std::string>();
    if (vocabulary != job.vocabulary)
      fail(fmt::format("a checkpoint of vocabulary {}, here {}: its token ids mean other texts",
                       vocabulary, job.vocabulary));
    return saved.at("sequences_seen").get<std::int64_t>();
  } catch (const nlohmann::json::exception&) {
    fail("not a checkpoint of the trainer: its metadata lacks what `reckon train` writes");
  }
  return 0;
}

}  // namespace

bool Trainer::resume(const std::string& directory, std::vector<std::string>* damage) {
  const auto checkpoint = Checkpoint::newest(directory, damage);
  if (checkpoint) resume(*checkpoint);
  return checkpoint.has_value();
}

void Trainer::resume(const Checkpoint& checkpoint) {
  const std::int64_t seen = sequences_seen(checkpoint, job_);
  optimizer_->load(checkpoint);
  done_ = checkpoint.step();
  sequences_done_ = seen;
}

}  // namespace reckon::real
