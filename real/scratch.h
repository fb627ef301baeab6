// Working memory of the kernels: buffers of the calling thread that grow and stay, so that no call
// allocates once a thread has seen its largest shape. Contents are undefined when handed out.
#pragma once

#include <cstddef>
#include <cstdint>

namespace reckon::real::cpu {

// One buffer each; what a kernel and the kernels it calls use at the same time must differ.
enum class Scratch : std::uint8_t {
  Turned,
  RoundedA,
  RoundedB,
  ColumnScales,
  Router,
  Attention,
  Count
};

// At least n floats, aligned to 64 bytes, valid until this thread asks for the same buffer again.
float* scratch(Scratch which, std::int64_t n);

}  // namespace reckon::real::cpu
