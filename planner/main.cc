// The program `reckon`: reads the command line, runs one subcommand, turns bad input into exit code
// 2.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "hw-models/strict_json.h"
#include "planner/cli.h"
#include "planner/cli_codesign.h"
#include "planner/cli_explain.h"
#include "real/cli.h"
#include "sim/input_error.h"

namespace {

using namespace reckon::plan;

// CLI11 calls a misspelt command a missing one. The message, if the first word is not a command.
std::optional<std::string> unknown_command(const CLI::App& app, int argc, char** argv) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands(nullptr)) names.push_back(command->get_name());
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--threads") ++i;
    if (word.empty() || word[0] == '-') continue;
    if (std::find(names.begin(), names.end(), word) != names.end()) return std::nullopt;
    const std::string nearest = reckon::hw::nearest_spelling(word, names);
    return fmt::format("no command '{}'; {}", word,
                       nearest.empty() ? fmt::format("expected {}", fmt::join(names, ", "))
                                       : fmt::format("did you mean '{}'?", nearest));
  }
  return std::nullopt;
}

constexpr const char* kReport = "Write the answer to this file as one HTML page with figures";

int run(int argc, char** argv) {
  CLI::App app{
      "Predicts what a training run of a large language model costs on a cluster, and finds the "
      "plan that costs least within a budget.",
      "reckon"};
  app.set_version_flag("--version", "reckon " RECKON_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  app.footer(
      "Exit codes: 0 an answer; 1 an answer that is no: the plan can't run, or no plan meets the "
      "budget;\n2 bad input.");

  CommonOptions common;
  app.add_flag("--json", common.json, "Print the same numbers as JSON");
  app.add_option("--threads", common.threads, "Threads to use; the output does not depend on it")
      ->check(CLI::Range(1, 1024))
      ->default_str("one per core");

  std::function<int()> chosen;

  PlanOptions plan;
  CLI::App* plan_app =
      app.add_subcommand("plan", "Find the plans that cost least, and judge the budget");
  plan_app->add_option("scenario", plan.scenario, "Scenario file")->required();
  plan_app->add_option("--output", plan.output, "Write the best plan to this file");
  plan_app->add_option("--keep", plan.keep, "How many plans to show")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  plan_app->add_option("--report", plan.report, kReport);
  plan_app->callback([&] { chosen = [&] { return plan_command(plan, common); }; });

  SimulateOptions simulate;
  CLI::App* simulate_app = app.add_subcommand("simulate", "Predict one plan: the scenario's own");
  simulate_app->add_option("scenario", simulate.scenario, "Scenario file")->required();
  simulate_app->add_option("--plan", simulate.plan, "Run the plan of this file instead");
  simulate_app->add_option("--phase", simulate.phase,
                           "Phase of the campaign to run; the first that is predicted");
  simulate_app->add_option("--trace", simulate.trace,
                           "Write every op of the step to this file, for ui.perfetto.dev");
  simulate_app
      ->add_option(
          "--fidelity", simulate.fidelity,
          "folded: one rank stands for all that do the same; cluster: every rank, with the "
          "scenario's disturbances; flow: every exchange flow by flow on the fabric's topology")
      ->check(CLI::IsMember({"folded", "cluster", "flow"}))
      ->capture_default_str();
  simulate_app->add_option("--report", simulate.report, kReport);
  simulate_app
      ->add_option("--seed", simulate.seed,
                   "Of the disturbances; of ECMP's hash and of scattered nodes")
      ->capture_default_str();
  simulate_app->add_option("--solver", simulate.solver, "Of flows: our own, or SimGrid")
      ->check(CLI::IsMember({"fluid", "simgrid"}))
      ->capture_default_str();
  simulate_app
      ->add_option("--nodes", simulate.nodes,
                   "Of flows: ranks fill the nodes in order, or nodes scattered over the cluster")
      ->check(CLI::IsMember({"in-order", "scattered"}))
      ->capture_default_str();
  simulate_app->add_option("--cache", simulate.cache, "Folder that keeps the results of flows")
      ->default_str("$XDG_CACHE_HOME/reckon");
  simulate_app->add_flag("--no-cache", simulate.no_cache, "Solve every flow anew, keep nothing");
  simulate_app->callback([&] {
    for (const char* option : {"--solver", "--nodes", "--cache", "--no-cache"})
      if (simulate_app->count(option) > 0 && simulate.fidelity != "flow")
        throw CLI::ValidationError(option, "is of --fidelity flow alone");
    chosen = [&] { return simulate_command(simulate, common); };
  });

  ExplainOptions explain;
  CLI::App* explain_app = app.add_subcommand(
      "explain", "What binds the best plan's step, what would help, and why other plans lost");
  explain_app->add_option("scenario", explain.scenario, "Scenario file")->required();
  CLI::Option* explain_plan =
      explain_app->add_option("--plan", explain.plan, "Explain the plan of this file instead");
  explain_app->add_flag("--given", explain.given, "Explain the scenario's own plan instead")
      ->excludes(explain_plan);
  explain_app->add_option("--phase", explain.phase,
                          "Phase of the campaign; the first that is predicted");
  CLI::Option* why_not = explain_app->add_option(
      "--why-not", explain.why_not,
      "KEY=VALUE,...: why a plan with these fields (tp=8,pp=8,recompute=norm+mla-up, "
      "overlap.p2p=false) is not the best one");
  explain_app->add_option("--report", explain.report, kReport)->excludes(why_not);
  explain_app->callback([&] { chosen = [&] { return explain_command(explain, common); }; });

  TopologyOptions topology;
  CLI::App* topology_app = app.add_subcommand(
      "topology", "The cluster's network: switches, bisection, cost; traffic on it");
  topology_app->add_option("scenario", topology.scenario, "Scenario file")->required();
  topology_app->add_option("--svg", topology.svg, "Draw it to this file");
  topology_app->add_flag(
      "--all-to-all", topology.all_to_all,
      "Run all-to-alls on it, flow by flow, in groups that share out the cluster");
  topology_app->add_option("--group", topology.group, "GPUs of one all-to-all")
      ->check(CLI::Range(2, 1'000'000))
      ->default_str("64");
  topology_app->add_flag("--strided", topology.strided,
                         "A group's GPUs lie far apart instead of side by side");
  topology_app->add_option("--message", topology.message, "From each GPU to each other")
      ->capture_default_str();
  topology_app->add_option("--spread", topology.spread, "Sizes vary by this part either way")
      ->check(CLI::Range(0.0, 0.99))
      ->capture_default_str();
  topology_app->add_option("--seed", topology.seed, "Of sizes and of ECMP's hash")
      ->capture_default_str();
  topology_app->callback([&] { chosen = [&] { return topology_command(topology, common); }; });

  BacktestCommandOptions backtest;
  CLI::App* backtest_app =
      app.add_subcommand("backtest", "Compare predictions with published runs");
  backtest_app->add_option("runs", backtest.runs, "File of published runs")->required();
  backtest_app->add_flag("--cross-validate", backtest.cross_validate,
                         "Also predict each source with constants fitted without it");
  backtest_app->add_flag("--fit", backtest.fit, "Fit the stacks' constants to these runs first");
  backtest_app->add_flag(
      "--all-hardware", backtest.all_hardware,
      "Sum up runs of any GPU and tier, not only A and B on A100, H800, H100, H200");
  backtest_app->add_flag("--rows", backtest.rows, "Print every row");
  backtest_app->add_option("--evidence", backtest.evidence,
                           "Write the cross-validated errors to this file, as reports quote them");
  backtest_app->callback([&] { chosen = [&] { return backtest_command(backtest, common); }; });

  SweepCommandOptions sweep;
  CLI::App* sweep_app =
      app.add_subcommand("sweep", "Price a scenario again with some of its parts varied");
  sweep_app->add_option("scenario", sweep.scenario, "Scenario file")->required();
  sweep_app
      ->add_option(
          "--vary", sweep.vary,
          "PATH=VALUE,VALUE,...: a part of the scenario (cluster.gpus, cluster.fabric.nic, "
          "model.moe.top_k, search.precision) and what it takes; 1024..8192*2 and "
          "\"25..100+25 GB/s\" are ranges; repeatable")
      ->required()
      ->allow_extra_args(false);
  sweep_app->add_flag("--one-at-a-time", sweep.one_at_a_time,
                      "Vary each part alone instead of all together");
  sweep_app
      ->add_option("--plan", sweep.plan, "search a plan at each point, or fixed: the scenario's")
      ->check(CLI::IsMember({"search", "fixed"}))
      ->capture_default_str();
  sweep_app->add_option("--output", sweep.output,
                        "Write the points to this .csv or .json file; an interrupted sweep goes on "
                        "where it stopped");
  sweep_app->add_option("--chart", sweep.chart,
                        "Draw the points into this .svg file (with gnuplot)");
  sweep_app->add_option("--report", sweep.report, kReport);
  sweep_app->add_option("--metric", sweep.metric, "Of the chart")
      ->check(CLI::IsMember({"gpu_hours", "days", "money", "step_s", "peak_memory_GiB", "mfu"}))
      ->capture_default_str();
  sweep_app->add_option("--part", sweep.part,
                        "K/N: do every N-th point from the K-th; as mpirun or Slurm say");
  sweep_app->callback([&] { chosen = [&] { return sweep_command(sweep, common); }; });

  CodesignOptions codesign;
  CLI::App* codesign_app = app.add_subcommand(
      "codesign", "Choose the model's shape, the machines and the plan together");
  codesign_app
      ->add_option("scenario", codesign.scenario, "Scenario file with a \"codesign\" object")
      ->required();
  codesign_app
      ->add_option("--vary", codesign.vary,
                   "PATH=VALUE,VALUE,...: a further part of the scenario to vary, as of sweep")
      ->allow_extra_args(false);
  codesign_app->add_option("--cost", codesign.cost, "That the fronts weigh against the model")
      ->check(CLI::IsMember({"gpu_hours", "days", "money"}))
      ->capture_default_str();
  codesign_app->add_option("--output", codesign.output,
                           "Write the points to this .csv or .json file; an interrupted run goes "
                           "on where it stopped");
  codesign_app->add_option("--chart", codesign.chart,
                           "Draw the points into this .svg file (with gnuplot)");
  codesign_app->add_option("--report", codesign.report, kReport);
  codesign_app->add_option("--part", codesign.part,
                           "K/N: do every N-th point from the K-th; as mpirun or Slurm say");
  codesign_app->callback([&] { chosen = [&] { return codesign_command(codesign, common); }; });

  ImportOptions import;
  CLI::App* import_app = app.add_subcommand("import",
                                            "Turn a Hugging Face config.json into a scenario's "
                                            "model, or a framework's job into a scenario");
  import_app
      ->add_option("config", import.config,
                   "config.json; or a Megatron-LM command line or script, a ModelZoo YAML, a "
                   "Megatron-Bridge override list, a torchtitan TOML, a DeepSpeed JSON")
      ->required();
  import_app->add_option("--name", import.name, "Name of the model");
  import_app->add_option("--output", import.output, "Write the model or scenario to this file");
  import_app->add_option("--cluster", import.cluster, "Of the job: a cluster of the catalogue")
      ->capture_default_str();
  import_app->add_option("--gpus", import.gpus, "Of the job, where the file does not say it")
      ->check(CLI::Range(1, 1000000));
  import_app->add_option("--seq", import.seq, "Tokens per sequence, where the file does not say it")
      ->check(CLI::Range(1, 100000000));
  import_app->add_option("--model", import.model,
                         "Catalogue name or config.json, where the file does not say it");
  import_app->add_option("--framework-version", import.framework_version,
                         "Release of Megatron-LM that the command line is for");
  import_app->add_option("--set", import.set, "NAME=VALUE of a variable in the file, repeatable")
      ->allow_extra_args(false);
  import_app->callback([&] { chosen = [&] { return import_command(import, common); }; });

  reckon::real::DataOptions data;
  CLI::App* data_app = app.add_subcommand("data", "Turn text files into tokens to train on");
  data_app->add_option("output", data.output, "Writes OUTPUT.tokens and OUTPUT.vocab")->required();
  data_app->add_option("--text", data.texts, "Text files, one document each")->required();
  data_app
      ->add_option("--bpe", data.bpe, "Learn a byte-pair vocabulary of so many ids from the texts")
      ->check(CLI::Range(258, 1 << 20));
  data_app->add_flag("--bytes", data.bytes, "A token is a byte (the default)");
  data_app->add_option("--tokenizer", data.tokenizer, "Use the vocabulary of this .vocab file");
  data_app->callback([&] { chosen = [&] { return data_command(data, common); }; });
  LaunchCommandOptions launch;
  CLI::App* launch_app =
      app.add_subcommand("launch", "Write the files that start a plan in a training framework");
  launch_app->add_option("scenario", launch.scenario, "Scenario file")->required();
  launch_app->add_option("--plan", launch.plan,
                         "Plan file (reckon plan --output); the scenario's own");
  launch_app->add_option("--phase", launch.phase,
                         "Phase of the campaign; the first that is predicted");
  launch_app
      ->add_option("--target", launch.target,
                   "megatron, megatron-bridge, torchtitan, deepspeed, native; or slurm, torchrun, "
                   "mpirun, jobset, trainjob")
      ->required();
  launch_app->add_option("--framework", launch.framework,
                         "What slurm, torchrun, mpirun, jobset or trainjob start; megatron");
  launch_app->add_option("--framework-version", launch.framework_version,
                         "Release of Megatron-LM (0.16.0 to 0.19.0, main, dev); v0.2.2 or main of "
                         "torchtitan");
  launch_app->add_option("-o,--output", launch.output, "Folder to write")->required();
  launch_app->add_flag("--nearest", launch.nearest,
                       "Where the framework can't run the plan, write the nearest that it can");
  launch_app->add_option("--time", launch.time, "Limit of a batch job")->capture_default_str();
  launch_app->add_option("--image", launch.image, "Container image of a Kubernetes job");
  launch_app->callback([&] { chosen = [&] { return launch_command(launch, common); }; });

  CalibrateOptions calibrate;
  CLI::App* calibrate_app = app.add_subcommand(
      "calibrate", "Measure this machine, as tables that predictions are made from");
  calibrate_app->add_option("output", calibrate.output, "File of tables to write")->required();
  calibrate_app->add_option("--ranks", calibrate.ranks, "Most ranks at work at once; one per core")
      ->check(CLI::Range(1, 1024));
  calibrate_app->add_flag("--quick", calibrate.quick, "Fewer sizes: seconds instead of minutes");
  calibrate_app
      ->add_option("--device", calibrate.device, "cpu, cuda, or cuda:N for all ranks on one GPU")
      ->capture_default_str();
  calibrate_app->callback([&] { chosen = [&] { return calibrate_command(calibrate, common); }; });

  ValidateOptions validate;
  CLI::App* validate_app = app.add_subcommand(
      "validate", "Predict plans, run them on this machine, and compare op by op");
  validate_app->add_option("scenario", validate.scenario, "Scenario file")->required();
  validate_app->add_option("--plan", validate.plans, "Plan files; the scenario's own");
  validate_app->add_flag("--matrix", validate.matrix,
                         "One plan of each kind that this machine's cores can run");
  validate_app->add_option("--calibration", validate.calibration,
                           "Tables of reckon calibrate; nameplate figures");
  validate_app->add_option("--steps", validate.steps, "Steps to measure, after warm ones")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  validate_app->add_option("--trace", validate.trace,
                           "Write both timelines of the first plan, for ui.perfetto.dev");
  validate_app->add_option("--report", validate.report, kReport);
  validate_app
      ->add_option("--device", validate.device, "cpu, cuda, or cuda:N for all ranks on one GPU")
      ->capture_default_str();
  validate_app->callback([&] { chosen = [&] { return validate_command(validate, common); }; });

  reckon::real::TrainOptions train;
  CLI::App* train_app = app.add_subcommand("train", "Run a plan: train the scenario's model");
  train_app->add_option("scenario", train.scenario, "Scenario file")->required();
  train_app->add_option("--plan", train.plan, "Run the plan of this file instead");
  train_app->add_option("--phase", train.phase,
                        "Phase of the campaign to run; the first that is predicted");
  train_app->add_option("--data", train.data, "Token data (`reckon data` makes it)");
  train_app->add_option("--output", train.output, "Folder of checkpoints");
  train_app->add_option("--steps", train.steps, "Train up to this step; the phase's steps")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  train_app->add_flag("--resume", train.resume, "Go on from the newest checkpoint of the folder");
  train_app->add_option("--log", train.log, "Write one JSON line a step to this file");
  train_app->add_option("--device", train.device, "cpu, cuda, or cuda:N for all ranks on one GPU")
      ->capture_default_str();
  train_app->add_flag("--autotune", train.autotune,
                      "CUDA: time the library's algorithms for each product; last bits may differ "
                      "from run to run");
  train_app->callback([&] { chosen = [&] { return train_command(train, common); }; });

  CLI::App* schema = app.add_subcommand("schema", "Print the JSON Schema of scenario files");
  schema->callback([&] { chosen = [&] { return schema_command(); }; });

  CLI::App* doctor = app.add_subcommand("doctor", "What this machine has");
  doctor->callback([&] { chosen = [&] { return doctor_command(common); }; });

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    fmt::print(stderr, "reckon: {}\n(reckon --help lists commands and options)\n",
               unknown_command(app, argc, argv).value_or(e.what()));
    return kBadInput;
  }
  return chosen();
}

}  // namespace

namespace reckon::plan {

int thread_count(const CommonOptions& common) {
  if (common.threads > 0) return common.threads;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace reckon::plan

int main(int argc, char** argv) {
  try {
    const int code = run(argc, argv);
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
      std::perror("reckon: can't write the result");
      return kBadInput;
    }
    return code;
  } catch (const reckon::InputError& e) {
    fmt::print(stderr, "reckon: {}\n", e.what());
    return kBadInput;
  }
}
