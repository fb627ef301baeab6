// A framework's own files as a scenario: what should this job reach, and what would be better?
// Reads a Megatron-LM command line (arguments, launch script), a Megatron-MoE-ModelZoo YAML,
// Megatron-Bridge overrides, a torchtitan v0.2.2 TOML, a DeepSpeed JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <variant>

#include "planner/launch/command_line.h"
#include "planner/launch/option_table.h"
#include "planner/launch/target.h"

namespace reckon::plan::launch {

struct ImportRequest {
  std::string file;
  std::string cluster = "dgx-h100";        // catalogue name
  std::optional<int> gpus;                 // of the job; nothing: as the file says
  std::string model;                       // catalogue name or config.json; "": as the file says
  std::optional<int> seq;                  // where the file doesn't say it (DeepSpeed)
  std::optional<MegatronRelease> release;  // nothing: the newest that accepts the command line
  Variables variables;                     // of ${NAME} in a script or a YAML
};

struct ImportedJob {
  nlohmann::ordered_json scenario;  // with plan, and `target` in its search space
  Target target;
  std::vector<std::string> notes;  // what was taken for granted
};

// Whether `file` is one of these, by its name and content; else it is a model's config.json.
bool is_framework_file(const std::string& file, const std::string& text);

// Errors: InputError. A Refusal is an answer: the framework itself would not start the job.
std::variant<ImportedJob, Refusal> import_job(const ImportRequest& request);

}  // namespace reckon::plan::launch
