// `reckon calibrate`: what this machine's kernels take, as tables for the cost model. `reckon
// validate`: plans predicted with them, run, and compared.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "hw-models/catalog.h"
#include "hw-models/measured.h"
#include "planner/bill.h"
#include "planner/cli.h"
#include "planner/file.h"
#include "planner/measured_tables.h"
#include "planner/plan_json.h"
#include "planner/report_page.h"
#include "planner/scenario_json.h"
#include "planner/table.h"
#include "planner/validate.h"
#include "real/calibrate.h"
#include "real/machine.h"
#include "sim/input_error.h"
#include "sim/trace.h"

namespace reckon::plan {
namespace {

// One line on a terminal, overwritten; nothing elsewhere.
class ProgressLine {
 public:
  void show(const std::string& text) const {
    if (terminal_) fmt::print(stderr, "\r\x1b[K{}", text);
  }
  ~ProgressLine() {
    if (terminal_) fmt::print(stderr, "\r\x1b[K");
  }

 private:
  bool terminal_ = ::isatty(STDERR_FILENO) == 1;
};

std::string processor() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm t{};
  ::gmtime_r(&now, &t);
  return fmt::format("{:04}-{:02}-{:02}", t.tm_year + 1900, t.tm_mon + 1, t.tm_mday);
}

// What is measured: this machine's processor, or a GPU of it.
std::string machine_of(const real::DeviceChoice& device) {
  if (!device.cuda) return fmt::format("{}, {} cores", processor(), thread_count({}));
  const real::CudaBuild cuda = real::cuda_build();
  return fmt::format("{}, CUDA {}, driver of {}",
                     cuda.devices[static_cast<std::size_t>(device.index.value_or(0))], cuda.toolkit,
                     cuda.driver);
}

// Seconds of steps that the machine's speed is read from.
constexpr double kLook = 0.6;

}  // namespace

int calibrate_command(const CalibrateOptions& options, const CommonOptions& common) {
  check_writable(options.output);
  real::keep_memory();
  real::DeviceChoice chosen = real::device_choice(options.device);
  chosen.deterministic = false;  // the fastest algorithm of each product
  const int most = !chosen.cuda   ? thread_count(common)
                   : chosen.index ? 1
                                  : static_cast<int>(real::cuda_build().devices.size());
  const int cores = options.ranks > 0 ? options.ranks : most;
  hw::MeasuredDevice device{
      .machine = machine_of(chosen),
      .date = today(),
      .command =
          fmt::format("reckon calibrate --ranks {}{}{}", cores, options.quick ? " --quick" : "",
                      chosen.cuda ? " --device " + options.device : "")};
  ordered_json errors = ordered_json::array();
  Table report{
      .columns = {
          {"ranks"}, {"ops", Align::Left}, {"samples"}, {"median error"}, {"90 %"}, {"sum"}}};
  const ProgressLine line;
  for (int ranks = 1; ranks <= cores; ranks *= 2) {
    const char* what = "";
    const real::CalibrationOptions measure{
        .ranks = ranks,
        .quick = options.quick,
        .device = chosen,
        .progress = [&](int done, int all) {
          line.show(fmt::format("{} ranks at work: {} {} of {}", ranks, what, done + 1, all));
        }};
    Measurements m{.ranks = ranks, .axes = real::calibration_axes(measure)};
    what = "matrix products";
    m.products = real::measure_products(measure);
    what = "attention";
    m.attention = real::measure_attention(measure);
    what = "other shapes";
    m.others = real::measure_other_shapes(measure);
    what = "exchanges";
    const double before = real::reference_seconds(measure, kLook);
    m.exchanges = real::measure_exchanges(measure);
    m.exchanges_reference = 0.5 * (before + real::reference_seconds(measure, kLook));
    what = "training steps";
    m.steps = real::measure_steps(measure);
    for (const bool recompute : {false, true})
      device.levels.push_back(measured_level(m, recompute));
    for (const TableError& e : table_errors(m)) {
      report.rows.push_back({fmt::to_string(ranks), e.what, fmt::to_string(e.samples),
                             fmt::format("{:.1f} %", 100 * e.median),
                             fmt::format("{:.1f} %", 100 * e.p90),
                             fmt::format("{:+.1f} %", 100 * e.total)});
      errors.push_back({{"ranks", ranks},
                        {"ops", e.what},
                        {"samples", e.samples},
                        {"median_error", e.median},
                        {"p90_error", e.p90},
                        {"sum_error", e.total}});
    }
  }
  line.show("");
  write_file(options.output, hw::to_json(device).dump(1) + "\n");
  if (common.json)
    fmt::print(
        "{}\n",
        ordered_json{{"machine", device.machine}, {"output", options.output}, {"errors", errors}}
            .dump(2));
  else
    fmt::print("{}\nTables written to {}. How far they are from ops that did not make them:\n\n{}",
               device.machine, options.output, text(report));
  return kDone;
}

