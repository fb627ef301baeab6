// Exports: make_device, stream_of.
//
// Memory. Tensors are allocated and freed in the order of streams (cudaMallocAsync): a tensor that
// one queue alone has used is freed in that queue's order and may be used again by it at once. One
// that several have used is freed on a stream of its own, behind all of them: the pool gives it
// away again when they have passed, and no queue waits for another because of memory.
#include "real/cuda/cuda_device.h"

#include <cuda_runtime_api.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <vector>

#include "real/cuda/kernels.h"
#include "real/cuda/launch.h"
#ifdef RECKON_CUDA_EMULATION
#include "tests/real/cuda/emulation/runtime.h"
#endif

namespace reckon::real::cuda {

namespace {

// Events that are free to be used again.
class Events {
 public:
  explicit Events(unsigned flags) : flags_(flags) {}
  ~Events() {
    for (cudaEvent_t e : free_) static_cast<void>(cudaEventDestroy(e));
  }
  cudaEvent_t take() {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        cudaEvent_t e = free_.back();
        free_.pop_back();
        return e;
      }
    }
    cudaEvent_t e;
    ok(cudaEventCreateWithFlags(&e, flags_), "an event");
    return e;
  }
  void give(cudaEvent_t e) {
    const std::lock_guard lock(mutex_);
    free_.push_back(e);
  }

 private:
  unsigned flags_;
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;
};

class CudaMoment final : public Moment {
 public:
  CudaMoment(std::shared_ptr<Events> events, cudaStream_t stream)
      : events_(std::move(events)), event(events_->take()) {
    ok(cudaEventRecord(event, stream), "record an event");
  }
  ~CudaMoment() override { events_->give(event); }

 private:
  std::shared_ptr<Events> events_;  // marks may outlive their device

 public:
  cudaEvent_t event;
};

class CudaRope final : public RopeOnDevice {
 public:
  RopeTable table;
  std::shared_ptr<void> memory;
};

cudaStream_t new_stream() {
  cudaStream_t s;
  ok(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "a stream");
  return s;
}

// Streams and events of one rank on its GPU.
struct Engine {
  explicit Engine(int i) : index(i) { ok(cudaSetDevice(i), "choose the GPU"); }
  int index;
  std::shared_ptr<Events> events = std::make_shared<Events>(cudaEventDisableTiming);
  std::shared_ptr<Events> timed = std::make_shared<Events>(cudaEventDefault);
  std::array<cudaStream_t, sim::kStreams> streams{};
};

