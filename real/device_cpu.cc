// The CPU as a device: kernels run at once, on the calling thread; tensors are fp32, 16-bit numbers
// are values on the bf16 grid.
#include <cstring>
#include <new>

#include "real/device.h"
#include "sim/check.h"

namespace reckon::real {

namespace {

class HostMemory final : public Memory {
 public:
  void* allocate(std::int64_t bytes, int) override {
    return ::operator new (static_cast<std::size_t>(bytes + 64), std::align_val_t{64});
  }
  void release(void* at, std::uint32_t) noexcept override {
    ::operator delete (at, std::align_val_t{64});
  }
};

class CpuRope final : public RopeOnDevice {
 public:
  explicit CpuRope(const cpu::RopeTable& t) : table(t) {}
  cpu::RopeTable table;
};

void scale_rows(float* x, const float* weight, Index rows, Index width) {
  for (Index r = 0; r < rows; ++r)
    for (Index i = 0; i < width; ++i) x[r * width + i] *= weight[r];
}

float* or_null(View v) {
  return v ? floats(v) : nullptr;
}
const float* or_null(ConstView v) {
  return v ? floats(v) : nullptr;
}

// One product per group that has rows: each(shape, first row, group).
template <class Each>
void for_groups(const GroupedProduct& s, const GroupedRows& rows, Each each) {
  Index first = 0;
  for (std::size_t g = 0; g < rows.counts->size(); ++g) {
    const Index m = (*rows.counts)[g];
    if (m > 0) each(cpu::LinearShape{m, s.n, s.k, s.numbers}, first, static_cast<Index>(g));
    first += m;
  }
}

class CpuQueue final : public Queue {
 public:
  using Queue::Queue;

  Mark mark() override { return nullptr; }
  Mark stamp() override { return nullptr; }
  void wait(const Mark&) override {}
  void finish() override {}

  void zero(View x, Index n) override {
    std::memset(x.at, 0, static_cast<std::size_t>(n * bytes_of(x.element)));
  }
  void copy(ConstView from, View to, Index n) override {
    check(from.element == to.element, "the CPU has one kind of float");
    std::memcpy(to.at, from.at, static_cast<std::size_t>(n * bytes_of(to.element)));
  }
  void copy_rows(const RowsView& from, const RowsView& to, Index rows, Index width) override {
    for (Index r = 0; r < rows; ++r) copy(from.at + r * from.stride, to.at + r * to.stride, width);
  }
  void upload(const void* from, View to, Index n) override {
    std::memcpy(to.at, from, static_cast<std::size_t>(n * bytes_of(to.element)));
  }
  void download(ConstView from, void* to, Index n) override {
    std::memcpy(to, from.at, static_cast<std::size_t>(n * bytes_of(from.element)));
  }

  void round_bf16(View x, Index n) override { cpu::round_bf16(floats(x), n); }
  void linear_forward(const cpu::LinearShape& s, ConstView x, ConstView w, View y) override {
    cpu::linear_forward(s, floats(x), floats(w), floats(y));
  }
  void linear_input_grad(const cpu::LinearShape& s, ConstView dy, ConstView w, View dx,
                         bool accumulate) override {
    cpu::linear_input_grad(s, floats(dy), floats(w), floats(dx), accumulate);
  }
  void linear_weight_grad(const cpu::LinearShape& s, ConstView dy, ConstView x, View dw) override {
    cpu::linear_weight_grad(s, floats(dy), floats(x), floats(dw));
  }
  void bias_grad(ConstView dy, View db, Index m, Index n) override {
    cpu::bias_grad(floats(dy), floats(db), m, n);
  }
  void add_bias(View y, ConstView b, Index m, Index n) override {
    cpu::add_bias(floats(y), floats(b), m, n);
  }
  void grouped_forward(const GroupedProduct& s, const GroupedRows& rows, ConstView x, ConstView w,
                       View y) override {
    for_groups(s, rows, [&](const cpu::LinearShape& one, Index first, Index g) {
      cpu::linear_forward(one, floats(x) + first * s.k, floats(w) + g * s.n * s.k,
                          floats(y) + first * s.n);
    });
  }
  void grouped_input_grad(const GroupedProduct& s, const GroupedRows& rows, ConstView dy,
                          ConstView w, View dx) override {
    for_groups(s, rows, [&](const cpu::LinearShape& one, Index first, Index g) {
      cpu::linear_input_grad(one, floats(dy) + first * s.n, floats(w) + g * s.n * s.k,
                             floats(dx) + first * s.k);
    });
  }
  void grouped_weight_grad(const GroupedProduct& s, const GroupedRows& rows, ConstView dy,
                           ConstView x, View dw) override {
    for_groups(s, rows, [&](const cpu::LinearShape& one, Index first, Index g) {
      cpu::linear_weight_grad(one, floats(dy) + first * s.n, floats(x) + first * s.k,
                              floats(dw) + g * s.n * s.k);
    });
  }

