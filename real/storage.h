// Tensors of the trainer: counted floats. Everything that a rank keeps goes through its Meter, so
// that its peak can be compared with the planner's memory model.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>

namespace reckon::real {

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
  mutable std::mutex mutex_;
  ByHolds live_{}, at_peak_{};
  std::int64_t sum_ = 0, peak_ = 0;
};

// A handle on n floats or 32-bit integers; copies of it share them. Empty until made.
class Tensor {
 public:
  Tensor() = default;
  // Uninitialised.
  Tensor(Meter& meter, std::int64_t n, Holds what = Holds::Activations)
      : count_(n), bytes_(std::make_shared<Bytes>(meter, what, n * std::int64_t{4})) {}

  static Tensor zeros(Meter& meter, std::int64_t n, Holds what = Holds::Activations) {
    Tensor t(meter, n, what);
    std::memset(t.bytes_->at, 0, static_cast<std::size_t>(4 * n));
    return t;
  }
  Tensor copy(Meter& meter) const {
    Tensor t(meter, count_);
    std::memcpy(t.bytes_->at, bytes_->at, static_cast<std::size_t>(4 * count_));
    return t;
  }

  // Counts the bytes as something else from now on.
  void recount(Holds what) {
    bytes_->meter.add(bytes_->what, -bytes_->size);
    bytes_->what = what;
    bytes_->meter.add(what, bytes_->size);
  }

  explicit operator bool() const { return bytes_ != nullptr; }
  std::int64_t count() const { return count_; }
  float* floats() const { return reinterpret_cast<float*>(bytes_->at); }
  std::int32_t* ints() const { return reinterpret_cast<std::int32_t*>(bytes_->at); }

 private:
  struct Bytes {
    Bytes(Meter& m, Holds w, std::int64_t n)
        : meter(m),
          what(w),
          size(n),
          at(static_cast<unsigned char*>(
              ::operator new (static_cast<std::size_t>(n + 64), std::align_val_t{64}))) {
      meter.add(what, size);
    }
    ~Bytes() {
      meter.add(what, -size);
      ::operator delete (at, std::align_val_t{64});
    }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    Meter& meter;
    Holds what;
    std::int64_t size;
    unsigned char* at;
  };

  std::int64_t count_ = 0;
  std::shared_ptr<Bytes> bytes_;
};

}  // namespace reckon::real
