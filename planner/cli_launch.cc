// `reckon launch`: the files that start a plan in a training framework.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "planner/bill.h"
#include "planner/campaign.h"
#include "planner/cli.h"
#include "planner/file.h"
#include "planner/launch/launchers.h"
#include "planner/launch/nearest.h"
#include "planner/plan_json.h"
#include "planner/report.h"
#include "planner/scenario_json.h"
#include "planner/table.h"

namespace reckon::plan {
namespace {

using namespace launch;

struct Wanted {
  Target target;
  Launcher launcher = Launcher::Slurm;
  bool both = false;  // native: a batch script and a plain one
};

template <class E>
std::optional<E> spelled(const std::string& text) {
  for (const auto& s : spellings(E{}))
    if (text == s.text) return s.value;
  return std::nullopt;
}

[[noreturn]] void no_such(const char* option, const std::string& given,
                          const std::vector<std::string>& valid) {
  const std::string nearest = hw::nearest_spelling(given, valid);
  throw InputError(fmt::format("{}: expected {}, got \"{}\"{}", option, fmt::join(valid, ", "),
                               given,
                               nearest.empty() ? "" : "; did you mean \"" + nearest + "\"?"));
}

Wanted choice_of(const LaunchCommandOptions& options) {
  Wanted c;
  std::vector<std::string> frameworks = hw::spelling_texts<Framework>();
  std::optional<Framework> framework = spelled<Framework>(options.target);
  if (framework) {
    c.both = *framework == Framework::Native;
    if (!options.framework.empty() && options.framework != options.target)
      throw InputError(fmt::format("--framework {}: --target {} is another framework",
                                   options.framework, options.target));
  } else {
    const auto launcher = spelled<Launcher>(options.target);
    if (!launcher) {
      std::vector<std::string> all = frameworks;
      for (const std::string& name : hw::spelling_texts<Launcher>()) all.push_back(name);
      no_such("--target", options.target, all);
    }
    c.launcher = *launcher;
    const std::string name = options.framework.empty() ? "megatron" : options.framework;
    framework = spelled<Framework>(name);
    if (!framework) no_such("--framework", name, frameworks);
  }
  const auto target = target_of(*framework, options.framework_version);
  if (!target)
    throw InputError(fmt::format("--framework-version: expected {}, got {}",
                                 versions_of(*framework), options.framework_version));
  c.target = *target;
  return c;
}

std::size_t phase_of(const Scenario& s, const LaunchCommandOptions& options) {
  if (options.phase.empty()) {
    if (const auto first = searched_phase(s)) return *first;
    throw InputError(options.scenario +
                     ": /campaign: expected at least one phase whose gpu_hours are not given");
  }
  std::vector<std::string> names;
  for (std::size_t i = 0; i < s.campaign.size(); ++i) {
    if (s.campaign[i].name == options.phase && s.campaign[i].gpu_hours <= 0) return i;
    if (s.campaign[i].gpu_hours <= 0) names.push_back(s.campaign[i].name);
  }
  no_such("--phase", options.phase, names);
}

Plan plan_of(const Scenario& s, const LaunchCommandOptions& options, std::size_t phase) {
  if (!options.plan.empty())
    return plan_from_json(hw::read_json_file(options.plan), s.model, s.cluster);
  if (s.campaign[phase].plan) return *s.campaign[phase].plan;
  if (s.plan) return *s.plan;
  throw InputError(
      options.scenario +
      ": the scenario has no /plan to launch; give one with --plan FILE, or let `reckon "
      "plan --output FILE` find one");
}

// All files or none: written to a folder beside the target, then moved.
void write_folder(const std::string& folder, const std::vector<OutputFile>& files) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path target(folder);
  if (fs::exists(target, error) && !fs::is_directory(target, error))
    throw InputError(folder + ": expected a folder, or nothing, at this path");
  const fs::path parent = fs::absolute(target, error).parent_path();
  fs::create_directories(parent, error);
  std::string made = (parent / (target.filename().string() + ".XXXXXX")).string();
  if (::mkdtemp(made.data()) == nullptr)
    throw InputError(fmt::format("{}: can't create a folder beside it", folder));
  const fs::path temporary(made);
  try {
    for (const OutputFile& f : files) {
      write_file((temporary / f.name).string(), f.text);
      if (f.executable)
        fs::permissions(temporary / f.name,
                        fs::perms::owner_exec | fs::perms::group_exec | fs::perms::others_exec,
                        fs::perm_options::add);
    }
    fs::permissions(temporary, fs::perms(0755));
    if (!fs::exists(target)) {
      fs::rename(temporary, target);
    } else {
      for (const OutputFile& f : files) fs::rename(temporary / f.name, target / f.name);
      fs::remove_all(temporary);
    }
  } catch (const fs::filesystem_error& e) {
    fs::remove_all(temporary, error);
    throw InputError(fmt::format("{}: can't write: {}", folder, e.code().message()));
  } catch (...) {
    fs::remove_all(temporary, error);
    throw;
  }
}

ordered_json to_json(const NearestPlan& n, Seconds given) {
  return {{"plan", plan_to_json(n.plan)},
          {"changes", n.changes},
          {"step_s", n.prediction.step.si},
          {"step_over_given", n.prediction.step.si / given.si},
          {"peak_memory_GiB", n.prediction.memory.peak / GiB},
          {"fits", n.fits}};
}

std::string to_text(const NearestPlan& n, Seconds given, const hw::Stack& stack) {
  const double ratio = n.prediction.step.si / given.si;
  std::string text = fmt::format("Nearest plan that it can run: {}\n", describe(n.plan));
  for (const std::string& change : n.changes) text += fmt::format("  {}\n", change);
  return text + wrapped(fmt::format(
                    "Its step takes {} instead of {} ({}{:.1f} %), peak memory {}{}; both with the "
                    "software of the scenario, {}.",
                    duration(n.prediction.step), duration(given), ratio < 1 ? "" : "+",
                    100 * (ratio - 1), gibibytes(n.prediction.memory.peak),
                    n.fits ? "" : ", WHICH DOES NOT FIT", stack.name));
}

// The scenario's recipe, with paths that hold in any folder: the scenario is copied into the job's.
std::optional<Training> training_of(const Scenario& s, const std::string& scenario) {
  std::optional<Training> t = s.training;
  if (!t) return t;
  namespace fs = std::filesystem;
  const auto whole = [&](std::string& path) {
    if (!path.empty())
      path = fs::absolute(fs::path(scenario).parent_path() / path).lexically_normal().string();
  };
  for (std::string& path : t->data) whole(path);
  whole(t->checkpoints);
  return t;
}

}  // namespace