class CudaMemory final : public Memory {
 public:
  explicit CudaMemory(Engine& engine) : engine_(engine), free_stream_(new_stream()) {
    ok(cudaDeviceGetDefaultMemPool(&pool_, engine.index), "the GPU's memory pool");
    std::uint64_t keep_all = UINT64_MAX;  // what was freed stays for the next tensor
    ok(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep_all), "memory pool");
    int no = 0;  // no queue is to wait for another because of memory
    ok(cudaMemPoolSetAttribute(pool_, cudaMemPoolReuseAllowInternalDependencies, &no),
       "memory pool");
  }
  ~CudaMemory() override { static_cast<void>(cudaStreamDestroy(free_stream_)); }

  void* allocate(std::int64_t bytes, int queue) override {
    cudaStream_t stream = engine_.streams[static_cast<std::size_t>(queue)];
    const auto size = static_cast<std::size_t>(bytes > 0 ? bytes : 1);
    void* at = nullptr;
    cudaError_t status = cudaMallocAsync(&at, size, stream);
    if (status == cudaErrorMemoryAllocation) {
      // Freed memory that other queues have yet to pass counts as used: wait for them once.
      static_cast<void>(cudaGetLastError());
      ok(cudaDeviceSynchronize(), "wait for the GPU");
      ok(cudaMemPoolTrimTo(pool_, 0), "memory pool");
      status = cudaMallocAsync(&at, size, stream);
    }
    if (status == cudaErrorMemoryAllocation) {
      static_cast<void>(cudaGetLastError());
      std::size_t free = 0, total = 0;
      ok(cudaMemGetInfo(&free, &total), "the GPU's memory");
      char text[160];
      std::snprintf(text, sizeof text,
                    "GPU %d is out of memory: %.2f GiB asked for, %.2f of %.2f GiB free; take a "
                    "smaller micro-batch, more recomputation, or more ranks",
                    engine_.index, static_cast<double>(bytes) / (1 << 30),
                    static_cast<double>(free) / (1 << 30), static_cast<double>(total) / (1 << 30));
      throw OutOfMemory(text);
    }
    ok(status, "memory of the GPU");
    return at;
  }

  void release(void* at, std::uint32_t queues) noexcept override {
    cudaStream_t on = nullptr;
    int users = 0;
    for (int q = 0; q < sim::kStreams; ++q)
      if (queues >> q & 1 && engine_.streams[static_cast<std::size_t>(q)] != nullptr)
        on = engine_.streams[static_cast<std::size_t>(q)], ++users;
    if (users != 1) {
      // One stream for the frees of several threads: in whatever order.
      const std::lock_guard lock(mutex_);
      on = free_stream_;
      for (int q = 0; q < sim::kStreams; ++q) {
        cudaStream_t user = engine_.streams[static_cast<std::size_t>(q)];
        if (!(queues >> q & 1) || user == nullptr) continue;
        cudaEvent_t e = engine_.events->take();
        static_cast<void>(cudaEventRecord(e, user));
        static_cast<void>(cudaStreamWaitEvent(on, e, 0));
        engine_.events->give(e);
      }
      static_cast<void>(cudaFreeAsync(at, on));
      return;
    }
    static_cast<void>(cudaFreeAsync(at, on));
  }

 private:
  Engine& engine_;
  cudaStream_t free_stream_;
  cudaMemPool_t pool_;
  std::mutex mutex_;
};

// Host memory that copies can run from and to behind the host's back.
class Pinned {
 public:
  explicit Pinned(std::size_t bytes) : bytes_(bytes) {
    ok(cudaMallocHost(&at, bytes), "pinned memory");
  }
  ~Pinned() { static_cast<void>(cudaFreeHost(at)); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  std::size_t bytes() const { return bytes_; }

  void* at = nullptr;
  Mark busy;  // until it has passed

 private:
  std::size_t bytes_;
};

// Copies up to this size go through pinned memory; larger ones, at the start of a run and for
// checkpoints, have the host wait.
constexpr std::size_t kPinnedBytes = 4 << 20;

cpu::Adam fp32_moments(const cpu::Adam& a) {
  cpu::Adam adam = a;
  adam.bf16_moments = false;  // their views say it
  return adam;
}

class CudaQueue final : public Queue {
 public:
  CudaQueue(int index, Engine& engine, bool deterministic)
      : Queue(index),
        engine_(engine),
        stream_(new_stream()),
        c_(std::make_unique<Context>(stream_, deterministic)) {
    engine.streams[static_cast<std::size_t>(index)] = stream_;
  }
  ~CudaQueue() override {
    static_cast<void>(cudaStreamSynchronize(stream_));
    c_.reset();
    static_cast<void>(cudaStreamSynchronize(stream_));
    engine_.streams[static_cast<std::size_t>(index())] = nullptr;
    static_cast<void>(cudaStreamDestroy(stream_));
  }
  cudaStream_t stream() const { return stream_; }
  std::size_t scratch_bytes() const { return c_->scratch_bytes(); }

  Mark mark() override { return std::make_shared<CudaMoment>(engine_.events, stream_); }
  Mark stamp() override { return std::make_shared<CudaMoment>(engine_.timed, stream_); }
  void wait(const Mark& m) override {
    if (m == nullptr) return;
    ok(cudaStreamWaitEvent(stream_, static_cast<const CudaMoment&>(*m).event, 0),
       "wait for an event");
  }
  void finish() override { ok(cudaStreamSynchronize(stream_), "wait for a stream"); }

