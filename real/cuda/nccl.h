// Ranks with a GPU each, talking through NCCL. Exports of nccl.cc, or of nccl_absent.cc where there
// was no NCCL at build time.
#pragma once

#include <memory>
#include <string>

#include "real/communicator.h"

namespace reckon::real::cuda {

std::string nccl_version();  // empty: built without
// Collective over the transport's ranks, which have found each other: unique ids go through it.
std::unique_ptr<Communicator> make_nccl_communicator(Device& device, Transport& transport);

}  // namespace reckon::real::cuda
