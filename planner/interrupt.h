// Ctrl-C as a request instead of an end.
#pragma once

#include <atomic>
#include <csignal>
#include <initializer_list>

namespace reckon::plan {

// From now on the first of each of these signals sets the flag that this returns; the second ends
// the program as usual.
const std::atomic<bool>& catch_interrupt(std::initializer_list<int> signals = {SIGINT});

}  // namespace reckon::plan