  void zero(View x, Index n) override {
    ok(cudaMemsetAsync(x.at, 0, bytes(x, n), stream_), "clear memory");
  }
  void copy(ConstView from, View to, Index n) override {
    if (n == 0) return;
    if (from.element != to.element) return cuda::cast(*c_, from, to, n);
    ok(cudaMemcpyAsync(to.at, from.at, bytes(to, n), cudaMemcpyDeviceToDevice, stream_),
       "copy on the GPU");
  }
  void copy_rows(const RowsView& from, const RowsView& to, Index rows, Index width) override {
    if (rows == 0 || width == 0) return;
    check(from.at.element == to.at.element, "rows are copied as they are");
    ok(cudaMemcpy2DAsync(to.at.at, bytes(to.at, to.stride), from.at.at, bytes(from.at, from.stride),
                         bytes(to.at, width), static_cast<std::size_t>(rows),
                         cudaMemcpyDeviceToDevice, stream_),
       "copy rows on the GPU");
  }
  void upload(const void* from, View to, Index n) override {
    const std::size_t size = bytes(to, n);
    if (size == 0) return;
    if (size > kPinnedBytes) {
      ok(cudaMemcpyAsync(to.at, from, size, cudaMemcpyHostToDevice, stream_), "copy to the GPU");
      return finish();
    }
    Pinned& p = pinned(size);
    std::memcpy(p.at, from, size);
    ok(cudaMemcpyAsync(to.at, p.at, size, cudaMemcpyHostToDevice, stream_), "copy to the GPU");
    p.busy = mark();
  }
  void download(ConstView from, void* to, Index n) override {
    const std::size_t size = static_cast<std::size_t>(n * bytes_of(from.element));
    if (size == 0) return;
    if (size > kPinnedBytes) {
      ok(cudaMemcpyAsync(to, from.at, size, cudaMemcpyDeviceToHost, stream_), "copy from the GPU");
      return finish();
    }
    Pinned& p = pinned(size);
    ok(cudaMemcpyAsync(p.at, from.at, size, cudaMemcpyDeviceToHost, stream_), "copy from the GPU");
    finish();
    std::memcpy(to, p.at, size);
  }

  void round_bf16(View x, Index n) override { cuda::round_bf16(*c_, x, n); }
  void linear_forward(const cpu::LinearShape& s, ConstView x, ConstView w, View y) override {
    cuda::linear_forward(*c_, s, x, w, y);
  }
  void linear_input_grad(const cpu::LinearShape& s, ConstView dy, ConstView w, View dx,
                         bool accumulate) override {
    cuda::linear_input_grad(*c_, s, dy, w, dx, accumulate);
  }
  void linear_weight_grad(const cpu::LinearShape& s, ConstView dy, ConstView x, View dw) override {
    cuda::linear_weight_grad(*c_, s, dy, x, dw);
  }
  void bias_grad(ConstView dy, View db, Index m, Index n) override {
    cuda::bias_grad(*c_, dy, db, m, n);
  }
  void add_bias(View y, ConstView b, Index m, Index n) override { cuda::add_bias(*c_, y, b, m, n); }
  void grouped_forward(const GroupedProduct& s, const GroupedRows& rows, ConstView x, ConstView w,
                       View y) override {
    const std::vector<std::int32_t> host = host_offsets(rows);
    cuda::linear_grouped_forward(*c_, shape(s, rows, host), rows.offsets, x, w, y);
  }
  void grouped_input_grad(const GroupedProduct& s, const GroupedRows& rows, ConstView dy,
                          ConstView w, View dx) override {
    const std::vector<std::int32_t> host = host_offsets(rows);
    cuda::linear_grouped_input_grad(*c_, shape(s, rows, host), rows.offsets, dy, w, dx);
  }
  void grouped_weight_grad(const GroupedProduct& s, const GroupedRows& rows, ConstView dy,
                           ConstView x, View dw) override {
    const std::vector<std::int32_t> host = host_offsets(rows);
    cuda::linear_grouped_weight_grad(*c_, shape(s, rows, host), rows.offsets, dy, x, dw);
  }

