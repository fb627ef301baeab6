// `reckon train`: runs a plan for real. Ranks are threads of this process or, under mpirun,
// processes.
#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "planner/bill.h"
#include "planner/choice.h"
#include "planner/interrupt.h"
#include "planner/predict.h"
#include "planner/report.h"
#include "planner/scenario_json.h"
#include "real/cli.h"
#include "real/machine.h"
#include "real/train_loop.h"
#include "sim/input_error.h"

namespace reckon::real {
namespace {

using plan::grouped;

// What the files and flags ask for.
struct Request {
  std::string scenario;  // name
  Job job;
  plan::Training settings;
  std::int64_t steps = 0;
  DeviceChoice device;
  std::optional<std::string> refused;  // why the plan can't be trained
};

Request request(const TrainOptions& options) {
  const plan::Scenario s = plan::read_scenario(options.scenario);
  const plan::Choice choice{
      .scenario = options.scenario, .plan = options.plan, .phase = options.phase};
  const std::size_t index = plan::chosen_phase(s, choice);
  const plan::PhaseOfCampaign& phase = s.campaign[index];
  Request r{.scenario = s.name,
            .job = {.model = s.model,
                    .cluster = s.cluster,
                    .stack = s.stack,
                    .plan = plan::chosen_plan(s, choice, index),
                    .step = plan::step_shape(phase),
                    .ramp = {.from = phase.batch_ramp_from, .tokens = phase.batch_ramp_tokens}},
            .settings = s.training.value_or(plan::Training{})};

  // Paths of the scenario start at its folder, those of flags where the program runs.
  const auto folder = std::filesystem::path(options.scenario).parent_path();
  for (std::string& file : r.settings.data) file = (folder / file).string();
  if (!r.settings.checkpoints.empty())
    r.settings.checkpoints = (folder / r.settings.checkpoints).string();
  if (!options.data.empty()) r.settings.data = options.data;
  if (!options.output.empty()) r.settings.checkpoints = options.output;
  if (r.settings.data.empty())
    throw InputError(
        "no data to train on; give it with --data NAME.tokens or as /training/data of " +
        options.scenario + " (`reckon data` makes it from text)");
  r.job.recipe = r.settings.recipe;
  r.device = device_choice(options.device);
  r.device.deterministic = !options.autotune;
  r.steps = options.steps > 0 ? options.steps : plan::length(phase).steps;

  const Job& job = r.job;
  if (const auto no = plan::why_illegal(job.model, job.cluster, job.stack, job.plan, job.step))
    r.refused = no->why + (no->detail.empty() ? "" : " (" + no->detail + ")");
  else
    r.refused = why_untrainable(job);
  return r;
}

TokenData token_data(Request& r) {
  TokenData data(r.settings.data, r.job.step.seq, 1 + r.job.model.mtp_depth, r.job.recipe.seed);
  if (data.vocabulary() > r.job.model.vocab)
    throw InputError(fmt::format("{}: {} token ids; expected at most the model's vocab {}",
                                 r.settings.data[0], data.vocabulary(), r.job.model.vocab));
  r.job.vocabulary = fmt::format("{:016x} ({} ids)", data.vocabulary_checksum(), data.vocabulary());
  return data;
}

// One line on a terminal, rewritten in place; nothing elsewhere.
std::function<void(const StepResult&)> progress_line(const Request& r) {
  if (::isatty(STDERR_FILENO) == 0) return {};
  return [seq = r.job.step.seq, steps = r.steps](const StepResult& s) {
    fmt::print(stderr, "\rstep {} of {}: loss {:.4f}, {} tokens/s, {} to go\x1b[K", s.step, steps,
               s.loss, grouped(static_cast<double>(s.sequences * seq) / s.seconds),
               plan::duration(Seconds(s.seconds * static_cast<double>(steps - s.step))));
    std::fflush(stderr);
  };
}

TrainingRun training_run(const Request& r, const TokenData& data, const TrainOptions& options) {
  return {.job = r.job,
          .data = data,
          .settings = r.settings,
          .steps = r.steps,
          .resume = options.resume,
          .log = options.log,
          .device = r.device,
          // Batch systems warn with SIGTERM or SIGUSR1; mpirun hands these on, SIGINT it does not.
          .stop = plan::catch_interrupt({SIGINT, SIGTERM, SIGUSR1}),
          .progress = progress_line(r)};
}

void report(const Request& r, const TrainingResult& t, const TokenData& data, bool json) {
  if (::isatty(STDERR_FILENO) != 0) fmt::print(stderr, "\r\x1b[K");
  const double rate = t.seconds > 0 ? static_cast<double>(t.tokens) / t.seconds : 0;
  const double entropy = data.unigram_entropy();
  if (json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"scenario", r.scenario},
                                              {"plan", plan::describe(r.job.plan)},
                                              {"ranks", plan::world_size(r.job.plan)},
                                              {"device", r.device.cuda ? "cuda" : "cpu"},
                                              {"first_step", t.first},
                                              {"last_step", t.last},
                                              {"stopped", t.stopped},
                                              {"tokens", t.tokens},
                                              {"seconds", t.seconds},
                                              {"tokens_per_s", rate},
                                              {"first_loss", t.first_loss},
                                              {"loss", t.loss},
                                              {"mtp_loss", t.mtp_loss},
                                              {"averaged_steps", t.averaged},
                                              {"unigram_entropy", entropy},
                                              {"checkpoint", t.checkpoint}}
                           .dump(2));
    return;
  }
  fmt::print("{}, {} parameters, on {} rank{}{}: {}\n", r.scenario,
             plan::short_count(static_cast<double>(plan::parameters(r.job.model).total())),
             plan::world_size(r.job.plan), plan::world_size(r.job.plan) == 1 ? "" : "s",
             r.device.cuda ? " of CUDA" : "", plan::describe(r.job.plan));
  if (t.last < t.first) {
    fmt::print("nothing to do: step {} is done, {} were asked for\n", t.last, r.steps);
  } else {
    fmt::print("steps {} to {}{}: {} tokens in {}, {} tokens/s\n", t.first, t.last,
               t.stopped ? fmt::format(" (stopped; {} were asked for)", r.steps) : "",
               grouped(static_cast<double>(t.tokens)), plan::duration(Seconds(t.seconds)),
               grouped(rate));
    fmt::print("loss {:.4f} at first, {:.4f} over the last {} steps", t.first_loss, t.loss,
               t.averaged);
    if (r.job.model.mtp_depth > 0) fmt::print(", {:.4f} of MTP", t.mtp_loss);
    fmt::print("; unigram entropy of the data {:.4f}\n", entropy);
  }
  fmt::print("{}\n",
             t.checkpoint.empty() ? "no checkpoint (--output DIR)" : "checkpoint " + t.checkpoint);
}