  void attention_forward(const cpu::AttentionShape& s, ConstView q, ConstView k, ConstView v,
                         View out, float* lse) override {
    cpu::attention_forward(s, floats(q), floats(k), floats(v), floats(out), lse);
  }
  void attention_backward(const cpu::AttentionShape& s, const AttentionInputs& in,
                          const AttentionGrads& d) override {
    cpu::attention_backward(s, floats(in.q), floats(in.k), floats(in.v), floats(in.out), in.lse,
                            floats(in.dout), floats(d.q), floats(d.k), floats(d.v));
  }
  void assemble_keys(const KeysShape& s, ConstView kv_view, ConstView rotated, View k_view,
                     View v_view) override {
    const float* kv = floats(kv_view);
    float *k = floats(k_view), *v = floats(v_view);
    const auto copied = [](float* to, const float* from, Index n) {
      std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
      return to + n;
    };
    for (Index t = 0; t < s.tokens; ++t)
      for (Index head = 0; head < s.heads; ++head, kv += s.nope + s.v) {
        k = copied(copied(k, kv, s.nope), floats(rotated) + t * s.rope, s.rope);
        v = copied(v, kv + s.nope, s.v);
      }
  }
  void assemble_keys_backward(const KeysShape& s, ConstView dk_view, ConstView dv_view,
                              View d_kv_view, View d_rotated) override {
    const float *dk = floats(dk_view), *dv = floats(dv_view);
    float* d_kv = floats(d_kv_view);
    zero(d_rotated, s.tokens * s.rope);
    for (Index t = 0; t < s.tokens; ++t) {
      float* d_rot = floats(d_rotated) + t * s.rope;
      for (Index head = 0; head < s.heads; ++head) {
        std::memcpy(d_kv, dk, static_cast<std::size_t>(s.nope) * sizeof(float));
        std::memcpy(d_kv + s.nope, dv, static_cast<std::size_t>(s.v) * sizeof(float));
        cpu::add_to(d_rot, dk + s.nope, s.rope);
        dk += s.nope + s.rope, dv += s.v, d_kv += s.nope + s.v;
      }
    }
  }
  void rope(const RopeOnDevice& table, const RopeRows& r, const std::int32_t* position,
            bool inverse) override {
    cpu::rope(static_cast<const CpuRope&>(table).table,
              {floats(r.x), r.rows, r.heads, r.stride, r.offset}, position, inverse);
  }

  void norm_forward(const cpu::NormShape& s, ConstView x, ConstView w, ConstView b, View y,
                    float* statistics) override {
    cpu::norm_forward(s, floats(x), floats(w), or_null(b), floats(y), statistics);
  }
  void norm_backward(const cpu::NormShape& s, ConstView dy, ConstView x, ConstView w,
                     const float* statistics, const NormGrads& d) override {
    cpu::norm_backward(s, floats(dy), floats(x), floats(w), statistics, floats(d.x), or_null(d.w),
                       or_null(d.b), d.accumulate_x);
  }
  void activation_forward(cpu::Activation a, ConstView x, View y, Index rows,
                          Index width) override {
    cpu::activation_forward(a, floats(x), floats(y), rows, width);
  }
  void activation_backward(cpu::Activation a, ConstView x, ConstView dy, View dx, View y,
                           Index rows, Index width) override {
    cpu::activation_backward(a, floats(x), floats(dy), floats(dx), or_null(y), rows, width);
  }
  void weighted_activation_forward(cpu::Activation a, ConstView x, const float* weight, View y,
                                   Index rows, Index width) override {
    cpu::activation_forward(a, floats(x), floats(y), rows, width);
    scale_rows(floats(y), weight, rows, width);
  }
  void weighted_activation_backward(cpu::Activation a, ConstView x, const float* weight,
                                    const WeightedGrads& d, Index rows, Index width) override {
    float* dy = floats(d.dy);
    float* act = d.y ? floats(d.y) : floats(d.dx);  // dx is written last, and as wide
    cpu::activation_forward(a, floats(x), act, rows, width);
    for (Index r = 0; r < rows; ++r) {
      double sum = 0;
      for (Index i = r * width; i < (r + 1) * width; ++i)
        sum += static_cast<double>(dy[i]) * act[i];
      d.dweight[r] = static_cast<float>(sum);
    }
    if (d.y) scale_rows(act, weight, rows, width);
    scale_rows(dy, weight, rows, width);
    cpu::activation_backward(a, floats(x), dy, floats(d.dx), nullptr, rows, width);
  }