  void attention_forward(const cpu::AttentionShape& s, ConstView q, ConstView k, ConstView v,
                         View out, float* lse) override {
    cuda::attention_forward(*c_, s, q, k, v, out, lse);
  }
  void attention_backward(const cpu::AttentionShape& s, const AttentionInputs& in,
                          const AttentionGrads& d) override {
    cuda::attention_backward(*c_, s, in.q, in.k, in.v, in.out, in.lse, in.dout, d.q, d.k, d.v);
  }
  void assemble_keys(const real::KeysShape& s, ConstView kv, ConstView rotated, View k,
                     View v) override {
    cuda::assemble_keys(*c_, {s.tokens, s.heads, s.nope, s.rope, s.v}, kv, rotated, k, v);
  }
  void assemble_keys_backward(const real::KeysShape& s, ConstView dk, ConstView dv, View d_kv,
                              View d_rotated) override {
    cuda::assemble_keys_backward(*c_, {s.tokens, s.heads, s.nope, s.rope, s.v}, dk, dv, d_kv,
                                 d_rotated);
  }
  void rope(const RopeOnDevice& table, const RopeRows& r, const std::int32_t* position,
            bool inverse) override {
    cuda::rope(*c_, static_cast<const CudaRope&>(table).table,
               {r.x, r.rows, r.heads, r.stride, r.offset}, position, inverse);
  }

  void norm_forward(const cpu::NormShape& s, ConstView x, ConstView w, ConstView b, View y,
                    float* statistics) override {
    cuda::norm_forward(*c_, s, x, w, b, y, statistics);
  }
  void norm_backward(const cpu::NormShape& s, ConstView dy, ConstView x, ConstView w,
                     const float* statistics, const NormGrads& d) override {
    cuda::norm_backward(*c_, s, dy, x, w, statistics, d.x, d.w, d.b, d.accumulate_x);
  }
  void activation_forward(cpu::Activation a, ConstView x, View y, Index rows,
                          Index width) override {
    cuda::activation_forward(*c_, a, x, y, rows, width);
  }
  void activation_backward(cpu::Activation a, ConstView x, ConstView dy, View dx, View y,
                           Index rows, Index width) override {
    cuda::activation_backward(*c_, a, x, dy, dx, y, rows, width);
  }
  void weighted_activation_forward(cpu::Activation a, ConstView x, const float* weight, View y,
                                   Index rows, Index width) override {
    cuda::weighted_activation_forward(*c_, a, x, weight, y, rows, width);
  }
  void weighted_activation_backward(cpu::Activation a, ConstView x, const float* weight,
                                    const WeightedGrads& d, Index rows, Index width) override {
    cuda::weighted_activation_backward(*c_, a, x, weight, d.dy, d.dx, d.y, d.dweight, rows, width);
  }

  void router_forward(const cpu::RouterShape& s, ConstView logits, const float* bias, float* scores,
                      std::int32_t* chosen, float* weights) override {
    cuda::router_forward(*c_, s, logits, bias, scores, chosen, weights);
  }
  void router_backward(const cpu::RouterShape& s, const Routed& r, View dlogits) override {
    cuda::router_backward(*c_, s, r.scores, r.chosen, r.weights, r.dweights, r.dp, dlogits);
  }
  void count_chosen(const std::int32_t* chosen, Index n, Index experts, float* load) override {
    cuda::count_chosen(*c_, chosen, n, experts, load);
  }
  void balance_sums(const real::BalanceShape& s, const float* scores, const std::int32_t* chosen,
                    float* balance) override {
    cuda::balance_sums(*c_, shape(s), scores, chosen, balance);
  }
  void balance_gradient(const real::BalanceShape& s, const float* balance, double factor,
                        float* dp) override {
    cuda::balance_gradient(*c_, shape(s), balance, static_cast<float>(factor), dp);
  }
  void move_router_bias(float* load, float* bias, Index experts, double speed) override {
    cuda::move_router_bias(*c_, load, bias, experts, static_cast<float>(speed));
  }

