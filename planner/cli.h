// The subcommands of `reckon`. Results go to stdout, diagnostics and progress to stderr. Each
// returns the exit code; bad input is thrown as InputError, which main reports.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace reckon::plan {

enum ExitCode {
  kDone = 0,
  kInfeasible = 1,  // an answer: the plan can't run, or no plan meets the budget; the reason is
                    // printed
  kBadInput = 2,
};

// Given before or after the subcommand's name.
struct CommonOptions {
  bool json = false;  // the same numbers, for programs
  int threads = 0;    // 0: one per core
};
int thread_count(const CommonOptions& common);

struct PlanOptions {
  std::string scenario;
  std::string output;  // file for the best plan; empty: none
  int keep = 10;       // plans to show
  std::string report;  // page to write; empty: none
};
int plan_command(const PlanOptions& options, const CommonOptions& common);

struct SimulateOptions {
  std::string scenario;
  std::string plan;                 // file; empty: the scenario's own
  std::string phase;                // of the campaign; empty: the first that is predicted
  std::string trace;                // file to write; empty: none
  std::string fidelity = "folded";  // or "cluster": every rank, with the scenario's disturbances;
                                    // or "flow": every exchange on the topology
  std::uint64_t seed = 1;
  std::string report;  // page to write; empty: none
  // Of "flow".
  std::string solver = "fluid";    // or "simgrid"
  std::string nodes = "in-order";  // or "scattered"
  std::string cache;               // folder; empty: the usual one
  bool no_cache = false;
};
int simulate_command(const SimulateOptions& options, const CommonOptions& common);

struct TopologyOptions {
  std::string scenario;
  std::string svg;  // file to write; empty: none
  bool all_to_all = false;
  int group = 0;  // GPUs of one all-to-all; 0: 64, or the whole of a smaller cluster
  bool strided = false;
  std::string message = "1 MB";
  double spread = 0;
  std::uint64_t seed = 1;
};
int topology_command(const TopologyOptions& options, const CommonOptions& common);

struct ImportOptions {
  std::string config;  // of a model, or what a framework is started with
  std::string name;    // of the model; empty: as imported
  std::string output;  // file; empty: stdout
  // Of a framework's job; see launch/import_job.h.
  std::string cluster = "dgx-h100", model, framework_version;
  int gpus = 0, seq = 0;         // 0: as the file says
  std::vector<std::string> set;  // NAME=VALUE of a script's variables
};
int import_command(const ImportOptions& options, const CommonOptions& common);

struct LaunchCommandOptions {
  std::string scenario;
  std::string plan;       // file; empty: the scenario's own
  std::string phase;      // of the campaign; empty: the first that is predicted
  std::string target;     // a framework, or a launcher
  std::string framework;  // what a launcher starts; empty: megatron
  std::string framework_version;
  std::string output;    // folder
  bool nearest = false;  // write the nearest plan where the framework can't run this one
  std::string time = "04:00:00", image;
};
int launch_command(const LaunchCommandOptions& options, const CommonOptions& common);

struct SweepCommandOptions {
  std::string scenario;
  std::vector<std::string> vary;  // PATH=VALUES
  bool one_at_a_time = false;
  std::string plan = "search";  // or "fixed"
  std::string output;           // .csv or .json; empty: none
  std::string chart;            // .svg; empty: none
  std::string report;           // page to write; empty: none
  std::string metric = "gpu_hours";
  std::string part;  // "2/8": this process of so many; empty: as mpirun or Slurm say
};
int sweep_command(const SweepCommandOptions& options, const CommonOptions& common);

struct BacktestCommandOptions {
  std::string runs;
  bool cross_validate = false, fit = false, all_hardware = false;  // see BacktestOptions
  bool rows = false;     // print every row, not only the summaries
  std::string evidence;  // file of the cross-validated errors that reports quote; empty: none
};
int backtest_command(const BacktestCommandOptions& options, const CommonOptions& common);

struct CalibrateOptions {
  std::string output;  // file of tables
  int ranks = 0;       // at work at once, at most; 0: one per core, or per GPU
  bool quick = false;
  std::string device = "cpu";  // or "cuda", "cuda:N"
};
int calibrate_command(const CalibrateOptions& options, const CommonOptions& common);

struct ValidateOptions {
  std::string scenario;
  std::vector<std::string> plans;  // files; empty: the scenario's own
  bool matrix = false;             // one plan of each kind that this machine can run
  std::string calibration;         // file of tables; empty: nameplate figures
  int steps = 7;                   // measured, after the warm ones
  std::string trace;               // file to write, of the first plan; empty: none
  std::string report;              // page to write; empty: none
  std::string device = "cpu";      // or "cuda", "cuda:N"
};
int validate_command(const ValidateOptions& options, const CommonOptions& common);

// The JSON Schema of scenario files.
int schema_command();

// What this machine has, and what each thing is needed for.
int doctor_command(const CommonOptions& common);

}  // namespace reckon::plan
