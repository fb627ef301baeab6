// A GPU as a Device: queues are CUDA streams, marks are events, memory is the driver's
// stream-ordered pool.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <stdexcept>

#include "real/device.h"

namespace reckon::real::cuda {

// The device has no more memory: how much was asked for, and what is in use.
struct OutOfMemory : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Of the calling thread's rank. Throws CudaError.
std::unique_ptr<Device> make_device(int index, bool deterministic);

// The stream behind a queue of such a device.
cudaStream_t stream_of(const Queue& q);

}  // namespace reckon::real::cuda