  void sort_by_expert(const std::int32_t* chosen, const float* weight, Index tokens, Index top_k,
                      Index experts, const SortedTokens& out) override {
    cuda::sort_by_expert(*c_, chosen, tokens, top_k, experts, weight,
                         {.counts = out.counts,
                          .offsets = out.offsets,
                          .token_of = out.token_of,
                          .copy_of = out.copy_of,
                          .sent_weight = out.weight});
  }
  void regroup(const std::int32_t* counts, Index members, Index experts, Index rows,
               const Regrouping& out) override {
    cuda::regroup(*c_, counts, members, experts, rows, out.by_expert, out.by_member, out.offsets);
  }
  void gather_rows(ConstView x, const std::int32_t* rows, Index n, Index width, View out) override {
    cuda::gather_rows(*c_, x, rows, n, width, out);
  }
  void combine_rows(ConstView x, const std::int32_t* row, Index tokens, Index top_k, Index width,
                    View out, bool accumulate) override {
    cuda::combine_rows(*c_, x, row, nullptr, tokens, top_k, width, out, accumulate);
  }

  void token_ids(const TokenRows& t, Index shift, std::int32_t* ids) override {
    cuda::token_ids(*c_, t.tokens, t.batch, t.stride, t.position, t.positions, shift, ids);
  }
  void embedding_forward(ConstView table, const std::int32_t* ids, Index n, Index width,
                         Vocabulary v, View out) override {
    cuda::embedding_forward(*c_, table, ids, n, width, v.begin, v.end, out);
  }
  void embedding_backward(ConstView dout, const std::int32_t* ids, Index n, Index width,
                          Vocabulary v, View dtable) override {
    cuda::embedding_backward(*c_, dout, ids, n, width, v.begin, v.end, dtable);
  }
  void loss_partial(ConstView logits, const std::int32_t* target, Index n, Vocabulary v,
                    float* partial) override {
    cuda::loss_partial(*c_, logits, target, n, v.end - v.begin, v.begin, partial);
  }
  void loss_combine(const float* partials, const std::int32_t* target, Index ranks, Index n,
                    float* lse, double* loss) override {
    cuda::loss_combine(*c_, partials, target, ranks, n, lse, loss);
  }
  void loss_backward(View logits, const std::int32_t* target, const float* lse, Index n,
                     Vocabulary v, float scale) override {
    cuda::loss_backward(*c_, logits, target, lse, n, v.end - v.begin, v.begin, scale);
  }
  void add_to(View a, ConstView b, Index n) override { cuda::add_to(*c_, a, b, n); }

  void square_sum(ConstView x, Index n, double* sum) override { cuda::square_sum(*c_, x, n, sum); }
  void adam_update(const cpu::Adam& a, const std::vector<real::AdamPiece>& pieces) override {
    std::vector<cuda::AdamPiece> all;
    for (const real::AdamPiece& p : pieces)
      all.push_back({.grad = p.grad,
                     .w = p.w,
                     .master = p.master,
                     .m = p.m,
                     .v = p.v,
                     .n = p.n,
                     .weight_decay = p.weight_decay});
    cuda::adam_update(*c_, fp32_moments(a), all.data(), all.size());
  }

