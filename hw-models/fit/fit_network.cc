// Fits catalog/network.json through the equations of network_model.cc: NCCL inside a node per
// architecture, NVLS, PCIe, NCCL between nodes, token exchange. Collectives of 1 MiB and more are
// scored; smaller ones help to fit the latencies.
#include <cmath>
#include <optional>
#include <string>

#include "hw-models/fit/fits.h"
#include "hw-models/fit/table.h"
#include "hw-models/network_model.h"
#include "hw-models/routing.h"

namespace reckon::fit {

namespace {

using hw::NetworkFit;
using nlohmann::json;
using sim::CollectiveKind;

hw::Cluster cluster(const char* architecture, double nvlink_gb_s, double nic_gb_s) {
  return {
      .gpu = {.architecture = architecture},
      .node = {.nvlink = nvlink_gb_s * GB / s, .pcie = 31.5 * GB / s, .nvlink_latency = 1.9 * us},
      .fabric = {.nic = nic_gb_s * GB / s, .latency = 3.7 * us}};
}

// Nameplates (vendors' data sheets); latencies as in catalog/nodes.json and fabrics.json.
hw::Cluster cluster_of(const std::string& gpu) {
  if (gpu.starts_with("A100-PCIe")) return cluster("ampere", 0, 25);
  if (gpu.starts_with("A100")) return cluster("ampere", 300, 25);
  if (gpu.starts_with("H800")) return cluster("hopper", 200, 50);
  if (gpu.starts_with("B200")) return cluster("blackwell", 900, 50);
  return cluster("hopper", 450, 50);
}

struct Row {
  std::string table, key;
  sim::Collective op;
  hw::Cluster cluster;
  bool nvls = true;  // the switch's adders were on
  double seconds = 0;
  bool held_out = false;
};

double seconds_of(const NetworkFit& fit, const Row& r) {
  if (r.nvls) return hw::collective_time(fit, r.op, r.cluster).alone.si;
  NetworkFit off = fit;
  for (hw::InsideFit& in : off.inside) in.nvls_fraction = 0;
  return hw::collective_time(off, r.op, r.cluster).alone.si;
}

std::optional<CollectiveKind> kind_of(const std::string& name) {
  if (name == "all_reduce") return CollectiveKind::AllReduce;
  if (name == "all_gather") return CollectiveKind::AllGather;
  if (name == "reduce_scatter") return CollectiveKind::ReduceScatter;
  if (name == "alltoall" || name == "all_to_all" || name == "all2all")
    return CollectiveKind::AllToAll;
  return {};
}

// NVIDIA AIConfigurator's NCCL tables, one node, without NVLS; lengths in elements.
void add_aiconfigurator(std::vector<Row>& rows, const std::string& folder, const char* file,
                        const char* gpu) {
  for (const CsvRow& c : read_csv(folder + "/kernels/aiconfigurator/" + file)) {
    const double width = c.at("nccl_dtype") == "half" ? 2 : 1;
    const int ranks = std::stoi(c.at("num_gpus"));
    Row r{.table = std::string(gpu) + " nccl",
          .key = std::string(gpu) + c.at("op_name") + c.at("num_gpus") + c.at("message_size") +
                 c.at("nccl_dtype"),
          .op = {*kind_of(c.at("op_name")),
                 width * std::stod(c.at("message_size")) * byte,
                 {ranks, ranks}},
          .cluster = cluster_of(gpu),
          .nvls = false,
          .seconds = std::stod(c.at("latency")) * 1e-3};
    r.held_out = left_out(r.key, 4);
    rows.push_back(r);
  }
}

// nccl-tests on one H100 node, NVLS on (SimuMax, simu_tools/efficency_test/nccl_fit.py).
void add_simumax(std::vector<Row>& rows, const json& comm) {
  for (const json& j : comm.at("raw_nccl_curves")) {
    const auto kind = kind_of(j.at("collective"));
    if (!kind) continue;
    rows.push_back({.table = "H100 simumax",
                    .key = "simumax",
                    .op = {*kind, Bytes(j.at("bytes").get<double>()), {8, 8}},
                    .cluster = cluster_of("H100"),
                    .seconds = j.at("oop_time_us").get<double>() * 1e-6,
                    .held_out = true});
  }
}

// Published nccl-tests figures by GPU, size and number of nodes.
void add_published(std::vector<Row>& rows, const json& published) {
  for (const json& j : published) {
    const std::string id = j.at("id");
    const auto kind = kind_of(j.at("collective"));
    if (!kind || !j.at("gpus").is_number() || id.find("secondr") != id.npos) continue;
    const bool scan = id.starts_with("nccl-scan");
    if (!j.at("gpu").is_string() && !scan) continue;  // hardware not stated
    if (id.find("nvlstree") != id.npos || id.find("nvlstre") != id.npos) continue;  // not modelled
    const std::string gpu = scan ? "H100" : j.at("gpu").get<std::string>();
    const bool between = j.at("nodes").is_number() && j.at("nodes") > 1;
    const bool slide = id.starts_with("nv-gtc") && !j.at("size_bytes").is_number();
    if (slide || gpu == "V100" || !j.at("size_bytes").is_number()) continue;
    const int ranks = j.at("gpus"), nodes = between ? j.at("nodes").get<int>() : 1;
    const double bytes = j.at("size_bytes");
    const double rounds = kind == CollectiveKind::AllReduce ? 2 : 1;
    if (bytes < 65536) continue;
    Row r{.table = (between ? "between: " : "inside: ") + id.substr(0, id.find_last_of('-')),
          .key = id,
          .op = {*kind, Bytes(bytes), {ranks, ranks / nodes}},
          .cluster = cluster_of(gpu)};
    if (id.starts_with("mleng-ar-b200-32")) r.table = "between: EFA";
    r.nvls = id.find("ring") == id.npos;
    r.seconds = rounds * (ranks - 1) / ranks * bytes / (j.at("busbw_GBps").get<double>() * 1e9);
    r.held_out = left_out(r.key, 3);
    rows.push_back(r);
  }
}

constexpr double kScored = 1024 * 1024;  // bytes

std::vector<double> residuals(const NetworkFit& fit, const std::vector<Row>& rows) {
  std::vector<double> out;
  for (const Row& r : rows) out.push_back(std::log(seconds_of(fit, r) / r.seconds));
  return out;
}

template <class Choose>
std::vector<Row> chosen(const std::vector<Row>& rows, Choose choose) {
  std::vector<Row> out;
  for (const Row& r : rows)
    if (choose(r)) out.push_back(r);
  return out;
}

struct ExchangeRow {
  sim::TokenExchange op;
  hw::Cluster cluster;
  hw::ExchangeSetting setting;
  double seconds = 0;
  bool held_out = false;
};

std::vector<double> residuals(const NetworkFit& fit, const std::vector<ExchangeRow>& rows) {
  std::vector<double> out;
  for (const ExchangeRow& r : rows)
    out.push_back(
        std::log(hw::exchange_time(fit, r.op, r.cluster, r.setting).alone.si / r.seconds));
  return out;
}

// A dispatched token in fp8 with a scale per 128 values, or combined in bf16.
Bytes token_bytes(int hidden, bool combine) {
  return Bytes(combine ? 2. * hidden : hidden * (1 + 4. / 128));
}

// DeepEP on one node (AIConfigurator); experts spread over 8 ranks, tokens of at least 256 per
// rank.
std::vector<ExchangeRow> exchange_inside(const std::string& folder, const char* file) {
  std::vector<ExchangeRow> rows;
  for (const CsvRow& c : read_csv(folder + "/kernels/aiconfigurator/" + file)) {
    const int experts = std::stoi(c.at("num_experts")), top_k = std::stoi(c.at("num_topk"));
    const int tokens = std::stoi(c.at("num_token")), hidden = std::stoi(c.at("hidden_size"));
    if (tokens < 256) continue;
    for (bool combine : {false, true}) {
      const std::string name = combine ? "combine" : "dispatch";
      rows.push_back(
          {.op = hw::token_exchange(
               {.experts = experts, .top_k = top_k, .ranks = 8, .ranks_per_node = 8}, tokens,
               token_bytes(hidden, combine), {8, 8}, combine, true),
           .cluster = cluster_of("H100"),
           .setting = {.sms = std::stoi(c.at(name + "_sms")), .beside_compute = false},
           .seconds = std::stod(c.at(name + "_transmit_us")) * 1e-6,
           .held_out = left_out(name + c.at("num_experts") + c.at("num_topk") + c.at("num_token") +
                                    c.at("hidden_size") + c.at(name + "_sms"),
                                4)});
    }
  }
  return rows;
}

// DeepEP's release of June 2025 is the one fitted to. At EP64 that of February, with which
// DeepSeek's trace was taken, reached 46 and 45 GB/s instead of 51 and 50.
constexpr double kFebruary2025 = 45.5 / 50.5;

// DeepEP between nodes: README tables of 2025 (4,096 tokens, hidden 7,168, 4 of 8 groups, top 8).
// The printed rate counts every distinct node, the sender's own too.
std::vector<ExchangeRow> exchange_between(const json& published) {
  std::vector<ExchangeRow> rows;
  for (const json& j : published) {
    const std::string id = j.at("id");
    if (id.find("-normal-") == id.npos || j.at("nodes") == 1 || id.find("2025-02") != id.npos)
      continue;
    const int ranks = j.at("gpus");
    const bool combine = j.at("collective") == "moe_combine";
    const hw::Routing routing{256, 8, ranks, 8, 8, 4};
    ExchangeRow r{.op = hw::token_exchange(routing, 4096, token_bytes(7168, combine), {ranks, 8},
                                           combine, true),
                  .cluster = cluster_of(j.at("gpu")),
                  .setting = {.sms = 20, .beside_compute = false}};
    r.seconds = r.op.tokens * hw::expected_footprint(routing).nodes * r.op.bytes_per_token.si /
                (j.at("bottleneck_GBps").get<double>() * 1e9);
    r.held_out = left_out(id, 3);
    rows.push_back(r);
  }
  return rows;
}

// DeepSeek's H800 trace (deepseek-ai/profile-data): data kernels of one F&B pair, EP64, mean ms.
std::vector<ExchangeRow> exchange_in_training() {
  std::vector<ExchangeRow> rows;
  const struct {
    double ms;
    bool combine;
  } kernels[] = {{4.35, false}, {3.41, false}, {6.37, true}, {5.99, true}};
  for (const auto& k : kernels)
    rows.push_back(
        {.op = hw::token_exchange({256, 8, 64, 8, 8, 4}, 4096, token_bytes(7168, k.combine),
                                  {64, 8}, k.combine, true),
         .cluster = cluster_of("H800"),
         .setting = {.sms = 20, .beside_compute = true, .release = kFebruary2025},
         .seconds = k.ms * 1e-3});
  return rows;
}

// Fits `constants`, which are members of `fit`, to the rows in place.
template <class AnyRow>
void fit_to(NetworkFit& fit, const std::vector<double*>& constants,
            const std::vector<AnyRow>& rows) {
  std::vector<double> start;
  for (const double* c : constants) start.push_back(*c);
  const auto assign = [&](const std::vector<double>& values) {
    for (std::size_t i = 0; i < values.size(); ++i) *constants[i] = values[i];
  };
  assign(minimise(
      [&](const std::vector<double>& values) {
        assign(values);
        return residuals(fit, rows);
      },
      std::vector<double>(rows.size(), 1.0), start));
}

std::vector<ExchangeRow> split(const std::vector<ExchangeRow>& rows, bool held_out) {
  std::vector<ExchangeRow> out;
  for (const ExchangeRow& r : rows)
    if (r.held_out == held_out) out.push_back(r);
  return out;
}

// Where the search starts. Not fitted for want of rows: ring_hop_* and tree_hop_small (NCCL
// src/graph/tuning.cc, hwLat of the network: rings 2.7 us for LL and 14 us for Simple, trees 5 us
// for LL, up and down), ramp_bytes and message (assumed).
NetworkFit start() {
  const hw::InsideFit any{.architecture = "any",
                          .base_seconds = 8e-6,
                          .hop = 0.5,
                          .ring_fraction = 0.75,
                          .own_copy = 0.4,
                          .ramp_seconds = 1e-5,
                          .all_to_all_fraction = 0.7};
  NetworkFit fit{.pcie = {.ring_fraction = 0.7,
                          .all_to_all_fraction = 0.7,
                          .ring_crossing = 0.6,
                          .all_to_all_crossing = 0.5},
                 .between = {.ring_fraction = 0.9,
                             .all_to_all_fraction = 0.74,
                             .ring_hop_small = 2.7 / 3.7,
                             .ring_hop_large = 14. / 3.7,
                             .tree_hop_small = 2 * 5. / 3.7,
                             .tree_hop_large = 20,
                             .ramp_bytes = kScored,
                             .message = 0.25},
                 .exchange = {.base_seconds = 2e-5,
                              .nvlink_fraction = 0.65,
                              .hopper_per_sm = 15e9,
                              .blackwell_per_sm = 643e9 * 7 / 8 / 24,
                              .nic_fraction = 0.88,
                              .token_seconds = 1e-7}};
  for (const char* name : {"ampere", "hopper", "blackwell"}) {
    fit.inside.push_back(any);
    fit.inside.back().architecture = name;
    fit.inside.back().calibrated = true;
    if (fit.inside.back().architecture == "ampere") continue;
    fit.inside.back().nvls_fraction = 0.6;
    fit.inside.back().nvls_ramp_seconds = 3e-5;
  }
  fit.inside.push_back(any);
  fit.inside.back().ring_fraction = 0.7;
  fit.inside.back().all_to_all_fraction = 0.6;
  return fit;
}

}  // namespace

FitResult fit_network(const std::string& folder) {
  const json published = read_json(folder + "/published/collectives.json");
  const json comm = read_json(folder + "/kernels/comm.json");
  std::vector<Row> rows;
  add_aiconfigurator(rows, folder, "a100_sxm_comm_nccl_2.27.3_nccl_perf.csv.gz", "A100");
  add_aiconfigurator(rows, folder, "h100_sxm_comm_nccl_2.29.2_nccl_perf.csv.gz", "H100");
  add_aiconfigurator(rows, folder, "h200_sxm_comm_nccl_2.29.2_nccl_perf.csv.gz", "H200");
  add_aiconfigurator(rows, folder, "b200_sxm_comm_nccl_2.29.2_nccl_perf.csv.gz", "B200");
  add_simumax(rows, comm);
  add_published(rows, published);

  NetworkFit fit = start();
  FitResult result;
  for (hw::InsideFit& in : fit.inside) {
    if (!in.calibrated) continue;
    fit_to(fit,
           {&in.base_seconds, &in.hop, &in.ring_fraction, &in.own_copy, &in.ramp_seconds,
            &in.all_to_all_fraction},
           chosen(rows, [&](const Row& r) {
             return r.cluster.gpu.architecture == in.architecture && !r.held_out &&
                    r.op.group.size == r.op.group.per_node && r.op.bytes.si >= 65536 &&
                    (!r.nvls || in.nvls_fraction == 0);
           }));
    result.constants += 6;
    if (in.nvls_fraction == 0) continue;
    fit_to(fit, {&in.nvls_fraction, &in.nvls_ramp_seconds}, chosen(rows, [&](const Row& r) {
             return r.cluster.gpu.architecture == in.architecture && !r.held_out && r.nvls &&
                    r.op.group.size == r.op.group.per_node &&
                    r.op.kind == CollectiveKind::AllReduce && r.op.bytes.si >= kScored;
           }));
    result.constants += 2;
  }
  fit_to(fit, {&fit.between.ring_fraction, &fit.between.tree_hop_large},
         chosen(rows, [](const Row& r) {
           return r.op.group.size > r.op.group.per_node && !r.held_out &&
                  r.table != "between: EFA" && r.op.bytes.si >= kScored;
         }));
  result.constants += 2;

  // All-to-all between 4 nodes of 8: 24 and 48 GB/s with NICs of 25 and 50 (NVIDIA, GTC 2024). The
  // printed rate counts 31/32 of the buffer, the NIC carries 24/32 of it.
  fit.between.all_to_all_fraction = 0.5 * (24. / 25 + 48. / 50) * 24 / 31;
  result.constants += 1;

  std::vector<ExchangeRow> inside =
      exchange_inside(folder, "h100_sxm_comm_sglang_0.5.12_wideep_deepep_normal_perf.csv.gz");
  hw::ExchangeFit& e = fit.exchange;
  fit_to(fit, {&e.base_seconds, &e.nvlink_fraction, &e.hopper_per_sm}, split(inside, false));
  const std::vector<ExchangeRow> between = exchange_between(published);
  fit_to(fit, {&e.nic_fraction}, split(between, false));
  fit_to(fit, {&e.token_seconds}, exchange_in_training());
  result.constants += 6;

  // A100 PCIe: rates that SimuMax fitted, GiB/s, 2, 4 and 8 GPUs (configs/system/a100_pcie.json).
  const double gib_s = 1.073741824;
  fit.pcie.ring_fraction = (20.6 + 20.75) / 2 * gib_s / 31.5;
  fit.pcie.ring_crossing = (12.5 + 13.5 + 11.1) / 3 / ((20.6 + 20.75) / 2);
  fit.pcie.all_to_all_fraction = (20.9 + 19.1) / 2 * gib_s / 31.5;
  fit.pcie.all_to_all_crossing = 8.26 / 20.0;
  result.constants += 4;

  const auto report = [&](const char* table, const std::vector<double>& errors,
                          std::size_t fitted) {
    result.tables.push_back({table, "network", fitted, errors_of(errors)});
  };
  const auto score = [&](const char* table, auto belongs) {
    const auto in_table = [&](const Row& r) { return r.op.bytes.si >= kScored && belongs(r); };
    const auto out = chosen(rows, [&](const Row& r) { return r.held_out && in_table(r); });
    const auto seen = chosen(rows, [&](const Row& r) { return !r.held_out && in_table(r); });
    report(table, residuals(fit, out), seen.size());
  };
  const auto is = [](const char* name) { return [name](const Row& r) { return r.table == name; }; };
  score("aiconf A100 nccl", is("A100 nccl"));
  score("aiconf H100 nccl", is("H100 nccl"));
  score("aiconf H200 nccl", is("H200 nccl"));
  score("aiconf B200 nccl", is("B200 nccl"));
  // SimuMax and torch rows below 16 MiB wait for the host, so their p90 is large.
  score("simumax H100", is("H100 simumax"));
  score("published, in a node", [](const Row& r) { return r.table.starts_with("inside: "); });
  score("published, between",
        [](const Row& r) { return r.table.starts_with("between: ") && r.table != "between: EFA"; });
  // EFA's latency is not in the catalogue; it is predicted with InfiniBand's.
  score("published, EFA", is("between: EFA"));
  report("exchange in a node", residuals(fit, split(inside, true)), split(inside, false).size());
  report("exchange, README", residuals(fit, split(between, true)), split(between, false).size());
  report("exchange, trace", residuals(fit, exchange_in_training()), 4);

  const hw::BetweenFit& b = fit.between;
  result.rows = nlohmann::ordered_json::object();
  result.rows["inside"] = nlohmann::ordered_json::array();
  for (const hw::InsideFit& in : fit.inside)
    result.rows["inside"].push_back({{"architecture", in.architecture},
                                     {"calibrated", in.calibrated},
                                     {"base_seconds", in.base_seconds},
                                     {"hop", in.hop},
                                     {"ring_fraction", in.ring_fraction},
                                     {"own_copy", in.own_copy},
                                     {"ramp_seconds", in.ramp_seconds},
                                     {"all_to_all_fraction", in.all_to_all_fraction},
                                     {"nvls_fraction", in.nvls_fraction},
                                     {"nvls_ramp_seconds", in.nvls_ramp_seconds}});
  result.rows["pcie"] = {{"ring_fraction", fit.pcie.ring_fraction},
                         {"all_to_all_fraction", fit.pcie.all_to_all_fraction},
                         {"ring_crossing", fit.pcie.ring_crossing},
                         {"all_to_all_crossing", fit.pcie.all_to_all_crossing}};
  result.rows["between"] = {
      {"ring_fraction", b.ring_fraction},   {"all_to_all_fraction", b.all_to_all_fraction},
      {"ring_hop_small", b.ring_hop_small}, {"ring_hop_large", b.ring_hop_large},
      {"tree_hop_small", b.tree_hop_small}, {"tree_hop_large", b.tree_hop_large},
      {"ramp_bytes", b.ramp_bytes},         {"message", b.message}};
  result.rows["exchange"] = {
      {"base_seconds", e.base_seconds},   {"nvlink_fraction", e.nvlink_fraction},
      {"hopper_per_sm", e.hopper_per_sm}, {"blackwell_per_sm", e.blackwell_per_sm},
      {"nic_fraction", e.nic_fraction},   {"token_seconds", e.token_seconds}};
  return result;
}

}  // namespace reckon::fit
