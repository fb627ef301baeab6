#include "planner/search_progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "planner/bill.h"
#include "planner/report.h"

namespace reckon::plan {

std::function<void(const SearchProgress&)> progress_line(const std::string& title) {
  if (::isatty(STDERR_FILENO) == 0) return {};
  return [title](const SearchProgress& p) {
    const auto count = [](std::int64_t n) { return grouped(static_cast<double>(n)); };
    std::string text = fmt::format("bounds of {} of {} plans", count(p.bounded), count(p.plans));
    if (p.settled > 0)
      text = fmt::format("{} of {} plans settled, {} simulated", count(p.settled), count(p.plans),
                         count(p.simulated));
    if (p.best_step.si > 0) text += ", best step " + duration(p.best_step);
    fmt::print(stderr, "\r{}: {}\x1b[K", title, text);
    std::fflush(stderr);
  };
}

void end_progress_line() {
  if (::isatty(STDERR_FILENO) != 0) fmt::print(stderr, "\r\x1b[K");
}

SearchResult search_with_progress(const Scenario& s, std::size_t phase, SearchOptions options) {
  options.progress = progress_line(s.campaign[phase].name);
  SearchResult r = search(s, step_shape(s.campaign[phase]), options);
  end_progress_line();
  return r;
}

}  // namespace reckon::plan
