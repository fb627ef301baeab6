// Peak memory: standing states from the model's parameter counts, activations by walking each
// rank's order. F adds what its chunk keeps, BW frees it; a separate B leaves what W needs. During
// a pass come transient tensors: one recomputed layer, gradients inside the widest layer, the loss.
#include "planner/memory.h"

#include <algorithm>

#include "planner/activations.h"
#include "planner/memory_reckon.h"
#include "sim/check.h"

namespace reckon::plan {

namespace {

constexpr double kGathered = 2;  // bytes of a weight as gathered for use, and of its raw gradient

// Parameters on one GPU of one layer, or of one chunk.
struct Share {
  double matrices = 0;  // of linear maps outside the experts
  double others = 0;    // norms, biases of the router, gates: never fp8
  double experts = 0;
  Share& operator+=(const Share& s) {
    matrices += s.matrices;
    others += s.others;
    experts += s.experts;
    return *this;
  }
  friend Share operator*(double n, const Share& s) {
    return {n * s.matrices, n * s.others, n * s.experts};
  }
  double total() const { return matrices + others + experts; }
};

// Split of parameters() over the tensor- and expert-parallel ranks. Norms, the router and MLA's
// down-projections are not split; keys and values are copied where there are fewer heads than
// ranks.
struct Shares {
  Share dense, moe, mtp;
  double embedding = 0, head = 0, final_norm = 0;
};

Share layer_share(const ModelShape& m, const Plan& p, const Params& params, std::size_t layer,
                  bool moe) {
  const double h = m.hidden;
  const double norm = (m.norm == Norm::LayerNorm ? 2 : 1) * h * (m.parallel_residual ? 1 : 2);
  double whole = 0, extra = 0, norms = norm;
  if (m.mla) {
    const Mla& a = *m.mla;
    whole = h * (a.q_lora + a.kv_lora + a.qk_rope);
    norms += a.q_lora + a.kv_lora;
  } else {
    if (m.qk_norm) norms += 2. * m.head_dim;
    if (m.kv_heads < p.tp)
      extra = h * 2 * m.head_dim * (1 - static_cast<double>(m.kv_heads) / p.tp);
  }
  double unsplit_mlp = 0;
  if (moe) {
    unsplit_mlp = h * m.moe->experts + (m.moe->shared_gate ? h : 0);
    if (m.moe->score == RouterScore::Sigmoid || m.moe->expert_bias) unsplit_mlp += m.moe->experts;
  }
  const auto attention = static_cast<double>(params.attention[layer]);
  const auto mlp = static_cast<double>(params.mlp[layer]);
  Share s;
  s.others = norms + unsplit_mlp;
  s.matrices = whole + extra + (attention - norms - whole + mlp - unsplit_mlp) / p.tp;
  s.experts = static_cast<double>(params.experts[layer]) / (p.ep * p.etp);
  return s;
}

Shares shares(const ModelShape& m, const Plan& p) {
  const Params params = parameters(m);
  Shares s;
  for (int l = m.layers; l-- > 0;) {
    const bool moe = is_moe_layer(m, l);
    (moe ? s.moe : s.dense) = layer_share(m, p, params, static_cast<std::size_t>(l), moe);
  }
  const double positions =
      m.positions == Positions::Learned ? static_cast<double>(m.max_positions) * m.hidden : 0;
  const double table = static_cast<double>(m.vocab) * m.hidden / p.tp;
  s.embedding = table + positions;
  s.head = table;
  s.final_norm = static_cast<double>(params.final_norm);
  if (m.mtp_depth > 0) {
    s.mtp = is_moe_layer(m, m.layers - 1) ? s.moe : s.dense;
    s.mtp.others += 3 * s.final_norm;
    s.mtp.matrices += 2. * m.hidden * m.hidden / p.tp;
  }
  return s;
}

// Ranks that share one set of optimizer states, of dense and of expert parameters. The two copies
// of a DualPipe chunk are data-parallel to each other.
struct Shards {
  double dense = 1, expert = 1;
};

Shards shards(const Plan& p) {
  const int copies = p.schedule == ScheduleKind::DualPipe ? 2 : 1;
  const int dp = p.dp * p.cp, edp = std::max(1, p.tp * p.cp * p.dp / (p.ep * p.etp));
  const int shard = p.shard_group > 0 ? p.shard_group : dp;
  return {.dense = static_cast<double>(std::min(shard, dp)) * copies,
          .expert = static_cast<double>(p.shard_group > 0 ? std::min(shard, edp) : edp) * copies};
}

int mixtures(const ModelShape& m, const ChunkLayout& c) {
  if (!m.moe) return 0;
  const auto first = m.moe->layers.begin() + c.first_layer;
  return static_cast<int>(std::count(first, first + c.layers, true));
}

// What one pass through a chunk does to memory, in bytes.
struct PassBytes {
  double kept = 0;       // F leaves it
  double for_w = 0;      // a separate B leaves it
  double forward = 0;    // most alive inside F beside what is kept
  double backward = 0;   // most alive inside B beside what was kept
  double one_layer = 0;  // of an F that runs beside a B: its first layer, before B has freed one
};

PassBytes pass_bytes(const ModelShape& m, const Plan& p, const ActivationSums& a,
                     const ChunkLayout& c) {
  const int moe = mixtures(m, c), dense = c.layers - moe;
  PassBytes b;
  const bool full = p.recompute.mode == Recompute::Mode::Full;
  const int all =
      p.recompute.full_layers > 0 ? std::min(p.recompute.full_layers, c.layers) : c.layers;
  // Recomputed layers are taken from the front of the chunk; kinds in proportion.
  const double checked = full && c.layers > 0 ? static_cast<double>(all) / c.layers : 0;
  const double plain = 1 - checked;
  b.kept = checked * c.layers * a.checkpoint + plain * (dense * a.dense.kept + moe * a.moe.kept);
  b.for_w = dense * a.dense.for_w + moe * a.moe.for_w;
  const auto widest = [&](const TensorSums& t) {
    const double again = full ? t.all - a.checkpoint : t.all - t.kept;
    return t.working + again;
  };
  if (dense > 0) b.backward = std::max(b.backward, widest(a.dense));
  if (moe > 0) b.backward = std::max(b.backward, widest(a.moe));
  if (full && c.layers > 0) b.forward = (moe > 0 ? a.moe.all : a.dense.all) - a.checkpoint;
  b.one_layer = full ? a.checkpoint : moe > 0 ? a.moe.kept : a.dense.kept;
  if (c.embedding) b.kept += a.embedding.kept;
  if (c.head) {
    b.kept += a.head.kept;
    b.for_w += a.head.for_w;
  }
  if (c.head || c.mtp > 0) {
    b.forward = std::max(b.forward, a.loss);
    b.backward = std::max(b.backward, a.loss);
  }
  b.kept += c.mtp * a.mtp.kept;
  b.for_w += c.mtp * a.mtp.for_w;
  if (c.mtp > 0) b.backward = std::max(b.backward, widest(a.mtp));
  return b;
}

// Walks one rank's order. `see(task, after, highest, passes)`.
template <class See>
void walk(const std::vector<Task>& order, const std::vector<PassBytes>& chunks, See see) {
  double live = 0;
  int passes = 0;
  for (const Task& t : order) {
    const PassBytes& c = chunks[t.chunk];
    double highest = live;
    switch (t.phase) {
      case sim::Phase::F:
        live += c.kept;
        ++passes;
        highest = live + c.forward;
        break;
      case sim::Phase::BW:
        highest = live + c.backward;
        live -= c.kept;
        --passes;
        break;
      case sim::Phase::B:
        live += std::max(0., c.for_w - c.kept);
        highest = live + c.backward;
        live -= std::max(0., c.kept - c.for_w);
        break;
      case sim::Phase::W:
        live -= c.for_w;
        --passes;
        break;
      case sim::Phase::FB: {
        // F and B advance layer by layer: F grows as B shrinks, one layer ahead of it.
        const PassBytes& back = chunks[t.chunk2];
        highest =
            live + std::max(c.one_layer, c.kept - back.kept) + std::max(c.forward, back.backward);
        live += c.kept - back.kept;
        break;
      }
      case sim::Phase::Optimizer: break;
    }
    see(t, live, highest, passes);
  }
}

// Which chunks each rank holds, [rank][chunk]; both copies of a DualPipe chunk.
std::vector<std::vector<char>> held_chunks(const Plan& p, const Schedule& s) {
  const auto chunks = static_cast<std::size_t>(s.chunks);
  std::vector<std::vector<char>> holds(s.order.size(), std::vector<char>(chunks, 0));
  for (int c = 0; c < s.chunks; ++c)
    for (int micro_batch : {0, s.micro_batches - 1}) {
      const int r = rank_of(p.schedule, p.pp, p.vpp, s.micro_batches, c, micro_batch);
      holds[static_cast<std::size_t>(r)][static_cast<std::size_t>(c)] = 1;
    }
  return holds;
}

struct Peak {
  double highest = 0;      // activations and transient tensors
  double activations = 0;  // of that, what passes keep
  int passes = 0;          // that keep it
};

Peak activation_peak(const std::vector<Task>& order, const std::vector<PassBytes>& chunks) {
  Peak peak;
  double before = 0;
  int passes_before = 0;
  walk(order, chunks, [&](const Task&, double after, double highest, int passes) {
    if (highest > peak.highest)
      peak = {highest, std::max(before, after), std::max(passes_before, passes)};
    before = after;
    passes_before = passes;
  });
  return peak;
}

struct Stand {
  double weights = 0, gradients = 0, optimizer = 0, buffers = 0;
};

Stand stand(const ModelShape& m, const Plan& p, const hw::Stack& stack, const ActivationSums& a,
            const Shares& s, const std::vector<char>& holds) {
  Share sum;
  bool embedding = false, head = false, dense = false, moe = false;
  for (std::size_t i = 0; i < holds.size(); ++i) {
    if (!holds[i]) continue;
    const ChunkLayout& c = p.layout[i];
    const int mixed = mixtures(m, c);
    sum += (c.layers - mixed) * s.dense;
    sum += mixed * s.moe;
    sum += c.mtp * s.mtp;
    if (c.head) sum.others += s.final_norm;
    // An MTP module reads the embedding and the head; a tied head is the embedding.
    head |= c.head || c.mtp > 0;
    embedding |= c.embedding || c.mtp > 0;
    dense |= c.layers > mixed;
    moe |= mixed > 0;
  }
  if (m.tied_embeddings && head) {
    head = false;
    embedding = true;
  }
  const double ends = (embedding ? s.embedding : 0) + (head ? s.head : 0);
  sum.others += ends;
  const Shards shard = shards(p);
  const double unsharded_dense = sum.matrices + sum.others;
  const double sharded = unsharded_dense / shard.dense + sum.experts / shard.expert;
  const double fp32_weights = p.precision == Precision::Fp32 ? 4 : 0;
  const double at_rest = std::max(fp32_weights, stack.weight_bytes.si);
  // fp32 weights are their own masters.
  const double states =
      fp32_weights > 0 ? std::max(0., stack.optimizer_bytes.si - 4) : stack.optimizer_bytes.si;
  const bool fsdp = p.zero == Zero::Full;
  Stand out;
  if (fsdp) {
    out.weights = at_rest * sharded;
  } else {
    const double matrix = is_fp8(p.precision) ? stack.fp8_weight_bytes.si : at_rest;
    out.weights = at_rest * sum.others + matrix * (sum.matrices + sum.experts);
  }
  out.gradients = stack.grad_bytes.si * (p.zero == Zero::Gradients || fsdp ? sharded : sum.total());
  out.optimizer = states * (p.zero == Zero::None ? sum.total() : sharded);
  const double layer = std::max(dense ? s.dense.total() : 0, moe ? s.moe.total() : 0);
  if (fsdp && p.pp > 1) {
    // Gathered once for all micro-batches; gradients reduced after the last (FSDP2 with a
    // pipeline).
    out.weights += kGathered * sum.total();
    out.gradients += stack.grad_bytes.si * sum.total();
  } else if (fsdp) {
    // This layer and the next one; embedding and head form one group that stays gathered, with its
    // raw gradient until the end; a layer's raw gradient and its reduction's input.
    out.buffers += kGathered * (2 * layer + ends + (head ? s.head : ends));
    out.buffers += (kGathered + stack.grad_bytes.si) * layer;
  } else if (p.zero == Zero::Gradients) {
    out.buffers += stack.grad_bytes.si * layer;  // one bucket on its way to its owner
  }
  if (stack.wgrad_placeholders && stack.fused_wgrad_accumulation && !fsdp) {
    double shapes = 0;
    if (dense || moe) shapes += std::max(dense ? s.dense.matrices : 0, moe ? s.moe.matrices : 0);
    if (moe) shapes += s.moe.experts / std::max(1, m.moe->experts / p.ep);
    out.buffers += kGathered * (shapes + (head || (m.tied_embeddings && embedding) ? s.head : 0));
  }
  if (p.pp > 1) out.buffers += 2 * a.checkpoint;  // one message each way
  return out;
}

}  // namespace

std::vector<ActivationShare> activation_bytes(const ModelShape& m, const Plan& p,
                                              const hw::Stack& stack, int seq, int chunk) {
  if (stack.reckon_ops) return trainer_activation_bytes(m, p, stack, seq, chunk);
  const ChunkLayout& c = p.layout.at(static_cast<std::size_t>(chunk));
  std::vector<ActivationShare> out;
  const auto add = [&](const char* module, double bytes) {
    const auto it = std::find_if(out.begin(), out.end(), [&](const ActivationShare& s) {
      return std::string_view(s.module) == module;
    });
    if (it != out.end())
      it->bytes += Bytes(bytes);
    else
      out.push_back({module, Bytes(bytes)});
  };
  const std::uint32_t dropped =
      p.recompute.mode == Recompute::Mode::Selective ? p.recompute.modules : 0;
  const auto add_all = [&](const std::vector<SavedTensor>& tensors) {
    for (const SavedTensor& t : tensors)
      if (t.needed != SavedTensor::Needed::ForW && (t.dropped_by & dropped) == 0)
        add(t.module, t.elements * t.bytes_each);
  };
  const ActivationSums sums = activation_sums(m, p, stack, seq);
  int recomputed = 0;
  if (p.recompute.mode == Recompute::Mode::Full)
    recomputed = p.recompute.full_layers > 0 ? p.recompute.full_layers : c.layers;
  for (int i = 0; i < c.layers; ++i) {
    if (i < recomputed)
      add("layer input", sums.checkpoint);
    else
      add_all(layer_tensors(m, p, stack, seq, is_moe_layer(m, c.first_layer + i)));
  }
  if (c.embedding) add_all(embedding_tensors(m, p, stack, seq));
  if (c.head) add_all(head_tensors(m, p, stack, seq));
  if (c.mtp > 0) add("MTP", c.mtp * sums.mtp.kept);
  return out;
}

std::vector<StandingMemory> standing_memory(const ModelShape& m, const Plan& p,
                                            const hw::Stack& stack, int seq,
                                            const Schedule& schedule) {
  if (stack.reckon_ops) return trainer_standing_memory(m, p, stack, schedule);
  check(p.layout.size() == static_cast<std::size_t>(schedule.chunks), "one layout entry per chunk");
  const ActivationSums a = activation_sums(m, p, stack, seq);
  const Shares s = shares(m, p);
  std::vector<StandingMemory> out;
  for (const std::vector<char>& holds : held_chunks(p, schedule)) {
    const Stand x = stand(m, p, stack, a, s, holds);
    out.push_back({Bytes(x.weights), Bytes(x.gradients), Bytes(x.optimizer), Bytes(x.buffers)});
  }
  return out;
}

std::vector<MemoryPoint> memory_over_time(const ModelShape& m, const Plan& p,
                                          const hw::Stack& stack, const StepShape& step,
                                          const Schedule& schedule, int rank) {
  if (stack.reckon_ops) return trainer_memory_over_time(m, p, stack, step, schedule, rank);
  const ActivationSums a = activation_sums(m, p, stack, step.seq);
  std::vector<PassBytes> chunks;
  for (const ChunkLayout& c : p.layout) chunks.push_back(pass_bytes(m, p, a, c));
  std::vector<MemoryPoint> out;
  walk(schedule.order.at(static_cast<std::size_t>(rank)), chunks,
       [&](const Task& t, double after, double highest, int passes) {
         out.push_back({t, Bytes(after), Bytes(highest), passes});
       });
  return out;
}

MemoryUse memory_use(const ModelShape& m, const Plan& p, const hw::Stack& stack,
                     const StepShape& step, const Schedule& schedule) {
  if (stack.reckon_ops) return trainer_memory_use(m, p, stack, step, schedule);
  check(p.layout.size() == static_cast<std::size_t>(schedule.chunks), "one layout entry per chunk");
  const ActivationSums a = activation_sums(m, p, stack, step.seq);
  const Shares s = shares(m, p);
  std::vector<PassBytes> chunks;
  chunks.reserve(p.layout.size());
  for (const ChunkLayout& c : p.layout) chunks.push_back(pass_bytes(m, p, a, c));
  MemoryUse use;
  use.ranks.reserve(schedule.order.size());
  const std::vector<std::vector<char>> holds = held_chunks(p, schedule);
  for (std::size_t r = 0; r < schedule.order.size(); ++r) {
    Stand x = stand(m, p, stack, a, s, holds[r]);
    Peak peak = activation_peak(schedule.order[r], chunks);
    // FSDP allocates gradient shards as the backward pass frees activations: with one micro-batch
    // the two never meet in full.
    if (p.zero == Zero::Full && p.pp == 1 && schedule.micro_batches == 1) {
      const double working = std::max(chunks[0].backward, chunks[0].forward);
      if (peak.highest > x.gradients + working)
        x.gradients = 0;
      else
        peak = {.highest = working, .activations = 0, .passes = 0};
    }
    RankMemory rank;
    rank.at_peak[static_cast<int>(Cause::Weights)] = Bytes(x.weights);
    rank.at_peak[static_cast<int>(Cause::Gradients)] = Bytes(x.gradients);
    rank.at_peak[static_cast<int>(Cause::Optimizer)] = Bytes(x.optimizer);
    rank.at_peak[static_cast<int>(Cause::Activations)] = Bytes(peak.activations);
    rank.at_peak[static_cast<int>(Cause::Buffers)] =
        Bytes(x.buffers + peak.highest - peak.activations);
    rank.at_peak[static_cast<int>(Cause::Reserve)] = stack.reserve;
    for (const Bytes& b : rank.at_peak) rank.peak += b;
    rank.micro_batches_in_flight = peak.passes;
    use.peak = std::max(use.peak, rank.peak);
    use.ranks.push_back(rank);
  }
  return use;
}

}  // namespace reckon::plan
