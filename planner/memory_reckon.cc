// Each block of a rank is walked once, op by op: an op makes its tensors, then those that it was
// the last to read go. A pass begins its backward with what its forward left, so what a block adds
// and its highest point do not depend on the micro-batch, and the rank's order is a sum of them.
//
// Ops of exchange threads count where the block lists them; in truth they run a little earlier or
// later. Messages: see messages_under_way. Not modelled: working buffers inside kernels and
// collectives, which stay with their threads.
#include "planner/memory_reckon.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string_view>

#include "planner/activations_reckon.h"
#include "planner/chunk_block.h"
#include "sim/check.h"

namespace reckon::plan {

namespace {

using sim::Phase;
using Role = TrainerTensor::Role;

constexpr double kFloat = 4;

// A table made ready to walk.
struct TensorTable {
  struct Effects {
    std::vector<std::size_t> made, last, last2;
  };
  std::vector<TrainerTensor> rows;
  std::map<std::pair<std::string_view, char>, Effects> at;
  std::array<int, 5> role{-1, -1, -1, -1, -1};  // row of each Role

  explicit TensorTable(std::vector<TrainerTensor> table) : rows(std::move(table)) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const TrainerTensor& r = rows[i];
      if (r.made.label != nullptr) at[{r.made.label, r.made.pass}].made.push_back(i);
      if (r.last.label != nullptr) at[{r.last.label, r.last.pass}].last.push_back(i);
      if (r.last2.label != nullptr) at[{r.last2.label, r.last2.pass}].last2.push_back(i);
      role[static_cast<std::size_t>(r.role)] = static_cast<int>(i);
    }
  }
};

enum : unsigned char { kLive = 1, kRead = 2, kRead2 = 4 };

// Tensors of one pass: [part + 1][row].
struct PassTensors {
  std::vector<std::vector<unsigned char>> parts;
};

// A chunk as the walk sees it; equal ones share their profiles.
struct Chunk {
  ChunkLayout layout;
  std::vector<const TensorTable*> kinds;  // [part + 1]
  bool first = false, last = false;
  bool before_here = false, behind_here = false;  // its neighbour is on the same rank
  int composition = 0;
};

struct Profile {
  double after = 0, highest = 0;  // bytes, over what was alive before
};

class Walker {
 public:
  Walker(const ModelShape& m, const Plan& p, const hw::Stack& stack, int seq,
         const Schedule* schedule)
      : m_(m), p_(p), stack_(stack), seq_(seq), groups_(groups(p, hw::Cluster{})) {
    dense_ = std::make_unique<TensorTable>(trainer_layer(m, p, stack, seq, false));
    if (m.moe) moe_ = std::make_unique<TensorTable>(trainer_layer(m, p, stack, seq, true));
    if (m.mtp_depth > 0) mtp_ = std::make_unique<TensorTable>(trainer_mtp(m, p, stack, seq));
    std::map<std::vector<int>, int> compositions;
    const auto n = static_cast<int>(p.layout.size());
    const auto place = [&](int chunk) {
      return schedule == nullptr
                 ? chunk
                 : rank_of(p.schedule, p.pp, p.vpp, schedule->micro_batches, chunk, 0);
    };
    for (int c = 0; c < n; ++c) {
      Chunk chunk{.layout = p.layout[static_cast<std::size_t>(c)],
                  .first = c == 0,
                  .last = c + 1 == n,
                  .before_here = c > 0 && place(c - 1) == place(c),
                  .behind_here = c + 1 < n && place(c + 1) == place(c)};
      const ChunkLayout& l = chunk.layout;
      std::vector<int> key{l.embedding,       l.head,           l.mtp, chunk.first, chunk.last,
                           chunk.before_here, chunk.behind_here};
      ends_.push_back(std::make_unique<TensorTable>(trainer_ends(m, p, stack, seq, l)));
      chunk.kinds.push_back(ends_.back().get());
      for (int i = 0; i < l.layers; ++i) {
        const bool moe = is_moe_layer(m, l.first_layer + i);
        key.push_back(moe);
        chunk.kinds.push_back(moe ? moe_.get() : dense_.get());
      }
      for (int i = 0; i < l.mtp; ++i) chunk.kinds.push_back(mtp_.get());
      chunk.composition =
          compositions.try_emplace(std::move(key), static_cast<int>(compositions.size()))
              .first->second;
      chunks_.push_back(std::move(chunk));
    }
  }