namespace {

std::vector<Plan> chosen_plans(const ValidateOptions& options, const Scenario& s,
                               const real::Job& job, int cores) {
  std::vector<Plan> plans;
  for (const std::string& file : options.plans)
    plans.push_back(plan_from_json(hw::read_json_file(file), s.model, s.cluster));
  if (options.matrix) {
    const std::vector<Plan> matrix = plan_matrix(job, cores);
    plans.insert(plans.end(), matrix.begin(), matrix.end());
  }
  if (plans.empty() && s.plan) plans.push_back(*s.plan);
  if (plans.empty())
    throw InputError(options.scenario +
                     ": the scenario has no /plan to run; give one with --plan FILE, or --matrix "
                     "for one of each kind");
  return plans;
}

}  // namespace

int validate_command(const ValidateOptions& options, const CommonOptions& common) {
  if (!options.report.empty()) require_page_library();
  for (const std::string& file : {options.trace, options.report})
    if (!file.empty()) check_writable(file);
  real::keep_memory();
  real::DeviceChoice device = real::device_choice(options.device);
  device.deterministic = false;
  const Scenario s = read_scenario(options.scenario);
  const auto phase = searched_phase(s);
  if (!phase)
    throw InputError(options.scenario +
                     ": /campaign: expected at least one phase whose gpu_hours are not given");
  if (device.cuda && s.stack.name == "reckon-cpu")
    throw InputError(options.scenario + ": /stack: expected \"reckon-cuda\" with --device " +
                     options.device + ", whose activations are stored as bf16");
  std::shared_ptr<const hw::MeasuredDevice> measured;
  if (!options.calibration.empty())
    measured = std::make_shared<hw::MeasuredDevice>(hw::read_measured(options.calibration));

  real::Job job{.model = s.model,
                .cluster = s.cluster,
                .stack = s.stack,
                .step = step_shape(s.campaign[*phase])};
  if (s.plan) job.plan = *s.plan;
  const int cores = thread_count(common);
  const ProgressLine line;
  std::vector<PlanComparison> results;
  const std::vector<Plan> plans = chosen_plans(options, s, job, cores);
  for (const Plan& plan : plans) {
    real::Job one = job;
    one.plan = plan;
    one.cluster.gpus = std::max(s.cluster.gpus, world_size(plan));
    if (const auto no = why_illegal(one.model, one.cluster, one.stack, plan, one.step)) {
      results.push_back({.plan = plan, .why_not = no->why});
      continue;
    }
    if (const auto why = why_untrainable(one)) {
      results.push_back({.plan = plan, .why_not = *why});
      continue;
    }
    // As many devices as ranks: tables are by the ranks at work.
    one.cluster.gpus = world_size(plan);
    if (measured) {
      const bool repeats = plan.recompute.mode == Recompute::Mode::Full;
      one.cluster.measured =
          std::make_shared<hw::MeasuredDevice>(hw::levels_for(*measured, repeats));
      one.stack.host_per_step = one.cluster.measured->level(world_size(plan)).per_step;
    }
    results.push_back(compare_plan(
        one, {.steps = options.steps, .device = device, .progress = [&](int step, int of) {
                line.show(fmt::format("plan {} of {}: step {} of {}", results.size() + 1,
                                      plans.size(), step + 1, of));
              }}));
  }
  line.show("");
  if (!options.trace.empty()) {
    const auto ran = std::find_if(results.begin(), results.end(),
                                  [](const PlanComparison& c) { return c.why_not.empty(); });
    if (ran != results.end()) write_file(options.trace, sim::chrome_trace(ran->timeline));
  }
  const bool all_ran = std::all_of(results.begin(), results.end(),
                                   [](const PlanComparison& c) { return c.why_not.empty(); });
  ordered_json out = {{"scenario", s.name},
                      {"machine", machine_of(device)},
                      {"date", today()},
                      {"calibrated", measured != nullptr}};
  for (const PlanComparison& c : results) out["plans"].push_back(to_json(c));
  out["summary"] = to_json(summary(results));
  const std::string where = fmt::format("{} on {}{}", s.name, machine_of(device),
                                        measured ? fmt::format(", calibrated {}", measured->date)
                                                 : ", not calibrated: nameplate figures");
  if (!options.report.empty())
    write_file(options.report, report_page({.command = "validate",
                                            .title = s.name,
                                            .headline = where,
                                            .verdict = verdict_sentence(results),
                                            .answer = out}));
  if (common.json) {
    fmt::print("{}\n", out.dump(2));
  } else {
    fmt::print("{}\n\n", where);
    if (results.size() == 1)
      fmt::print("{}", to_text(results.front()));
    else
      fmt::print("{}", overview(results));
  }
  return all_ran ? kDone : kInfeasible;
}

}  // namespace reckon::plan
