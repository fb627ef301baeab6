// What a rank computes on. A Device has memory and in-order queues, one per stream of a Program; a
// Queue has the kernels that ops and optimizer need, on views of the device's memory. Two
// implementations: the CPU, where a call returns when its work is done (device_cpu.cc, over
// kernels.h), and CUDA, where it returns when the work is enqueued (cuda/device_cuda.cc).
//
// Shapes and equations are those of kernels.h; here only what differs is said.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "real/kernels.h"
#include "real/storage.h"
#include "sim/program.h"
#include "sim/units.h"

namespace reckon::real {

using cpu::Index;

// A moment of a queue: all that was enqueued before it has run. Null: it has.
class Moment {
 public:
  virtual ~Moment() = default;
};
using Mark = std::shared_ptr<const Moment>;

// The rows of each group of a grouped product, which follow each other: on the host where the host
// knows them (CPU), or offsets[groups + 1] in the device's memory.
struct GroupedRows {
  Index groups = 0, rows = 0;  // in all
  const std::vector<std::int32_t>* counts = nullptr;
  const std::int32_t* offsets = nullptr;
};
struct GroupedProduct {
  Index n, k;
  cpu::Numbers numbers = cpu::Numbers::Fp32;
};

// Tables of tokens sorted by expert; see sort_by_expert.
struct SortedTokens {
  std::int32_t *counts, *offsets;    // [experts], [experts + 1]
  std::int32_t *token_of, *copy_of;  // [copies], [tokens, top_k]
  float* weight;                     // [copies]
};

// kv[tokens, heads, nope + v] and the rotated part [tokens, rope] <-> k[tokens, heads, nope +
// rope], v[tokens, heads, v]
struct KeysShape {
  Index tokens, heads, nope, rope, v;
};

// Token i belongs to sequence (first_token + i) / sequence_tokens of `sequences`.
struct BalanceShape {
  Index tokens, experts, top_k, sequences, first_token, sequence_tokens;
};

// Rows of a matrix inside a wider one.
struct RowsView {
  View at;
  Index stride;  // elements from one row to the next
};

// Numbers for one parameter's update.
struct AdamPiece {
  ConstView grad;
  View w;                   // what passes read
  float* master = nullptr;  // fp32 weights; null: w is itself the master
  View m, v;
  Index n = 0;
  double weight_decay = 0;
};

class RopeOnDevice {  // cos and sin where the kernels read them
 public:
  virtual ~RopeOnDevice() = default;
};

// REQUIRES: one host thread at a time.
class Queue {
 public:
  explicit Queue(int index) : index_(index) {}
  virtual ~Queue() = default;
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  int index() const { return index_; }  // that of its sim::Stream
  // A tensor that work of this queue reads or writes.
  View operator()(const Tensor& t) const { return t ? t.on(index_) : View(); }

  // ---- order
  virtual Mark mark() = 0;               // behind all that was enqueued so far
  virtual Mark stamp() = 0;              // the same, with the time
  virtual void wait(const Mark& m) = 0;  // what comes now runs behind m; the host goes on
  virtual void finish() = 0;             // the host waits until all has run

  // ---- memory. Host pointers are free again when a call returns.
  virtual void zero(View x, Index n) = 0;
  virtual void copy(ConstView from, View to, Index n) = 0;  // converts between Fp32 and Bf16
  virtual void copy_rows(const RowsView& from, const RowsView& to, Index rows, Index width) = 0;
  virtual void upload(const void* from, View to, Index n) = 0;
  virtual void download(ConstView from, void* to, Index n) = 0;  // the host waits for it

  // ---- numbers and products
  virtual void round_bf16(View x, Index n) = 0;  // nothing to do where x is stored as Bf16
  virtual void linear_forward(const cpu::LinearShape& s, ConstView x, ConstView w, View y) = 0;
  virtual void linear_input_grad(const cpu::LinearShape& s, ConstView dy, ConstView w, View dx,
                                 bool accumulate) = 0;
  virtual void linear_weight_grad(const cpu::LinearShape& s, ConstView dy, ConstView x,
                                  View dw) = 0;
  virtual void bias_grad(ConstView dy, View db, Index m, Index n) = 0;
  virtual void add_bias(View y, ConstView b, Index m, Index n) = 0;
  // One product per group of rows; w[groups, n, k].
  virtual void grouped_forward(const GroupedProduct& s, const GroupedRows& rows, ConstView x,
                               ConstView w, View y) = 0;
  virtual void grouped_input_grad(const GroupedProduct& s, const GroupedRows& rows, ConstView dy,
                                  ConstView w, View dx) = 0;
  virtual void grouped_weight_grad(const GroupedProduct& s, const GroupedRows& rows, ConstView dy,
                                   ConstView x, View dw) = 0;

