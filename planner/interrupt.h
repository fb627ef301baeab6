// Ctrl-C as a request instead of an end.
#pragma once

#include <atomic>

namespace reckon::plan {

// From now on the first SIGINT sets the flag that this returns; the second ends the program as
// usual.
const std::atomic<bool>& catch_interrupt();

}  // namespace reckon::plan
