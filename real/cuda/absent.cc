// Where the program is built without CUDA.
#include "real/devices.h"
#include "sim/check.h"

namespace reckon::real {

CudaBuild cuda_build() {
  return {.why_none = "built without CUDA"};
}

std::unique_ptr<Equipment> equipment(const DeviceChoice& choice, Transport& transport) {
  check(!choice.cuda, "device_choice has refused CUDA");
  return cpu_equipment(transport);
}

}  // namespace reckon::real