int launch_command(const LaunchCommandOptions& options, const CommonOptions& common) {
  const Wanted choice = choice_of(options);
  const Scenario s = read_scenario(options.scenario);
  const std::size_t phase = phase_of(s, options);
  Job job{.name = s.name,
          .model = s.model,
          .cluster = s.cluster,
          .stack = s.stack,
          .step = step_shape(s.campaign[phase]),
          .steps = length(s.campaign[phase]).steps,
          .plan = plan_of(s, options, phase),
          .training = training_of(s, options.scenario)};
  const auto print_json = [](const ordered_json& j) { fmt::print("{}\n", j.dump(2)); };

  if (const auto no = why_illegal(job.model, job.cluster, job.stack, job.plan, job.step)) {
    if (common.json)
      print_json({{"target", title(choice.target)},
                  {"written", false},
                  {"reason", no->why},
                  {"detail", no->detail}});
    else
      fmt::print("{}\nThe plan can't run: {}{}\n", describe(job.plan), no->why,
                 no->detail.empty() ? "" : " (" + no->detail + ")");
    return kInfeasible;
  }

  job.plan = canonical(job.plan, job.model);
  std::optional<NearestPlan> nearest;
  Seconds given_step;
  std::string detail;
  const char* reason = Judge(choice.target, job.model).objection(job.question(), &detail);
  if (reason != nullptr) {
    nearest = nearest_plan(choice.target, job, memory_limit(s));
    if (!nearest || !nearest->fits)
      if (auto found = fastest_plan(choice.target, job, s.constraints, thread_count(common)))
        nearest = std::move(found);
    given_step = predict(job.model, job.cluster, job.stack, job.plan, job.step).step;
    if (!options.nearest || !nearest) {
      if (common.json) {
        ordered_json j = {{"target", title(choice.target)},
                          {"written", false},
                          {"reason", reason},
                          {"detail", detail},
                          {"step_s", given_step.si}};
        j["nearest"] = nearest ? to_json(*nearest, given_step) : ordered_json();
        print_json(j);
      } else {
        fmt::print("{}\n{} can't run it: {}{}\n\n", describe(job.plan), title(choice.target),
                   reason, detail.empty() ? "" : " (" + detail + ")");
        if (nearest)
          fmt::print(
              "{}\nNothing is written; --nearest writes this plan. `reckon plan` finds the fastest "
              "that it can run with\n\"search\": {{\"target\": \"{}\"}} in the scenario.\n",
              to_text(*nearest, given_step, job.stack), hw::spelling(choice.target.framework));
        else
          fmt::print("No plan of this model on this cluster runs and fits there.\n");
      }
      return kInfeasible;
    }
    job.model = nearest->model;
    job.plan = nearest->plan;
  }

  const Program program = program_of(choice.target, job);
  LaunchOptions launch_options{.time = options.time};
  if (!options.image.empty()) launch_options.image = options.image;
  if (const char* no = objection(choice.launcher, program))
    throw InputError(fmt::format("--target {}: {}", options.target, no));
  std::vector<OutputFile> files = program.files;
  for (Launcher launcher :
       choice.both ? std::vector{Launcher::Slurm, Launcher::MpiRun} : std::vector{choice.launcher})
    for (OutputFile& f : launcher_files(launcher, job, program, launch_options))
      files.push_back(std::move(f));
  files.push_back({"plan.json", plan_to_json(job.plan).dump(2) + "\n"});
  write_folder(options.output, files);

  if (common.json) {
    ordered_json j = {{"target", title(choice.target)},
                      {"written", true},
                      {"folder", options.output},
                      {"plan", plan_to_json(job.plan)}};
    for (const OutputFile& f : files) j["files"].push_back(f.name);
    if (reason != nullptr) {
      j["reason"] = reason;
      j["detail"] = detail;
      j["nearest"] = to_json(*nearest, given_step);
    }
    print_json(j);
    return kDone;
  }
  if (reason != nullptr)
    fmt::print("{} can't run the plan as given: {}{}\n{}\n", title(choice.target), reason,
               detail.empty() ? "" : " (" + detail + ")", to_text(*nearest, given_step, job.stack));
  const bool no_data =
      choice.target.framework == Framework::Native && (!job.training || job.training->data.empty());
  fmt::print("{} on {} GPUs, {}\n", describe(job.plan), world_size(job.plan), title(choice.target));
  for (const OutputFile& f : files)
    fmt::print("  {}\n", (std::filesystem::path(options.output) / f.name).string());
  if (no_data)
    fmt::print("{}",
               wrapped("The scenario names no data to train on; put it at /training/data of the "
                       "job's scenario.json (`reckon data` makes it from text).",
                       0));
  return kDone;
}

}  // namespace reckon::plan
