// The few device instructions that the kernels use, under names of our own: numbers of 16 and 8
// bits, shuffles within a warp, asynchronous copies into shared memory, fragments and products of
// tensor cores. With RECKON_CUDA_EMULATION the same kernels are compiled for the host, where
// emulation.h of the tests has these names: a fiber per thread, one block after another.
//
// All functions on warps are to be called by all 32 lanes, in the same order.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "real/view.h"

#ifdef RECKON_CUDA_EMULATION
#include "emulation.h"
#else

#define RECKON_DEVICE __device__ __forceinline__

namespace reckon::real::cuda {

// Dynamic shared memory, aligned to 1024 bytes where a kernel has no other.
template <class T>
RECKON_DEVICE T* shared_memory() {
  extern __shared__ __align__(1024) unsigned char dynamic_shared[];
  return reinterpret_cast<T*>(dynamic_shared);
}

// ---- numbers

RECKON_DEVICE float bits_to_float(std::uint32_t x) {
  return __uint_as_float(x);
}
RECKON_DEVICE std::uint32_t float_to_bits(float x) {
  return __float_as_uint(x);
}

// Two bf16 in one register, `low` at the lower address; nearest, ties to even.
RECKON_DEVICE std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

// Two E4M3 codes, `low` at the lower address; nearest, ties to even; beyond 448 it saturates.
RECKON_DEVICE std::uint16_t pack_e4m3(float low, float high) {
  std::uint16_t out;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(out) : "f"(high), "f"(low));
  return out;
}
RECKON_DEVICE float widen_e4m3(std::uint8_t code) {
  std::uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(code)));
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(static_cast<std::uint16_t>(halves & 0xffff)));
  return out;
}

// ---- warps

template <class T>
RECKON_DEVICE T shuffle_xor(T x, int lanes) {
  return __shfl_xor_sync(0xffffffffu, x, lanes);
}
template <class T>
RECKON_DEVICE T shuffle(T x, int lane) {
  return __shfl_sync(0xffffffffu, x, lane);
}
// The value of the lane `lanes` below; one's own where there is none.
template <class T>
RECKON_DEVICE T shuffle_up(T x, int lanes) {
  return __shfl_up_sync(0xffffffffu, x, lanes);
}
// The lanes that hold the same x.
RECKON_DEVICE std::uint32_t match_any(std::uint32_t x) {
  return __match_any_sync(0xffffffffu, x);
}
RECKON_DEVICE void sync_warp() {
  __syncwarp();
}
RECKON_DEVICE int count_bits(std::uint32_t x) {
  return __popc(x);
}

// ---- asynchronous copies of 16 or 4 bytes from global to shared memory; zeros where not `valid`
// (`from` must be a good address all the same)

RECKON_DEVICE std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}
RECKON_DEVICE void copy_async_16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
RECKON_DEVICE void copy_async_4(void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 4 : 0)
               : "memory");
}
RECKON_DEVICE void copy_async_commit() {
  asm volatile("cp.async.commit_group;");
}
// Waits until at most `open` committed groups of this thread are under way.
template <int open>
RECKON_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(open) : "memory");
}

// ---- tensor cores

// Four 8x8 matrices of 16-bit numbers. Lane l gives the address of row l % 8 of matrix l / 8; lane
// l gets elements (l / 4, 2 (l % 4) + {0, 1}) of each.
RECKON_DEVICE void load_matrices(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// The same of the transposed matrices.
RECKON_DEVICE void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// d[16, 8] += a[16, 16] b[8, 16]^T in bf16, sums in fp32. With g = lane / 4, t = lane % 4:
// d: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1). a, pairs at columns 2t: rows g, g + 8, and
// the same at columns 8 + 2t. b, row g: pairs at columns 2t and 8 + 2t.
RECKON_DEVICE void multiply_bf16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                 std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// d[16, 8] += a[16, 32] b[8, 32]^T in E4M3: as above with four codes where a pair stands.
RECKON_DEVICE void multiply_e4m3(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                 std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- tensor cores of Hopper's warp groups: four warps multiply tiles that lie in shared memory

// A tile of rows of 128 bytes with swizzled chunks (tiles.h), 1024-byte aligned, from an address on
// (PTX ISA, "Matrix descriptor": address and distances in 16 bytes; 8 rows are 1024 bytes apart
// from the next 8; swizzle of 128 bytes).
RECKON_DEVICE std::uint64_t tile_descriptor(const void* at) {
  return static_cast<std::uint64_t>((shared_address(at) & 0x3ffff) >> 4) | std::uint64_t{1} << 16 |
         std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 62;
}
// Makes this thread's writes to shared memory visible to group products; before a barrier.
RECKON_DEVICE void fence_for_group_products() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
RECKON_DEVICE void begin_group_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
RECKON_DEVICE void finish_group_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
// d[64, 128] (+)= a[64, 32] b[128, 32]^T in E4M3, by the 128 threads of a group. Its w-th warp has
// rows [16 w, 16 w + 16), laid out as multiply_e4m3 does, 8 columns to each d[j].
RECKON_DEVICE void multiply_e4m3_group(float (&d)[16][4], std::uint64_t a, std::uint64_t b,
                                       bool accumulate) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %66, 0; "
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, "
      "%8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, "
      "%40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, p, 1, 1; }"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]),
        "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]), "+f"(d[10][1]),
        "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]), "+f"(d[11][2]),
        "+f"(d[11][3]), "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]), "+f"(d[12][3]),
        "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]), "+f"(d[14][0]),
        "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]), "+f"(d[15][1]),
        "+f"(d[15][2]), "+f"(d[15][3])
      : "l"(a), "l"(b), "r"(accumulate ? 1 : 0));
}

}  // namespace reckon::real::cuda
#endif