  const Profile& of(const Task& t) {
    const bool pair = t.phase == Phase::FB;
    const int c = composition(t.chunk), c2 = pair ? composition(t.chunk2) : -1;
    const auto [it, fresh] = profiles_.try_emplace({static_cast<int>(t.phase), c, c2});
    if (!fresh) return it->second;
    const Chunk& chunk = chunks_[t.chunk];
    PassTensors forward, backward;
    if (t.phase == Phase::F || pair) forward = blank(chunk);
    if (t.phase != Phase::F) backward = state_before(t.phase, pair ? t.chunk2 : t.chunk);
    return it->second =
               walk(t.phase, &chunk, pair ? &chunks_[t.chunk2] : &chunk, forward, backward);
  }

  // What a pass through the chunk keeps after its forward, by part.
  std::vector<std::pair<int, double>> kept(int chunk) {
    const Chunk& c = chunks_[static_cast<std::size_t>(chunk)];
    const PassTensors s = state_before(Phase::BW, static_cast<std::size_t>(chunk));
    std::vector<std::pair<int, double>> out;
    for (std::size_t part = 0; part < s.parts.size(); ++part) {
      double bytes = part == 0 ? tokens(c) : 0;
      for (std::size_t i = 0; i < s.parts[part].size(); ++i)
        if (s.parts[part][i] & kLive) bytes += kFloat * c.kinds[part]->rows[i].elements;
      out.emplace_back(static_cast<int>(part) - 1, bytes);
    }
    return out;
  }

 private:
  int composition(std::size_t chunk) const { return chunks_[chunk].composition; }

  PassTensors blank(const Chunk& c) const {
    PassTensors s;
    for (const TensorTable* k : c.kinds) s.parts.emplace_back(k->rows.size(), 0);
    return s;
  }

  double tokens(const Chunk& c) const {
    const bool used = c.layout.embedding || c.layout.head || c.layout.mtp > 0;
    return used ? kFloat * p_.micro_batch * (seq_ + 1 + m_.mtp_depth) : 0;
  }

  // The pass in front of its backward, or of a separate weight gradient.
  const PassTensors& state_before(Phase phase, std::size_t chunk) {
    const Chunk& c = chunks_[chunk];
    const bool weights = phase == Phase::W;
    const auto [it, fresh] = states_.try_emplace({weights, c.composition});
    if (!fresh) return it->second;
    PassTensors s = weights ? state_before(Phase::BW, chunk) : blank(c), none;
    weights ? walk(Phase::B, &c, &c, none, s) : walk(Phase::F, &c, &c, s, none);
    return it->second = std::move(s);
  }

  Profile walk(Phase phase, const Chunk* f, const Chunk* b, PassTensors& forward,
               PassTensors& backward) {
    const bool has_forward = phase == Phase::F || phase == Phase::FB;
    const bool has_input_grads = phase == Phase::B || phase == Phase::BW || phase == Phase::FB;
    auto& block = blocks_[{static_cast<int>(phase), f->composition, b->composition}];
    if (!block)
      block = chunk_block({m_, params_, p_, stack_, groups_, unpriced_, seq_}, phase, &f->layout,
                          &b->layout);
    live_ = highest_ = 0;
    if (has_forward) {
      live_ += tokens(*f);
      if (!f->first) make(*f, forward, 0, Role::Input, f->before_here);
    }
    if (has_input_grads && !b->last) {
      const int row_part = b->layout.layers;  // of the last layer, or the ends
      make(*b, backward, row_part, row_part > 0 ? Role::OutputGrad : Role::InputGrad,
           b->behind_here);
    }
    note();
    std::map<int, std::size_t> last_forward;
    for (std::size_t i = 0; i < block->ops.size(); ++i) {
      const sim::Op& op = block->ops[i];
      if (op.stream == sim::Stream::Compute && op.phase == Phase::F && !op.recompute)
        last_forward[op.part] = i;
    }
    for (std::size_t i = 0; i < block->ops.size(); ++i) {
      const sim::Op& op = block->ops[i];
      const bool runs_forward = op.phase == Phase::F && !op.recompute;
      run(op, block->works[op.work], runs_forward ? *f : *b, runs_forward ? forward : backward);
      if (runs_forward && op.part >= 0 && last_forward[op.part] == i) drop(*f, forward, op.part);
    }
    if (has_forward && !f->last) {
      const int part = f->layout.layers;
      kill(*f, forward, part, part > 0 ? Role::Output : Role::Input, f->behind_here);
    }
    if (has_input_grads && !b->first) kill(*b, backward, 0, Role::InputGrad, b->before_here);
    if (phase == Phase::BW || phase == Phase::W || phase == Phase::FB) {
      for (std::size_t part = 0; part < backward.parts.size(); ++part)
        for (std::size_t i = 0; i < backward.parts[part].size(); ++i) kill(*b, backward, part, i);
      live_ -= tokens(*b);
    }
    return {.after = live_, .highest = highest_};
  }

