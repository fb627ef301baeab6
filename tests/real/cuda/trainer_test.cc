// The trainer on a CUDA device against the CPU: the same Program, ops, optimizer and checkpoints,
// other kernels. On the emulated device a few steps of the smallest models; on a real one
// ([equivalence]) plans of every kind, their ranks sharing the GPU.
#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>

#include "real/cuda/cuda_device.h"
#include "tests/real/temporary_folder.h"
#include "tests/real/training.h"

using namespace reckon;
using namespace reckon::plan;
using namespace reckon::real;

namespace {

std::unique_ptr<Equipment> on_gpu(Transport& transport) {
  auto e = std::make_unique<Equipment>();
  e->device = cuda::make_device(0, true);
  e->communicator = make_shared_communicator(*e->device, transport);
  return e;
}

Job job_of(const ModelShape& model, Plan p, Precision precision) {
  Job job = tiny_job(model, p);
  job.plan.precision = precision;
  return job;
}

// Losses of the two runs, relative, at their worst step.
double loss_difference(const Outcome& a, const Outcome& b) {
  double worst = a.losses.size() == b.losses.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < a.losses.size(); ++i) {
    const double d = std::abs(a.losses[i] - b.losses[i]) / std::max(1e-3, std::abs(a.losses[i]));
    if (!(d <= worst)) worst = d;
  }
  return worst;
}

// What fp32 sums in another order may do to weights in these steps, and bf16 rounding to a loss:
// the CPU rounds values to bf16 where the GPU stores them so, but not in between.
constexpr double kFp32 = 2e-5, kBf16 = 5e-3, kFp8 = 1e-2;

double tolerance(Precision p) {
  return p == Precision::Fp32 ? kFp32 : p == Precision::Bf16 ? kBf16 : kFp8;
}

void compare(const char* name, const Job& job, int steps) {
  const Outcome cpu = trained(job, steps), gpu = trained(job, steps, on_gpu);
  const double loss = loss_difference(cpu, gpu);
  fmt::print("{:16} {:44} loss {:.1e}", job.model.name, name, loss);
  CHECK(loss <= tolerance(job.plan.precision));
  if (job.plan.precision == Precision::Fp32) {
    const double weights = difference(cpu, gpu);
    fmt::print(", weights {:.1e}", weights);
    CHECK(weights <= 1e-4);
  }
  fmt::print("\n");
}

#ifdef RECKON_CUDA_EMULATION
constexpr int kSteps = 1;
ModelShape smallest(ModelShape m) {
  m.layers = 2;
  if (m.moe) m.moe->layers = {false, true};
  return m;
}
Job smaller(Job job) {
  const int micro_batches = job.plan.pp > 1 ? 4 : 2;  // DualPipe has two a stage
  job.step = {.seq = 16, .global_batch = std::int64_t{micro_batches} * job.plan.dp};
  // Adam's first step is g / (|g| + eps): where g is 0 but for rounding, eps has to be above that.
  job.recipe.eps = 1e-4;
  return job;
}
#endif

}  // namespace

#ifdef RECKON_CUDA_EMULATION

TEST_CASE("cuda: a step of every op on the device is the CPU's") {
  using enum Precision;
  for (const Precision precision : {Fp32, Bf16, Fp8DeepSeek})
    compare(fmt::format("serial {}", static_cast<int>(precision)).c_str(),
            smaller(job_of(smallest(tiny_deepseek()), {.zero = Zero::None}, precision)), kSteps);
  compare("serial", smaller(job_of(smallest(tiny_mixture()), {.zero = Zero::None}, Fp32)), kSteps);
  compare("serial", smaller(job_of(smallest(tiny_gpt()), {.zero = Zero::None}, Fp32)), kSteps);
}

TEST_CASE("cuda: ranks that share a device train as CPU ranks") {
  const Overlap pairs{.expert = Overlap::Expert::Pair};
  const auto run = [](const char* name, const Plan& p) {
    compare(name, smaller(job_of(smallest(tiny_deepseek()), p, Precision::Fp32)), kSteps);
  };
  run("dp2 ep2", {.dp = 2, .ep = 2});
  run("DualPipe pp2", {.pp = 2, .schedule = ScheduleKind::DualPipe, .overlap = pairs});
}

#else

