#include "real/cuda/nccl.h"
#include "sim/input_error.h"

namespace reckon::real::cuda {

std::string nccl_version() {
  return {};
}

std::unique_ptr<Communicator> make_nccl_communicator(Device&, Transport&) {
  throw InputError("several GPUs need NCCL, and this reckon was built without it (nccl.h)");
}

}  // namespace reckon::real::cuda
