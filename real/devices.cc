#include "real/devices.h"

#include <charconv>

#include "sim/input_error.h"

namespace reckon::real {

DeviceChoice device_choice(const std::string& text) {
  DeviceChoice choice;
  if (text == "cpu") return choice;
  const std::string cuda = "cuda";
  if (text.rfind(cuda, 0) != 0)
    throw InputError("--device " + text + ": expected cpu, cuda or cuda:N");
  choice.cuda = true;
  if (text != cuda) {
    int index = -1;
    const char *first = text.data() + cuda.size() + 1, *last = text.data() + text.size();
    const auto [end, error] = std::from_chars(first, last, index);
    if (text[cuda.size()] != ':' || error != std::errc() || end != last || index < 0)
      throw InputError("--device " + text + ": expected cpu, cuda or cuda:N, N counting from 0");
    choice.index = index;
  }
  const CudaBuild build = cuda_build();
  if (!build.built)
    throw InputError("--device " + text +
                     ": this reckon was built without CUDA; build it where nvcc is found "
                     "(reckon doctor)");
  if (build.devices.empty()) throw InputError("--device " + text + ": no GPU: " + build.why_none);
  if (choice.index && *choice.index >= static_cast<int>(build.devices.size()))
    throw InputError("--device " + text +
                     ": expected cuda:0 to cuda:" + std::to_string(build.devices.size() - 1));
  return choice;
}

}  // namespace reckon::real
