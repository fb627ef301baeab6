// Exports: nccl_version, make_nccl_communicator.
//
// Every group has an NCCL communicator; its unique id goes from the group's first member to the
// others over the Transport (threads of one process, or MPI). Messages of a pipeline go over
// communicators of two: one for each direction between two ranks and each kind of message
// (Letter::channel), on a stream of its own, because NCCL matches messages by their order and a
// message that waits for its partner must not keep others waiting. They are made when they are
// first used; a thread of each lane does that, and sends, so that no rank waits for another on its
// way to receive.
//
// Lost ranks. A watch thread asks NCCL's communicators for asynchronous errors, looks whether the
// Transport has lost a rank, and whether a collective has been under way for longer than
// kTimeLimit. If so it aborts the communicators, so that streams end, and the Transport, so that
// every host does: what the hosts exchange before the weights are updated (Optimizer::sum_norm)
// then throws PeerLost, and nothing of a broken step is kept.
//
// Sums are NCCL's, in the order of its rings and trees: the same bits from run to run on the same
// machines, not those of the CPU.
#include "real/cuda/nccl.h"

#include <nccl.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>

#include "real/cuda/cuda_device.h"
#include "real/cuda/launch.h"
#include "real/executor.h"
#include "sim/check.h"

namespace reckon::real::cuda {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kTimeLimit{600};  // longer than any step, or file system, stalls
constexpr std::chrono::milliseconds kLook{100};

void ok(ncclResult_t status, const char* what) {
  if (status != ncclSuccess && status != ncclInProgress)
    throw PeerLost(std::string("NCCL, ") + what + ": " + ncclGetErrorString(status));
}

ncclDataType_t type_of(Element e) {
  switch (e) {
    case Element::Fp32: return ncclFloat32;
    case Element::Bf16: return ncclBfloat16;
    case Element::Int32: return ncclInt32;
  }
  return ncclFloat32;
}

// All communicators of a rank, and who looks after them.
class Watch {
 public:
  explicit Watch(Transport& transport) : transport_(transport) {
    const int next = (transport.rank() + 1) % transport.size();
    if (transport.size() > 1) heart_ = transport.receive(next, kHeart, &beat_, 1);
    int device = 0;
    cuda::ok(cudaGetDevice(&device), "the current GPU");
    thread_ = std::thread([this, device] {
      static_cast<void>(cudaSetDevice(device));
      loop();
    });
  }
  ~Watch() {
    {
      const std::lock_guard lock(mutex_);
      end_ = true;
    }
    wake_.notify_all();
    thread_.join();
    for (ncclComm_t c : comms_) static_cast<void>(lost_ ? ncclSuccess : ncclCommDestroy(c));
    for (const Open& o : open_) static_cast<void>(cudaEventDestroy(o.event));
  }

  ncclComm_t add(const ncclUniqueId& id, int size, int index) {
    verify();
    ncclComm_t comm = nullptr;
    ok(ncclCommInitRank(&comm, size, id, index), "ncclCommInitRank");
    const std::lock_guard lock(mutex_);
    comms_.push_back(comm);
    return comm;
  }
  // Throws PeerLost once something went wrong.
  void verify() {
    const std::lock_guard lock(mutex_);
    if (lost_) throw PeerLost(reason_);
  }
  // What was enqueued just now has to end in time.
  void enqueued(const char* what, cudaStream_t stream) {
    cudaEvent_t event;
    cuda::ok(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
    cuda::ok(cudaEventRecord(event, stream), "record an event");
    const std::lock_guard lock(mutex_);
    open_.push_back({what, event, Clock::now()});
  }

 private:
  struct Open {
    const char* what;
    cudaEvent_t event;
    Clock::time_point since;
  };

  void loop() {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, kLook, [&] { return end_; })) {
      if (lost_) continue;
      for (auto o = open_.begin(); o != open_.end();) {
        if (cudaEventQuery(o->event) == cudaErrorNotReady) {
          if (Clock::now() - o->since > kTimeLimit)
            return lose(std::string("NCCL, ") + o->what + ": no end after " +
                        std::to_string(kTimeLimit.count()) + " s");
          ++o;
          continue;
        }
        static_cast<void>(cudaEventDestroy(o->event));
        o = open_.erase(o);
      }
      for (ncclComm_t c : comms_) {
        ncclResult_t status = ncclSuccess;
        static_cast<void>(ncclCommGetAsyncError(c, &status));
        if (status != ncclSuccess && status != ncclInProgress)
          return lose(std::string("NCCL: ") + ncclGetErrorString(status));
      }
      // Work of a lost rank never ends; that of one that has ended has.
      if (!open_.empty() && is_lost()) return lose("another rank is lost");
    }
  }
  // Nobody sends this message: it ends when the transport does.
  bool is_lost() {
    try {
      return heart_ && heart_->done();
    } catch (const PeerLost&) {
      return true;
    }
  }
  // REQUIRES: locked
  void lose(const std::string& reason) {
    lost_ = true;
    reason_ = reason;
    for (ncclComm_t c : comms_) static_cast<void>(ncclCommAbort(c));
    transport_.abort(reason);
  }

