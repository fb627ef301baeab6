// The cluster engine on real plans.
#include "sim/cluster.h"

#include <catch2/catch.hpp>

#include "planner/cluster_report.h"
#include "planner/disturbances.h"
#include "planner/predict.h"
#include "planner/scenario_json.h"
#include "tests/planner/scenarios.h"

using namespace reckon;
using namespace reckon::plan;

TEST_CASE(
    "undisturbed, every rank of every schedule takes what the folded engine says, to the tick") {
  const Scenario s = read_scenario(test::kScenarios + "deepseek-v3-2048-h800.json");
  int plans = 0;
  for (int pp : {2, 4, 8, 16})
    for (ScheduleKind kind : {ScheduleKind::GPipe, ScheduleKind::OneFOneB,
                              ScheduleKind::Interleaved, ScheduleKind::ZbH1, ScheduleKind::ZbH2,
                              ScheduleKind::ZbV, ScheduleKind::DualPipe, ScheduleKind::DualPipeV}) {
      Plan p = *s.plan;
      p.pp = pp;
      p.schedule = kind;
      const bool v = kind == ScheduleKind::ZbV || kind == ScheduleKind::DualPipeV;
      p.vpp = v || kind == ScheduleKind::Interleaved ? 2 : 1;
      if (kind != ScheduleKind::DualPipe && kind != ScheduleKind::DualPipeV)
        p.overlap.expert = Overlap::Expert::None;
      p.dp = 2048 / pp;
      p.layout =
          balanced_layout({.layers = s.model.layers, .mtp = s.model.mtp_depth}, p.pp * p.vpp);
      p.overlap.param_gather = pp % 8 == 0;
      p.overlap.p2p = pp != 4;
      const StepShape step{.seq = 4096, .global_batch = std::int64_t{p.dp} * 2 * pp};
      if (const auto no = why_illegal(s.model, s.cluster, s.stack, p, step)) {
        CAPTURE(describe(p), no->why, no->detail);
        CHECK_FALSE(kind == ScheduleKind::OneFOneB);
        continue;
      }
      ++plans;
      Predictor predictor(s.model, s.cluster, s.stack);
      const Predictor::Run run = predictor.run(p, step);
      const sim::ClusterRun cluster = sim::run_cluster(run.program, predictor.times(), {});
      CAPTURE(describe(p));
      REQUIRE(cluster.end == run.folded.end);
      for (std::size_t r = 0; r < cluster.ranks.size(); ++r)
        for (std::uint32_t i = 0; i < cluster.members; ++i) {
          const sim::RoleTime &a = cluster.ranks[r][i], &b = run.folded.roles[r];
          const bool same = a.f == b.f && a.b == b.b && a.w == b.w && a.bw == b.bw &&
                            a.fb == b.fb && a.wait == b.wait && a.gradients == b.gradients &&
                            a.tail == b.tail && a.idle == b.idle;
          if (!same) FAIL("rank " << i << " of role " << r << " differs");
        }
    }
  CHECK(plans >= 24);
}

TEST_CASE("GPUs are numbered stage by stage, and back") {
  Plan p{.tp = 2, .pp = 4, .dp = 3};
  for (ScheduleKind kind : {ScheduleKind::OneFOneB, ScheduleKind::DualPipe}) {
    p.schedule = kind;
    for (int gpu = 0; gpu < world_size(p); ++gpu) CHECK(gpu_of_rank(p, rank_of_gpu(p, gpu)) == gpu);
  }
  CHECK(rank_of_gpu(p, 23) == sim::RankId{0, 11});  // the last stage is the first's mirror
}

TEST_CASE("disturbances lengthen DeepSeek-V3's step, reproducibly, and their path adds up") {
  const Scenario s = read_scenario(test::kScenarios + "deepseek-v3-2048-h800.json");
  Predictor predictor(s.model, s.cluster, s.stack);
  const Predictor::Run run = predictor.run(*s.plan, {4096, 15360});
  sim::Disturbances d = disturbances(s, *s.plan, test::kScenarios, 3);
  CHECK(d.load.any());
  d.devices = {{rank_of_gpu(*s.plan, 700), 0.7}};
  const ClusterAnswer a = cluster_answer(run, predictor, *s.plan, d);
  CHECK(a.ranks == 2048);
  CHECK(a.step > 1.1 * a.undisturbed);
  CHECK(a.gpus.front().name == "GPU 700");
  Seconds path;
  for (const auto& k : a.kinds) path += k.time;
  CHECK(path.si == Approx(a.step.si - run.prediction.phases.host.si).epsilon(1e-6));
  const ClusterAnswer again = cluster_answer(run, predictor, *s.plan, d);
  CHECK(to_json(a).dump() == to_json(again).dump());
  d.seed = 4;
  CHECK(cluster_answer(run, predictor, *s.plan, d).step != a.step);
  CHECK(a.causes.size() == 3);
  const auto json = to_json(a);
  CHECK(json["disturbances"][0]["name"] == a.causes[0].name);
  CHECK(json["critical_path"]["gpus"][0]["name"] == "GPU 700");
}
