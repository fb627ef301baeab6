// Slurm options: SchedMD/slurm src/common/slurm_opt.c. torchrun: torch/distributed/run.py. mpirun:
// Open MPI's spellings, which 4.x and 5.x share. Kubernetes: JobSet v1alpha2
// (kubernetes-sigs/jobset v0.12), TrainJob v1alpha1 (kubeflow/trainer v2.3).
#include "planner/launch/launchers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace reckon::plan::launch {

namespace {

using nlohmann::ordered_json;

constexpr int kPort = 29500;  // torchrun's default

// The script with its options, one word after the other, quoted; `separator` between options.
std::string command(const Program& p, const std::string& separator) {
  std::string text;
  for (const std::string& word : p.script) text += (text.empty() ? "" : " ") + quoted(word);
  for (const Option& o : p.options) text += separator + to_text(o);
  for (const std::string& word : p.arguments) text += separator + quoted(word);
  return text;
}

// "-m module" or a file, for python itself.
std::string python_command(const Program& p, const std::string& separator) {
  return "python " + command(p, separator);
}

std::string exports(const Program& p) {
  std::string text;
  for (const auto& [name, value] : p.environment)
    text += fmt::format("export {}={}\n", name, quoted(value));
  return text;
}

// Lower case letters, digits and "-", for Slurm and Kubernetes; begins with a letter.
std::string label(const std::string& name) {
  constexpr std::size_t kLongest = 40;  // with what Kubernetes adds to it, below 63
  std::string out;
  for (char c : name) {
    const auto u = static_cast<unsigned char>(c);
    if (std::isalnum(u) != 0)
      out += static_cast<char>(std::tolower(u));
    else if (!out.empty() && out.back() != '-')
      out += '-';
  }
  if (out.empty() || std::isdigit(static_cast<unsigned char>(out[0])) != 0) out = "r" + out;
  out = out.substr(0, kLongest);
  while (out.back() == '-') out.pop_back();
  return out;
}

bool on_gpus(const Job& job) {
  return job.cluster.gpu.architecture != "cpu";
}

// Largest number of hosts that lie in one NVLink domain and divide the job, for block topologies.
int segment_of(const Hosts& hosts) {
  for (int n = hosts.domain; n > 1; --n)
    if (hosts.count % n == 0) return n;
  return 1;
}

std::string torchrun_options(const Hosts& hosts, const std::string& node_rank) {
  if (hosts.count == 1) return fmt::format("--standalone --nproc-per-node={}", hosts.gpus);
  return fmt::format(
      "--nnodes={} --nproc-per-node={} --node-rank={} --master-addr=\"$MASTER_ADDR\" "
      "--master-port={}",
      hosts.count, hosts.gpus, node_rank, kPort);
}

std::string sbatch_head(const Job& job, const Hosts& hosts, int tasks_per_node,
                        const LaunchOptions& options) {
  std::string text = fmt::format(
      "#!/bin/bash\n"
      "#SBATCH --job-name={}\n"
      "#SBATCH --nodes={}\n"
      "#SBATCH --ntasks-per-node={}\n",
      label(job.name), hosts.count, tasks_per_node);
  if (on_gpus(job)) text += fmt::format("#SBATCH --gpus-per-node={}\n", hosts.gpus);
  text += fmt::format(
      "#SBATCH --exclusive\n#SBATCH --mem=0\n#SBATCH --time={}\n#SBATCH --output=%x-%j.log\n",
      options.time);
  if (hosts.domain > 1 && segment_of(hosts) > 1)
    text += fmt::format("#SBATCH --segment={}\n", segment_of(hosts));
  return text + fmt::format("# {}\nset -euo pipefail\n\n", describe(job.plan));
}

OutputFile slurm(const Job& job, const Program& p, const LaunchOptions& options) {
  const Hosts hosts = hosts_of(job);
  const std::string separator = " \\\n  ";
  if (p.mpi)
    return {"job.sbatch",
            sbatch_head(job, hosts, hosts.gpus, options) + exports(p) +
                fmt::format("mpirun -np {} {}\n", world_size(job.plan), command(p, separator))};
  const std::string addresses =
      "export MASTER_ADDR=$(scontrol show hostnames \"$SLURM_JOB_NODELIST\" | head -n1)\n" +
      fmt::format("export MASTER_PORT={}\n", kPort) + exports(p) + "\n";
  const bool ranks_from_environment = p.script.front() == "pretrain_gpt.py";
  // A file for the tasks: what srun runs must read each task's own variables.
  std::string task;
  if (ranks_from_environment)
    // pretrain_gpt.py takes its world from RANK and WORLD_SIZE only (arguments.py:144-145).
    task = "export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID\nexec " +
           python_command(p, separator);
  else
    task = "exec torchrun " + torchrun_options(hosts, "$SLURM_NODEID") + separator +
           command(p, separator);
  return {"job.sbatch", sbatch_head(job, hosts, ranks_from_environment ? hosts.gpus : 1, options) +
                            addresses + "cat > task-$SLURM_JOB_ID.sh <<'END_OF_TASK'\n" + task +
                            "\nEND_OF_TASK\n"
                            "srun --kill-on-bad-exit=1 --label bash task-$SLURM_JOB_ID.sh\n"};
}

OutputFile torchrun(const Job& job, const Program& p) {
  const Hosts hosts = hosts_of(job);
  std::string text = "#!/bin/bash\n";
  if (hosts.count > 1)
    text += fmt::format(
        "# Start this on each of the {} hosts, with NODE_RANK 0 to {} and the first host's\n"
        "# name in MASTER_ADDR.\n",
        hosts.count, hosts.count - 1);
  text += "set -euo pipefail\n" + exports(p);
  text += "exec torchrun " + torchrun_options(hosts, "\"$NODE_RANK\"") + " \\\n  " +
          command(p, " \\\n  ") + "\n";
  return {"run.sh", text, true};
}

std::vector<OutputFile> mpirun(const Job& job, const Program& p) {
  const Hosts hosts = hosts_of(job);
  // One host needs no mapping; a list of hosts is taken from the batch system or from HOSTFILE.
  std::string start = fmt::format("mpirun -np {}", world_size(job.plan));
  if (hosts.count > 1) start += fmt::format(" --map-by ppr:{}:node --bind-to none", hosts.gpus);
  const std::string hostfile = "${HOSTFILE:+--hostfile \"$HOSTFILE\"}";
  if (p.mpi)
    return {{"run.sh",
             "#!/bin/bash\nset -euo pipefail\ncd \"$(dirname \"$0\")\"\n" + exports(p) +
                 fmt::format("exec {} {} {}\n", start, hostfile, command(p, " ")),
             true}};
  std::string names = "MASTER_ADDR MASTER_PORT";
  for (const auto& [name, value] : p.environment) names += " " + name;
  std::string passed;
  for (std::size_t at = 0; at < names.size();) {
    const std::size_t end = std::min(names.find(' ', at), names.size());
    passed += " -x " + names.substr(at, end - at);
    at = end + 1;
  }
  const std::string rank =
      "#!/bin/bash\n# Open MPI's names of a process, as torch.distributed reads them.\n"
      "export RANK=$OMPI_COMM_WORLD_RANK WORLD_SIZE=$OMPI_COMM_WORLD_SIZE\n"
      "export LOCAL_RANK=$OMPI_COMM_WORLD_LOCAL_RANK\n"
      "exec " +
      python_command(p, " \\\n  ") + "\n";
  const std::string run =
      "#!/bin/bash\n# MASTER_ADDR: the host of rank 0; HOSTFILE: the hosts.\nset -euo pipefail\n"
      "cd \"$(dirname \"$0\")\"\nexport MASTER_ADDR=${MASTER_ADDR:-$(hostname)}\n" +
      fmt::format("export MASTER_PORT={}\n", kPort) + exports(p) +
      fmt::format("exec {}{} {} bash rank.sh\n", start, passed, hostfile);
  return {{"run.sh", run, true}, {"rank.sh", rank, true}};
}

// One shell string: TrainJob takes at most 128 words, and the files that the program reads come
// with it.
std::string pod_command(const Program& p) {
  std::string text = "set -e\n";
  // What the words of the command already say (Megatron's and Bridge's own argument lists) is not
  // needed as a file.
  for (const OutputFile& f : p.files)
    if (!f.name.ends_with(".args"))
      text += fmt::format("cat > {} <<'END_OF_FILE'\n{}END_OF_FILE\n", f.name, f.text);
  return text + "exec torchrun " + command(p, " ");
}

ordered_json environment_json(const Program& p) {
  auto env = ordered_json::array();
  for (const auto& [name, value] : p.environment) env.push_back({{"name", name}, {"value", value}});
  return env;
}

ordered_json gpu_limits(const Job& job, const Hosts& hosts) {
  if (!on_gpus(job)) return {{"cpu", fmt::format("{}", hosts.gpus)}};
  return {{"nvidia.com/gpu", hosts.gpus}};
}

OutputFile jobset(const Job& job, const Program& p, const LaunchOptions& options) {
  const Hosts hosts = hosts_of(job);
  const std::string name = label(job.name);
  auto env = environment_json(p);
  const auto add = [&](const char* key, const std::string& value) {
    env.push_back({{"name", key}, {"value", value}});
  };
  add("PET_NNODES", fmt::format("{}", hosts.count));
  add("PET_NPROC_PER_NODE", fmt::format("{}", hosts.gpus));
  add("PET_MASTER_ADDR", fmt::format("{}-w-0-0.{}", name, name));
  add("PET_MASTER_PORT", fmt::format("{}", kPort));
  env.push_back(
      {{"name", "PET_NODE_RANK"},
       {"valueFrom",
        {{"fieldRef",
          {{"fieldPath", "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}}}}});
  const ordered_json container = {{"name", "train"},
                                  {"image", options.image},
                                  {"ports", {{{"containerPort", kPort}}}},
                                  {"env", env},
                                  {"command", {"bash", "-c", pod_command(p)}},
                                  {"resources", {{"limits", gpu_limits(job, hosts)}}}};
  const ordered_json pod = {
      {"spec", {{"restartPolicy", "Never"}, {"containers", ordered_json::array({container})}}}};
  const ordered_json workers = {{"name", "w"},
                                {"replicas", 1},
                                {"template",
                                 {{"spec",
                                   {{"parallelism", hosts.count},
                                    {"completions", hosts.count},
                                    {"completionMode", "Indexed"},
                                    {"backoffLimit", 0},
                                    {"template", pod}}}}}};
  const ordered_json root = {
      {"apiVersion", "jobset.x-k8s.io/v1alpha2"},
      {"kind", "JobSet"},
      {"metadata", {{"name", name}}},
      {"spec",
       {{"network", {{"enableDNSHostnames", true}, {"publishNotReadyAddresses", true}}},
        {"failurePolicy", {{"maxRestarts", 3}}},
        {"coordinator", {{"replicatedJob", "w"}, {"jobIndex", 0}, {"podIndex", 0}}},
        {"replicatedJobs", ordered_json::array({workers})}}}};
  return {"jobset.json", root.dump(2) + "\n"};
}

// The torch runtime sets PET_* itself and refuses a job that does.
OutputFile trainjob(const Job& job, const Program& p, const LaunchOptions& options) {
  const Hosts hosts = hosts_of(job);
  const ordered_json root = {{"apiVersion", "trainer.kubeflow.org/v1alpha1"},
                             {"kind", "TrainJob"},
                             {"metadata", {{"name", label(job.name)}}},
                             {"spec",
                              {{"runtimeRef", {{"name", "torch-distributed"}}},
                               {"trainer",
                                {{"image", options.image},
                                 {"numNodes", hosts.count},
                                 {"numProcPerNode", hosts.gpus},
                                 {"command", {"bash", "-c", pod_command(p)}},
                                 {"env", environment_json(p)},
                                 {"resourcesPerNode", {{"limits", gpu_limits(job, hosts)}}}}}}}};
  return {"trainjob.json", root.dump(2) + "\n"};
}

}  // namespace

const char* objection(Launcher launcher, const Program& program) {
  if (program.mpi && launcher != Launcher::Slurm && launcher != Launcher::MpiRun)
    return "reckon train is an MPI program: start it with mpirun or Slurm";
  return nullptr;
}

std::vector<OutputFile> launcher_files(Launcher launcher, const Job& job, const Program& program,
                                       const LaunchOptions& options) {
  switch (launcher) {
    case Launcher::Slurm: return {slurm(job, program, options)};
    case Launcher::Torchrun: return {torchrun(job, program)};
    case Launcher::MpiRun: return mpirun(job, program);
    case Launcher::JobSet: return {jobset(job, program, options)};
    case Launcher::TrainJob: break;
  }
  return {trainjob(job, program, options)};
}

}  // namespace reckon::plan::launch