  void router_forward(const cpu::RouterShape& s, ConstView logits, const float* bias, float* scores,
                      std::int32_t* chosen, float* weights) override {
    cpu::router_forward(s, floats(logits), bias, scores, chosen, weights);
  }
  void router_backward(const cpu::RouterShape& s, const Routed& r, View dlogits) override {
    cpu::router_backward(s, r.scores, r.chosen, r.weights, r.dweights, r.dp, floats(dlogits));
  }
  void count_chosen(const std::int32_t* chosen, Index n, Index, float* load) override {
    for (Index i = 0; i < n; ++i) load[chosen[i]] += 1;
  }
  void balance_sums(const BalanceShape& s, const float* scores, const std::int32_t* chosen,
                    float* balance) override {
    std::memset(balance, 0, static_cast<std::size_t>(2 * s.sequences * s.experts) * sizeof(float));
    for (Index i = 0; i < s.tokens; ++i) {
      const Index sequence = (s.first_token + i) / s.sequence_tokens;
      float* counts = balance + 2 * sequence * s.experts;
      float* sums = counts + s.experts;
      const float* score = scores + i * s.experts;
      float total = 0;
      for (Index e = 0; e < s.experts; ++e) total += score[e];
      for (Index e = 0; e < s.experts; ++e) sums[e] += score[e] / total;
      for (Index j = 0; j < s.top_k; ++j) counts[chosen[i * s.top_k + j]] += 1;
    }
  }
  void balance_gradient(const BalanceShape& s, const float* balance, double factor,
                        float* dp) override {
    for (Index i = 0; i < s.tokens; ++i) {
      const float* counts = balance + 2 * ((s.first_token + i) / s.sequence_tokens) * s.experts;
      for (Index e = 0; e < s.experts; ++e)
        dp[i * s.experts + e] = static_cast<float>(factor * counts[e]);
    }
  }
  void move_router_bias(float* load, float* bias, Index n, double speed) override {
    double mean = 0;
    for (Index e = 0; e < n; ++e) mean += load[e] / static_cast<double>(n);
    for (Index e = 0; e < n; ++e) {
      const double over = load[e] - mean;
      if (speed != 0 && over != 0) bias[e] += static_cast<float>(over > 0 ? -speed : speed);
      load[e] = 0;
    }
  }

  void sort_by_expert(const std::int32_t* chosen, const float* weight, Index tokens, Index top_k,
                      Index experts, const SortedTokens& out) override {
    const Index copies = tokens * top_k;
    std::memset(out.offsets, 0, static_cast<std::size_t>(experts + 1) * sizeof(std::int32_t));
    for (Index i = 0; i < copies; ++i) ++out.offsets[chosen[i] + 1];
    for (Index e = 0; e < experts; ++e) {
      out.counts[e] = out.offsets[e + 1];
      out.offsets[e + 1] += out.offsets[e];
    }
    std::vector<std::int32_t> next(out.offsets, out.offsets + experts);
    for (Index i = 0; i < copies; ++i) {
      const std::int32_t to = next[static_cast<std::size_t>(chosen[i])]++;
      out.token_of[to] = static_cast<std::int32_t>(i / top_k);
      out.copy_of[i] = to;
      out.weight[to] = weight[i];
    }
  }
  void regroup(const std::int32_t* counts, Index members, Index experts, Index rows,
               const Regrouping& out) override {
    std::vector<std::int32_t> start(static_cast<std::size_t>(members * experts) + 1, 0);
    for (std::size_t i = 0; i + 1 < start.size(); ++i) start[i + 1] = start[i] + counts[i];
    check(start.back() == rows, "as many rows as their counts say");
    std::int32_t row = 0;
    for (Index e = 0; e < experts; ++e) {
      out.offsets[e] = row;
      for (Index m = 0; m < members; ++m)
        for (std::int32_t i = 0; i < counts[m * experts + e]; ++i, ++row) {
          const std::int32_t from = start[static_cast<std::size_t>(m * experts + e)] + i;
          out.by_expert[row] = from;
          out.by_member[from] = row;
        }
    }
    out.offsets[experts] = row;
  }
  void gather_rows(ConstView x, const std::int32_t* rows, Index n, Index width, View out) override {
    cpu::gather_rows(floats(x), rows, n, width, floats(out));
  }
  void combine_rows(ConstView x, const std::int32_t* row, Index tokens, Index top_k, Index width,
                    View out, bool accumulate) override {
    cpu::combine_rows(floats(x), row, nullptr, tokens, top_k, width, floats(out), accumulate);
  }

