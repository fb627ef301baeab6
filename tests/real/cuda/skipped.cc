// Without a CUDA device nothing is tested, and the program says so by its exit code.
#define CATCH_CONFIG_EXTERNAL_INTERFACES
#include <cuda_runtime_api.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>

namespace {

constexpr int kSkipped = 77;  // ctest's SKIP_RETURN_CODE

struct NeedsDevice : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;

  void testRunStarting(const Catch::TestRunInfo&) override {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status == cudaSuccess && devices > 0) return;
    std::printf("skipped: no CUDA device (%s)\n", cudaGetErrorString(status));
    std::exit(kSkipped);
  }
};

}  // namespace

CATCH_REGISTER_LISTENER(NeedsDevice)
