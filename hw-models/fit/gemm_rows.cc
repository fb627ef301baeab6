#include "hw-models/fit/gemm_rows.h"

#include <fmt/format.h>

#include <map>
#include <regex>

#include "hw-models/fit/devices.h"
#include "hw-models/fit/table.h"
#include "sim/check.h"

namespace reckon::fit {

namespace {

using nlohmann::json;
using sim::DType;
using sim::Pass;

constexpr unsigned kLeftOutOneIn = 4;

void add(std::vector<GemmRow>& rows, GemmRow row) {
  const auto& o = row.op;
  row.left_out = left_out(fmt::format("{} {} {} {} {} {}", row.source, o.m, o.n, o.k,
                                      static_cast<int>(o.pass), row.groups),
                          kLeftOutOneIn);
  rows.push_back(std::move(row));
}

// Layout TN is y[m,n] over k. NN is dx[m,n'] over k' with n' = k, k' = n of the forward product;
// NT is dw[m',n'] over k' with m' = n, n' = k, k' = m.
sim::MatMul from_layout(const json& r) {
  const std::int64_t m = r.at("m"), n = r.at("n"), k = r.at("k");
  sim::MatMul op{.batch = r.at("b"), .dtype = DType::Bf16};
  const std::string layout = r.at("layout");
  if (layout == "TN")
    op.m = m, op.n = n, op.k = k, op.pass = Pass::Forward;
  else if (layout == "NN")
    op.m = m, op.n = k, op.k = n, op.pass = Pass::InputGrad;
  else
    op.m = k, op.n = m, op.k = n, op.pass = Pass::WeightGrad;
  return op;
}

const hw::Gpu* simumax_device(const std::string& name) {
  return name == "B200-SXM" ? &kB200 : &kA100Pcie;
}

void add_simumax(std::vector<GemmRow>& rows, const std::string& folder) {
  const json dense = read_json(folder + "/kernels/gemm_efficiency.json");
  for (const json& r : dense.at("records")) {
    // Weight gradients into bf16 buffers: not what training frameworks do.
    if (r.at("layout") == "NT" && r.at("out_dtype") != "fp32") continue;
    const hw::Gpu* gpu = simumax_device(r.at("gpu"));
    const double us = r.at("time_us");
    add(rows, {.source = "simumax",
               .gpu = gpu,
               .sms = gpu->sms,
               .op = from_layout(r),
               .seconds = us * 1e-6});
  }
  const json grouped = read_json(folder + "/kernels/grouped_gemm.json");
  for (const json& r : grouped.at("records")) {
    const hw::Gpu* gpu = simumax_device(r.at("gpu"));
    const std::string stage = r.at("stage");
    const std::int64_t groups = r.at("num_groups"), rows_each = r.at("M_per_group");
    const double us = r.at("time_us");
    add(rows, {.source = "simumax",
               .gpu = gpu,
               .sms = gpu->sms,
               .groups = groups,
               .op = {.m = groups * rows_each,
                      .n = r.at("N"),
                      .k = r.at("K"),
                      .pass = stage == "fwd"            ? Pass::Forward
                              : stage == "bwd_grad_act" ? Pass::InputGrad
                                                        : Pass::WeightGrad},
               .seconds = us * 1e-6});
  }
}

void add_isolated(std::vector<GemmRow>& rows, const std::string& folder, const char* file,
                  const hw::Gpu& gpu) {
  for (const CsvRow& r : read_csv(fmt::format("{}/kernels/aiconfigurator/{}", folder, file))) {
    const std::string& name = r.at("gemm_dtype");
    const DType dtype = name == "bfloat16"    ? DType::Bf16
                        : name == "fp8"       ? DType::Fp8
                        : name == "fp8_block" ? DType::Fp8Block
                        : name == "nvfp4"     ? DType::Nvfp4
                                              : DType::Fp32;
    if (dtype == DType::Fp32) continue;  // int8, int4: weight-only inference kernels
    const sim::MatMul op{.m = std::stoll(r.at("m")),
                         .n = std::stoll(r.at("n")),
                         .k = std::stoll(r.at("k")),
                         .dtype = dtype};
    if (op.m < 1024 || op.n < 256 || op.k < 256) continue;
    if (!left_out(fmt::format("thin {} {} {}", op.m, op.n, op.k), 3)) continue;
    const bool casts = dtype != DType::Bf16;
    add(rows, {.source = "isolated",
               .gpu = &gpu,
               .sms = gpu.sms,
               .op = op,
               .quantised = casts ? static_cast<double>(op.m * op.k) : 0,
               .seconds = std::stod(r.at("latency")) * 1e-3});
  }
}

void add_deepgemm(std::vector<GemmRow>& rows, const std::string& folder) {
  const json published = read_json(folder + "/published/gemm.json");
  for (const json& r : published) {
    const std::string source = r.at("source"), kind = r.at("kind");
    if (!source.starts_with("DeepGEMM README 2025-02")) continue;  // of the trace's time
    const std::int64_t m = r.at("M");
    if (kind == "grouped-masked" || m < 1024) continue;
    const std::int64_t groups = r.at("groups").is_null() ? 1 : r.at("groups").get<std::int64_t>();
    const double tflops = r.at("tflops");
    const sim::MatMul op{.m = groups * m, .n = r.at("N"), .k = r.at("K"), .dtype = DType::Fp8Block};
    add(rows, {.source = "deepgemm",
               .gpu = &kH100,
               .sms = 132,
               .groups = groups,
               .op = op,
               .seconds = sim::flops(op).si / (tflops * 1e12)});
  }
}

// "... M=4096 N=1536 K=7168" names the product that runs: rows, columns, depth.
void add_dualpipe(std::vector<GemmRow>& rows, const std::string& folder) {
  std::map<std::string, GemmRow> experts;  // weight gradients, by layer and matrix
  static const std::regex shape("M=(\\d+) N=(\\d+) K=(\\d+)");
  for (const CsvRow& r : read_csv(folder + "/h800-dualpipe/ops.csv")) {
    const std::string &category = r.at("category"), &what = r.at("identification");
    std::smatch found;
    if (!std::regex_search(what, found, shape)) continue;
    const std::int64_t m = std::stoll(found[1]), n = std::stoll(found[2]), k = std::stoll(found[3]);
    sim::MatMul op{.dtype = category == "router" ? DType::Bf16 : DType::Fp8Block};
    if (category == "gemm_fwd" || category == "gemm_recompute" || category == "ggemm_fwd")
      op.m = m, op.n = n, op.k = k, op.pass = Pass::Forward;
    else if (category == "gemm_dgrad" || category == "ggemm_dgrad")
      op.m = m, op.n = k, op.k = n, op.pass = Pass::InputGrad;
    else if (category == "gemm_wgrad")
      op.m = k, op.n = n, op.k = m, op.pass = Pass::WeightGrad;
    else if (category == "ggemm_wgrad") {
      // One launch per expert, on two streams that overlap: only their sum means something.
      GemmRow& sum = experts[r.at("layer") + (n == 2048 ? " w2" : " w13")];
      sum.op = {.m = sum.op.m + k, .n = n, .k = m, .pass = Pass::WeightGrad, .dtype = op.dtype};
      sum.seconds += std::stod(r.at("excl_us")) * 1e-6;
      continue;
    } else
      continue;
    add(rows, {.source = "dualpipe",
               .gpu = &kH100,
               .sms = category == "router" ? 132 : 112,  // cuBLAS takes what is free
               .groups = category.starts_with("gg") ? 4 : 1,
               .op = op,
               .seconds = std::stod(r.at("excl_us")) * 1e-6});
  }
  for (auto& [name, row] : experts) {
    row.source = "dualpipe", row.gpu = &kH100, row.sms = 112;
    row.op.m /= 4, row.seconds /= 4;
    add(rows, row);
  }
}

}  // namespace

std::vector<GemmRow> gemm_rows(const std::string& folder) {
  std::vector<GemmRow> rows;
  add_simumax(rows, folder);
  add_isolated(rows, folder, "a100_sxm_gemm_trtllm_1.0.0_gemm_perf.csv.gz", kA100Sxm);
  add_isolated(rows, folder, "h100_sxm_gemm_trtllm_1.3.0rc20_gemm_perf.csv.gz", kH100);
  add_isolated(rows, folder, "h200_sxm_gemm_trtllm_1.3.0rc20_gemm_perf.csv.gz", kH200);
  add_isolated(rows, folder, "b200_sxm_gemm_trtllm_1.3.0rc20_gemm_perf.csv.gz", kB200);
  add_deepgemm(rows, folder);
  add_dualpipe(rows, folder);
  return rows;
}

}  // namespace reckon::fit
