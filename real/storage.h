// Tensors of the trainer: counted floats. Everything that a rank keeps goes through its Meter, so
// that its peak can be compared with the planner's memory model.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>

namespace reckon::real {

// Bytes alive on one rank, and the most that were alive at once since reset_peak().
class Meter {
 public:
  void add(std::int64_t bytes) {
    const std::int64_t now = live_.fetch_add(bytes) + bytes;
    std::int64_t seen = peak_.load();
    while (now > seen && !peak_.compare_exchange_weak(seen, now)) {
    }
  }
  std::int64_t live() const { return live_.load(); }
  std::int64_t peak() const { return peak_.load(); }
  void reset_peak() { peak_.store(live_.load()); }

 private:
  std::atomic<std::int64_t> live_{0}, peak_{0};
};

// A handle on n floats or 32-bit integers; copies of it share them. Empty until made.
class Tensor {
 public:
  Tensor() = default;
  // Uninitialised.
  Tensor(Meter& meter, std::int64_t n)
      : count_(n), bytes_(std::make_shared<Bytes>(meter, n * std::int64_t{4})) {}

  static Tensor zeros(Meter& meter, std::int64_t n) {
    Tensor t(meter, n);
    std::memset(t.bytes_->at, 0, static_cast<std::size_t>(4 * n));
    return t;
  }
  Tensor copy(Meter& meter) const {
    Tensor t(meter, count_);
    std::memcpy(t.bytes_->at, bytes_->at, static_cast<std::size_t>(4 * count_));
    return t;
  }

  explicit operator bool() const { return bytes_ != nullptr; }
  std::int64_t count() const { return count_; }
  float* floats() const { return reinterpret_cast<float*>(bytes_->at); }
  std::int32_t* ints() const { return reinterpret_cast<std::int32_t*>(bytes_->at); }

 private:
  struct Bytes {
    Bytes(Meter& m, std::int64_t n)
        : meter(m),
          size(n),
          at(static_cast<unsigned char*>(
              ::operator new (static_cast<std::size_t>(n + 64), std::align_val_t{64}))) {
      meter.add(size);
    }
    ~Bytes() {
      meter.add(-size);
      ::operator delete (at, std::align_val_t{64});
    }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    Meter& meter;
    std::int64_t size;
    unsigned char* at;
  };

  std::int64_t count_ = 0;
  std::shared_ptr<Bytes> bytes_;
};

}  // namespace reckon::real
