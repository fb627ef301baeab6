// Writes artefacts of random legal plans for every target, to be checked from outside:
//   launch-samples FOLDER PLANS [SEED]
// FOLDER/manifest.txt has one line a file or command: what it is, its release, and its path or
// words.
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <map>

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
    for (const Sample& s : samples) {
      Job job = original;
      set_own_switches(s.target, job.plan);
      job.plan = canonical(job.plan, job.model);
      if (why_illegal(job.model, job.cluster, job.stack, job.plan, job.step)) continue;
      if (Judge(s.target, job.model).objection(job.question()) != nullptr) continue;
      any = any || s.target.framework != Framework::Native;
      const std::string release =
          s.target.release ? megatron_releases()[static_cast<std::size_t>(*s.target.release)] : "-";
      const std::string where = fmt::format("{}/{}-{}-{}", folder.string(), i, s.name, release);
      const Program program = program_of(s.target, job);
      std::filesystem::create_directories(where);
      for (const OutputFile& f : program.files) {
        write_file(where + "/" + f.name, f.text);
        manifest += fmt::format("{}\t{}\t{}\n", s.name, release, where + "/" + f.name);
      }
      ++written[fmt::format("{} {}", s.name, release)];
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
