// reckon-fit TABLES CATALOG DATE: fits the constants of the kernel and the network model to
// measured tables and writes kernels.json and network.json in the folder CATALOG. Prints per table
// the error on rows left out of the fit.
#include <fmt/format.h>

#include <cstdio>
#include <fstream>

#include "hw-models/fit/fits.h"
#include "sim/input_error.h"

using namespace reckon;
using nlohmann::ordered_json;

namespace {

void print(const fit::FitResult& r) {
  for (const fit::TableError& t : r.tables)
    fmt::print("{:32} {:10} {:>7} {:>9} {:>8.1f} % {:>6.1f} % {:>+6.1f} %\n", t.fit, t.source,
               t.fitted_rows, t.left_out.rows, 100 * t.left_out.median, 100 * t.left_out.p90,
               100 * t.left_out.bias);
}

// Four digits are more than any of these constants is worth.
void round_numbers(ordered_json& j) {
  if (j.is_number_float())
    j = std::stod(fmt::format("{:.4g}", j.get<double>()));
  else if (j.is_structured())
    for (ordered_json& child : j) round_numbers(child);
}

const ordered_json kKernelSources = {
    {"simumax", "github.com/MooreThreads/SimuMax 4dcaae5 (v1.2): Transformer Engine loops"},
    {"isolated",
     "github.com/ai-dynamo/aiconfigurator 095f58a: TensorRT-LLM linear layers, one at a "
     "time, casts included"},
    {"deepgemm", "github.com/deepseek-ai/DeepGEMM a6d97a1 (2025-02-25) README"},
    {"dualpipe", "github.com/deepseek-ai/profile-data train.json"},
    {"figures", "github.com/Dao-AILab/flash-attention assets, read from the figures"}};

const ordered_json kNetworkSources = {
    {"inside",
     "github.com/ai-dynamo/aiconfigurator 095f58a: NCCL tables of A100, H100, H200, B200, 2 to 8 "
     "GPUs, NVLS off; NVLS: nccl-tests of NVIDIA/dgxc-benchmarking nccl/README.md and "
     "stas00/ml-engineering network/benchmarks"},
    {"pcie", "SimuMax configs/system/a100_pcie.json"},
    {"between",
     "all-reduce: stas00/ml-engineering network/benchmarks, NVIDIA/nccl-tests issue 232; "
     "all-to-all: NVIDIA GTC 2024 slide, A100 and H100, 4 nodes; ring_hop_*, tree_hop_small: NCCL "
     "src/graph/tuning.cc; ramp_bytes, message: assumed"},
    {"exchange",
     "in a node: aiconfigurator's DeepEP table of H100; blackwell_per_sm: DeepEP V2 README; "
     "nic_fraction: DeepEP README tables of 2025; token_seconds: github.com/deepseek-ai/"
     "profile-data, H800, EP64"}};

ordered_json about(const std::string& date, const std::vector<fit::FitResult>& all,
                   const ordered_json& sources) {
  ordered_json tables = ordered_json::array();
  int constants = 0;
  for (const fit::FitResult& r : all) {
    constants += r.constants;
    for (const fit::TableError& t : r.tables)
      tables.push_back({{"fit", t.fit},
                        {"table", t.source},
                        {"rows_fitted", t.fitted_rows},
                        {"rows_left_out", t.left_out.rows},
                        {"median_error", t.left_out.median},
                        {"p90_error", t.left_out.p90},
                        {"bias", t.left_out.bias}});
  }
  return {{"written_by", "reckon-fit"},
          {"date", date},
          {"fitted_constants", constants},
          {"sources", sources},
          {"errors_on_rows_left_out", tables}};
}

void write(ordered_json file_of, const std::string& path) {
  round_numbers(file_of);
  std::ofstream file(path);
  file << file_of.dump(1) << "\n";
  if (!file.flush()) throw InputError(fmt::format("{}: expected a writable file", path));
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4) {
    fmt::print(stderr, "usage: reckon-fit FOLDER_OF_TABLES FOLDER_OF_CATALOG DATE\n");
    return 2;
  }
  const std::string folder = argv[1];
  const std::vector<fit::FitResult> all = {fit::fit_gemm(folder), fit::fit_attention(folder),
                                           fit::fit_memory(folder)};
  const fit::FitResult network = fit::fit_network(folder);
  fmt::print("{:32} {:10} {:>7} {:>9} {:>10} {:>8} {:>8}\n", "fit", "table", "fitted", "left out",
             "median", "p90", "bias");
  ordered_json out = {{"about", about(argv[3], all, kKernelSources)}};
  const char* keys[] = {"gemm", "attention", "memory"};
  for (std::size_t i = 0; i < all.size(); ++i) {
    print(all[i]);
    out[keys[i]] = all[i].rows;
  }
  print(network);
  ordered_json links = {{"about", about(argv[3], {network}, kNetworkSources)}};
  links.update(network.rows);
  fmt::print("{} fitted constants of kernels, {} of the network\n",
             out["about"]["fitted_constants"].get<int>(), network.constants);
  const std::string catalog = argv[2];
  write(out, catalog + "/kernels.json");
  write(links, catalog + "/network.json");
  return 0;
} catch (const InputError& e) {
  fmt::print(stderr, "{}\n", e.what());
  return 2;
}
