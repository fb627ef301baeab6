// How kernels are started, and how a failed call of the CUDA runtime is told.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "real/view.h"
#ifdef RECKON_CUDA_EMULATION
#include "emulation.h"
#endif

namespace reckon::real::cuda {

// A call of the CUDA runtime or of cuBLASLt that failed.
struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void ok(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw CudaError(std::string(what) + ": " + cudaGetErrorString(status));
}

struct Grid {
  dim3 blocks, threads;
  std::size_t shared = 0;  // bytes of dynamic shared memory
};

// Enqueues one kernel. Empty grids are not launched.
template <class... Parameters, class... Arguments>
void launch(cudaStream_t stream, const Grid& grid, void (*kernel)(Parameters...),
            const Arguments&... arguments) {
  if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return;
#ifdef RECKON_CUDA_EMULATION
  (void)stream;
  emulation::run(grid.blocks, grid.threads, grid.shared,
                 [&] { kernel(static_cast<Parameters>(arguments)...); });
#else
  const auto* function = reinterpret_cast<const void*>(kernel);
  // Beyond this a kernel has to ask.
  constexpr std::size_t kSharedByDefault = 48 * 1024;
  if (grid.shared > kSharedByDefault) {
    ok(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                            static_cast<int>(grid.shared)),
       "shared memory of a kernel");
    // Else the driver may leave too little for a second block.
    ok(cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout,
                            cudaSharedmemCarveoutMaxShared),
       "shared memory of a kernel");
  }
  const auto call = [&](std::remove_cv_t<Parameters>... parameters) {
    void* addresses[] = {&parameters..., nullptr};
    ok(cudaLaunchKernel(function, grid.blocks, grid.threads, addresses, grid.shared, stream),
       "launch of a kernel");
  };
  call(static_cast<Parameters>(arguments)...);
#endif
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// Blocks of a kernel whose threads stride over n items: enough to fill the device several times.
inline unsigned blocks_for(std::int64_t n, std::int64_t per_block, int sm_count) {
  const std::int64_t most = std::int64_t{sm_count} * 16, wanted = ceil_div(n, per_block);
  return static_cast<unsigned>(wanted < most ? wanted : most);
}

// Rows of `width` numbers can be read and written in vectors of 16 bytes.
inline bool in_vectors(std::int64_t width, std::initializer_list<const void*> pointers) {
  if (width % 8 != 0) return false;
  for (const void* p : pointers)
    if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) return false;
  return true;
}

// Calls f with the width of a Pack as a constant: 8 if `wide`, else 1.
template <class F>
void with_pack(bool wide, F f) {
  if (wide)
    f(std::integral_constant<int, 8>{});
  else
    f(std::integral_constant<int, 1>{});
}

// Cuts a piece of working memory into arrays, each aligned to 256 bytes. With null it only counts.
class Carver {
 public:
  explicit Carver(void* memory) : at_(static_cast<unsigned char*>(memory)) {}
  template <class T>
  T* take(std::int64_t n) {
    T* piece = at_ == nullptr ? nullptr : reinterpret_cast<T*>(at_ + used_);
    used_ +=
        static_cast<std::size_t>(ceil_div(n * static_cast<std::int64_t>(sizeof(T)), 256) * 256);
    return piece;
  }
  std::size_t used() const { return used_; }

 private:
  unsigned char* at_;
  std::size_t used_ = 0;
};

}  // namespace reckon::real::cuda