  void token_ids(const TokenRows& t, Index shift, std::int32_t* ids) override {
    for (Index b = 0; b < t.batch; ++b)
      for (Index i = 0; i < t.positions; ++i)
        *ids++ = t.tokens[b * t.stride + t.position[i] + shift];
  }
  void embedding_forward(ConstView table, const std::int32_t* ids, Index n, Index width,
                         Vocabulary v, View out) override {
    cpu::embedding_forward(floats(table), ids, n, width, v.begin, v.end, floats(out));
  }
  void embedding_backward(ConstView dout, const std::int32_t* ids, Index n, Index width,
                          Vocabulary v, View dtable) override {
    cpu::embedding_backward(floats(dout), ids, n, width, v.begin, v.end, floats(dtable));
  }
  void loss_partial(ConstView logits, const std::int32_t* target, Index n, Vocabulary v,
                    float* partial) override {
    cpu::loss_partial(floats(logits), target, n, v.end - v.begin, v.begin, partial);
  }
  void loss_combine(const float* partials, const std::int32_t* target, Index ranks, Index n,
                    float* lse, double* loss) override {
    *loss += cpu::loss_combine(partials, target, ranks, n, lse);
  }
  void loss_backward(View logits, const std::int32_t* target, const float* lse, Index n,
                     Vocabulary v, float scale) override {
    cpu::loss_backward(floats(logits), target, lse, n, v.end - v.begin, v.begin, scale);
  }
  void add_to(View a, ConstView b, Index n) override { cpu::add_to(floats(a), floats(b), n); }

  void square_sum(ConstView x, Index n, double* sum) override {
    *sum += cpu::square_sum(floats(x), n);
  }
  void adam_update(const cpu::Adam& a, const std::vector<AdamPiece>& pieces) override {
    cpu::Adam adam = a;
    for (const AdamPiece& p : pieces) {
      adam.weight_decay = p.weight_decay;
      float* w = p.master != nullptr ? p.master : floats(p.w);
      cpu::adam_update(adam, floats(p.grad), w, floats(p.m), floats(p.v), p.n);
      if (p.master == nullptr) continue;
      copy(ConstView(w), p.w, p.n);
      cpu::round_bf16(floats(p.w), p.n);
    }
  }
};

class CpuDevice final : public Device {
 public:
  std::string name() const override { return "cpu"; }
  Memory& memory() override { return host_memory(); }
  Queue& queue(sim::Stream stream) override { return *queues_[static_cast<std::size_t>(stream)]; }
  bool remote() const override { return false; }
  Element narrow() const override { return Element::Fp32; }
  std::unique_ptr<RopeOnDevice> rope_table(const cpu::RopeTable& table) override {
    return std::make_unique<CpuRope>(table);
  }
  Seconds between(const Mark&, const Mark&) override {
    check(false, "the CPU's queues keep no time");
    return {};
  }
  void bind_thread() override {}
  std::int64_t overhead() const override { return 0; }

 private:
  static std::vector<std::unique_ptr<Queue>> make_queues() {
    std::vector<std::unique_ptr<Queue>> queues;
    for (int i = 0; i < sim::kStreams; ++i) queues.push_back(std::make_unique<CpuQueue>(i));
    return queues;
  }
  std::vector<std::unique_ptr<Queue>> queues_ = make_queues();
};

}  // namespace

Memory& host_memory() {
  static HostMemory memory;
  return memory;
}

std::unique_ptr<Device> make_cpu_device() {
  return std::make_unique<CpuDevice>();
}

}  // namespace reckon::real
