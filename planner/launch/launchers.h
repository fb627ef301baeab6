// What starts a job's processes on many hosts: batch scripts, shell scripts, Kubernetes manifests.
#pragma once

#include "planner/launch/job.h"

namespace reckon::plan::launch {

enum class Launcher { Slurm, Torchrun, MpiRun, JobSet, TrainJob };

inline const auto& spellings(Launcher) {
  static constexpr hw::Spelling<Launcher> t[] = {{Launcher::Slurm, "slurm"},
                                                 {Launcher::Torchrun, "torchrun"},
                                                 {Launcher::MpiRun, "mpirun"},
                                                 {Launcher::JobSet, "jobset"},
                                                 {Launcher::TrainJob, "trainjob"}};
  return t;
}

struct LaunchOptions {
  std::string time = "04:00:00";                          // of a batch job
  std::string image = "registry.example.com/training:1";  // of a container
};

// Why a program can't be started this way, or nullptr: MPI programs by torchrun or its Kubernetes
// runtime.
const char* objection(Launcher launcher, const Program& program);

// The launcher's own files. REQUIRES: no objection.
std::vector<OutputFile> launcher_files(Launcher launcher, const Job& job, const Program& program,
                                       const LaunchOptions& options);

}  // namespace reckon::plan::launch
