// DeepSeek-V3's step on two fabrics, DeepSeek's multi-plane fat-tree (MPFT) and a multi-rail one
// (MRFT): arXiv 2505.09343, table 4. What the fabrics do to the step's traffic is simulated flow by
// flow; what they leave of the NICs' rate goes into the prediction.
#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "hw-models/topology.h"
#include "planner/bill.h"
#include "planner/predict.h"
#include "planner/scenario_json.h"
#include "sim/fluid.h"

using namespace reckon;
using namespace reckon::plan;

namespace {

struct Traffic {
  double slowdown = 1;  // of the last flow, over its NICs alone
  double hops = 0;      // mean switches of a flow
};

// Every rank of the cluster sends `bytes` in all to its peers, at once.
template <class Peers>
Traffic traffic(const hw::Topology& t, BytesPerSecond nic, Peers peers) {
  std::vector<std::vector<sim::LinkId>> routes;
  std::vector<sim::FlowOf> flows;
  constexpr double kBytes = 100e6;
  Traffic out;
  double most = 0;
  std::vector<double> received(static_cast<std::size_t>(t.gpus()), 0);
  for (int from = 0; from < t.gpus(); ++from) {
    const std::vector<int> to = peers(from);
    for (int peer : to) {
      const double bytes = kBytes / static_cast<double>(to.size());
      flows.push_back({.route = static_cast<sim::RouteId>(routes.size()), .bytes = Bytes(bytes)});
      routes.push_back(t.route(from, peer, 1));
      received[static_cast<std::size_t>(peer)] += bytes;
      out.hops += t.hops(from, peer);
    }
  }
  Seconds end;
  for (const auto& e : sim::flow_ends(t.link_rates(), routes, flows, 1e-3))
    end = std::max(end, sim::seconds(e.value()));
  most = std::max(kBytes, *std::max_element(received.begin(), received.end()));
  out.slowdown = end / (Bytes(most) / nic);
  out.hops /= static_cast<double>(flows.size());
  return out;
}

}  // namespace

TEST_CASE("DeepSeek-V3's step on multi-plane and multi-rail fat-trees") {
  constexpr double kMpft = 19.926, kMrft = 19.946;
  const struct {
    const char* file;
    double published;
  } cases[] = {{"deepseek-v3-2048-h800", kMpft}, {"deepseek-v3-2048-h800-mrft", kMrft}};
  double steps[2];
  fmt::print("{:28} {:>14} {:>14} {:>14} {:>10} {:>10} {:>8}\n", "", "exchanges", "messages",
             "reductions", "published", "predicted", "error");
  for (int i : {0, 1}) {
    Scenario s =
        read_scenario(std::string(RECKON_SOURCE_DIR "/scenarios/") + cases[i].file + ".json");
    const hw::Topology t(s.cluster);
    const Plan& p = *s.plan;
    const int node = s.cluster.node.gpus, stage = p.dp;  // GPUs of a stage: tp = cp = 1
    // Dispatches and combines: to the own position of every other node of the group.
    const Traffic exchange = traffic(t, s.cluster.fabric.nic, [&](int from) {
      std::vector<int> to;
      for (int n = 0; n < p.ep / node; ++n) {
        const int peer = from / p.ep * p.ep + n * node + from % node;
        if (peer != from) to.push_back(peer);
      }
      return to;
    });
    // Messages of both directions; the last stages' wrap around, which only adds traffic.
    const Traffic messages = traffic(t, s.cluster.fabric.nic, [&](int from) {
      const int gpus = t.gpus();
      return std::vector<int>{(from + stage) % gpus, (from + gpus - stage) % gpus};
    });
    // A ring of dense gradients over the stage: to the next node.
    const Traffic ring = traffic(t, s.cluster.fabric.nic, [&](int from) {
      return std::vector<int>{from / stage * stage + (from % stage + node) % stage};
    });
    // Every kind of traffic has its NICs' whole rate, or it is slowed by the worst of them.
    const double slowdown = std::max({exchange.slowdown, messages.slowdown, ring.slowdown});
    CHECK(slowdown > 0.999);
    s.cluster.fabric.nic = s.cluster.fabric.nic / slowdown;
    steps[i] =
        Predictor(s.model, s.cluster, s.stack).predict(p, step_shape(s.campaign.front())).step.si;
    const auto text = [](const Traffic& x) {
      return fmt::format("x{:.3f} {:.1f} hops", x.slowdown, x.hops);
    };
    fmt::print("{:28} {:>14} {:>14} {:>14} {:>8.3f} s {:>8.3f} s {:>+6.2f} %\n", cases[i].file,
               text(exchange), text(messages), text(ring), cases[i].published, steps[i],
               100 * (steps[i] / cases[i].published - 1));
    CHECK(std::abs(steps[i] / cases[i].published - 1) <= 0.03);
  }
  CHECK(std::abs(steps[1] / steps[0] - 1) <= 0.005);
}
