#include "real/train_loop.h"

#include <fmt/format.h>

#include <cstdio>
#include <deque>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "planner/file.h"
#include "real/checkpoint_format.h"
#include "sim/input_error.h"

namespace reckon::real {
namespace {

constexpr std::size_t kAveraged = 10;  // steps of TrainingResult::loss

// Lines of a log up to a step.
std::string lines_until(const std::string& file, std::int64_t step) {
  std::ifstream in(file);
  std::string kept;
  for (std::string line; std::getline(in, line);) {
    const auto j = nlohmann::json::parse(line, nullptr, false);
    if (j.is_object() && j.value("step", step + 1) <= step) kept += line + "\n";
  }
  return kept;
}

// The log of rank 0; other ranks write nothing.
class Log {
 public:
  Log(const std::string& file, std::int64_t steps_done) : file_(file) {
    if (file.empty()) return;
    if (std::filesystem::is_regular_file(file))
      plan::write_file(file, steps_done > 0 ? lines_until(file, steps_done) : "");
    out_.open(file, std::ios::app);
    verify();
  }
  void line(const StepResult& r, std::int64_t tokens, double tokens_per_second) {
    if (file_.empty()) return;
    out_ << nlohmann::ordered_json{{"step", r.step},
                                   {"loss", r.loss},
                                   {"mtp_loss", r.mtp_loss},
                                   {"grad_norm", r.gradient_norm},
                                   {"lr", r.lr},
                                   {"tokens", tokens},
                                   {"seconds", r.seconds},
                                   {"tokens_per_s", tokens_per_second}}
         << std::endl;
    verify();
  }

 private:
  void verify() const {
    if (!out_) throw InputError(file_ + ": can't be written");
  }
  std::string file_;
  std::ofstream out_;
};

// A checkpoint in the folder, whole or not.
std::optional<std::int64_t> newest_step(const std::string& directory) {
  std::optional<std::int64_t> newest;
  std::error_code none;  // no such directory: no checkpoint
  for (const auto& entry : std::filesystem::directory_iterator(directory, none))
    if (const std::int64_t step = step_of(entry.path().filename().string()); step >= 0)
      newest = std::max(newest.value_or(step), step);
  return newest;
}

// What stands in the folder, by the rules of `train`.
void start(const TrainingRun& run, Trainer& trainer, bool speaks) {
  const std::string& folder = run.settings.checkpoints;
  if (!run.resume) {
    if (const auto step = folder.empty() ? std::nullopt : newest_step(folder))
      throw InputError(
          fmt::format("{} holds a checkpoint of step {}; go on from it with --resume, "
                      "or name another folder with --output",
                      folder, *step));
    return;
  }
  if (folder.empty()) throw InputError("--resume: expected a folder of checkpoints (--output DIR)");
  SharedCheckpoint& shared = *run.shared;
  std::optional<Checkpoint> newest;
  {
    const std::lock_guard lock(shared.mutex);
    if (!shared.asked) shared.newest = Checkpoint::newest(folder, &shared.damage);
    shared.asked = true;
    newest = shared.newest;
  }
  const std::vector<std::string>& damage = shared.damage;
  const bool resumed = newest.has_value();
  if (resumed) trainer.resume(*newest);
  if (!resumed && !damage.empty())
    throw InputError(
        fmt::format("no checkpoint in {} is whole: {}", folder, fmt::join(damage, "; ")));
  if (speaks)
    for (const std::string& what : damage)
      fmt::print(stderr, "reckon: skipped a checkpoint: {}\n", what);
  if (speaks && !resumed)
    fmt::print(stderr, "reckon: no checkpoint in {}; training starts at step 1\n", folder);
  double sum = static_cast<double>(trainer.steps_done());
  trainer.world().all_reduce(&sum, 1);
  if (sum != static_cast<double>(trainer.steps_done()) * trainer.world().size())
    throw InputError(fmt::format("{}: not all ranks see the same newest checkpoint", folder));
  const std::lock_guard lock(shared.mutex);
  shared.newest.reset();
}

// Whether any rank wants to stop. Collective.
bool any(bool mine, Group& world) {
  float wish = mine ? 1 : 0;
  world.all_reduce_max(&wish, 1);
  return wish > 0;
}

}  // namespace

TrainingResult train(const TrainingRun& run, Transport& transport) {
  const bool speaks = transport.rank() == 0;
  const std::string& folder = run.settings.checkpoints;
  Trainer trainer(
      run.job, transport,
      [&](std::int64_t index, std::int32_t* out) { run.data.window(index, out); },
      equipment(run.device, transport));
  start(run, trainer, speaks);
  Log log(speaks ? run.log : "", trainer.steps_done());

  TrainingResult result{.first = trainer.steps_done() + 1};
  std::int64_t saved = trainer.steps_done();
  if (saved > 0) result.checkpoint = step_folder(folder, saved);
  // `last`: of the run.
  const auto save = [&](bool last) {
    try {
      trainer.save(folder, run.settings.keep_checkpoints);
      saved = trainer.steps_done();
      result.checkpoint = step_folder(folder, saved);
    } catch (const std::system_error& e) {
      const std::string what =
          fmt::format("no checkpoint of step {}: {}", trainer.steps_done(), e.what());
      if (last) throw InputError(what);
      if (speaks) fmt::print(stderr, "reckon: {}\n", what);
    }
  };

  std::deque<StepResult> recent;
  while (trainer.steps_done() < run.steps && !result.stopped) {
    StepResult r;
    try {
      r = trainer.step();
    } catch (const std::exception&) {  // Diverged, or PeerLost where another rank saw it first
      if (speaks && !result.checkpoint.empty())
        fmt::print(stderr, "reckon: the newest checkpoint is {}\n", result.checkpoint);
      throw;
    }
    const std::int64_t tokens = r.sequences * run.job.step.seq;
    if (recent.empty()) result.first_loss = r.loss;
    recent.push_back(r);
    if (recent.size() > kAveraged) recent.pop_front();
    result.tokens += tokens;
    result.seconds += r.seconds;
    log.line(r, trainer.sequences_done() * run.job.step.seq,
             static_cast<double>(tokens) / r.seconds);
    if (speaks && run.progress) run.progress(r);

    result.stopped = any(run.stop, trainer.world());
    const bool last = r.step == run.steps || result.stopped;
    const std::int64_t every = run.settings.checkpoint_every;
    if (!folder.empty() && (last || (every > 0 && r.step % every == 0))) save(last);
  }
  result.last = trainer.steps_done();
  result.averaged = static_cast<int>(recent.size());
  for (const StepResult& r : recent) {
    result.loss += r.loss / result.averaged;
    result.mtp_loss += r.mtp_loss / result.averaged;
  }
  return result;
}

}  // namespace reckon::real
