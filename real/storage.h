// Tensors of the trainer: counted numbers in the memory of a device. Everything that a rank keeps
// goes through its Meter, so that its peak can be compared with the planner's memory model.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>

#include "real/view.h"

namespace reckon::real {

// Where tensors live. Calls from any thread of the rank.
class Memory {
 public:
  virtual ~Memory() = default;
  // Aligned to 64 bytes at least. `queue`: index of the queue (device.h) that uses it first.
  virtual void* allocate(std::int64_t bytes, int queue) = 0;
  // What the queues of the bit mask have been given so far may still use it.
  virtual void release(void* at, std::uint32_t queues) noexcept = 0;
};
Memory& host_memory();

// What a rank's bytes are for; the order of plan::Cause.
enum class Holds : std::uint8_t {
  Weights,  // and the biases of routers
  Gradients,
  Optimizer,
  Activations,  // all that passes make, their gradients too
  Buffers       // messages under way, loads of experts, temporaries of collectives
};
inline constexpr std::size_t kHolds = 5;

// Bytes alive on one rank, and what was alive when their sum was highest since reset_peak().
class Meter {
 public:
  using ByHolds = std::array<std::int64_t, kHolds>;

  // `memory`: where the rank's tensors live; it outlives them.
  explicit Meter(Memory& memory = host_memory()) : memory_(memory) {}
  Memory& memory() const { return memory_; }

  void add(Holds what, std::int64_t bytes) {
    const std::lock_guard lock(mutex_);
    live_[static_cast<std::size_t>(what)] += bytes;
    sum_ += bytes;
    if (sum_ <= peak_) return;
    peak_ = sum_;
    at_peak_ = live_;
  }
  void reset_peak() {
    const std::lock_guard lock(mutex_);
    peak_ = sum_;
    at_peak_ = live_;
  }
  std::int64_t live() const {
    const std::lock_guard lock(mutex_);
    return sum_;
  }
  std::int64_t peak() const {
    const std::lock_guard lock(mutex_);
    return peak_;
  }
  ByHolds at_peak() const {
    const std::lock_guard lock(mutex_);
    return at_peak_;
  }

 private:
  Memory& memory_;
  mutable std::mutex mutex_;
  ByHolds live_{}, at_peak_{};
  std::int64_t sum_ = 0, peak_ = 0;
};

// What a tensor is made of.
struct Made {
  Element element = Element::Fp32;
  Holds what = Holds::Activations;
  int queue = 0;  // index of the queue that uses it first
};

// A handle on n numbers; copies of it share them. Empty until made.
class Tensor {
 public:
  Tensor() = default;
  // Uninitialised.
  Tensor(Meter& meter, std::int64_t n, const Made& made)
      : count_(n),
        element_(made.element),
        bytes_(std::make_shared<Bytes>(meter, made, n * bytes_of(made.element))) {}

  // Counts the bytes as something else from now on.
  void recount(Holds what) {
    bytes_->meter.add(bytes_->what, -bytes_->size);
    bytes_->what = what;
    bytes_->meter.add(what, bytes_->size);
  }

  explicit operator bool() const { return bytes_ != nullptr; }
  std::int64_t count() const { return count_; }
  Element element() const { return element_; }
  // For the queue of this index, which the memory then waits for before it is given away again.
  View on(int queue) const {
    bytes_->queues.fetch_or(1u << queue, std::memory_order_relaxed);
    return view();
  }
  // For whoever makes sure of that otherwise: tensors that live as long as the run.
  View view() const { return bytes_ ? View(bytes_->at, element_) : View(); }
  // Of tensors in the host's memory.
  float* floats() const { return real::floats(view()); }
  std::int32_t* ints() const { return real::ints(view()); }

 private:
  struct Bytes {
    Bytes(Meter& m, const Made& made, std::int64_t n)
        : meter(m),
          what(made.what),
          size(n),
          queues(1u << made.queue),
          at(m.memory().allocate(n, made.queue)) {
      meter.add(what, size);
    }
    ~Bytes() {
      meter.add(what, -size);
      meter.memory().release(at, queues.load(std::memory_order_relaxed));
    }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    Meter& meter;
    Holds what;
    std::int64_t size;
    std::atomic<std::uint32_t> queues;
    void* at;
  };

  std::int64_t count_ = 0;
  Element element_ = Element::Fp32;
  std::shared_ptr<Bytes> bytes_;
};

}  // namespace reckon::real