  static constexpr std::uint32_t kHeart = (1u << 29) - 1;
  Transport& transport_;
  char beat_ = 0;
  std::unique_ptr<Pending> heart_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool end_ = false, lost_ = false;
  std::string reason_;
  std::vector<ncclComm_t> comms_;
  std::deque<Open> open_;
  std::thread thread_;
};

using Counts = std::vector<std::size_t>;

Counts starts(const Counts& counts) {
  Counts at(counts.size() + 1, 0);
  std::partial_sum(counts.begin(), counts.end(), at.begin() + 1);
  return at;
}

Index signed_of(std::size_t n) {
  return static_cast<Index>(n);
}

class NcclGroup final : public TensorGroup {
 public:
  NcclGroup(Watch& watch, std::unique_ptr<Group> group) : watch_(watch), group_(std::move(group)) {
    if (size() == 1) return;
    static_assert(sizeof(ncclUniqueId) % sizeof(float) == 0);
    float words[sizeof(ncclUniqueId) / sizeof(float)];
    ncclUniqueId id;
    if (index() == 0) {
      ok(ncclGetUniqueId(&id), "ncclGetUniqueId");
      std::memcpy(words, &id, sizeof id);
    }
    group_->broadcast(words, sizeof(ncclUniqueId) / sizeof(float), 0);
    std::memcpy(&id, words, sizeof id);
    comm_ = watch.add(id, size(), index());
  }
  Group& host() override { return *group_; }

