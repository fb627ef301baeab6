// Which hardware ranks run on, as flags say it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "real/communicator.h"

namespace reckon::real {

// What a rank computes on and talks through.
struct Equipment {
  std::unique_ptr<Device> device;
  std::unique_ptr<Communicator> communicator;  // goes first
};

struct DeviceChoice {
  bool cuda = false;
  std::optional<int> index;  // of the GPU, for all ranks; else ranks are dealt out over the GPUs
  // The same bits from run to run: products take the library's first choice for a shape instead of
  // the fastest of several that are timed.
  bool deterministic = true;
};
// "cpu", "cuda", "cuda:1". Throws InputError for another text, and for CUDA where the program was
// built without it or where there is no such GPU.
DeviceChoice device_choice(const std::string& text);

// Of rank transport.rank(). On GPUs: NCCL where every rank of this host has a GPU of its own; ranks
// that are threads of one process may share GPU `index`, or the only one there is.
std::unique_ptr<Equipment> equipment(const DeviceChoice& choice, Transport& transport);
std::unique_ptr<Equipment> cpu_equipment(Transport& transport);

// What `reckon doctor` says of CUDA.
struct CudaBuild {
  bool built = false;
  std::string toolkit, driver, nccl;  // versions; driver: the newest CUDA it runs
  std::vector<std::string> devices;   // name, memory, compute capability
  std::string why_none;               // no device
};
CudaBuild cuda_build();

}  // namespace reckon::real
