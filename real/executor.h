// Walks the Program of a plan, as one of its ranks: slot by slot, each slot's block op by op on its
// streams. Three threads a rank: compute (the caller's), exchange (the Model and Expert streams)
// and data (the Data stream). It has no schedule of its own.
//
// On a device that works behind the host's back the threads enqueue ops on the queues of their
// streams and go on; "done" between threads then means enqueued, and what waits for an op of
// another stream makes its queue wait for that op's mark. Slots follow each other as on the CPU:
// the other queues start behind the compute queue's last slot, and it goes on behind them. The host
// waits for the device where a dispatch has to know how many rows come (Ops::dispatch), once before
// the weights are updated (Optimizer::sum_norm), and at the end of a step.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "planner/schedule.h"
#include "real/communicator.h"
#include "real/ops.h"
#include "real/optimizer.h"
#include "sim/program.h"
#include "sim/timeline.h"

namespace reckon::real {

// Jobs of one thread, run in order. An exception of a job ends it: later ones are dropped, and
// `rethrow` throws it.
class Worker {
 public:
  Worker();
  ~Worker();
  void post(std::function<void()> job);
  void drain();    // until all posted jobs are over; throws what one threw
  void rethrow();  // throws what a job threw

 private:
  void loop();
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::deque<std::function<void()>> jobs_;
  bool busy_ = false, end_ = false;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
  std::thread thread_;
};

class Executor {
 public:
  // `ids`: writes the token ids of a micro-batch of this rank's data-parallel replica,
  // [micro-batch size, seq + extra].
  using Ids = std::function<void(std::uint32_t micro_batch, std::int32_t* out)>;

  // What a rank works with.
  struct Rank {
    Ops& ops;
    Weights& weights;
    Optimizer& optimizer;
    Communicator& communicator;
    Meter& meter;
    Device& device;
  };
  Executor(const sim::Program& program, const plan::Schedule& schedule, const Setting& setting,
           const Rank& rank);

  // One step. `record`: keep what happened, by the calendar that starts with this call.
  void run_step(std::int64_t step, const Ids& ids, bool record);

  // Of the last recorded step: events of this rank's role.
  const std::vector<sim::Event>& events() const { return events_; }
  std::uint32_t role() const { return role_index_; }
  // Texts that Event::label counts.
  const std::vector<std::string>& labels() const { return labels_; }

 private:
  // A block made ready to run.
  struct Bound {
    const sim::Block* block = nullptr;
    std::vector<Ops::Action> actions;
    std::vector<char> computes;  // is of a compute stream
    // Runs on the compute thread: its own ops, and exchanges that nothing could hide because the
    // next compute op waits for them (waking another thread twice would cost more than most take).
    std::vector<char> here;
    std::vector<std::uint32_t> here_before;  // last exchange before it that runs here, plus 1; or 0
    std::vector<std::uint32_t> label;        // into labels_
    std::vector<char> marked;                // an op of another queue waits for it
    std::vector<char> ends_forward;  // after this op a part of the chunk is through its forward
    bool elsewhere = false;          // has ops of the exchange thread
    bool exchanges = false;          // has ops of other queues than compute
    bool weights = false;            // its backward ops include weight gradients
  };
  // When an op ran, by its queue's clock.
  struct Stamps {
    Mark from, to;
  };
  // One run of a block: what its two threads share.
  struct Run {
    const Bound* bound = nullptr;
    Pass *forward = nullptr, *backward = nullptr;
    const plan::ChunkLayout *forward_layout = nullptr, *backward_layout = nullptr;
    ChunkWeights *forward_weights = nullptr, *backward_weights = nullptr;
    std::unique_ptr<std::atomic<std::uint32_t>[]> done;  // per op
    std::atomic<bool> failed = false;                    // set before what is not done is signalled
    std::vector<Mark> marks;                             // per op that others wait for
    std::vector<sim::Event>* events = nullptr;           // per op, where recorded
    std::vector<Stamps>* stamps = nullptr;
  };
  using Key = std::pair<std::uint16_t, std::uint32_t>;  // chunk, micro-batch

  Bound bind(const sim::Block& block, bool optimizer);
  void walk(std::int64_t step, const Ids& ids, bool record);
  void run_op(Run& run, std::uint32_t i);
  void run_block(Run& run);
  void wait_for(Run& run, std::uint32_t op);
  void run_slot(std::uint32_t index, const Ids& ids, bool record);
  Pass& begin_pass(std::uint16_t chunk, std::uint32_t micro_batch, const Ids& ids);
  void receive_forward(Pass& pass, std::uint16_t chunk, std::uint32_t micro_batch);
  void receive_backward(Pass& pass, std::uint16_t chunk, std::uint32_t micro_batch);
  void send(Tensor what, int pipeline_rank, std::uint32_t tag);
  Tensor receive(int from, std::uint32_t tag);
  void release_sent();  // messages that have arrived
  void finish_forward(std::uint16_t chunk, std::uint32_t micro_batch);
  void finish_backward(std::uint16_t chunk, std::uint32_t micro_batch, bool weights);
  std::uint32_t tag(bool backward, std::uint16_t chunk, std::uint32_t micro_batch) const;
  int rank_of(int chunk, std::uint32_t micro_batch) const;  // pipeline rank
  std::uint32_t actual(std::uint32_t micro_batch) const;    // of a mirrored role's micro-batch
  sim::SimTime now() const;
  Queue& queue_of(const sim::Op& op) { return device_.queue(stream_of(op)); }
  static sim::Stream stream_of(const sim::Op& op);
  Mark stamp(Queue& q) const { return stamping_ ? q.stamp() : Mark(); }
  void read_stamps();
  void record_sync(const sim::Sync& sync, std::uint32_t index, sim::SimTime start, Stamps stamps);

  const sim::Program& program_;
  Setting setting_;
  Ops& ops_;
  Weights& weights_;
  Optimizer& optimizer_;
  Communicator& communicator_;
  Transport& transport_;
  Meter& meter_;
  Device& device_;
  const sim::Role* role_ = nullptr;
  std::uint32_t role_index_ = 0;
  bool mirrored_ = false;
  std::uint32_t micro_batches_ = 0;
  int chunks_ = 0;

  std::vector<Bound> bound_;  // by index into Program::blocks; empty where the role has no use
  std::vector<std::string> labels_;
  std::vector<std::size_t> gathers_before_;  // per slot: gathers that must be over
  std::map<Key, Pass> passes_;
  std::map<std::uint32_t, Tensor> handed_over_;  // messages to this rank itself, by tag
  struct InFlight {
    Tensor what;
    std::unique_ptr<Pending> pending;
  };
  std::deque<InFlight> sent_;

  std::atomic<std::uint32_t> gathers_done_{0};
  std::vector<Mark> gather_marks_;  // of those done
  std::chrono::steady_clock::time_point start_;
  bool stamping_ = false;  // in this step
  Mark start_stamp_;
  std::vector<sim::Event> events_;
  std::vector<Stamps> stamps_;  // of events_, on a remote device
  std::mutex events_mutex_;
  Worker exchange_, data_;  // last: their threads end before what they use
};

}  // namespace reckon::real