TEST_CASE("cuda: every plan trains as on the CPU", "[equivalence]") {
  using enum ScheduleKind;
  using Mode = Recompute::Mode;
  const auto modules = [](std::uint32_t bits) { return Recompute{Mode::Selective, bits}; };
  const Overlap pairs{.expert = Overlap::Expert::Pair};
  struct Case {
    const char* name;
    Plan plan;
  };
  const Case plans[] = {
      {"serial", {.zero = Zero::None}},
      {"micro-batches of 2", {.micro_batch = 2, .zero = Zero::None}},
      {"recompute full", {.recompute = {Mode::Full}}},
      {"recompute norms, mixtures, MLPs", {.recompute = modules(kNorm | kMoe | kMlp)}},
      {"recompute MLA, activations", {.recompute = modules(kMlaUp | kActivation)}},
      {"GPipe pp2", {.pp = 2, .schedule = GPipe}},
      {"1F1B pp4", {.pp = 4, .schedule = OneFOneB}},
      {"interleaved pp2 vpp2", {.pp = 2, .vpp = 2, .schedule = Interleaved}},
      {"ZB-H1 pp2", {.pp = 2, .schedule = ZbH1}},
      {"ZB-H2 pp2", {.pp = 2, .schedule = ZbH2}},
      {"ZB-V pp2", {.pp = 2, .vpp = 2, .schedule = ZbV}},
      {"DualPipe pp2", {.pp = 2, .schedule = DualPipe, .overlap = pairs}},
      {"DualPipeV pp2", {.pp = 2, .vpp = 2, .schedule = DualPipeV, .overlap = pairs}},
      {"dp2", {.dp = 2, .zero = Zero::None}},
      {"dp2 ZeRO-1", {.dp = 2}},
      {"ep2", {.dp = 2, .ep = 2}},
      {"ep8", {.dp = 8, .ep = 8}},
      {"tp2", {.tp = 2}},
      {"tp2 dp2 ep4", {.tp = 2, .dp = 2, .ep = 4}},
      {"cp2 ep2", {.cp = 2, .ep = 2}},
      {"DualPipe pp2 dp2 ep2 recompute mixtures",
       {.pp = 2,
        .dp = 2,
        .ep = 2,
        .schedule = DualPipe,
        .recompute = modules(kMoe),
        .overlap = pairs}},
      {"pp2 tp2 cp2 ep4", {.tp = 2, .pp = 2, .cp = 2, .ep = 4}},
  };
  constexpr int kSteps = 20;
  for (const auto& [name, p] : plans)
    compare(name, job_of(tiny_deepseek(), p, Precision::Fp32), kSteps);
  for (const Precision precision : {Precision::Bf16, Precision::Fp8DeepSeek})
    for (const Plan& p : {Plan{.zero = Zero::None}, Plan{.dp = 2, .ep = 2},
                          Plan{.pp = 2, .schedule = DualPipe, .overlap = pairs}})
      compare(fmt::format("{} precision {}", describe(p), static_cast<int>(precision)).c_str(),
              job_of(tiny_deepseek(), p, precision), kSteps);
  compare("tiny mixture, cp2 ep2", job_of(tiny_mixture(), {.cp = 2, .ep = 2}, Precision::Fp32),
          kSteps);
  compare("tiny GPT, tp2 pp2", job_of(tiny_gpt(), {.tp = 2, .pp = 2}, Precision::Fp32), kSteps);
}

TEST_CASE("cuda: with `deterministic` a run has the same bits again", "[equivalence]") {
  const Job job = job_of(tiny_deepseek(), {.dp = 2, .ep = 2}, Precision::Bf16);
  CHECK(identical(trained(job, 5, on_gpu), trained(job, 5, on_gpu)));
}

#endif

TEST_CASE("cuda: checkpoints go from the CPU to the device and back") {
  Job job = job_of(tiny_mixture(), {.zero = Zero::None}, Precision::Bf16);
  job.model.layers = 1, job.model.moe->layers = {true};
  job.plan.layout = balanced_layout({.layers = 1}, 1);
  job.step = {.seq = 16, .global_batch = 1};
  const TemporaryFolder folder;
  const auto run = [&](const Equip& equip, int until) {
    Outcome out;
    run_local(1, [&](Transport& transport) {
      Trainer trainer(job, transport, nullptr, equip(transport));
      trainer.resume(folder.path, nullptr);
      while (trainer.steps_done() < until) out.losses.push_back(trainer.step().loss);
      if (!out.losses.empty()) trainer.save(folder.path);
      for (const SavedPiece& p : trainer.optimizer().saved())
        out.tensors[p.piece.tensor].assign(p.values, p.values + p.piece.count);
    });
    return out;
  };
  const Outcome cpu = run(cpu_equipment, 1);
  // Loaded and saved again without a step in between: the same bits.
  CHECK(run(on_gpu, 1).tensors == cpu.tensors);
  const Outcome gpu = run(on_gpu, 2);
  REQUIRE(gpu.losses.size() == 1);
  const Outcome back = run(cpu_equipment, 2);
  CHECK(back.losses.empty());
  CHECK(back.tensors == gpu.tensors);
}