 private:
  static std::size_t bytes(View v, Index n) {
    return static_cast<std::size_t>(n * bytes_of(v.element));
  }
  static GroupedShape shape(const GroupedProduct& s, const GroupedRows& rows,
                            const std::vector<std::int32_t>& host) {
    return {.rows = rows.rows,
            .groups = rows.groups,
            .n = s.n,
            .k = s.k,
            .numbers = s.numbers,
            .host_offset = host.empty() ? nullptr : host.data()};
  }
  // rows.offsets where the host knows the counts; else none.
  static std::vector<std::int32_t> host_offsets(const GroupedRows& rows) {
    std::vector<std::int32_t> offsets;
    if (rows.counts == nullptr) return offsets;
    offsets.push_back(0);
    for (const std::int32_t n : *rows.counts) offsets.push_back(offsets.back() + n);
    return offsets;
  }
  static cuda::BalanceShape shape(const real::BalanceShape& s) {
    return {s.tokens, s.experts, s.top_k, s.sequences, s.first_token, s.sequence_tokens};
  }
  // Pinned memory that no copy uses any more.
  Pinned& pinned(std::size_t size) {
    for (const auto& p : pinned_)
      if (p->bytes() >= size && passed(p->busy)) return *p;
    std::size_t room = 4096;
    while (room < size) room *= 2;
    pinned_.push_back(std::make_unique<Pinned>(room));
    return *pinned_.back();
  }
  static bool passed(const Mark& m) {
    return m == nullptr || cudaEventQuery(static_cast<const CudaMoment&>(*m).event) == cudaSuccess;
  }

  Engine& engine_;
  cudaStream_t stream_;
  std::unique_ptr<Context> c_;
  std::vector<std::unique_ptr<Pinned>> pinned_;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(int index, bool deterministic) : engine_(index), memory_(engine_) {
    // One queue for each stream of a Program that the trainer has; see Executor::stream_of.
    for (int i = 0; i < sim::kStreams; ++i)
      if (static_cast<sim::Stream>(i) != sim::Stream::Compute2)
        queues_[static_cast<std::size_t>(i)] =
            std::make_unique<CudaQueue>(i, engine_, deterministic);
  }
  ~CudaDevice() override {
    for (const auto& q : queues_)
      if (q) static_cast<void>(cudaStreamSynchronize(q->stream()));
  }
  std::string name() const override { return "cuda:" + std::to_string(engine_.index); }
  Memory& memory() override { return memory_; }
  Queue& queue(sim::Stream stream) override { return *queues_[static_cast<std::size_t>(stream)]; }
  bool remote() const override { return true; }
  Element narrow() const override { return Element::Bf16; }

  std::unique_ptr<RopeOnDevice> rope_table(const cpu::RopeTable& t) override {
    auto rope = std::make_unique<CudaRope>();
    const auto n = static_cast<std::int64_t>(t.cos.size());
    Queue& q = compute();
    rope->memory = std::shared_ptr<void>(memory_.allocate(2 * n * 4, q.index()), [this](void* at) {
      memory_.release(at, ~0u >> (32 - sim::kStreams));
    });
    auto* cos = static_cast<float*>(rope->memory.get());
    q.upload(t.cos.data(), cos, n);
    q.upload(t.sin.data(), cos + n, n);
    rope->table = {
        .dim = t.dim, .positions = t.dim > 0 ? n / (t.dim / 2) : 0, .cos = cos, .sin = cos + n};
    return rope;
  }
  Seconds between(const Mark& from, const Mark& to) override {
    float milliseconds = 0;
    ok(cudaEventElapsedTime(&milliseconds, static_cast<const CudaMoment&>(*from).event,
                            static_cast<const CudaMoment&>(*to).event),
       "the time between two events");
    return Seconds(static_cast<double>(milliseconds) * 1e-3);
  }
  void bind_thread() override { ok(cudaSetDevice(engine_.index), "choose the GPU"); }
  std::int64_t overhead() const override {
    std::int64_t bytes = 0;
    for (const auto& q : queues_)
      if (q) bytes += static_cast<std::int64_t>(q->scratch_bytes());
    return bytes;
  }

 private:
  Engine engine_;
  CudaMemory memory_;
  std::array<std::unique_ptr<CudaQueue>, sim::kStreams> queues_;
};

}  // namespace

std::unique_ptr<Device> make_device(int index, bool deterministic) {
  return std::make_unique<CudaDevice>(index, deterministic);
}

cudaStream_t stream_of(const Queue& q) {
  return static_cast<const CudaQueue&>(q).stream();
}

}  // namespace reckon::real::cuda
