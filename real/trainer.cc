#include "real/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "planner/schedule.h"
#include "sim/check.h"

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

bool uses_embedding(const plan::ModelShape& m, const plan::ChunkLayout& c) {
  return c.embedding || c.mtp > 0 || (m.tied_embeddings && c.head);
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
                   Transport& transport) {
  const Peers peers = peers_of(job.plan, place);
  Groups g;
  std::uint32_t id = 0;
  const auto make = [&](std::vector<int> members) {
    return make_group(transport, std::move(members), id++);
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
  for (int r = 0; r < transport.size(); ++r) all.push_back(r);
  g.world = make(all);
  if (const std::vector<int> copies = embedding_copies(job, s, place); !copies.empty())
    g.copies = make(copies);
  return g;
}

plan::Schedule schedule_of(const Job& job) {
  const auto micro_batches = static_cast<int>(
      job.step.global_batch / (static_cast<std::int64_t>(job.plan.dp) * job.plan.micro_batch));
  return plan::make_schedule(job.plan.schedule, job.plan.pp, job.plan.vpp, micro_batches);
}

Setting setting_of(const Job& job, const Place& place) {
  return {.model = job.model,
          .plan = job.plan,
          .recipe = job.recipe,
          .place = place,
          .seq = job.step.seq,
          .global_tokens = job.step.global_batch * job.step.seq,
          .global_sequences = job.step.global_batch};
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

Trainer::Trainer(const Job& job, Transport& transport, Sequences sequences)
    : job_(job),
      place_(place_of(job.plan, transport.rank())),
      schedule_(schedule_of(job)),
      sequences_(std::move(sequences)) {
  check(!why_untrainable(job), "the trainer is asked for what it can do");
  check(transport.size() == plan::world_size(job.plan), "one rank per device of the plan");
  plan::Lowering lowering(job_.model, job_.cluster, job_.stack);
  program_ = lowering.lower(job_.plan, job_.step, schedule_);
  groups_ = make_groups(job_, schedule_, place_, transport);
  const Setting setting = setting_of(job_, place_);
  weights_ =
      std::make_unique<Weights>(job_.model, job_.plan, place_,
                                chunks_of(job_.plan, schedule_, place_.pp), job_.recipe, *meter_);
  ops_ = std::make_unique<Ops>(setting, *weights_, groups_, *meter_);
  const int roles = static_cast<int>(program_.roles.size());
  const int role = place_.pp < roles ? place_.pp : job_.plan.pp - 1 - place_.pp;
  optimizer_ = std::make_unique<Optimizer>(setting, *weights_, groups_,
                                           program_.roles[static_cast<std::size_t>(role)], *meter_);
  executor_ = std::make_unique<Executor>(program_, schedule_, setting, *ops_, *weights_,
                                         *optimizer_, transport, *meter_);
}

// Sequences of a step are numbered through: first by data-parallel replica, then by micro-batch.
void Trainer::ids(std::uint32_t micro_batch, std::int32_t* out) const {
  const std::int64_t per_replica = job_.step.global_batch / job_.plan.dp;
  const std::int64_t first = done_ * job_.step.global_batch + place_.dp * per_replica +
                             std::int64_t{micro_batch} * job_.plan.micro_batch;
  const std::int64_t stride = ops_->token_stride();
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
  ops_->loss = ops_->mtp_loss = 0;
  meter_->reset_peak();
  const auto start = std::chrono::steady_clock::now();
  executor_->run_step(
      done_ + 1, [this](std::uint32_t mb, std::int32_t* out) { ids(mb, out); }, record);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  double sums[2] = {ops_->loss, ops_->mtp_loss};
  groups_.world->all_reduce(sums, 2);
  ++done_;
  const double tokens = static_cast<double>(job_.step.global_batch) * job_.step.seq;
  return {.step = done_,
          .loss = sums[0] / tokens,
          .mtp_loss = job_.model.mtp_depth > 0 ? sums[1] / tokens / job_.model.mtp_depth : 0,
          .gradient_norm = optimizer_->gradient_norm(),
          .lr = learning_rate(job_.recipe, done_),
          .seconds = took.count(),
          .peak = meter_->peak(),
          .at_peak = meter_->at_peak()};
}

void Trainer::save(const std::string& directory) {
  const nlohmann::ordered_json metadata = {
      {"step", done_},
      {"sequences_seen", done_ * job_.step.global_batch},
      {"seed", job_.recipe.seed},
      {"model", job_.model.name},
      {"plan", plan::describe(job_.plan)},
  };
  save_checkpoint(directory,
                  {.step = done_, .metadata = metadata.dump(), .pieces = optimizer_->saved()},
                  job_.recipe.keep_checkpoints, *groups_.world);
}

bool Trainer::resume(const std::string& directory, std::vector<std::string>* damage) {
  const auto checkpoint = Checkpoint::newest(directory, damage);
  if (!checkpoint) return false;
  optimizer_->load(*checkpoint);
  done_ = checkpoint->step();
  return true;
}

}  // namespace reckon::real