  // ---- attention
  virtual void attention_forward(const cpu::AttentionShape& s, ConstView q, ConstView k,
                                 ConstView v, View out, float* lse) = 0;
  struct AttentionInputs {
    ConstView q, k, v, out;
    const float* lse;
    ConstView dout;
  };
  struct AttentionGrads {
    View q, k, v;
  };
  virtual void attention_backward(const cpu::AttentionShape& s, const AttentionInputs& in,
                                  const AttentionGrads& out) = 0;
  virtual void assemble_keys(const KeysShape& s, ConstView kv, ConstView rotated, View k,
                             View v) = 0;
  virtual void assemble_keys_backward(const KeysShape& s, ConstView dk, ConstView dv, View d_kv,
                                      View d_rotated) = 0;
  struct RopeRows {
    View x;
    Index rows, heads, stride, offset;
  };
  virtual void rope(const RopeOnDevice& table, const RopeRows& rows, const std::int32_t* position,
                    bool inverse) = 0;

  // ---- norms and activations
  virtual void norm_forward(const cpu::NormShape& s, ConstView x, ConstView w, ConstView b, View y,
                            float* statistics) = 0;
  struct NormGrads {
    View x, w, b;  // b may be null
    bool accumulate_x;
  };
  virtual void norm_backward(const cpu::NormShape& s, ConstView dy, ConstView x, ConstView w,
                             const float* statistics, const NormGrads& d) = 0;
  virtual void activation_forward(cpu::Activation a, ConstView x, View y, Index rows,
                                  Index width) = 0;
  virtual void activation_backward(cpu::Activation a, ConstView x, ConstView dy, View dx, View y,
                                   Index rows, Index width) = 0;
  // y = weight[row] act(x)
  virtual void weighted_activation_forward(cpu::Activation a, ConstView x, const float* weight,
                                           View y, Index rows, Index width) = 0;
  // dx = weight act'(x) dy, dweight = dot(dy, act(x)); y, where not null, is computed again. dy may
  // be overwritten.
  struct WeightedGrads {
    View dy, dx, y;
    float* dweight;
  };
  virtual void weighted_activation_backward(cpu::Activation a, ConstView x, const float* weight,
                                            const WeightedGrads& d, Index rows, Index width) = 0;

  // ---- router
  virtual void router_forward(const cpu::RouterShape& s, ConstView logits, const float* bias,
                              float* scores, std::int32_t* chosen, float* weights) = 0;
  struct Routed {
    const float* scores;
    const std::int32_t* chosen;
    const float *weights, *dweights, *dp;  // dp may be null
  };
  virtual void router_backward(const cpu::RouterShape& s, const Routed& r, View dlogits) = 0;
  // load[e] += how often e was chosen; n = tokens * top_k
  virtual void count_chosen(const std::int32_t* chosen, Index n, Index experts, float* load) = 0;
  // balance[sequences, 2, experts]: copies of each expert, then the sum of its scores over the
  // token's sum of scores.
  virtual void balance_sums(const BalanceShape& s, const float* scores, const std::int32_t* chosen,
                            float* balance) = 0;
  // dp[tokens, experts] = factor * copies of the expert in the token's sequence
  virtual void balance_gradient(const BalanceShape& s, const float* balance, double factor,
                                float* dp) = 0;
  // bias[e] falls by speed where load[e] is above the mean, rises where below; load := 0.
  virtual void move_router_bias(float* load, float* bias, Index experts, double speed) = 0;

  // ---- rows of tokens
  // Copies of tokens in order of (expert, token, j): copy i = token * top_k + j stands at
  // copy_of[i], token_of[to] is its token, weight[to] its weight.
  virtual void sort_by_expert(const std::int32_t* chosen, const float* weight, Index tokens,
                              Index top_k, Index experts, const SortedTokens& out) = 0;
  // Where the rows that arrived by member, then by expert, stand in order of experts: by_expert[i]
  // is the arrived row at i, by_member its inverse; offsets[experts + 1]. counts[members, experts].
  struct Regrouping {
    std::int32_t *by_expert, *by_member, *offsets;
  };
  virtual void regroup(const std::int32_t* counts, Index members, Index experts, Index rows,
                       const Regrouping& out) = 0;
  virtual void gather_rows(ConstView x, const std::int32_t* rows, Index n, Index width,
                           View out) = 0;
  virtual void combine_rows(ConstView x, const std::int32_t* row, Index tokens, Index top_k,
                            Index width, View out, bool accumulate) = 0;