  static Moment moment(const sim::Op& op, const sim::Work& work) {
    const auto by_pass = [](sim::Pass p) {
      return p == sim::Pass::Forward ? 'F' : p == sim::Pass::InputGrad ? 'B' : 'W';
    };
    if (const auto* m = std::get_if<sim::MatMul>(&work)) return {op.label, by_pass(m->pass)};
    if (const auto* g = std::get_if<sim::GroupedMatMul>(&work)) return {op.label, by_pass(g->pass)};
    // A second gather belongs to the backward pass, in a repeated stretch too.
    if (std::string_view(op.label).ends_with("regather")) return {op.label, 'B'};
    return {op.label, op.phase == Phase::F || op.recompute ? 'F'
                      : op.phase == Phase::W               ? 'W'
                                                           : 'B'};
  }

  void run(const sim::Op& op, const sim::Work& work, const Chunk& c, PassTensors& s) {
    const Moment now = moment(op, work);
    const int part = op.part, layers = c.layout.layers;
    const auto row_part = static_cast<std::size_t>(part + 1);
    const TensorTable& kind = *c.kinds[row_part];
    std::vector<unsigned char>& state = s.parts[row_part];
    const auto is = [&](char pass, const char* label) {
      return now.pass == pass && std::string_view(now.label) == label;
    };
    const bool layer = part >= 0 && part < layers;
    if (layer && !op.recompute && is('F', "attn.norm")) {  // takes over its input
      if (part == 0)
        kill(c, s, 0, Role::Input);
      else
        kill(c, s, part, Role::Output);
      make(c, s, part + 1, Role::Input);
    }
    static const TensorTable::Effects none;
    const auto found = kind.at.find({now.label, now.pass});
    const TensorTable::Effects& e = found == kind.at.end() ? none : found->second;
    const auto read = [&](bool overwritten) {
      const auto mark = [&](const std::vector<std::size_t>& rows, unsigned char bit) {
        for (std::size_t i : rows) {
          if (kind.rows[i].overwritten != overwritten || !(state[i] & kLive)) continue;
          state[i] |= bit;
          const bool both = kind.rows[i].last2.label == nullptr || (state[i] & kRead2);
          if ((state[i] & kRead) && both) kill(c, s, row_part, i);
        }
      };
      mark(e.last, kRead);
      mark(e.last2, kRead2);
    };
    read(true);
    const bool selective = p_.recompute.mode == Recompute::Mode::Selective;
    for (std::size_t i : e.made) make(c, s, row_part, i);
    if (layer && is('B', "attn.norm"))
      make(c, s, part, part == 0 ? Role::InputGrad : Role::OutputGrad);
    // The hidden state's gradient: of the last layer, or of the MTP layer in front.
    const bool head = is('B', "head.norm");
    const int hidden = part < 0 ? layers : head ? part + 1 : part;
    if (head || is('B', "mtp.norm"))
      make(c, s, hidden, hidden == 0 ? Role::InputGrad : Role::OutputGrad);
    note();
    read(false);
    if (op.recompute && selective)
      for (std::size_t i : e.made)
        if (kind.rows[i].unread_again) kill(c, s, row_part, i);
    if (op.recompute && is('F', "mlp.residual")) kill(c, s, part + 1, Role::Output);
    if (head) kill(c, s, hidden, hidden == 0 ? Role::Input : Role::Output);
  }

