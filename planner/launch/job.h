// What is launched: a plan of one model at one step shape on one cluster, and the files and the
// command that a framework needs for it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "planner/feasible.h"
#include "planner/launch/option_table.h"
#include "planner/scenario.h"

namespace reckon::plan::launch {

struct Job {
  std::string name;
  ModelShape model;
  hw::Cluster cluster;
  hw::Stack stack;
  StepShape step;
  std::int64_t steps = 0;  // of the whole phase
  Plan plan;
  std::optional<Training> training;  // of the bundled trainer; its paths are whole

  Question question() const { return {model, cluster, stack, plan, step}; }
  std::int64_t micro_batches() const {
    return step.global_batch / (std::int64_t{plan.dp} * plan.micro_batch);
  }
};

// A file of the answer.
struct OutputFile {
  std::string name, text;
  bool executable = false;
};

// How one process of the job is started, without the launcher that starts all of them.
struct Program {
  // "torchrun" style: the words after torchrun's own options.
  std::vector<std::string> script;     // {"pretrain_gpt.py"}, {"-m", "torchtitan.train"}
  std::vector<Option> options;         // of the script
  std::vector<std::string> arguments;  // words that are no options, after them
  std::map<std::string, std::string> environment;
  std::vector<OutputFile> files;  // that it reads; the first is what `reckon import` reads back
  bool mpi = false;               // an MPI program, not one for torchrun
};

// The plan with the switches that have no effect set to one value each: overlap of tensor
// parallelism without it, of pipeline messages without a pipeline, and so on. Two plans that run
// alike compare equal.
Plan canonical(Plan plan, const ModelShape& model);

// Processes of one host, and hosts. An NVLink domain of more than 8 GPUs is made of hosts with 4.
struct Hosts {
  int count = 1, gpus = 1;
  int domain = 1;  // hosts of one NVLink domain
};
Hosts hosts_of(const Job& job);

}  // namespace reckon::plan::launch