  // ---- ends
  // ids[b, i] = tokens[b * stride + position[i] + shift]
  struct TokenRows {
    const std::int32_t* tokens;
    Index batch, stride;
    const std::int32_t* position;
    Index positions;
  };
  virtual void token_ids(const TokenRows& t, Index shift, std::int32_t* ids) = 0;
  struct Vocabulary {
    std::int32_t begin, end;
  };
  virtual void embedding_forward(ConstView table, const std::int32_t* ids, Index n, Index width,
                                 Vocabulary slice, View out) = 0;
  virtual void embedding_backward(ConstView dout, const std::int32_t* ids, Index n, Index width,
                                  Vocabulary slice, View dtable) = 0;
  virtual void loss_partial(ConstView logits, const std::int32_t* target, Index n, Vocabulary slice,
                            float* partial) = 0;
  // *loss += the sum over counted tokens; `loss` in the device's memory
  virtual void loss_combine(const float* partials, const std::int32_t* target, Index ranks, Index n,
                            float* lse, double* loss) = 0;
  virtual void loss_backward(View logits, const std::int32_t* target, const float* lse, Index n,
                             Vocabulary slice, float scale) = 0;
  virtual void add_to(View a, ConstView b, Index n) = 0;

  // ---- optimizer
  virtual void square_sum(ConstView x, Index n, double* sum) = 0;  // *sum +=; device memory
  virtual void adam_update(const cpu::Adam& a, const std::vector<AdamPiece>& pieces) = 0;

 private:
  int index_;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string name() const = 0;
  virtual Memory& memory() = 0;
  virtual Queue& queue(sim::Stream stream) = 0;
  // Work is enqueued, not done, when a call returns, and the host can't read tensors.
  virtual bool remote() const = 0;
  // How activations and weights are stored where the plan computes with 16 or 8 bits.
  virtual Element narrow() const = 0;
  virtual std::unique_ptr<RopeOnDevice> rope_table(const cpu::RopeTable& table) = 0;
  // Between two stamps that have passed.
  virtual Seconds between(const Mark& from, const Mark& to) = 0;
  // Whatever this thread calls from now on is for this device.
  virtual void bind_thread() = 0;
  // Bytes that the device holds beyond what the Meter counts: context, libraries, working memory,
  // cached blocks; 0 where nobody says.
  virtual std::int64_t overhead() const = 0;

  Queue& compute() { return queue(sim::Stream::Compute); }
};

std::unique_ptr<Device> make_cpu_device();

// A small table of a rank that kernels read or write throughout the run; the Meter does not count
// it.
template <class T>
class Standing {
 public:
  Standing() = default;
  Standing(Device& device, std::vector<T> values) : host_(std::move(values)) {
    if (!device.remote()) return;
    memory_ = std::shared_ptr<void>(
        device.memory().allocate(bytes(), device.compute().index()),
        [&memory = device.memory()](void* at) { memory.release(at, ~0u >> (32 - sim::kStreams)); });
    write(device, host_);
  }
  T* at() { return memory_ ? static_cast<T*>(memory_.get()) : host_.data(); }
  const T* at() const { return memory_ ? static_cast<const T*>(memory_.get()) : host_.data(); }
  const std::vector<T>& host() const { return host_; }  // as last written, or read
  Index size() const { return static_cast<Index>(host_.size()); }
  // On the compute queue.
  void write(Device& device, const std::vector<T>& values) {
    host_ = values;
    if (memory_) device.compute().upload(values.data(), words(), bytes() / 4);
  }
  std::vector<T> read(Device& device) {
    if (memory_) device.compute().download(words(), host_.data(), bytes() / 4);
    return host_;
  }

 private:
  std::int64_t bytes() const { return static_cast<std::int64_t>(host_.size() * sizeof(T)); }
  View words() const { return {memory_.get(), Element::Int32}; }
  std::vector<T> host_;
  std::shared_ptr<void> memory_;  // of a remote device
};

}  // namespace reckon::real
