// The network model beside every published bandwidth of 1 MiB and more (data/collectives.json).
#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hw-models/catalog.h"
#include "hw-models/network_model.h"
#include "hw-models/routing.h"

namespace reckon::hw {
namespace {

using nlohmann::json;
using sim::CollectiveKind;

const std::map<std::string, CollectiveKind> kKinds = {
    {"all-reduce", CollectiveKind::AllReduce},
    {"all-gather", CollectiveKind::AllGather},
    {"reduce-scatter", CollectiveKind::ReduceScatter},
    {"all-to-all", CollectiveKind::AllToAll}};

// nccl-tests: bus bandwidth = bytes / time x 2(n-1)/n for all-reduce, (n-1)/n for the others.
double modelled_collective(const json& row) {
  NetworkFit fit = network_fit();
  if (row.size() > 7 && row[7] == "ring")
    for (InsideFit& in : fit.inside) in.nvls_fraction = 0;
  const sim::Collective op{
      kKinds.at(row[1]), Bytes(row[4].get<double>()), {row[2].get<int>(), row[3].get<int>()}};
  const double n = op.group.size, rounds = op.kind == CollectiveKind::AllReduce ? 2 : 1;
  return rounds * (n - 1) / n *
         (op.bytes / collective_time(fit, op, cluster(row[0].get<std::string>())).alone).si / 1e9;
}

// DeepEP counts the bytes of every distinct node (between nodes) or rank (in one) of a token, its
// own included. 256 experts, top 8, hidden 7,168; dispatch in fp8 with scales, combine in bf16.
double modelled_exchange(const json& row) {
  const bool combine = row[1] == "combine";
  const int ranks = row[2];
  const Routing routing{256, 8, ranks, 8, 8, row[4].get<bool>() ? 4 : 8};
  const sim::TokenExchange op = token_exchange(
      routing, row[3].get<double>(), Bytes(combine ? 14336 : 7392), {ranks, 8}, combine, true);
  const Footprint f = expected_footprint(routing);
  // The release of February 2025 between nodes, over that of June; as in catalog/stacks.json.
  const double release = row[7] == "deepep-2025-02" && ranks > 16 ? 0.9 : 1;
  const NetworkTime t = exchange_time(network_fit(), op, cluster(row[0].get<std::string>()),
                                      {.sms = row[5], .beside_compute = false, .release = release});
  return op.tokens * (ranks > 8 ? f.nodes : f.ranks) * op.bytes_per_token.si / t.alone.si / 1e9;
}

struct Errors {
  std::vector<double> values;
  double at(double part) {
    std::sort(values.begin(), values.end());
    return values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1))];
  }
};

}  // namespace

TEST_CASE("the network model beside all published bandwidths of 1 MiB and more") {
  std::ifstream in(RECKON_TEST_DATA "/collectives.json");
  const json file = json::parse(in);
  std::map<std::string, Errors> groups;
  Errors all;
  int left_out = 0;
  const auto score = [&](const json& row, double published, double modelled) {
    const double error = modelled / published - 1;
    const bool between = row[2] > 8;
    const std::string gpu = row[0].get<std::string>().substr(4);
    fmt::print("{:10} {:14} {:>5} {:>12} {:>8.1f} {:>8.1f} {:>+6.1f} %  {}\n",
               row[0].get<std::string>(), row[1].get<std::string>(), row[2].get<int>(),
               row[4].is_boolean() ? "" : fmt::format("{:.0f} MiB", row[4].get<double>() / 1048576),
               published, modelled, 100 * error,
               row[row[4].is_boolean() ? 7 : 6].get<std::string>());
    groups[(row[4].is_boolean() ? "exchange" : "NCCL") + std::string(" ") + gpu +
           (between ? ", between nodes" : ", in a node")]
        .values.push_back(std::abs(error));
    if (gpu != "b200") all.values.push_back(std::abs(error));
  };
  for (const json& row : file.at("collectives")) {
    // SHARP and NVLS trees between nodes are not modelled.
    if (row.size() > 7 && row[7] != "ring") {
      ++left_out;
      continue;
    }
    score(row, row[5], modelled_collective(row));
  }
  for (const json& row : file.at("exchanges")) score(row, row[6], modelled_exchange(row));
  fmt::print("\n{:34} {:>5} {:>8} {:>8}\n", "", "rows", "median", "p90");
  for (auto& [name, errors] : groups)
    fmt::print("{:34} {:>5} {:>6.1f} % {:>6.1f} %\n", name, errors.values.size(),
               100 * errors.at(0.5), 100 * errors.at(0.9));
  fmt::print("{:34} {:>5} {:>6.1f} % {:>6.1f} %\n", "A100, H100, H800, H200", all.values.size(),
             100 * all.at(0.5), 100 * all.at(0.9));
  CHECK(left_out == 3);
  CHECK(all.values.size() > 100);
  CHECK(all.at(0.5) <= 0.10);
  CHECK(all.at(0.9) <= 0.25);
}

}  // namespace reckon::hw
