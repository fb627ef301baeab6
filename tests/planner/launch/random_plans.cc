#include "tests/planner/launch/random_plans.h"

#include "hw-models/hardware_fields.h"
#include "planner/model_fields.h"

namespace reckon::test {

using namespace plan;

namespace {

template <class T>
T entry(const std::string& name) {
  return hw::Catalogue<T>::entries().at(name);
}

}  // namespace

std::optional<launch::Job> RandomPlans::draw() {
  launch::Job job;
  const auto& models = hw::Catalogue<ModelShape>::entries();
  auto model = models.begin();
  std::advance(model, static_cast<std::ptrdiff_t>(random_() % models.size()));
  job.name = model->first;
  job.model = model->second;
  if (coin(4)) job.model.mtp_depth = 0;
  job.cluster = entry<hw::Cluster>(any_of(
      {"dgx-a100", "dgx-h100", "h800-2048", "dgx-h200", "dgx-b200", "dgx-b300", "gb200-nvl72"}));
  job.stack = entry<hw::Stack>(
      any_of({"megatron-core-2024", "nemo-2025", "megatron-bridge-2025", "megatron-bridge-2026",
              "torchtitan-2024", "deepseek", "fsdp-2023"}));
  job.step.seq = any_of({2048, 4096, 8192});
  job.steps = 1000;

  Plan& p = job.plan;
  p.tp = any_of({1, 1, 2, 4, 8});
  p.pp = any_of({1, 1, 2, 4, 8, 16});
  p.cp = any_of({1, 1, 1, 2, 4});
  p.dp = any_of({1, 2, 4, 8, 16, 32, 64});
  job.cluster.gpus = world_size(p);
  if (job.model.moe) {
    p.ep = any_of({1, 2, 4, 8, 16, 32, 64});
    p.etp = coin(3) ? p.tp : 1;
  }
  p.micro_batch = any_of({1, 2, 4});
  job.step.global_batch = std::int64_t{p.dp} * p.micro_batch * any_of({1, 2, 8, 16, 32, 48, 64});
  p.schedule = any_of({ScheduleKind::OneFOneB, ScheduleKind::OneFOneB, ScheduleKind::Interleaved,
                       ScheduleKind::Interleaved, ScheduleKind::GPipe, ScheduleKind::ZbH1,
                       ScheduleKind::ZbV, ScheduleKind::DualPipe, ScheduleKind::DualPipeV});
  if (p.pp == 1) p.schedule = ScheduleKind::OneFOneB;
  if (p.schedule == ScheduleKind::Interleaved) p.vpp = any_of({2, 3, 4});
  if (p.schedule == ScheduleKind::ZbV || p.schedule == ScheduleKind::DualPipeV) p.vpp = 2;
  if (p.pp * p.vpp > job.model.layers) return std::nullopt;
  p.layout = balanced_layout({.layers = job.model.layers, .mtp = job.model.mtp_depth}, p.pp * p.vpp,
                             coin());
  switch (random_() % 4) {
    case 0: p.recompute.mode = Recompute::Mode::None; break;
    case 1:
      p.recompute.mode = Recompute::Mode::Full;
      if (coin()) p.recompute.full_layers = 1;
      break;
    default:
      p.recompute = {.mode = Recompute::Mode::Selective,
                     .modules = static_cast<std::uint32_t>(1 + random_() % 127)};
      if (coin(4)) p.recompute.modules = kPerOp;
  }
  p.precision = any_of({Precision::Bf16, Precision::Bf16, Precision::Fp16, Precision::Fp8,
                        Precision::Fp8DeepSeek, Precision::Mxfp8});
  p.zero = any_of({Zero::None, Zero::Optimizer, Zero::Optimizer, Zero::Gradients, Zero::Full});
  if (coin(6) && p.dp * p.cp > 1) p.shard_group = p.dp * p.cp / any_of({1, 2});
  p.sequence_parallel = !coin(6);
  p.overlap = {
      .grad_reduce = !coin(4),
      .param_gather = !coin(3),
      .tp = coin(3),
      .p2p = coin(),
      .expert = any_of({Overlap::Expert::None, Overlap::Expert::OneFOneB, Overlap::Expert::Pair})};
  if (coin(4)) p.comm_sms = any_of({8, 20, 24});
  p = launch::canonical(p, job.model);
  if (why_illegal(job.model, job.cluster, job.stack, p, job.step)) return std::nullopt;
  return job;
}

launch::Job RandomPlans::next() {
  for (;;)
    if (auto job = draw()) return *job;
}

}  // namespace reckon::test
