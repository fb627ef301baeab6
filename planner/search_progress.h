// How far a search is, on a terminal.
#pragma once

#include <functional>
#include <string>

#include "planner/search.h"

namespace reckon::plan {

// One line on stderr, rewritten in place; where stderr is no terminal: nothing.
std::function<void(const SearchProgress&)> progress_line(const std::string& title);
void end_progress_line();

// A search under such a line.
SearchResult search_with_progress(const Scenario& s, std::size_t phase, SearchOptions options);

}  // namespace reckon::plan