  void all_reduce(Queue& q, View values, std::size_t n) override {
    if (size() == 1 || n == 0) return;
    call("all-reduce", q, [&](cudaStream_t stream) {
      ok(ncclAllReduce(values.at, values.at, n, type_of(values.element), ncclSum, comm_, stream),
         "all-reduce");
    });
  }
  void reduce_scatter(Queue& q, ConstView in, View out, std::size_t n) override {
    if (size() == 1) return copy(q, in, out, n);
    call("reduce-scatter", q, [&](cudaStream_t stream) {
      ok(ncclReduceScatter(in.at, out.at, n, type_of(in.element), ncclSum, comm_, stream),
         "reduce-scatter");
    });
  }
  void all_gather(Queue& q, ConstView in, View out, std::size_t n) override {
    if (size() == 1) return copy(q, in, out, n);
    call("all-gather", q, [&](cudaStream_t stream) {
      ok(ncclAllGather(in.at, out.at, n, type_of(in.element), comm_, stream), "all-gather");
    });
  }
  // Parts of unequal length: as many reductions to one member, or broadcasts, in one launch.
  void reduce_scatter_parts(Queue& q, ConstView in, View out, const Counts& counts) override {
    if (size() == 1) return copy(q, in, out, counts[0]);
    const Counts start = starts(counts);
    call("reduce-scatter", q, [&](cudaStream_t stream) {
      ok(ncclGroupStart(), "group");
      for (int i = 0; i < size(); ++i) {
        const auto part = static_cast<std::size_t>(i);
        if (counts[part] > 0)
          ok(ncclReduce((in + signed_of(start[part])).at, out.at, counts[part], type_of(in.element),
                        ncclSum, i, comm_, stream),
             "reduce");
      }
      ok(ncclGroupEnd(), "reduce-scatter");
    });
  }
  void all_gather_parts(Queue& q, ConstView in, View out, const Counts& counts) override {
    if (size() == 1) return copy(q, in, out, counts[0]);
    const Counts start = starts(counts);
    call("all-gather", q, [&](cudaStream_t stream) {
      ok(ncclGroupStart(), "group");
      for (int i = 0; i < size(); ++i) {
        const auto part = static_cast<std::size_t>(i);
        if (counts[part] > 0)
          ok(ncclBroadcast(in.at, (out + signed_of(start[part])).at, counts[part],
                           type_of(in.element), i, comm_, stream),
             "broadcast");
      }
      ok(ncclGroupEnd(), "all-gather");
    });
  }
  void all_to_all(Queue& q, const Exchange& e) override {
    const Counts from = starts(e.send_counts), to = starts(e.receive_counts);
    if (size() == 1) return copy(q, e.in, e.out, e.send_counts[0]);
    call("all-to-all", q, [&](cudaStream_t stream) {
      ok(ncclGroupStart(), "group");
      for (int i = 0; i < size(); ++i) {
        const auto m = static_cast<std::size_t>(i);
        if (e.send_counts[m] > 0)
          ok(ncclSend((e.in + signed_of(from[m])).at, e.send_counts[m], type_of(e.in.element), i,
                      comm_, stream),
             "send");
        if (e.receive_counts[m] > 0)
          ok(ncclRecv((e.out + signed_of(to[m])).at, e.receive_counts[m], type_of(e.out.element), i,
                      comm_, stream),
             "receive");
      }
      ok(ncclGroupEnd(), "all-to-all");
    });
  }

 private:
  static void copy(Queue& q, ConstView in, View out, std::size_t n) {
    if (in.at != out.at) q.copy(in, out, signed_of(n));
  }
  template <class F>
  void call(const char* what, Queue& q, F f) {
    watch_.verify();
    f(stream_of(q));
    watch_.enqueued(what, stream_of(q));
  }
  Watch& watch_;
  std::unique_ptr<Group> group_;
  ncclComm_t comm_ = nullptr;
};

