// Steps with every exchange as flows on the topology.
#include "planner/flow.h"

#include <catch2/catch.hpp>

#include "planner/bill.h"
#include "planner/choice.h"
#include "planner/placement.h"
#include "planner/scenario_json.h"
#include "tests/real/temporary_folder.h"

using namespace reckon;
using namespace reckon::plan;
using reckon::real::TemporaryFolder;

namespace {

using Shape = hw::TopologyShape;

// Qwen3 on 256 H100: tp, pp, dp and ep all above 1, experts over 4 nodes; 16 GPUs or more a leaf.
Scenario qwen3_on(Shape::Routing routing, double oversubscription,
                  const std::string& file = "qwen3-235b-256-h100.json") {
  Scenario s = read_scenario(RECKON_SOURCE_DIR "/scenarios/" + file);
  s.cluster.fabric.oversubscription = oversubscription;
  s.cluster.fabric.topology =
      Shape{.layers = 2, .radix = 32, .wiring = Shape::Wiring::Node, .routing = routing};
  return s;
}

std::variant<FlowAnswer, Unreachable> flows(const Scenario& s, const FlowSetting& setting = {}) {
  const std::size_t phase = chosen_phase(s, {});
  return flow_answer(s, *s.plan, step_shape(s.campaign[phase]), setting);
}

FlowAnswer answer(const Scenario& s, const FlowSetting& setting = {}) {
  auto a = flows(s, setting);
  REQUIRE(std::holds_alternative<FlowAnswer>(a));
  return std::get<FlowAnswer>(std::move(a));
}

}  // namespace

TEST_CASE("on a fabric that nothing is short in, flows change no tick of the step") {
  const FlowAnswer a = answer(qwen3_on(Shape::Routing::Adaptive, 1));
  CHECK(a.phases.size() > 4);
  CHECK(a.step == a.folded);
  CHECK(a.step == a.ideal);
  for (const FlowPhase& p : a.phases) CHECK(p.flow == p.ideal);
}

TEST_CASE("a thin fabric and hashes cost time, and the report says where") {
  const FlowAnswer thin = answer(qwen3_on(Shape::Routing::Adaptive, 7));
  CHECK(thin.step > thin.ideal);
  const bool named = std::any_of(thin.phases.begin(), thin.phases.end(), [](const FlowPhase& p) {
    return p.slow_down.network > 1.5 && p.bottleneck == "leaf uplinks";
  });
  CHECK(named);
  const FlowAnswer hashed = answer(qwen3_on(Shape::Routing::Ecmp, 1));
  CHECK(hashed.step > hashed.ideal);
  // The same every time; other ports, other collisions.
  CHECK(answer(qwen3_on(Shape::Routing::Ecmp, 1)).step == hashed.step);
  CHECK(answer(qwen3_on(Shape::Routing::Ecmp, 1), {.seed = 2}).step != hashed.step);
  // What all links of a layer carry is what passes them, in and out.
  for (const auto& l : hashed.layers) {
    CHECK(l.mean <= l.most * (1 + 1e-9));
    CHECK(l.most < 1);
  }
}

TEST_CASE("where the nodes lie matters on a thin fabric") {
  Scenario s = qwen3_on(Shape::Routing::Adaptive, 7);
  const FlowAnswer in_order = answer(s);
  const FlowAnswer scattered = answer(s, {.order = NodeOrder::Scattered, .seed = 3});
  CHECK(scattered.step > in_order.step);
  CHECK(scattered.folded == in_order.folded);
}

TEST_CASE("results are taken from the cache, and are the same") {
  const TemporaryFolder folder;
  const Scenario s = qwen3_on(Shape::Routing::Ecmp, 2);
  const FlowAnswer first = answer(s, {.cache = folder.path});
  CHECK(first.solved > 0);
  CHECK(first.cached == 0);
  const FlowAnswer again = answer(s, {.cache = folder.path});
  CHECK(again.solved == 0);
  CHECK(again.cached == first.solved);
  CHECK(again.step == first.step);
  // Another question has another entry.
  CHECK(answer(s, {.seed = 5, .cache = folder.path}).solved > 0);
}

TEST_CASE("dead links cost time or cut the plan in two") {
  Scenario s = qwen3_on(Shape::Routing::Adaptive, 1);
  const FlowAnswer whole = answer(s);
  s.disturbances.emplace();
  s.disturbances->dead_links = {{"gpu3", "leaf0", 0}};
  const FlowAnswer one = answer(s);
  CHECK(one.intact == whole.step);
  CHECK(one.step > whole.step);  // two GPUs share a NIC
  s.disturbances->dead_links.clear();
  for (int gpu = 0; gpu < 8; ++gpu)
    s.disturbances->dead_links.push_back({"gpu" + std::to_string(gpu), "leaf0", 0});
  const auto cut = flows(s);
  REQUIRE(std::holds_alternative<Unreachable>(cut));
  const auto& ends = std::get<Unreachable>(cut);
  CHECK((ends.from < 8 || ends.to < 8));
}

TEST_CASE("SimGrid gives the same slow-downs", "[heavy]") {
  if (!simgrid_available()) {
    WARN("SimGrid is not installed: nothing to compare with");
    return;
  }
  Scenario s = qwen3_on(Shape::Routing::Ecmp, 2, "mixtral-8x22b-128-h100.json");
  const FlowAnswer ours = answer(s), theirs = answer(s, {.simgrid = true});
  REQUIRE(ours.phases.size() == theirs.phases.size());
  CHECK(ours.step.si == Approx(theirs.step.si).epsilon(0.01));
  for (std::size_t i = 0; i < ours.phases.size(); ++i) {
    CHECK(ours.phases[i].slow_down.network ==
          Approx(theirs.phases[i].slow_down.network).epsilon(0.01));
    CHECK(ours.phases[i].slow_down.inside ==
          Approx(theirs.phases[i].slow_down.inside).epsilon(0.01));
  }
}

TEST_CASE("every op of the shipped plans has its place", "[heavy]") {
  for (const char* file : {"deepseek-v3-2048-h800.json", "deepseek-v3-2048-h800-mrft.json",
                           "mixtral-8x22b-128-h100.json", "gpt3-175b-1024-a100.json"}) {
    Scenario s = read_scenario(std::string(RECKON_SOURCE_DIR "/scenarios/") + file);
    if (!s.cluster.fabric.topology)
      s.cluster.fabric.topology =
          Shape{.radix = 64, .wiring = Shape::Wiring::Rail, .routing = Shape::Routing::Adaptive};
    CAPTURE(file);
    const FlowAnswer a = answer(s);
    CHECK(a.unplaced == std::vector<std::string>{});
    CHECK(a.phases.size() > 2);
  }
}

// Every rank is in one group of each kind, and groups are as large as their shape says.
TEST_CASE("groups share out the ranks") {
  const Scenario s = read_scenario(RECKON_SOURCE_DIR "/scenarios/deepseek-v3-2048-h800.json");
  for (const GroupKind& k : {GroupKind{"ep", 64, 1}, GroupKind{"dp", 128, 1, true},
                             GroupKind{"expert dp", 2, 64, true}}) {
    std::vector<int> seen(2048, 0);
    for (const auto& g : groups_of(k, *s.plan)) {
      CHECK(g.size() == static_cast<std::size_t>(k.size * (k.mirrored ? 2 : 1)));
      for (int rank : g) ++seen[static_cast<std::size_t>(rank)];
    }
    CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
  }
  CHECK(stage_pairs(*s.plan, true).size() == 15 * 128);
  CHECK(stage_pairs(*s.plan, false).front() == std::vector<int>{128, 0});
}
