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
  plan_app->callback([&] { chosen = [&] { return plan_command(plan, common); }; });

  SimulateOptions simulate;
  CLI::App* simulate_app = app.add_subcommand("simulate", "Predict one plan: the scenario's own");
  simulate_app->add_option("scenario", simulate.scenario, "Scenario file")->required();
  simulate_app->add_option("--plan", simulate.plan, "Run the plan of this file instead");
  simulate_app->add_option("--phase", simulate.phase,
                           "Phase of the campaign to run; the first that is predicted");
  simulate_app->add_option("--trace", simulate.trace,
                           "Write every op of the step to this file, for ui.perfetto.dev");
  simulate_app->callback([&] { chosen = [&] { return simulate_command(simulate, common); }; });

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
  backtest_app->callback([&] { chosen = [&] { return backtest_command(backtest, common); }; });

  ImportOptions import;
  CLI::App* import_app =
      app.add_subcommand("import", "Turn a Hugging Face config.json into a scenario's model");
  import_app->add_option("config", import.config, "config.json")->required();
  import_app->add_option("--name", import.name, "Name of the model");
  import_app->add_option("--output", import.output, "Write the model to this file");
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