  // After a part's forward ops.
  void drop(const Chunk& c, PassTensors& s, int part) {
    const Recompute& r = p_.recompute;
    const bool full = r.mode == Recompute::Mode::Full && part < c.layout.layers &&
                      (r.full_layers == 0 || part < r.full_layers);
    const std::uint32_t modules = r.mode == Recompute::Mode::Selective ? r.modules : 0;
    if (!full && modules == 0) return;
    const auto row_part = static_cast<std::size_t>(part + 1);
    const TensorTable& kind = *c.kinds[row_part];
    for (std::size_t i = 0; i < kind.rows.size(); ++i) {
      const TrainerTensor& t = kind.rows[i];
      const bool crosses = t.role == Role::Input || t.role == Role::Output;
      if (full ? !crosses : (t.dropped_by & modules) != 0) kill(c, s, row_part, i);
    }
  }

  // `moved`: the bytes stay, they come from or go to another pass of the rank.
  void make(const Chunk& c, PassTensors& s, std::size_t part, std::size_t row, bool moved = false) {
    unsigned char& state = s.parts[part][row];
    if (!(state & kLive) && !moved) live_ += kFloat * c.kinds[part]->rows[row].elements;
    state = kLive;
  }
  void kill(const Chunk& c, PassTensors& s, std::size_t part, std::size_t row, bool moved = false) {
    unsigned char& state = s.parts[part][row];
    if ((state & kLive) && !moved) live_ -= kFloat * c.kinds[part]->rows[row].elements;
    state = 0;
  }
  // By role; `part` counts from the ends at 0.
  void make(const Chunk& c, PassTensors& s, int part, Role role, bool moved = false) {
    const auto at = static_cast<std::size_t>(part);
    const int row = c.kinds[at]->role[static_cast<std::size_t>(role)];
    if (row >= 0) make(c, s, at, static_cast<std::size_t>(row), moved);
  }
  void kill(const Chunk& c, PassTensors& s, int part, Role role, bool moved = false) {
    const auto at = static_cast<std::size_t>(part);
    const int row = c.kinds[at]->role[static_cast<std::size_t>(role)];
    if (row >= 0) kill(c, s, at, static_cast<std::size_t>(row), moved);
  }
  void note() { highest_ = std::max(highest_, live_); }

  const ModelShape& m_;
  const Plan& p_;
  const hw::Stack& stack_;
  const int seq_;
  const Groups groups_;
  const Params params_ = parameters(m_);
  const hw::Footprint unpriced_{};  // bytes on the wire do not matter here
  std::unique_ptr<TensorTable> dense_, moe_, mtp_;
  std::vector<std::unique_ptr<TensorTable>> ends_;
  std::vector<Chunk> chunks_;
  std::map<std::array<int, 3>, std::shared_ptr<const sim::Block>> blocks_;
  std::map<std::array<int, 3>, Profile> profiles_;  // by phase and compositions
  std::map<std::pair<bool, int>, PassTensors> states_;
  double live_ = 0, highest_ = 0;
};

// Walks one rank's order. `see(task, after, highest, passes)`.
template <class See>
void walk_order(Walker& walker, const std::vector<Task>& order, See see) {
  double live = 0;
  int passes = 0;
  for (const Task& t : order) {
    const Profile& p = walker.of(t);
    if (t.phase == Phase::F) ++passes;
    if (t.phase == Phase::BW || t.phase == Phase::W) --passes;
    see(t, live + p.after, live + p.highest, passes);
    live += p.after;
  }
}

