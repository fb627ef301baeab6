// Stands for transport_mpi.cc where MPI was absent at build time.
#include "real/transport.h"
#include "sim/input_error.h"

namespace reckon::real {

bool built_with_mpi() {
  return false;
}

bool under_mpi() {
  return false;
}

void run_mpi(const std::function<void(Transport&)>&) {
  throw InputError(
      "this reckon was built without MPI; install libopenmpi-dev and openmpi-bin, then build "
      "again");
}

}  // namespace reckon::real
