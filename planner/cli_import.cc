// `reckon import`: a Hugging Face config.json as the "model" part of a scenario; a framework's own
// files as a whole scenario with its plan.
#include <fmt/format.h>

#include "planner/cli.h"
#include "planner/file.h"
#include "planner/import_hf.h"
#include "planner/launch/import_job.h"
#include "planner/model_fields.h"
#include "planner/report.h"
#include "planner/scenario_json.h"

namespace reckon::plan {

namespace {

int import_framework(const ImportOptions& options, const CommonOptions& common) {
  launch::ImportRequest request{
      .file = options.config, .cluster = options.cluster, .model = options.model};
  if (options.gpus > 0) request.gpus = options.gpus;
  if (options.seq > 0) request.seq = options.seq;
  if (!options.framework_version.empty()) {
    const auto target = launch::target_of(launch::Framework::Megatron, options.framework_version);
    if (!target)
      throw InputError(fmt::format("--framework-version: expected {}, got {}",
                                   launch::versions_of(launch::Framework::Megatron),
                                   options.framework_version));
    request.release = target->release;
  }
  for (const std::string& pair : options.set) {
    const std::size_t equals = pair.find('=');
    if (equals == std::string::npos)
      throw InputError(fmt::format("--set: expected NAME=VALUE, got {}", pair));
    request.variables[pair.substr(0, equals)] = pair.substr(equals + 1);
  }

  const auto result = launch::import_job(request);
  if (const auto* no = std::get_if<launch::Refusal>(&result)) {
    if (common.json)
      fmt::print("{}\n", ordered_json{{"accepted", false},
                                      {"reason", no->why},
                                      {"detail", no->detail},
                                      {"where", no->where}}
                             .dump(2));
    else
      fmt::print("{}\n", fmt::format("The framework refuses this job: {}{} ({})", no->why,
                                     no->detail.empty() ? "" : ": " + no->detail, no->where));
    return kInfeasible;
  }
  const launch::ImportedJob& job = std::get<launch::ImportedJob>(result);
  const std::string text = job.scenario.dump(2) + "\n";
  // The scenario must read back: what a framework calls a job may still not be a plan here.
  const Scenario s = scenario_from_json(hw::parse_json(options.config, text));
  if (!options.output.empty()) write_file(options.output, text);
  if (common.json || options.output.empty()) fmt::print("{}", text);
  fmt::print(stderr, "{}: {}; {} x {} tokens a step\n", s.model.name, describe(*s.plan),
             grouped(static_cast<double>(s.campaign[0].global_batch)),
             grouped(static_cast<double>(s.campaign[0].seq)));
  for (const std::string& note : job.notes) fmt::print(stderr, "  {}\n", note);
  return kDone;
}

}  // namespace

int import_command(const ImportOptions& options, const CommonOptions& common) {
  if (launch::is_framework_file(options.config, read_file(options.config)))
    return import_framework(options, common);
  const hw::Document document = hw::read_json_file(options.config);
  ModelShape model = import_hf(hw::Value(document));
  if (!options.name.empty()) model.name = options.name;
  const ordered_json part = hw::to_json(model);
  const Params p = parameters(model);
  const double total = static_cast<double>(p.total()),
               without_mtp = static_cast<double>(p.total(false)),
               activated = static_cast<double>(activated_parameters(model));

  if (!options.output.empty()) write_file(options.output, part.dump(2) + "\n");
  if (common.json) {
    fmt::print("{}\n", ordered_json{{"model", part},
                                    {"parameters",
                                     {{"total", p.total()},
                                      {"without_mtp", p.total(false)},
                                      {"activated", activated_parameters(model)}}}}
                           .dump(2));
    return kDone;
  }
  if (options.output.empty()) fmt::print("{}\n", part.dump(2));
  fmt::print(stderr, "{}: {} parameters{}, {} activated by a token\n", model.name,
             short_count(total),
             model.mtp_depth > 0
                 ? fmt::format(" ({} without multi-token prediction)", short_count(without_mtp))
                 : "",
             short_count(activated));
  return kDone;
}

}  // namespace reckon::plan