namespace reckon::real::cuda {

constexpr int kWarp = 32;
constexpr float kInfinity = __builtin_huge_valf();

RECKON_DEVICE float widen_bf16(std::uint16_t bits) {
  return bits_to_float(static_cast<std::uint32_t>(bits) << 16);
}
RECKON_DEVICE std::uint16_t narrow_bf16(float x) {
  return static_cast<std::uint16_t>(pack_bf16(x, 0) & 0xffff);
}

// ---- N neighbouring numbers of a view as floats: N is 8 (in vectors of 16 bytes), 2 (in one) or 1

template <int N>
struct Pack {
  float v[N];
};

template <int N>
RECKON_DEVICE Pack<N> load(ConstView x, std::int64_t i) {
  Pack<N> out;
  if constexpr (N == 1) {
    out.v[0] = x.element == Element::Bf16 ? widen_bf16(static_cast<const std::uint16_t*>(x.at)[i])
                                          : static_cast<const float*>(x.at)[i];
  } else if constexpr (N == 2) {
    if (x.element == Element::Bf16) {
      const std::uint32_t word =
          *reinterpret_cast<const std::uint32_t*>(static_cast<const std::uint16_t*>(x.at) + i);
      out.v[0] = bits_to_float(word << 16);
      out.v[1] = bits_to_float(word & 0xffff0000u);
    } else {
      const float2 pair = *reinterpret_cast<const float2*>(static_cast<const float*>(x.at) + i);
      out.v[0] = pair.x;
      out.v[1] = pair.y;
    }
  } else {
    static_assert(N == 8);
    if (x.element == Element::Bf16) {
      const uint4 w = *reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(x.at) + i);
      const std::uint32_t words[4] = {w.x, w.y, w.z, w.w};
      for (int j = 0; j < 4; ++j) {
        out.v[2 * j] = bits_to_float(words[j] << 16);
        out.v[2 * j + 1] = bits_to_float(words[j] & 0xffff0000u);
      }
    } else {
      const float* from = static_cast<const float*>(x.at) + i;
      for (int j = 0; j < 2; ++j) {
        const float4 q = *reinterpret_cast<const float4*>(from + 4 * j);
        out.v[4 * j] = q.x;
        out.v[4 * j + 1] = q.y;
        out.v[4 * j + 2] = q.z;
        out.v[4 * j + 3] = q.w;
      }
    }
  }
  return out;
}

template <int N>
RECKON_DEVICE void store(View x, std::int64_t i, const Pack<N>& p) {
  if constexpr (N == 1) {
    if (x.element == Element::Bf16)
      static_cast<std::uint16_t*>(x.at)[i] = narrow_bf16(p.v[0]);
    else
      static_cast<float*>(x.at)[i] = p.v[0];
  } else if constexpr (N == 2) {
    if (x.element == Element::Bf16)
      *reinterpret_cast<std::uint32_t*>(static_cast<std::uint16_t*>(x.at) + i) =
          pack_bf16(p.v[0], p.v[1]);
    else
      *reinterpret_cast<float2*>(static_cast<float*>(x.at) + i) = float2{p.v[0], p.v[1]};
  } else {
    static_assert(N == 8);
    if (x.element == Element::Bf16) {
      *reinterpret_cast<uint4*>(static_cast<std::uint16_t*>(x.at) + i) =
          uint4{pack_bf16(p.v[0], p.v[1]), pack_bf16(p.v[2], p.v[3]), pack_bf16(p.v[4], p.v[5]),
                pack_bf16(p.v[6], p.v[7])};
    } else {
      float* to = static_cast<float*>(x.at) + i;
      *reinterpret_cast<float4*>(to) = float4{p.v[0], p.v[1], p.v[2], p.v[3]};
      *reinterpret_cast<float4*>(to + 4) = float4{p.v[4], p.v[5], p.v[6], p.v[7]};
    }
  }
}

RECKON_DEVICE float load(ConstView x, std::int64_t i) {
  return load<1>(x, i).v[0];
}
RECKON_DEVICE void store(View x, std::int64_t i, float value) {
  store<1>(x, i, {{value}});
}

// What x becomes when stored as `e` and read again.
RECKON_DEVICE float rounded(float x, Element e) {
  return e == Element::Bf16 ? widen_bf16(narrow_bf16(x)) : x;
}

// ---- sums and maxima

template <class T>
RECKON_DEVICE T warp_sum(T x) {
  for (int d = kWarp / 2; d > 0; d /= 2) x += shuffle_xor(x, d);
  return x;
}
RECKON_DEVICE float warp_max(float x) {
  for (int d = kWarp / 2; d > 0; d /= 2) {
    const float other = shuffle_xor(x, d);
    x = other > x ? other : x;
  }
  return x;
}

// Of all threads of a one-dimensional block, for all of them; `room` is 32 numbers of shared
// memory. The order of the sum is fixed.
template <class T>
RECKON_DEVICE T block_sum(T x, T* room) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  x = warp_sum(x);
  __syncthreads();  // the last use of room is over
  if (lane == 0) room[warp] = x;
  __syncthreads();
  return warp_sum(lane < warps ? room[lane] : T{0});
}
RECKON_DEVICE float block_max(float x, float* room) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  x = warp_max(x);
  __syncthreads();
  if (lane == 0) room[warp] = x;
  __syncthreads();
  return warp_max(lane < warps ? room[lane] : -kInfinity);
}

}  // namespace reckon::real::cuda