// One direction between two ranks, for one kind of message.
class Lane {
 public:
  Lane(Watch& watch, Transport& transport, const Letter& l, bool sends) : sends_(sends) {
    cuda::ok(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
    int device = 0;
    cuda::ok(cudaGetDevice(&device), "the current GPU");
    worker_.post([this, &watch, &transport, device, tag = kIds + l.channel, peer = l.peer] {
      cuda::ok(cudaSetDevice(device), "choose the GPU");
      ncclUniqueId id;
      if (sends_) {
        ok(ncclGetUniqueId(&id), "ncclGetUniqueId");
        transport.send(peer, tag, &id, sizeof id)->wait();
      } else {
        transport.receive(peer, tag, &id, sizeof id)->wait();
      }
      comm_ = watch.add(id, 2, sends_ ? 0 : 1);
    });
  }
  ~Lane() {
    try {
      worker_.drain();
    } catch (...) {  // whoever used the lane has had it
    }
    static_cast<void>(cudaStreamSynchronize(stream_));
    static_cast<void>(cudaStreamDestroy(stream_));
  }
  cudaStream_t stream() const { return stream_; }
  // Enqueues the letter, then calls `moved` on the lane's thread.
  void move(const Letter& l, std::function<void()> moved) {
    worker_.post([this, l, moved = std::move(moved)] {
      const auto n = static_cast<std::size_t>(l.n);
      if (sends_)
        ok(ncclSend(l.at.at, n, type_of(l.at.element), 1, comm_, stream_), "send");
      else
        ok(ncclRecv(l.at.at, n, type_of(l.at.element), 0, comm_, stream_), "receive");
      moved();
    });
  }
  void drain() { worker_.drain(); }
  void rethrow() { worker_.rethrow(); }

 private:
  static constexpr std::uint32_t kIds = 1u << 28;  // tags of ids; messages have smaller ones
  bool sends_;
  cudaStream_t stream_ = nullptr;
  ncclComm_t comm_ = nullptr;
  Worker worker_;  // last: it uses the others
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(Device&, Transport& transport) : transport_(transport), watch_(transport) {}
  Transport& transport() override { return transport_; }
  std::unique_ptr<TensorGroup> group(std::vector<int> members, std::uint32_t id) override {
    return std::make_unique<NcclGroup>(watch_, make_group(transport_, std::move(members), id));
  }

  std::unique_ptr<Pending> send(Queue& q, const Letter& l) override {
    return std::make_unique<Sent>(*this, q, l);
  }
  void receive(Queue& q, const Letter& l) override {
    watch_.verify();
    Lane& lane = lane_of(l, false);
    // The memory is there when q comes to it.
    cudaEvent_t event;
    cuda::ok(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
    cuda::ok(cudaEventRecord(event, stream_of(q)), "record an event");
    cuda::ok(cudaStreamWaitEvent(lane.stream(), event, 0), "wait for an event");
    lane.move(l, [&] {
      cuda::ok(cudaEventRecord(event, lane.stream()), "record an event");
      watch_.enqueued("receive", lane.stream());
    });
    lane.drain();
    cuda::ok(cudaStreamWaitEvent(stream_of(q), event, 0), "wait for an event");
    cuda::ok(cudaEventDestroy(event), "an event");
  }

 private:
  class Sent final : public Pending {
   public:
    Sent(NcclCommunicator& owner, Queue& q, const Letter& l)
        : watch_(owner.watch_), lane_(owner.lane_of(l, true)), state_(std::make_shared<State>()) {
      watch_.verify();
      cuda::ok(cudaEventCreateWithFlags(&state_->event, cudaEventDisableTiming), "an event");
      cuda::ok(cudaEventRecord(state_->event, stream_of(q)), "record an event");
      cuda::ok(cudaStreamWaitEvent(lane_.stream(), state_->event, 0), "wait for an event");
      lane_.move(l, [state = state_, &lane = lane_, &watch = watch_] {
        cuda::ok(cudaEventRecord(state->event, lane.stream()), "record an event");
        state->enqueued = true;
        watch.enqueued("send", lane.stream());
      });
    }
    void wait() override {
      lane_.drain();
      cuda::ok(cudaEventSynchronize(state_->event), "wait for a message");
      watch_.verify();
    }
    bool done() override {
      lane_.rethrow();
      return state_->enqueued && cudaEventQuery(state_->event) != cudaErrorNotReady;
    }

   private:
    struct State {
      ~State() { static_cast<void>(cudaEventDestroy(event)); }
      cudaEvent_t event = nullptr;
      std::atomic<bool> enqueued = false;
    };
    Watch& watch_;
    Lane& lane_;
    std::shared_ptr<State> state_;
  };

  Lane& lane_of(const Letter& l, bool sends) {
    auto& lane = lanes_[{l.peer, l.channel, sends}];
    if (!lane) lane = std::make_unique<Lane>(watch_, transport_, l, sends);
    return *lane;
  }

  Transport& transport_;
  Watch watch_;
  std::map<std::tuple<int, std::uint32_t, bool>, std::unique_ptr<Lane>> lanes_;
};

}  // namespace

std::string nccl_version() {
  int v = 0;
  if (ncclGetVersion(&v) != ncclSuccess) return "unknown";
  return std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." +
         std::to_string(v % 100);
}

std::unique_ptr<Communicator> make_nccl_communicator(Device& device, Transport& transport) {
  return std::make_unique<NcclCommunicator>(device, transport);
}

}  // namespace reckon::real::cuda
