// A CUDA device on the host, for tests: slow and strict. Blocks run one after another, each thread
// is a fiber of one OS thread that runs until it has to wait for its warp or its block. Strict:
// shared memory and allocations begin as NaN; an asynchronous copy happens as late as it may, when
// its thread waits for it, and in every other block as soon as it may; the order of warps and lanes
// changes from barrier to barrier; lanes of a warp that don't do the same thing, and threads that
// wait for ever, end the program. Not seen: what depends on blocks or warps that run at the same
// instant.
#pragma once

#include <cuda_runtime_api.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define RECKON_DEVICE inline

namespace reckon::real::cuda::emulation {

constexpr int kLanes = 32;

void run(dim3 blocks, dim3 threads, std::size_t shared, const std::function<void()>& kernel);

// Of the thread that runs.
const dim3& thread_index();
const dim3& block_index();
const dim3& block_size();
const dim3& grid_size();
unsigned char* dynamic_shared();
int lane();

void sync_block();
// All lanes hand in a pointer to what they bring; the last one to come calls all(slots) for the
// warp. `what` must be the same for all of them.
void collective(const char* what, void* slot, const std::function<void(void* const*)>& all);

void copy_async(void* to, const void* from, std::size_t bytes, bool valid);
void commit_copies();
void wait_copies(int open);

}  // namespace reckon::real::cuda::emulation

#define threadIdx (::reckon::real::cuda::emulation::thread_index())
#define blockIdx (::reckon::real::cuda::emulation::block_index())
#define blockDim (::reckon::real::cuda::emulation::block_size())
#define gridDim (::reckon::real::cuda::emulation::grid_size())
#define __syncthreads() ::reckon::real::cuda::emulation::sync_block()

inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
template <class T>
T atomicAdd(T* at, std::type_identity_t<T> x) {
  const T old = *at;
  *at = old + x;
  return old;
}

namespace reckon::real::cuda {

using std::exp;
using std::isnan;

template <class T>
T* shared_memory() {
  return reinterpret_cast<T*>(emulation::dynamic_shared());
}

inline float bits_to_float(std::uint32_t x) {
  return std::bit_cast<float>(x);
}
inline std::uint32_t float_to_bits(float x) {
  return std::bit_cast<std::uint32_t>(x);
}
std::uint32_t pack_bf16(float low, float high);
std::uint16_t pack_e4m3(float low, float high);
float widen_e4m3(std::uint8_t code);

template <class T, class From>
T exchange(const char* what, T x, From from) {
  struct Slot {
    T in, out;
  } slot{x, x};
  emulation::collective(what, &slot, [from](void* const* slots) {
    for (int l = 0; l < emulation::kLanes; ++l)
      static_cast<Slot*>(slots[l])->out = static_cast<Slot*>(slots[from(l)])->in;
  });
  return slot.out;
}
template <class T>
T shuffle_xor(T x, int lanes) {
  return exchange("shuffle_xor", x, [lanes](int l) { return l ^ lanes; });
}
// The lane may differ from lane to lane, so that each brings its own.
template <class T>
T shuffle(T x, int lane) {
  struct Slot {
    T in, out;
    int from;
  } slot{x, x, lane};
  emulation::collective("shuffle", &slot, [](void* const* slots) {
    for (int l = 0; l < emulation::kLanes; ++l) {
      auto* s = static_cast<Slot*>(slots[l]);
      s->out = static_cast<Slot*>(slots[s->from & 31])->in;
    }
  });
  return slot.out;
}
template <class T>
T shuffle_up(T x, int lanes) {
  return exchange("shuffle_up", x, [lanes](int l) { return l < lanes ? l : l - lanes; });
}
std::uint32_t match_any(std::uint32_t x);
void sync_warp();
inline int count_bits(std::uint32_t x) {
  return std::popcount(x);
}

inline void copy_async_16(void* to, const void* from, bool valid) {
  emulation::copy_async(to, from, 16, valid);
}
inline void copy_async_4(void* to, const void* from, bool valid) {
  emulation::copy_async(to, from, 4, valid);
}
inline void copy_async_commit() {
  emulation::commit_copies();
}
template <int open>
void copy_async_wait() {
  emulation::wait_copies(open);
}

void load_matrices(std::uint32_t (&r)[4], const void* row);
void load_matrices_transposed(std::uint32_t (&r)[4], const void* row);
void multiply_bf16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);
void multiply_e4m3(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);

std::uint64_t tile_descriptor(const void* at);
inline void fence_for_group_products() {}
inline void begin_group_products() {}
inline void finish_group_products() {}
void multiply_e4m3_group(float (&d)[16][4], std::uint64_t a, std::uint64_t b, bool accumulate);

}  // namespace reckon::real::cuda