int refuse(const Request& r, bool json) {
  if (json)
    fmt::print("{}\n", nlohmann::ordered_json{{"scenario", r.scenario},
                                              {"plan", plan::describe(r.job.plan)},
                                              {"feasible", false},
                                              {"reason", *r.refused}}
                           .dump(2));
  else
    fmt::print("{}: {}\n\nThe plan can't be trained: {}\n", r.scenario, plan::describe(r.job.plan),
               *r.refused);
  return plan::kInfeasible;
}

int train_on_threads(const TrainOptions& options, bool json) {
  keep_memory();
  Request r = request(options);
  if (r.refused) return refuse(r, json);
  const TokenData data = token_data(r);
  const TrainingRun run = training_run(r, data, options);
  TrainingResult result;
  run_local(plan::world_size(r.job.plan), [&](Transport& transport) {
    if (!run.device.cuda) stay_on_core(transport.rank(), transport.size());
    const TrainingResult mine = train(run, transport);
    if (transport.rank() == 0) result = mine;
  });
  report(r, result, data, json);
  return plan::kDone;
}

// This process is one rank. What is wrong with the input is found, and said, by all ranks alike:
// inside run_mpi, which has one of them speak.
int train_on_mpi(const TrainOptions& options, bool json) {
  keep_memory();
  int code = plan::kDone;
  run_mpi([&](Transport& transport) {
    Request r = request(options);
    if (r.refused) {
      code = plan::kInfeasible;
      if (transport.rank() == 0) refuse(r, json);
      return;
    }
    const int ranks = plan::world_size(r.job.plan);
    if (transport.size() != ranks)
      throw InputError(
          fmt::format("the plan ({}) has {} ranks, but mpirun started {}; expected "
                      "mpirun -np {}",
                      plan::describe(r.job.plan), ranks, transport.size(), ranks));
    const TokenData data = token_data(r);
    const TrainingResult result = train(training_run(r, data, options), transport);
    if (transport.rank() == 0) report(r, result, data, json);
  });
  return code;
}

}  // namespace

int train_command(const TrainOptions& options, const plan::CommonOptions& common) try {
  return under_mpi() ? train_on_mpi(options, common.json) : train_on_threads(options, common.json);
} catch (const InputError&) {
  throw;
} catch (const std::runtime_error& e) {  // Diverged, a device out of memory or lost, a lost rank
  fmt::print(stderr, "reckon: {}\n", e.what());
  return plan::kInfeasible;
}

}  // namespace reckon::real
