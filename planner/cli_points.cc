#include "planner/cli_points.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "planner/file.h"
#include "planner/interrupt.h"
#include "planner/report_page.h"
#include "planner/scenario_json.h"

namespace reckon::plan {

namespace {

// Which process of how many this is.
std::pair<int, int> part_of(const std::string& part) {
  if (!part.empty()) {
    int k = 0, n = 0;
    char rest = 0;
    if (std::sscanf(part.c_str(), "%d/%d%c", &k, &n, &rest) != 2 || k < 1 || n < 1 || k > n)
      throw InputError(fmt::format("--part: expected K/N with K from 1 to N, got {}", part));
    return {k - 1, n};
  }
  for (const auto& [rank, size] :
       {std::pair("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        std::pair("PMI_RANK", "PMI_SIZE"), std::pair("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")}) {
    const char *r = std::getenv(rank), *n = std::getenv(size);
    if (r != nullptr && n != nullptr && std::atoi(n) > 1) return {std::atoi(r), std::atoi(n)};
  }
  return {0, 1};
}

std::string journal_of(const std::string& output) {
  return output.empty() ? "" : output + ".partial";
}

}  // namespace

void check_output_name(const std::string& output) {
  if (!output.empty() && !output.ends_with(".csv") && !output.ends_with(".json"))
    throw InputError(
        fmt::format("--output: expected a name that ends in .csv or .json, got {}", output));
  if (!output.empty()) check_writable(output);
}

void check_pictures(const std::string& chart, const std::string& report) {
  if (!report.empty()) require_page_library();
  for (const std::string& file : {chart, report})
    if (!file.empty()) check_writable(file);
}

void require_some_scenario(const Sweep& sweep) {
  std::string first_error;
  for (const SweepPoint& point : points(sweep)) {
    try {
      scenario_from_json(scenario_at(sweep, point));
      return;
    } catch (const InputError& e) {
      if (first_error.empty()) first_error = e.what();
    }
  }
  throw InputError(fmt::format("--vary: no point is a scenario: {}", first_error));
}

PointsRun run_points(const Sweep& sweep, const std::string& output, const std::string& part,
                     const CommonOptions& common) {
  const auto [index, parts] = part_of(part);
  if (parts > 1 && output.empty())
    throw InputError("several processes need --output, where they leave their points");
  const std::atomic<bool>& stop = catch_interrupt();
  SweepOptions options{.threads = thread_count(common),
                       .journal = journal_of(output),
                       .part = index,
                       .parts = parts,
                       .stop = &stop};
  if (::isatty(STDERR_FILENO) != 0)
    options.progress = [](const SweepProgress& p) {
      fmt::print(stderr, "\r{} of {} points\x1b[K", p.done, p.all);
      std::fflush(stderr);
    };
  PointsRun r{.answers = run(sweep, options)};
  if (options.progress) fmt::print(stderr, "\r\x1b[K");
  for (const auto& a : r.answers) {
    r.done += !a.is_null();
    r.with_plan += a.is_object() && a.contains("plan");
  }
  r.interrupted = stop.load();
  r.others_go_on = parts > 1 && !r.interrupted && !r.whole();
  if (!r.whole())
    fmt::print(stderr, "reckon: {} of {} points done{}\n", r.done, r.answers.size(),
               r.interrupted ? "; run it again to go on"
               : parts > 1   ? "; the other processes have the rest"
                             : "");
  return r;
}

void forget_points(const std::string& output) {
  if (!output.empty()) remove_journals(journal_of(output));
}

}  // namespace reckon::plan
