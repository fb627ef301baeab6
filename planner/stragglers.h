// What a step waits for ranks that something interrupts now and then (garbage collection, the
// operating system, a message sent again): the part of it that grows with the cluster.
#pragma once

#include <string_view>

#include "planner/plan.h"
#include "sim/units.h"

namespace reckon::plan {

// Every rank loses a stack's `interruption` at random. Within one replica of the model delays add
// up, as its ranks wait for each other all the time; at the end of the step the replicas wait for
// the one that lost most. The expectation, for a step that takes `step` without. 0 for stacks that
// catalog/stragglers.json does not name.
//
// Not modelled: delays that slack hides, and interruptions of different lengths.
Seconds straggler_wait(std::string_view stack, const Plan& plan, Seconds step);

// The parts of it: seconds of one interruption, 0 for stacks that are not named; and how many of
// them a step waits for, on average.
Seconds interruption(std::string_view stack);
double interruptions(const Plan& plan, Seconds step);

// Mean of the largest of n Poisson numbers of that mean. Exposed for its test.
double largest_poisson(double mean, double n);

}  // namespace reckon::plan