// Messages of each rank that nobody has received yet, at the start of each of its tasks: [rank]
// [task]. A message leaves at the end of the task that makes it and is received at the start of the
// one that reads it, on a clock of one tick per layer and pass, the head counted as a layer. What
// ranks truly wait for each other moves a count by one or two; a message is S h, far below a pass.
std::vector<std::vector<int>> messages_under_way(const Plan& p, const Schedule& s) {
  const auto m = static_cast<std::size_t>(s.micro_batches);
  const std::size_t ranks = s.order.size(), passes = static_cast<std::size_t>(s.chunks) * m;
  constexpr std::int64_t kUnknown = -1;
  struct Pass {
    std::int64_t start = kUnknown, end = kUnknown;
  };
  std::vector<Pass> forward(passes), backward(passes);  // [chunk, micro-batch]
  const auto at = [&](int chunk, std::uint32_t mb) {
    return static_cast<std::size_t>(chunk) * m + mb;
  };
  const auto ticks = [&](int chunk) {
    const ChunkLayout& c = p.layout[static_cast<std::size_t>(chunk)];
    return std::int64_t{c.layers} + 2 * c.mtp + (c.head ? 1 : 0);
  };
  std::vector<std::size_t> next(ranks, 0);
  std::vector<std::int64_t> free(ranks, 0);
  std::vector<std::vector<std::int64_t>> starts(ranks);
  for (bool moved = true; moved;) {
    moved = false;
    for (std::size_t r = 0; r < ranks; ++r)
      for (; next[r] < s.order[r].size(); ++next[r]) {
        const Task& t = s.order[r][next[r]];
        const bool pair = t.phase == Phase::FB, f = t.phase == Phase::F || pair;
        const bool b = t.phase == Phase::B || t.phase == Phase::BW || pair;
        const int back = pair ? t.chunk2 : t.chunk;
        const std::uint32_t back_mb = pair ? t.micro_batch2 : t.micro_batch;
        std::int64_t start = free[r];
        bool known = true;
        const auto after = [&](const Pass& other) {
          known = known && other.end != kUnknown;
          start = std::max(start, other.end);
        };
        if (f && t.chunk > 0) after(forward[at(t.chunk - 1, t.micro_batch)]);
        if (b && back + 1 < s.chunks) after(backward[at(back + 1, back_mb)]);
        if (!known) break;
        const std::int64_t n =
            (f ? ticks(t.chunk) : 0) + (b ? ticks(back) : 0) +
            (t.phase == Phase::W || t.phase == Phase::BW || pair ? ticks(back) : 0);
        free[r] = start + n;
        starts[r].push_back(start);
        if (f) forward[at(t.chunk, t.micro_batch)] = {start, free[r]};
        if (b) backward[at(back, back_mb)] = {start, free[r]};
        moved = true;
      }
  }
  std::vector<std::vector<int>> out(ranks);
  for (std::size_t r = 0; r < ranks; ++r) {
    check(starts[r].size() == s.order[r].size(), "the schedule runs to its end");
    std::vector<std::int64_t> received;  // of messages under way
    const auto sent = [&](int to, std::uint32_t mb, const Pass& reader) {
      const int there = rank_of(p.schedule, p.pp, p.vpp, s.micro_batches, to, static_cast<int>(mb));
      if (there != static_cast<int>(r)) received.push_back(reader.start);
    };
    for (std::size_t i = 0; i < s.order[r].size(); ++i) {
      std::erase_if(received, [&](std::int64_t when) { return when <= starts[r][i]; });
      out[r].push_back(static_cast<int>(received.size()));
      const Task& t = s.order[r][i];
      const bool pair = t.phase == Phase::FB;
      const int back = pair ? t.chunk2 : t.chunk;
      const std::uint32_t back_mb = pair ? t.micro_batch2 : t.micro_batch;
      if ((t.phase == Phase::F || pair) && t.chunk + 1 < s.chunks)
        sent(t.chunk + 1, t.micro_batch, forward[at(t.chunk + 1, t.micro_batch)]);
      if ((t.phase == Phase::B || t.phase == Phase::BW || pair) && back > 0)
        sent(back - 1, back_mb, backward[at(back - 1, back_mb)]);
    }
  }
  return out;
}

bool uses_embedding(const ModelShape& m, const ChunkLayout& c) {
  return c.embedding || c.mtp > 0 || (m.tied_embeddings && c.head);
}

std::vector<std::set<int>> chunks_of_ranks(const Plan& p, const Schedule& s) {
  std::vector<std::set<int>> held(s.order.size());
  for (int c = 0; c < s.chunks; ++c)
    for (int micro_batch : {0, s.micro_batches - 1})
      held[static_cast<std::size_t>(
               rank_of(p.schedule, p.pp, p.vpp, s.micro_batches, c, micro_batch))]
          .insert(c);
  return held;
}

