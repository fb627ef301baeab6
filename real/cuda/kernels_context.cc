#include "real/cuda/kernels_gemm.h"
#include "real/cuda/launch.h"

namespace reckon::real::cuda {

Context::Context(cudaStream_t on, bool same_bits)
    : stream(on), deterministic(same_bits), library_(std::make_unique<Library>()) {
  int device = 0;
  ok(cudaGetDevice(&device), "the current device");
  ok(cudaDeviceGetAttribute(&sm_count, cudaDevAttrMultiProcessorCount, device),
     "the device's number of SMs");
  library_->multiplier = make_multiplier();
}

Context::~Context() {
  library_->multiplier.reset();
  if (library_->scratch != nullptr) static_cast<void>(cudaFreeAsync(library_->scratch, stream));
}

void* Context::scratch(std::size_t bytes) const {
  Library& l = *library_;
  if (bytes <= l.bytes) return l.scratch;
  if (l.scratch != nullptr) ok(cudaFreeAsync(l.scratch, stream), "working memory");
  l.scratch = nullptr;
  l.bytes = 0;
  ok(cudaMallocAsync(&l.scratch, bytes, stream), "working memory");
  l.bytes = bytes;
  return l.scratch;
}

std::size_t Context::scratch_bytes() const {
  return library_->bytes;
}

}  // namespace reckon::real::cuda
