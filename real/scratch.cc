#include "real/scratch.h"

#include <array>
#include <memory>
#include <new>

namespace reckon::real::cpu {

namespace {

constexpr std::align_val_t kCacheLine{64};

struct Release {
  void operator()(float* p) const { ::operator delete[](p, kCacheLine); }
};

struct Buffer {
  std::unique_ptr<float[], Release> floats;
  std::int64_t size = 0;
};

}  // namespace

float* scratch(Scratch which, std::int64_t n) {
  thread_local std::array<Buffer, static_cast<std::size_t>(Scratch::Count)> buffers;
  Buffer& buffer = buffers[static_cast<std::size_t>(which)];
  if (buffer.size < n) {
    buffer.floats.reset();
    const auto bytes = static_cast<std::size_t>(n) * sizeof(float);
    buffer.floats.reset(static_cast<float*>(::operator new[](bytes, kCacheLine)));
    buffer.size = n;
  }
  return buffer.floats.get();
}

}  // namespace reckon::real::cpu