struct Standing {
  double weights = 0, gradients = 0, optimizer = 0, buffers = 0;
  double sums = 0;  // of replicated gradients: a temporary at the end of the step
};

Standing standing(const ModelShape& m, const Plan& p, const hw::Stack& stack,
                  const std::set<int>& chunks) {
  const double narrow = trainer_narrow_bytes(p, stack);
  Standing s;
  bool embedding = false;
  const int copies = p.schedule == ScheduleKind::DualPipe ? 2 : 1;
  const bool sharded = p.zero != Zero::None;
  const double dp = sharded ? p.dp * p.cp * copies : 1;
  const double edp = sharded ? std::max(1, p.tp * p.cp * p.dp / p.ep) * copies : 1;
  // Moments; and fp32 masters where products read 16-bit values.
  const double moment = p.precision == Precision::Fp8DeepSeek ? narrow : kFloat;
  const double states = 2 * moment + (p.precision == Precision::Fp32 ? 0 : kFloat);
  for (int c : chunks) {
    const ChunkLayout& layout = p.layout[static_cast<std::size_t>(c)];
    const bool owns = !embedding && uses_embedding(m, layout);
    embedding |= owns;
    const TrainerParameters n = trainer_parameters(m, p, layout, owns);
    s.gradients += kFloat * (n.dense + n.experts);
    s.weights += narrow * (n.dense + n.experts);
    s.optimizer += states * (n.dense / dp + n.experts / edp);
    if (n.routers > 0) s.buffers += kFloat * n.routers * m.moe->experts;
    s.sums = std::max(s.sums, kFloat * n.replicated);
  }
  s.weights += s.buffers;  // with the biases of routers
  return s;
}

}  // namespace

TrainerParameters trainer_parameters(const ModelShape& m, const Plan& p, const ChunkLayout& chunk,
                                     bool embedding) {
  const double h = m.hidden, tp = p.tp, stat = m.norm == Norm::LayerNorm ? 2 : 1;
  const double gates = is_gated(m.mlp) ? 2 : 1, bias = m.linear_bias ? 1 : 0;
  double whole = 0, split = 0;  // `split` over tensor-parallel ranks
  TrainerParameters n;
  const auto norm = [&](double width) { whole += stat * width; };
  const auto layer = [&](bool moe) {
    norm(h);
    norm(h);
    const double qkv_bias = m.qkv_bias || m.linear_bias ? 1 : 0;
    if (m.mla) {
      const Mla& a = *m.mla;
      const double heads = m.heads;
      if (a.q_lora > 0) {
        whole += a.q_lora * h;
        norm(a.q_lora);
      }
      whole += (a.kv_lora + a.qk_rope) * h;
      norm(a.kv_lora);
      split += heads * (a.qk_nope + a.qk_rope) * (a.q_lora > 0 ? a.q_lora : h);
      split += heads * (a.qk_nope + a.v) * a.kv_lora + heads * a.v * h;
    } else {
      const double q = static_cast<double>(m.heads) * m.head_dim;
      const double kv = static_cast<double>(m.kv_heads) * m.head_dim;
      split += (q + 2 * kv) * (h + qkv_bias) + q * h;
      if (m.qk_norm) {
        norm(m.head_dim);
        norm(m.head_dim);
      }
    }
    whole += bias * h;  // of the output projection
    if (!moe) {
      split += gates * m.ffn * (h + bias) + m.ffn * h;
      whole += bias * h;
      return;
    }
    const Moe& e = *m.moe;
    whole += e.experts * h;
    n.experts += static_cast<double>(e.experts) / p.ep * (gates + 1) * e.ffn * h;
    split += (gates + 1) * e.shared_ffn * h;
    ++n.routers;
  };
  for (int i = 0; i < chunk.layers; ++i) layer(is_moe_layer(m, chunk.first_layer + i));
  for (int i = 0; i < chunk.mtp; ++i) {
    norm(h);
    norm(h);
    whole += 2 * h * h;
    layer(is_moe_layer(m, m.layers - 1));
    norm(h);
  }
  const double table = static_cast<double>(m.vocab) * h;
  if (chunk.head) {
    norm(h);
    if (!m.tied_embeddings) split += table;
  }
  if (embedding) {
    split += table;
    if (m.positions == Positions::Learned) whole += m.max_positions * h;
  }
  n.dense = whole + split / tp;
  n.replicated = p.tp > 1 ? whole : 0;
  return n;
}

