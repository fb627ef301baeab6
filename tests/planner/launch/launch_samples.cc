// Writes artefacts of random legal plans for every target, to be checked from outside:
//   launch-samples FOLDER PLANS [SEED]
//   launch-samples compare megatron|torchtitan|torchtitan-main|deepspeed FILE
// FOLDER/manifest.txt has one line a file or command: what it is, its release, and its path or
// words. `compare` holds the program's own tables against FILE: JSON with "accepted_by" (option ->
// releases) for megatron, with "flags" (objects with "flag" and "aliases") for the others.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>
#include <tuple>

#include "hw-models/strict_json.h"
#include "planner/file.h"
#include "planner/launch/frameworks.h"
#include "planner/launch/launchers.h"
#include "planner/launch/torchtitan.h"
#include "tests/planner/launch/random_plans.h"

using namespace reckon;
using namespace reckon::plan;
using namespace reckon::plan::launch;

namespace {

struct Sample {
  Target target;
  const char* name;
};

// Names that only one of the two has; the exit code.
int compare(const std::string& what, const std::string& file) {
  const auto root = hw::read_json_file(file).root;
  std::set<std::string> ours, theirs;
  if (what == "megatron") {
    for (const auto& [option, releases] : root.at("accepted_by").items())
      for (const std::string& release : megatron_releases()) {
        const bool listed = std::find(releases.begin(), releases.end(), release) != releases.end();
        const std::string name = option + " in " + release;
        if (listed) theirs.insert(name);
        if (megatron_accepts(option, megatron_release(release))) ours.insert(name);
      }
  } else {
    const KeyTable table = what == "torchtitan"        ? KeyTable::Torchtitan
                           : what == "torchtitan-main" ? KeyTable::TorchtitanMain
                                                       : KeyTable::DeepSpeed;
    for (const std::string& key : keys_of(table)) ours.insert(key);
    for (const auto& flag : root.at("flags")) {
      theirs.insert(flag.at("flag").get<std::string>());
      for (const auto& alias : flag.value("aliases", nlohmann::json::array()))
        theirs.insert(alias.get<std::string>());
    }
  }
  int different = 0;
  for (const auto& [from, to, side] :
       {std::tuple(&ours, &theirs, "only here"), std::tuple(&theirs, &ours, "only there")})
    for (const std::string& name : *from)
      if (to->count(name) == 0) ++different, fmt::print("{}: {}\n", side, name);
  fmt::print("{} names, {} differ\n", theirs.size(), different);
  return different == 0 ? 0 : 1;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + quoted(word);
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "launch-samples FOLDER PLANS [SEED]\n");
    return 2;
  }
  if (std::string(argv[1]) == "compare" && argc == 4) return compare(argv[2], argv[3]);
  const std::filesystem::path folder(argv[1]);
  std::filesystem::create_directories(folder);
  const int wanted = std::atoi(argv[2]);
  test::RandomPlans plans(argc > 3 ? static_cast<std::uint64_t>(std::atoll(argv[3])) : 1);

  std::vector<Sample> samples;
  for (std::size_t i = 0; i < megatron_releases().size(); ++i)
    samples.push_back(
        {{.framework = Framework::Megatron, .release = static_cast<MegatronRelease>(i)},
         "megatron"});
  samples.push_back({{.framework = Framework::Megatron}, "megatron"});
  samples.push_back({{.framework = Framework::MegatronBridge}, "bridge"});
  samples.push_back({{.framework = Framework::Torchtitan}, "torchtitan_toml"});
  samples.push_back(
      {{.framework = Framework::Torchtitan, .torchtitan_main = true}, "torchtitan_main"});
  samples.push_back({{.framework = Framework::DeepSpeed}, "deepspeed"});
  samples.push_back({{.framework = Framework::Native}, "native"});

  std::string manifest;
  std::map<std::string, int> written;
  for (int drawn = 0, i = 0; i < wanted; ++drawn) {
    const Job original = plans.next();
    bool any = false;
    for (const Sample& sample : samples) {
      Job job = original;
      set_own_switches(sample.target, job.plan);
      job.plan = canonical(job.plan, job.model);
      if (why_illegal(job.model, job.cluster, job.stack, job.plan, job.step)) continue;
      if (Judge(sample.target, job.model).objection(job.question()) != nullptr) continue;
      any = any || sample.target.framework != Framework::Native;
      const std::string release =
          sample.target.release
              ? megatron_releases()[static_cast<std::size_t>(*sample.target.release)]
              : "-";
      const std::string where =
          fmt::format("{}/{}-{}-{}", folder.string(), i, sample.name, release);
      const Program program = program_of(sample.target, job);
      std::filesystem::create_directories(where);
      for (const OutputFile& f : program.files) {
        write_file(where + "/" + f.name, f.text);
        manifest += fmt::format("{}\t{}\t{}\n", sample.name, release, where + "/" + f.name);
      }
      ++written[fmt::format("{} {}", sample.name, release)];
      for (Launcher launcher : {Launcher::Slurm, Launcher::Torchrun, Launcher::MpiRun,
                                Launcher::JobSet, Launcher::TrainJob}) {
        if (objection(launcher, program) != nullptr) continue;
        const auto files = launcher_files(launcher, job, program, {});
        for (const OutputFile& f : files)
          write_file(where + "/" + hw::spelling(launcher) + "-" + f.name, f.text);
        manifest += fmt::format("{}\t-\t{}\n", hw::spelling(launcher),
                                where + "/" + hw::spelling(launcher) + "-" + files[0].name);
        ++written[hw::spelling(launcher)];
      }
      if (!program.environment.empty()) {
        std::vector<std::string> nccl;
        for (const auto& [name, value] : program.environment)
          if (name.starts_with("NCCL_")) nccl.push_back(name + "=" + value);
        if (!nccl.empty()) manifest += fmt::format("nccl\t-\t{}\n", joined(nccl));
      }
    }
    if (any) ++i;
  }
  write_file((folder / "manifest.txt").string(), manifest);
  for (const auto& [what, count] : written) fmt::print("{:24} {:6}\n", what, count);
  return 0;
}
