// A Timeline as Chrome trace events, which ui.perfetto.dev and chrome://tracing open.
#pragma once

#include <string>

#include "sim/timeline.h"

namespace reckon::sim {

const char* name(Stream stream);
const char* name(Phase phase);

// JSON text, one event a line; the order of timeline.events does not matter. A process is a role;
// its first track shows passes (one slice a slot, from its first compute op to its last), the
// others show one stream each. Times are microseconds with all six decimals of the picosecond
// calendar. Format: "Trace Event Format", Google, chromium.org, complete events ("ph": "X").
std::string chrome_trace(const Timeline& timeline);

}  // namespace reckon::sim
