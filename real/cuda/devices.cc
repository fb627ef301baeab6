// Which GPU a rank gets, and how it talks to the others.
#include "real/devices.h"

#include <cuda_runtime_api.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "real/cuda/cuda_device.h"
#include "real/cuda/launch.h"
#include "real/cuda/nccl.h"
#include "sim/input_error.h"

namespace reckon::real {

namespace {

std::string version_text(int v) {
  return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10);
}

// Ranks on this rank's host: how many, and which of them this is.
struct Neighbours {
  int size = 1, index = 0;
};
Neighbours neighbours(Transport& transport) {
  if (transport.size() == 1) return {};
  constexpr std::size_t kWords = 64;
  std::array<float, kWords> name{};
  char text[kWords * sizeof(float)] = {};
  ::gethostname(text, sizeof text - 1);
  std::memcpy(name.data(), text, sizeof text);
  std::vector<int> all;
  for (int r = 0; r < transport.size(); ++r) all.push_back(r);
  constexpr std::uint32_t kGroup = (1u << 12) - 1;  // an id that Trainer's groups don't take
  const auto world = make_group(transport, all, kGroup);
  std::vector<float> names(kWords * all.size());
  world->all_gather(name.data(), names.data(), kWords);
  Neighbours n{.size = 0};
  for (int r = 0; r < transport.size(); ++r) {
    if (std::memcmp(names.data() + kWords * static_cast<std::size_t>(r), name.data(),
                    sizeof text) != 0)
      continue;
    if (r < transport.rank()) ++n.index;
    ++n.size;
  }
  return n;
}

}  // namespace

CudaBuild cuda_build() {
  CudaBuild b{.built = true, .toolkit = version_text(CUDART_VERSION), .nccl = cuda::nccl_version()};
  int version = 0;
  if (cudaDriverGetVersion(&version) == cudaSuccess && version > 0)
    b.driver = version_text(version);
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    b.why_none = cudaGetErrorString(status);
    count = 0;
  } else if (count == 0) {
    b.why_none = "the driver shows none";
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p{};
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) continue;
    b.devices.push_back(std::string(p.name) + ", " + std::to_string(p.totalGlobalMem >> 30) +
                        " GiB, compute capability " + std::to_string(p.major) + "." +
                        std::to_string(p.minor) + ", " + std::to_string(p.multiProcessorCount) +
                        " SMs");
  }
  return b;
}

std::unique_ptr<Equipment> equipment(const DeviceChoice& choice, Transport& transport) {
  if (!choice.cuda) return cpu_equipment(transport);
  int gpus = 0;
  cuda::ok(cudaGetDeviceCount(&gpus), "the number of GPUs");
  const Neighbours here = neighbours(transport);
  const bool threads = !under_mpi();
  const bool one_gpu = choice.index.has_value() || gpus == 1;
  if (here.size > 1 && one_gpu && !threads)
    throw InputError(
        "ranks that are processes need a GPU each; let ranks share one as threads of one process, "
        "without mpirun");
  if (here.size > gpus && !one_gpu)
    throw InputError("the plan has " + std::to_string(here.size) +
                     " ranks on this host, which has " + std::to_string(gpus) +
                     " GPUs; give every rank its own, or let all share one with --device cuda:0");
  const int index = choice.index ? *choice.index : one_gpu ? 0 : here.index;
  auto e = std::make_unique<Equipment>();
  e->device = cuda::make_device(index, choice.deterministic);
  e->communicator = transport.size() == 1 || (threads && one_gpu)
                        ? make_shared_communicator(*e->device, transport)
                        : cuda::make_nccl_communicator(*e->device, transport);
  return e;
}

}  // namespace reckon::real
