#include "planner/lower.h"

#include <algorithm>
#include <cmath>

#include "planner/chunk_block.h"
#include "planner/groups.h"
#include "sim/check.h"

namespace reckon::plan {

using sim::Phase;

namespace {

// Gradient buckets: pieces in which a chunk's gradients leave, so that they overlap the backward
// pass that makes them. Megatron-Core: max(40M, 1M x data-parallel size) parameters a bucket.
std::uint32_t buckets(double parameters, int dp) {
  const double size = std::max(40e6, 1e6 * dp);
  return static_cast<std::uint32_t>(std::clamp(std::ceil(parameters / size), 1.0, 64.0));
}

// Of a weight as gathered and of an activation as sent.
double weight_bytes(const Plan& p) {
  return p.precision == Precision::Fp32 ? 4 : 2;
}

bool runs_backward(Phase p) {
  return p == Phase::B || p == Phase::BW || p == Phase::FB;
}
bool makes_gradients(Phase p) {
  return p == Phase::BW || p == Phase::FB || p == Phase::W;
}

std::uint16_t backward_chunk(const Task& t) {
  return t.phase == Phase::FB ? t.chunk2 : t.chunk;
}
std::uint32_t backward_micro_batch(const Task& t) {
  return t.phase == Phase::FB ? t.micro_batch2 : t.micro_batch;
}

}  // namespace

Schedule pair_backward_with_next_forward(const Schedule& schedule) {
  Schedule paired = schedule;
  for (auto& order : paired.order) {
    std::vector<Task> merged;
    for (std::size_t i = 0; i < order.size(); ++i) {
      // In the steady state tasks alternate forward, backward; the pair is backward with the
      // forward after it.
      if (order[i].phase == Phase::BW && i + 1 < order.size() && order[i + 1].phase == Phase::F) {
        merged.push_back({.phase = Phase::FB,
                          .chunk = order[i + 1].chunk,
                          .chunk2 = order[i].chunk,
                          .micro_batch = order[i + 1].micro_batch,
                          .micro_batch2 = order[i].micro_batch});
        ++i;
      } else {
        merged.push_back(order[i]);
      }
    }
    order = std::move(merged);
  }
  return paired;
}

Lowering::Lowering(const ModelShape& model, const hw::Cluster& cluster, const hw::Stack& stack)
    : model_(model), cluster_(cluster), stack_(stack), params_(parameters(model)) {}

int Lowering::composition(const ChunkLayout& chunk) {
  Key key{(chunk.embedding ? 1 : 0) + (chunk.head ? 2 : 0) + 4 * chunk.mtp};
  // Layers by kind, run by run.
  int run = 0, last_kind = -1;
  for (int i = 0; i < chunk.layers; ++i) {
    const int layer = chunk.first_layer + i;
    const int window = model_.windows.empty() ? 0 : model_.windows[static_cast<std::size_t>(layer)];
    const int kind = 2 * window + (is_moe_layer(model_, layer) ? 1 : 0);
    if (kind != last_kind && run > 0) {
      key.insert(key.end(), {last_kind, run});
      run = 0;
    }
    last_kind = kind;
    ++run;
  }
  key.insert(key.end(), {last_kind, run});
  return compositions_.try_emplace(std::move(key), static_cast<int>(compositions_.size()))
      .first->second;
}

Lowering::Blocks& Lowering::blocks_of(const Plan& p, const Groups& g, int seq) {
  Key key{seq,
          p.tp,
          p.cp,
          p.ep,
          p.etp,
          p.micro_batch,
          static_cast<int>(p.precision),
          static_cast<int>(p.recompute.mode),
          static_cast<int>(p.recompute.modules),
          p.recompute.full_layers,
          p.sequence_parallel,
          p.overlap.tp,
          static_cast<int>(p.zero == Zero::Full),
          g.tp.per_node,
          g.cp.per_node,
          g.ep.per_node,
          g.etp.per_node};
  if (p.zero == Zero::Full)
    for (const sim::Group* group : {&g.shard, &g.replica, &g.edp_shard})
      key.insert(key.end(), {group->size, group->per_node});
  return blocks_[std::move(key)];
}

Lowering::Parameters Lowering::chunk_parameters(const Plan& p, const ChunkLayout& chunk) const {
  Parameters n;
  for (int i = 0; i < chunk.layers; ++i) {
    const auto l = static_cast<std::size_t>(chunk.first_layer + i);
    n.dense += static_cast<double>(params_.attention[l] + params_.mlp[l]) / p.tp;
    n.experts += static_cast<double>(params_.experts[l]) / (p.ep * p.etp);
  }
  if (chunk.head) n.dense += static_cast<double>(params_.head + params_.final_norm) / p.tp;
  if (chunk.mtp > 0) {
    const auto last = static_cast<std::size_t>(model_.layers - 1);
    const double experts = static_cast<double>(params_.experts[last]) * chunk.mtp;
    n.experts += experts / (p.ep * p.etp);
    n.dense +=
        (static_cast<double>(params_.mtp) * chunk.mtp / std::max(1, model_.mtp_depth) - experts) /
        p.tp;
  }
  return n;
}

bool Lowering::uses_embedding(const ChunkLayout& chunk) const {
  return chunk.embedding || chunk.mtp > 0 || (model_.tied_embeddings && chunk.head);
}

double Lowering::replicated_parameters(const Plan& p, const ChunkLayout& chunk) const {
  const double h = model_.hidden;
  double layer = 2 * h, router = 0;
  if (model_.mla)
    layer += h * (model_.mla->q_lora + model_.mla->kv_lora + model_.mla->qk_rope) +
             model_.mla->q_lora + model_.mla->kv_lora;
  if (model_.qk_norm) layer += 2. * model_.head_dim;
  if (model_.moe) router = h * model_.moe->experts;
  double n = chunk.layers * layer;
  for (int i = 0; i < chunk.layers; ++i)
    if (is_moe_layer(model_, chunk.first_layer + i)) n += router;
  if (chunk.head) n += h;
  const bool mixture = is_moe_layer(model_, model_.layers - 1);
  n += chunk.mtp * (layer + (mixture ? router : 0) + 2 * h * h + 3 * h);
  return p.tp > 1 ? n : 0;
}

std::shared_ptr<const sim::Block> Lowering::optimizer_block(const Plan& p, const Groups& g,
                                                            double dense, double experts) {
  const bool sharded = p.zero != Zero::None;
  const double own =
      dense / (sharded ? g.shard.size : 1) + experts / (sharded ? g.edp_shard.size : 1);
  auto& slot = optimizer_blocks_[{
      dense, experts, own, static_cast<double>(world_size(p)), static_cast<double>(p.zero),
      static_cast<double>(p.precision), static_cast<double>(p.overlap.param_gather),
      static_cast<double>(g.shard.per_node), static_cast<double>(g.edp_shard.per_node)}];
  if (slot) return slot;
  BlockWriter out("optimizer");
  out.enter(Phase::Optimizer);
  const double grad = stack_.grad_bytes.si;
  const double weight = weight_bytes(p);
  using sim::MemoryKind;
  // Norm of the gradients, its sum over all ranks, then Adam: read gradient and state, write state
  // and bf16 weight.
  out.compute(
      "optimizer.norm",
      sim::MemoryBound{.kind = MemoryKind::Optimizer, .traffic = Bytes(grad * own), .kernels = 2});
  const sim::Group all{.size = world_size(p),
                       .per_node = std::min(cluster_.node.gpus, world_size(p))};
  if (all.size > 1)
    out.exchange(
        "optimizer.norm.sum",
        sim::Collective{.kind = sim::CollectiveKind::AllReduce, .bytes = Bytes(4), .group = all},
        sim::Stream::Data);
  const double state = stack_.optimizer_bytes.si;
  out.compute("optimizer.update",
              sim::MemoryBound{.kind = MemoryKind::Optimizer,
                               .traffic = Bytes((grad + 2 * state + weight) * own *
                                                (stack_.fused_optimizer ? 1 : 2)),
                               .kernels = stack_.fused_optimizer ? 2 : 20});
  const bool fp8 = p.precision == Precision::Fp8 || p.precision == Precision::Fp8DeepSeek ||
                   p.precision == Precision::Mxfp8;
  if (fp8 && !stack_.reckon_ops)  // the weights' fp8 copies, once a step
    out.compute("optimizer.quantise", sim::MemoryBound{.kind = MemoryKind::Quantise,
                                                       .traffic = Bytes(4 * (dense + experts)),
                                                       .kernels = 8});
  if (p.zero != Zero::Full)  // gradient buffers cleared
    out.compute("optimizer.clear", sim::MemoryBound{.kind = MemoryKind::Optimizer,
                                                    .traffic = Bytes(grad * (dense + experts)),
                                                    .kernels = 2});
  if ((p.zero == Zero::Optimizer || p.zero == Zero::Gradients) && !p.overlap.param_gather) {
    const auto gather = [&](double count, const sim::Group& group) {
      if (group.size > 1 && count > 0)
        out.exchange("optimizer.gather",
                     sim::Collective{.kind = sim::CollectiveKind::AllGather,
                                     .bytes = Bytes(weight * count),
                                     .group = group},
                     sim::Stream::Data);
    };
    gather(dense, g.shard);
    gather(experts, g.edp_shard);
  }
  return slot = out.finish();
}

// Half of a bidirectional schedule's ranks suffice: rank r's directions are rank pp-1-r's, swapped.
Lowering::Skeleton Lowering::skeleton(const Plan& p, const Schedule& given) {
  const bool pairs = p.overlap.expert == Overlap::Expert::OneFOneB;
  const Schedule paired = pairs ? pair_backward_with_next_forward(given) : Schedule{};
  const Schedule& schedule = pairs ? paired : given;
  const auto m = static_cast<std::uint32_t>(schedule.micro_batches);
  const auto chunks = static_cast<std::uint32_t>(schedule.chunks);
  const int ranks = static_cast<int>(schedule.order.size());
  const int roles = schedule.bidirectional ? ranks / 2 : ranks;
  const auto role_of = [&](int rank) { return rank < roles ? rank : ranks - 1 - rank; };
  const auto mirrored = [&](std::uint32_t mb) { return (mb + m / 2) % m; };

  // Where each pass sits: slot index by (chunk, micro-batch), for forward and for backward (input
  // gradient).
  std::vector<std::uint32_t> forward_slot(chunks * m), backward_slot(chunks * m);
  for (int r = 0; r < ranks; ++r) {
    const auto& order = schedule.order[static_cast<std::size_t>(r)];
    for (std::uint32_t i = 0; i < order.size(); ++i) {
      const Task& t = order[i];
      if (t.phase == Phase::F || t.phase == Phase::FB)
        forward_slot[t.chunk * m + t.micro_batch] = i;
      if (runs_backward(t.phase))
        backward_slot[backward_chunk(t) * m + backward_micro_batch(t)] = i;
    }
  }

  Skeleton s;
  // The block of a task, by what it runs. A rank runs few kinds; the one just met comes often.
  std::size_t met_before = 0;  // those of earlier ranks are not looked at: ranks share no chunks
  const auto block_index = [&](const Task& t) {
    const bool has_forward = t.phase == Phase::F || t.phase == Phase::FB;
    const Pass pass{.phase = t.phase,
                    .forward = has_forward ? t.chunk : -1,
                    .backward = t.phase == Phase::F ? -1 : backward_chunk(t)};
    for (std::size_t i = s.passes.size(); i-- > met_before;)
      if (s.passes[i] == pass) return static_cast<std::uint32_t>(i);
    s.passes.push_back(pass);
    return static_cast<std::uint32_t>(s.passes.size() - 1);
  };

  for (int r = 0; r < roles; ++r) {
    const auto& order = schedule.order[static_cast<std::size_t>(r)];
    sim::Role role;
    role.name = "stage " + std::to_string(r);
    role.slots.reserve(order.size());
    role.messages.reserve(2 * order.size());
    met_before = s.passes.size();
    std::vector<std::uint32_t> first_use(chunks, ~0u), last_gradient(chunks, ~0u);
    const auto message = [&](std::uint32_t chunk, std::uint32_t mb, bool forward) {
      const int rank = rank_of(p.schedule, p.pp, p.vpp, schedule.micro_batches,
                               static_cast<int>(chunk), static_cast<int>(mb));
      if (rank == r) return;  // same device, earlier in its order
      const bool mirror = rank >= roles;
      const std::uint32_t at = chunk * m + (mirror ? mirrored(mb) : mb);
      role.messages.push_back({.role = static_cast<std::uint32_t>(role_of(rank)),
                               .slot = forward ? forward_slot[at] : backward_slot[at],
                               .work = 0,
                               .phase = forward ? Phase::F : Phase::B});
    };
    for (std::uint32_t i = 0; i < order.size(); ++i) {
      const Task& t = order[i];
      sim::Slot slot{.block = block_index(t),
                     .phase = t.phase,
                     .chunk = t.chunk,
                     .chunk2 = t.chunk2,
                     .micro_batch = t.micro_batch,
                     .micro_batch2 = t.micro_batch2,
                     .first_message = static_cast<std::uint32_t>(role.messages.size())};
      if (t.phase == Phase::F || t.phase == Phase::FB) {
        if (t.chunk > 0) message(t.chunk - 1u, t.micro_batch, true);
        if (first_use[t.chunk] == ~0u) first_use[t.chunk] = i;
      }
      if (runs_backward(t.phase) && backward_chunk(t) + 1u < chunks)
        message(backward_chunk(t) + 1u, backward_micro_batch(t), false);
      if (makes_gradients(t.phase)) last_gradient[backward_chunk(t)] = i;
      slot.messages = static_cast<std::uint32_t>(role.messages.size()) - slot.first_message;
      role.slots.push_back(slot);
    }
    auto& held = s.held.emplace_back();
    for (std::uint32_t c = 0; c < chunks; ++c)
      if (first_use[c] != ~0u)
        held.push_back({.chunk = c, .first_use = first_use[c], .last_gradient = last_gradient[c]});
    role.tail = static_cast<std::uint32_t>(s.passes.size());
    s.passes.push_back({.phase = Phase::Optimizer});
    s.program.roles.push_back(std::move(role));
  }
  s.program.blocks.resize(s.passes.size());
  return s;
}

void Lowering::fill(Skeleton& s, const Plan& p, const StepShape& step) {
  const Groups g = groups(p, cluster_);
  sim::Program& program = s.program;
  const RankShape shape = rank_shape(model_, p, stack_, step.seq);
  program.works.clear();
  program.works.push_back(
      sim::Transfer{.bytes = Bytes(weight_bytes(p) * shape.tokens / p.tp * model_.hidden),
                    .inter_node = g.pipe_inter_node});
  program.blocking_messages = !p.overlap.p2p;

  Blocks& blocks = blocks_of(p, g, step.seq);
  const hw::Footprint& footprint = footprints_.of(model_, p, g);
  std::vector<int> compositions;
  compositions.reserve(p.layout.size());
  for (const ChunkLayout& chunk : p.layout) compositions.push_back(composition(chunk));
  for (std::size_t i = 0; i < s.passes.size(); ++i) {
    const Pass& pass = s.passes[i];
    if (pass.phase == Phase::Optimizer) continue;  // below, per role
    const auto layout = [&](int chunk) {
      return chunk < 0 ? nullptr : &p.layout[static_cast<std::size_t>(chunk)];
    };
    const auto kind = [&](int chunk) {
      return chunk < 0 ? -1 : compositions[static_cast<std::size_t>(chunk)];
    };
    auto& block = blocks[{static_cast<int>(pass.phase), kind(pass.forward), kind(pass.backward)}];
    if (!block)
      block = chunk_block({model_, params_, p, stack_, g, footprint, step.seq}, pass.phase,
                          layout(pass.forward), layout(pass.backward));
    program.blocks[i] = block;
  }

  const auto embeds = [&](const Held& held) { return uses_embedding(p.layout[held.chunk]); };
  const auto embedding_copies =
      static_cast<int>(std::count_if(s.held.begin(), s.held.end(), [&](const auto& held) {
        return std::any_of(held.begin(), held.end(), embeds);
      }));

  std::vector<sim::Sync> reductions;
  for (std::size_t r = 0; r < program.roles.size(); ++r) {
    sim::Role& role = program.roles[r];
    role.ranks = static_cast<std::uint32_t>(world_size(p)) /
                 static_cast<std::uint32_t>(program.roles.size());
    // The rank's copy of the embedding belongs to the first of its chunks that uses it.
    std::uint32_t embedding_owner = ~0u, embedding_done = 0;
    for (const Held& held : s.held[r]) {
      if (!embeds(held)) continue;
      embedding_owner = std::min(embedding_owner, held.chunk);
      embedding_done = std::max(embedding_done, held.last_gradient);
    }

    role.syncs.clear();
    reductions.clear();
    double dense = 0, experts = 0;
    const auto last_slot = static_cast<std::uint32_t>(role.slots.size() - 1);
    // `sync` with its place filled in; `bytes`: of all its buckets.
    const auto add_sync = [&](sim::Sync sync, sim::CollectiveKind kind, double bytes,
                              const sim::Group& group) {
      if (group.size <= 1 || bytes <= 0) return;
      sync.work = static_cast<std::uint32_t>(program.works.size());
      (sync.before ? role.syncs : reductions).push_back(sync);
      program.works.push_back(
          sim::Collective{.kind = kind, .bytes = Bytes(bytes / sync.buckets), .group = group});
    };
    for (const Held& held : s.held[r]) {
      const std::uint32_t c = held.chunk;
      const bool owns_embedding = c == embedding_owner;
      Parameters n = chunk_parameters(p, p.layout[c]);
      if (owns_embedding) n.dense += static_cast<double>(params_.embedding) / p.tp;
      dense += n.dense;
      experts += n.experts;
      if (p.zero == Zero::Full) continue;
      const double grad = stack_.reduce_bytes.si;
      const auto slot = !p.overlap.grad_reduce ? last_slot
                        : owns_embedding       ? embedding_done
                                               : held.last_gradient;
      const auto pieces_d = p.overlap.grad_reduce ? buckets(n.dense, g.dp_cp.size) : 1;
      const auto pieces_e = p.overlap.grad_reduce ? buckets(n.experts, g.edp.size) : 1;
      using enum sim::CollectiveKind;
      const auto at = [c](const char* label, std::uint32_t where, std::uint32_t pieces) {
        return sim::Sync{.label = label,
                         .chunk = static_cast<std::uint16_t>(c),
                         .slot = where,
                         .buckets = pieces};
      };
      // Norms, router and latent maps work on each tensor-parallel rank's own tokens.
      if (stack_.reckon_ops && p.tp > 1)
        add_sync(at("grad.replicated", slot, 1), AllReduce,
                 grad * replicated_parameters(p, p.layout[c]), g.tp);
      // Copies of the embedding on several stages have one gradient.
      const auto sum_copies = [&] {
        if (owns_embedding)
          add_sync(at("grad.tied", slot, 1), AllReduce,
                   grad * static_cast<double>(params_.embedding) / p.tp,
                   {.size = embedding_copies, .per_node = 1});
      };
      if (stack_.reckon_ops) sum_copies();
      if (p.zero == Zero::None) {
        add_sync(at("grad.dense", slot, pieces_d), AllReduce, grad * n.dense, g.dp_cp);
        add_sync(at("grad.experts", slot, pieces_e), AllReduce, grad * n.experts, g.edp);
      } else {
        if (pieces_d > 1 && g.replica.size > 1 && g.shard.size > 1 && !stack_.reckon_ops) {
          // Bucket by bucket among the shards, then among their copies, the one beside the other.
          // The NICs carry what an all-reduce over both groups would (2 (n-1)/n of a shard each),
          // NVLink half of it.
          add_sync(at("grad.dense", slot, pieces_d), AllReduce, grad * n.dense, g.dp_cp);
        } else {
          add_sync(at("grad.dense", slot, pieces_d), ReduceScatter, grad * n.dense, g.shard);
          add_sync(at("grad.replicas", slot, 1), AllReduce, grad * n.dense / g.shard.size,
                   g.replica);
        }
        add_sync(at("grad.experts", slot, pieces_e), ReduceScatter, grad * n.experts, g.edp_shard);
        if (p.overlap.param_gather) {
          sim::Sync dense_gather = at("param.dense", held.first_use, pieces_d);
          sim::Sync expert_gather = at("param.experts", held.first_use, pieces_e);
          dense_gather.before = expert_gather.before = true;
          add_sync(dense_gather, AllGather, weight_bytes(p) * n.dense, g.shard);
          add_sync(expert_gather, AllGather, weight_bytes(p) * n.experts, g.edp_shard);
        }
      }
      if (!stack_.reckon_ops) sum_copies();
    }
    std::stable_sort(reductions.begin(), reductions.end(),
                     [](const sim::Sync& a, const sim::Sync& b) { return a.slot < b.slot; });
    role.syncs.insert(role.syncs.end(), reductions.begin(), reductions.end());
    program.blocks[role.tail] = optimizer_block(p, g, dense, experts);
  }
}

sim::Program Lowering::lower(const Plan& p, const StepShape& step, const Schedule& schedule) {
  Skeleton s = skeleton(p, schedule);
  fill(s, p, step);
  return std::move(s.program);
}

const sim::Program& Lowering::lower_in_place(const Plan& p, const StepShape& step) {
  const auto m =
      static_cast<int>(step.global_batch / (static_cast<std::int64_t>(p.dp) * p.micro_batch));
  const std::array<int, 5> key{static_cast<int>(p.schedule), p.pp, p.vpp, m,
                               p.overlap.expert == Overlap::Expert::OneFOneB};
  auto it = skeletons_.find(key);
  if (it == skeletons_.end()) {
    constexpr std::size_t kMostSlots = 1'000'000;  // some 70 MB
    if (kept_slots_ > kMostSlots) skeletons_.clear(), kept_slots_ = 0;
    it = skeletons_.emplace(key, skeleton(p, make_schedule(p.schedule, p.pp, p.vpp, m))).first;
    for (const sim::Role& role : it->second.program.roles) kept_slots_ += role.slots.size();
  }
  fill(it->second, p, step);
  return it->second.program;
}

}  // namespace reckon::plan