std::vector<StandingMemory> trainer_standing_memory(const ModelShape& m, const Plan& p,
                                                    const hw::Stack& stack,
                                                    const Schedule& schedule) {
  std::vector<StandingMemory> out;
  for (const std::set<int>& chunks : chunks_of_ranks(p, schedule)) {
    const Standing s = standing(m, p, stack, chunks);
    out.push_back({Bytes(s.weights), Bytes(s.gradients), Bytes(s.optimizer), Bytes(s.buffers)});
  }
  return out;
}

std::vector<MemoryPoint> trainer_memory_over_time(const ModelShape& m, const Plan& p,
                                                  const hw::Stack& stack, const StepShape& step,
                                                  const Schedule& schedule, int rank) {
  Walker walker(m, p, stack, step.seq, &schedule);
  std::vector<MemoryPoint> out;
  walk_order(walker, schedule.order.at(static_cast<std::size_t>(rank)),
             [&](const Task& t, double after, double highest, int passes) {
               out.push_back({t, Bytes(after), Bytes(highest), passes});
             });
  return out;
}

std::vector<ActivationShare> trainer_activation_bytes(const ModelShape& m, const Plan& p,
                                                      const hw::Stack& stack, int seq, int chunk) {
  Walker walker(m, p, stack, seq, nullptr);
  const ChunkLayout& layout = p.layout.at(static_cast<std::size_t>(chunk));
  std::vector<ActivationShare> out{{"dense layers", Bytes(0)},
                                   {"mixtures", Bytes(0)},
                                   {"MTP", Bytes(0)},
                                   {"embedding and head", Bytes(0)}};
  for (const auto& [part, bytes] : walker.kept(chunk)) {
    const std::size_t at = part < 0                                     ? 3
                           : part >= layout.layers                      ? 2
                           : is_moe_layer(m, layout.first_layer + part) ? 1
                                                                        : 0;
    out[at].bytes += Bytes(bytes);
  }
  std::erase_if(out, [](const ActivationShare& s) { return s.bytes == Bytes(0); });
  return out;
}

MemoryUse trainer_memory_use(const ModelShape& m, const Plan& p, const hw::Stack& stack,
                             const StepShape& step, const Schedule& schedule) {
  check(p.layout.size() == static_cast<std::size_t>(schedule.chunks), "one layout entry per chunk");
  Walker walker(m, p, stack, step.seq, &schedule);
  const std::vector<std::set<int>> held = chunks_of_ranks(p, schedule);
  const double message =
      trainer_narrow_bytes(p, stack) * p.micro_batch * step.seq / p.cp / p.tp * m.hidden;
  const auto under_way = p.pp > 1 ? messages_under_way(p, schedule)
                                  : std::vector(1, std::vector(schedule.order[0].size(), 0));
  MemoryUse use;
  for (std::size_t r = 0; r < schedule.order.size(); ++r) {
    const Standing s = standing(m, p, stack, held[r]);
    // The sum of replicated gradients comes last, when no pass is alive.
    double highest = 0, buffers = s.sums;
    RankMemory rank;
    std::size_t task = 0;
    walk_order(walker, schedule.order[r], [&](const Task&, double, double at_most, int passes) {
      const double sent = message * under_way[r][task++];
      if (at_most + sent <= highest + buffers) return;
      highest = at_most, buffers = sent;
      rank.micro_batches_in_flight = passes;
    });
    const auto hold = [&](Cause cause, double bytes) {
      rank.at_peak[static_cast<int>(cause)] = Bytes(bytes);
      rank.peak += Bytes(bytes);
    };
    hold(Cause::Weights, s.weights);
    hold(Cause::Gradients, s.gradients);
    hold(Cause::Optimizer, s.optimizer);
    hold(Cause::Activations, highest);
    hold(Cause::Buffers, s.buffers + buffers);
    rank.at_peak[static_cast<int>(Cause::Reserve)] = stack.reserve;
    rank.peak += stack.reserve;
    use.peak = std::max(use.peak, rank.peak);
    use.ranks.push_back(rank);
  }
  return use;
}

}  // namespace reckon::plan
