// `reckon sweep`: the scenario priced again with some of its parts varied.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "planner/cli.h"
#include "planner/file.h"
#include "planner/interrupt.h"
#include "planner/scenario_json.h"
#include "planner/sweep_report.h"

namespace reckon::plan {
namespace {

// Which process of how many this is: --part, else what mpirun or Slurm tell their processes.
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

// gnuplot writes beside the file, which then takes its place.
void draw(const std::string& file, const Sweep& sweep,
          const std::vector<nlohmann::ordered_json>& answers, const std::string& metric) {
  const std::string temporary = file + fmt::format(".{}", ::getpid());
  std::FILE* gnuplot = ::popen("gnuplot -", "w");
  if (gnuplot == nullptr) throw InputError("--chart: can't start gnuplot");
  const std::string script = sweep_chart(sweep, answers, metric, temporary);
  std::fwrite(script.data(), 1, script.size(), gnuplot);
  const bool drawn = ::pclose(gnuplot) == 0 && std::filesystem::exists(temporary);
  if (drawn) write_file(file, read_file(temporary));
  std::error_code error;
  std::filesystem::remove(temporary, error);
  if (!drawn) throw InputError(fmt::format("--chart {}: gnuplot failed (is it installed?)", file));
}

}  // namespace

int sweep_command(const SweepCommandOptions& options, const CommonOptions& common) {
  Sweep sweep{.scenario = hw::read_json_file(options.scenario),
              .one_at_a_time = options.one_at_a_time,
              .search = options.plan == "search"};
  for (const std::string& text : options.vary) sweep.variations.push_back(read_variation(text));
  scenario_from_json(sweep.scenario);  // errors of the scenario itself, with their places
  const bool csv = options.output.ends_with(".csv"), json = options.output.ends_with(".json");
  if (!options.output.empty() && !csv && !json)
    throw InputError(fmt::format("--output: expected a name that ends in .csv or .json, got {}",
                                 options.output));

  // A path that no point can use is a mistake, not an answer.
  const std::vector<SweepPoint> all = points(sweep);
  std::string first_error;
  bool any = false;
  for (const SweepPoint& point : all) {
    try {
      scenario_from_json(scenario_at(sweep, point));
      any = true;
      break;
    } catch (const InputError& e) {
      if (first_error.empty()) first_error = e.what();
    }
  }
  if (!any) throw InputError(fmt::format("--vary: no point is a scenario: {}", first_error));

  const auto [part, parts] = part_of(options.part);
  if (parts > 1 && options.output.empty())
    throw InputError("several processes need --output, where they leave their points");
  const std::atomic<bool>& stop = catch_interrupt();
  SweepOptions run_options{.threads = thread_count(common),
                           .journal = options.output.empty() ? "" : options.output + ".partial",
                           .part = part,
                           .parts = parts,
                           .stop = &stop};
  if (::isatty(STDERR_FILENO) != 0)
    run_options.progress = [](const SweepProgress& p) {
      fmt::print(stderr, "\r{} of {} points\x1b[K", p.done, p.all);
      std::fflush(stderr);
    };
  const auto answers = run(sweep, run_options);
  if (run_options.progress) fmt::print(stderr, "\r\x1b[K");

  std::size_t done = 0, met = 0;
  for (const auto& a : answers) {
    done += !a.is_null();
    met += a.is_object() && a.contains("plan");
  }
  if (done < answers.size()) {
    fmt::print(stderr, "reckon: {} of {} points done{}\n", done, answers.size(),
               stop.load() ? "; run it again to go on"
               : parts > 1 ? "; the other processes have the rest"
                           : "");
    if (parts > 1 && !stop.load()) return kDone;
    if (common.json)
      fmt::print("{}\n", sweep_json(sweep, answers).dump(2));
    else
      fmt::print("{}", sweep_table(sweep, answers));
    return kInfeasible;
  }
  if (csv) write_file(options.output, sweep_csv(sweep, answers));
  if (json) write_file(options.output, sweep_json(sweep, answers).dump(2) + "\n");
  if (!options.chart.empty()) draw(options.chart, sweep, answers, options.metric);
  if (common.json)
    fmt::print("{}\n", sweep_json(sweep, answers).dump(2));
  else
    fmt::print("{}", sweep_table(sweep, answers));
  if (!options.output.empty()) remove_journals(run_options.journal);
  return met > 0 ? kDone : kInfeasible;
}

}  // namespace reckon::plan
