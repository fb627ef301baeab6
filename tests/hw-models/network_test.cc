#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "hw-models/catalog.h"
#include "hw-models/cost.h"
#include "hw-models/network_model.h"
#include "hw-models/routing.h"
#include "sim/input_error.h"

namespace reckon::hw {
namespace {

using sim::Collective;
using sim::CollectiveKind;
using sim::Group;

constexpr CollectiveKind kCollectives[] = {CollectiveKind::AllReduce, CollectiveKind::AllGather,
                                           CollectiveKind::ReduceScatter, CollectiveKind::AllToAll};

Seconds time_of(CollectiveKind kind, Bytes bytes, Group group, const char* name) {
  Stack alone = stack("nemo-2025");
  alone.comm_efficiency = 1;  // fitted to training steps; here collectives run alone
  return network_cost(Collective{kind, bytes, group}, cluster(name), alone).alone;
}

sim::TokenExchange deepseek_v3(bool combine, bool forwarding = true, Group group = {64, 8}) {
  return token_exchange({256, 8, group.size, group.per_node, 8, 4}, 4096,
                        Bytes(combine ? 14336 : 7392), group, combine, forwarding);
}

struct MeasuredTime {
  const char* cluster;
  CollectiveKind kind;
  Group group;
  Bytes bytes;
  double busbw;  // GB/s as nccl-tests defines it
  const char* source;
};

// nccl-tests: busbw = bytes/time x 2(n-1)/n for all-reduce, (n-1)/n for the others.
double modelled_busbw(const MeasuredTime& m) {
  const double n = m.group.size, rounds = m.kind == CollectiveKind::AllReduce ? 2 : 1;
  return rounds * (n - 1) / n * (m.bytes / time_of(m.kind, m.bytes, m.group, m.cluster)).si / 1e9;
}

constexpr auto kAR = CollectiveKind::AllReduce, kAG = CollectiveKind::AllGather,
               kRS = CollectiveKind::ReduceScatter, kA2A = CollectiveKind::AllToAll;
constexpr const char* kDgxc = "NVIDIA/dgxc-benchmarking nccl/README.md";
constexpr const char* kMl = "stas00/ml-engineering network/benchmarks";
constexpr const char* kSimu = "SimuMax simu_tools/efficency_test/nccl_fit.py";
constexpr const char* kIssue = "NVIDIA/nccl-tests issue 232";
constexpr const char* kGtc = "NVIDIA GTC 2024, NCCL session slides";

const MeasuredTime kPublished[] = {
    {"dgx-a100", kAR, {8, 8}, 16 * MiB, 106.16, kMl},
    {"dgx-a100", kAR, {8, 8}, 256 * MiB, 194.07, kMl},
    {"dgx-a100", kAR, {8, 8}, 4 * GiB, 233.88, kMl},
    {"dgx-h100", kAR, {8, 8}, 16 * MiB, 237.21, kDgxc},
    {"dgx-h100", kAR, {8, 8}, 256 * MiB, 422.25, kDgxc},
    {"dgx-h100", kAR, {8, 8}, 4 * GiB, 477.24, kDgxc},
    {"dgx-h200", kAR, {8, 8}, 16 * MiB, 219.89, kMl},
    {"dgx-h200", kAR, {8, 8}, 256 * MiB, 436.15, kMl},
    {"dgx-h200", kAR, {4, 4}, 8 * GiB, 363.3, kMl},
    {"dgx-b200", kAR, {8, 8}, 16 * MiB, 254.96, kMl},
    {"dgx-b200", kAR, {8, 8}, 256 * MiB, 646.11, kMl},
    {"dgx-b200", kAR, {8, 8}, 8 * GiB, 839.07, kMl},
    {"dgx-h100", kAG, {8, 8}, 16 * MiB, 201.02, kSimu},
    {"dgx-h100", kAG, {8, 8}, 256 * MiB, 321.68, kSimu},
    {"dgx-h100", kRS, {8, 8}, 16 * MiB, 194.6, kSimu},
    {"dgx-h100", kRS, {8, 8}, 256 * MiB, 323.52, kSimu},
    {"dgx-h100", kA2A, {8, 8}, 16 * MiB, 177.19, kSimu},
    {"dgx-h100", kA2A, {8, 8}, 256 * MiB, 308.58, kSimu},
    {"dgx-b200", kA2A, {8, 8}, 16 * GiB, 640, kGtc},
    {"dgx-a100", kA2A, {8, 8}, 16 * GiB, 210, kGtc},
    // Sweep over nodes of 8; the machine is H100-class with 8 NICs of 400 Gbit/s.
    {"dgx-h100", kAR, {32, 8}, 16 * MiB, 114, kMl},
    {"dgx-h100", kAR, {256, 8}, 16 * MiB, 58, kMl},
    {"dgx-h100", kAR, {4096, 8}, 16 * MiB, 40, kMl},
    {"dgx-h100", kAR, {32, 8}, 64 * MiB, 217, kMl},
    {"dgx-h100", kAR, {256, 8}, 64 * MiB, 152, kMl},
    {"dgx-h100", kAR, {4096, 8}, 64 * MiB, 112, kMl},
    {"dgx-h200", kAR, {32, 8}, 16 * GiB, 369.06, kMl},
    {"dgx-h100", kAR, {32, 8}, 16 * GiB, 380, kGtc},
    {"dgx-a100", kAR, {32, 8}, 16 * GiB, 192, kGtc},
    {"dgx-h100", kAR, {2, 1}, 4 * MiB, 27.16, kIssue},
    {"dgx-h100", kAR, {2, 1}, 32 * MiB, 41.31, kIssue},
    {"dgx-h100", kA2A, {32, 8}, 16 * GiB, 48, kGtc},
    {"dgx-a100", kA2A, {32, 8}, 16 * GiB, 24, kGtc},
};

}  // namespace

TEST_CASE("collectives against published bandwidths") {
  std::vector<double> errors;
  fmt::print("{:10} {:>5} {:>5} {:>9} {:>9} {:>9} {:>7}\n", "cluster", "ranks", "/node", "MiB",
             "published", "modelled", "error");
  for (const MeasuredTime& m : kPublished) {
    const double got = modelled_busbw(m), error = got / m.busbw - 1;
    fmt::print("{:10} {:>5} {:>5} {:>9.0f} {:>9.1f} {:>9.1f} {:>6.1f} %  {}\n", m.cluster,
               m.group.size, m.group.per_node, m.bytes / MiB, m.busbw, got, 100 * error, m.source);
    errors.push_back(std::abs(error));
  }
  std::sort(errors.begin(), errors.end());
  const double median = errors[errors.size() / 2], p90 = errors[errors.size() * 9 / 10];
  fmt::print("median {:.1f} %, p90 {:.1f} %\n", 100 * median, 100 * p90);
  CHECK(median <= 0.10);
  CHECK(p90 <= 0.25);
}

// The rate that DeepEP prints: bytes to all distinct nodes, the sender's own included, over time.
TEST_CASE("token exchange between nodes against DeepEP's README tables of 2025") {
  const struct {
    const char* cluster;
    int ranks;
    bool combine;
    double rate;  // GB/s
  } rows[] = {{"dgx-h800", 32, false, 58},   {"dgx-h800", 32, true, 57},
              {"dgx-h800", 64, false, 51},   {"dgx-h800", 64, true, 50},
              {"dgx-h100", 16, false, 79.7}, {"dgx-h100", 16, true, 66.4},
              {"dgx-h100", 32, false, 62.9}, {"dgx-h100", 32, true, 62.9},
              {"dgx-h100", 64, false, 53.5}, {"dgx-h100", 64, true, 53.2}};
  std::vector<double> errors;
  for (const auto& r : rows) {
    const Group group{r.ranks, 8};
    const sim::TokenExchange op = deepseek_v3(r.combine, true, group);
    const NetworkTime t =
        exchange_time(network_fit(), op, cluster(r.cluster), {.sms = 20, .beside_compute = false});
    const double nodes = expected_footprint({256, 8, r.ranks, 8, 8, 4}).nodes;
    const double rate = op.tokens * nodes * op.bytes_per_token.si / t.alone.si / 1e9;
    INFO(r.cluster << " EP" << r.ranks << (r.combine ? " combine " : " dispatch ") << rate);
    // The worst is H100 EP16 combine, where NVLink and NIC both run near their rates.
    CHECK(rate == Approx(r.rate).epsilon(0.35));
    errors.push_back(std::abs(rate / r.rate - 1));
  }
  std::sort(errors.begin(), errors.end());
  CHECK(errors[errors.size() / 2] < 0.10);
}

// deepseek-ai/profile-data, training trace: in a pair of 4 layers forward and 4 backward the data
// kernels of dispatches take 31.0 ms, of combines 49.4 ms.
TEST_CASE("token exchange beside compute against DeepSeek's H800 trace") {
  const auto sum = [](bool combine) {
    const Cost c = network_cost(deepseek_v3(combine), cluster("h800-2048"), stack("deepseek"));
    return 8 * c.alone.si / c.beside_compute;
  };
  CHECK(sum(false) == Approx(31.0e-3).epsilon(0.12));
  CHECK(sum(true) == Approx(49.4e-3).epsilon(0.12));
}

TEST_CASE("more bytes take more time") {
  const Group groups[] = {{2, 2}, {8, 8}, {16, 8}, {64, 1}, {64, 4}, {2048, 8}};
  for (const char* name : {"dgx-a100", "dgx-b200", "a100-pcie", "gb200-nvl72"})
    for (const CollectiveKind kind : kCollectives)
      for (const Group& g : groups) {
        Seconds before(0);
        for (double bytes = 64; bytes < 1e11; bytes *= 2) {
          const Seconds t = time_of(kind, Bytes(bytes), g, name);
          CHECK(t > before);
          before = t;
        }
      }
}

TEST_CASE("a group of one costs nothing") {
  for (const CollectiveKind kind : kCollectives)
    CHECK(time_of(kind, GiB, {1, 1}, "dgx-h100") == Seconds(0));
  const sim::TokenExchange alone = deepseek_v3(false, true, {1, 1});
  CHECK(network_cost(alone, cluster("dgx-h100"), stack("deepseek")).alone == Seconds(0));
  CHECK(network_cost(sim::Barrier{{1, 1}}, cluster("dgx-h100"), stack("deepseek")).alone ==
        Seconds(0));
}

// Rings over nodes use one NIC per member: 8 members of a node together have 8 NICs, a group with
// one member per node has one.
TEST_CASE("a group uses the NICs of its members, not of the node and not one of them") {
  const auto busbw = [](int per_node) {
    return modelled_busbw({"dgx-h100", kAG, {16 * per_node, per_node}, 64 * GiB, 0, ""});
  };
  for (int per_node : {1, 2, 4, 8}) {
    CHECK(busbw(per_node) < 50.0 * per_node);
    CHECK(busbw(per_node) > 0.8 * 50.0 * per_node);
  }
}

// Every rank has 2,040 peers behind its one NIC: time >= bytes that leave the node / NIC. With the
// full link for each message it would be 2,040 times less.
TEST_CASE("an all-to-all among 2,048 ranks shares the NIC among its messages") {
  const Bytes bytes = 4 * GiB;
  const Seconds floor = bytes * (2040. / 2048) / (50 * GB / s);
  const Seconds t = time_of(kA2A, bytes, {2048, 8}, "dgx-h100");
  CHECK(t > floor);
  CHECK(t < 2 * floor);

  const sim::TokenExchange op = deepseek_v3(true, false);
  const Seconds plain = network_cost(op, cluster("h800-2048"), stack("nemo-2025")).alone;
  CHECK(plain > op.tokens * op.off_node_copies * op.bytes_per_token / (50 * GB / s));
  CHECK(plain >
        1.5 * network_cost(deepseek_v3(true), cluster("h800-2048"), stack("deepseek")).alone);
}

TEST_CASE("half the fabric doubles what the NIC bounds and leaves the rest") {
  Cluster half = cluster("h800-2048");
  half.fabric.nic *= 0.5;
  const Cluster& full = cluster("h800-2048");
  const NetworkFit& fit = network_fit();
  const Collective between{kRS, 8 * GiB, {64, 1}}, inside{kRS, 8 * GiB, {8, 8}};
  CHECK(collective_time(fit, between, half).alone / collective_time(fit, between, full).alone ==
        Approx(2).epsilon(0.02));
  CHECK(collective_time(fit, inside, half).alone == collective_time(fit, inside, full).alone);
}

TEST_CASE("one NVLink domain of 72 exchanges faster than nodes of 8") {
  const Stack& hybrid = stack("megatron-bridge-2026");
  const auto in_domain =
      network_cost(deepseek_v3(true, true, {64, 64}), cluster("gb200-nvl72"), hybrid);
  const auto on_nodes = network_cost(deepseek_v3(true, true, {64, 8}), cluster("dgx-b200"), hybrid);
  CHECK(in_domain.alone * 2 < on_nodes.alone);
  CHECK(in_domain.nic_share == 0);
  CHECK(in_domain.nvlink_share > 0);
}

TEST_CASE("PCIe nodes run at the rates measured there") {
  // SimuMax configs/system/a100_pcie.json, GiB/s of bus bandwidth
  CHECK(modelled_busbw({"a100-pcie", kAR, {8, 8}, GiB, 0, ""}) ==
        Approx(12.53 * 1.074).epsilon(0.15));
  CHECK(modelled_busbw({"a100-pcie", kAG, {4, 4}, GiB, 0, ""}) ==
        Approx(20.75 * 1.074).epsilon(0.15));
  CHECK(modelled_busbw({"a100-pcie", kA2A, {8, 8}, GiB, 0, ""}) ==
        Approx(8.26 * 1.074).epsilon(0.15));
}

TEST_CASE("shares say what an op holds at its own speed") {
  const Cluster& c = cluster("h800-2048");
  const Stack& s = stack("deepseek");
  const Cost exchange = network_cost(deepseek_v3(false), c, s);
  CHECK(exchange.sm_share == Approx(20. / 132));
  CHECK(exchange.nic_share > 0.9);
  CHECK(exchange.nic_share * exchange.beside_compute <
        0.8);  // beside compute it leaves part of the NIC to others
  CHECK(exchange.nvlink_share < exchange.nic_share);
  const Cost ring = network_cost(Collective{kRS, 4 * GiB, {32, 1}}, c, s);
  CHECK(ring.nic_share > 0.95);
  CHECK(ring.nvlink_share == 0);
  const Cost send = network_cost(sim::Transfer{58.7 * MB, true}, c, s);
  CHECK(send.nic_share > 0.9);
  CHECK(send.alone > 58.7 * MB / c.fabric.nic);
  CHECK(send.alone < 1.25 * (58.7 * MB / c.fabric.nic));
  const Cost local = network_cost(sim::Transfer{58.7 * MB, false}, c, s);
  CHECK(local.alone < send.alone);
  CHECK(local.nic_share == 0);
  for (const Cost& k : {exchange, ring, send, local})
    for (double share : {k.sm_share, k.hbm_share, k.nvlink_share, k.nic_share})
      CHECK((share >= 0 && share <= 1));
}

TEST_CASE("a stack's communication efficiency divides the time") {
  Stack slow = stack("nemo-2025");
  slow.comm_efficiency *= 0.5;
  const Collective op{kAG, 100 * MB, {64, 8}};
  const Cost a = network_cost(op, cluster("dgx-h100"), stack("nemo-2025"));
  const Cost b = network_cost(op, cluster("dgx-h100"), slow);
  CHECK(b.alone.si == Approx(2 * a.alone.si));
  CHECK(b.nic_share == Approx(a.nic_share / 2));
}

TEST_CASE("devices without measurements say so") {
  const Collective op{kAR, MiB, {2, 2}};
  CHECK_FALSE(network_cost(op, cluster("cpu-2"), stack("reckon-cpu")).calibrated);
  CHECK(network_cost(op, cluster("dgx-h100"), stack("nemo-2025")).calibrated);
  CHECK_THROWS_AS(parse_network_fit("{\"inside\": []}"), InputError);
}

}  // namespace reckon::hw
