// Calibration with whole training steps: what ops take inside of them, and the machine's speed
// beside them.
#include <algorithm>
#include <array>
#include <chrono>
#include <mutex>

#include "hw-models/catalog.h"
#include "real/calibrate.h"
#include "real/machine.h"

namespace reckon::real {

namespace {

using Clock = std::chrono::steady_clock;

// A model whose steps are calibrated with.
struct ModelSize {
  int hidden, seq;
  bool latent;
  plan::Precision precision = plan::Precision::Fp32;
};

// Of a GPU: heads of the sizes that large models have, experts that fill it.
plan::ModelShape large_model(const ModelSize& size) {
  plan::ModelShape m;
  m.name = "calibration";
  m.layers = 3, m.hidden = size.hidden, m.ffn = 4 * size.hidden, m.heads = size.hidden / 128;
  m.kv_heads = std::max(1, m.heads / 4), m.head_dim = 128;
  if (size.latent) {
    m.kv_heads = m.heads;
    m.mla = plan::Mla{.q_lora = size.hidden / 2,
                      .kv_lora = size.hidden / 4,
                      .qk_nope = 128,
                      .qk_rope = 64,
                      .v = 128};
  }
  m.moe = plan::Moe{.experts = 32,
                    .top_k = 4,
                    .ffn = size.hidden / 2,
                    .shared_ffn = size.hidden / 2,
                    .score = plan::RouterScore::Sigmoid,
                    .layers = {false, true, true}};
  m.vocab = 32768;
  return m;
}

plan::ModelShape calibration_model(int hidden, bool latent) {
  plan::ModelShape m;
  m.name = "calibration";
  m.layers = 3, m.hidden = hidden, m.ffn = 5 * hidden / 2, m.heads = 2 * std::max(1, hidden / 64);
  m.kv_heads = m.heads / 2, m.head_dim = 32;
  if (latent) {
    m.kv_heads = m.heads;
    m.mla = plan::Mla{
        .q_lora = hidden / 2, .kv_lora = hidden / 4, .qk_nope = 24, .qk_rope = 8, .v = 24};
  }
  m.moe = plan::Moe{.experts = 8,
                    .top_k = 2,
                    .ffn = 3 * hidden / 4,
                    .shared_ffn = 3 * hidden / 4,
                    .score = plan::RouterScore::Sigmoid,
                    .layers = {false, true, true}};
  m.vocab = 1536;
  return m;
}

const sim::Block& block_of(const Trainer& trainer, const sim::Event& event) {
  const sim::Role& role = trainer.program().roles[event.role];
  const std::uint32_t block =
      event.slot < role.slots.size() ? role.slots[event.slot].block : role.tail;
  return *trainer.program().blocks[block];
}

// The op of an event; null of a collective beside the slots.
const sim::Op* op_of(const Trainer& trainer, const sim::Event& event) {
  const sim::Block& b = block_of(trainer, event);
  return event.op < b.ops.size() ? &b.ops[event.op] : nullptr;
}

const sim::Work& work_of(const Trainer& trainer, const sim::Event& event) {
  const sim::Block& b = block_of(trainer, event);
  return b.works[b.ops[event.op].work];
}

// The ops of a step are those that a cluster's and a stack's rules make of it; their costs play no
// part.
Job calibration_job(const ModelSize& size, const CalibrationOptions& options, std::int64_t batch) {
  const bool cuda = options.device.cuda;
  Job job{.model = cuda ? large_model(size) : calibration_model(size.hidden, size.latent),
          .cluster = hw::cluster(cuda ? "dgx-h200" : "cpu-2"),
          .stack = hw::stack(cuda ? "reckon-cuda" : "reckon-cpu"),
          .step = {.seq = size.seq, .global_batch = batch}};
  if (cuda) job.cluster.gpus = options.ranks;
  job.plan.zero = plan::Zero::None;
  job.plan.precision = size.precision;
  job.plan.layout = plan::balanced_layout({.layers = job.model.layers}, 1);
  return job;
}

// Of one run's steps.
struct RunSamples {
  std::size_t model = 0;
  bool recompute = false;
  double reference = 0;  // seconds of it between the steps, mean over the ranks
  std::vector<Sample> ops;
  std::vector<StepSamples::Meeting> meetings;
  double gaps = 0, gap_count = 0;  // between two ops of a block
  double outside = 0, steps = 0;   // of steps, outside their ops
};

// Some steps of a job; `see` is called by every rank after each, one at a time.
void recorded(const Job& job, const CalibrationOptions& options, RunSamples& out,
              const std::function<void(const Trainer&, const StepResult&)>& see) {
  std::mutex mutex;
  run_local(options.ranks, [&](Transport& transport) {
    if (!options.device.cuda) stay_on_core(transport.rank(), transport.size());
    beside_reference(options.device, transport, [&](Reference& reference) {
      Trainer trainer(job, transport, nullptr, equipment(options.device, transport));
      trainer.step();
      for (int i = 0; i < (options.quick ? 2 : 4); ++i) {
        trainer.world().barrier();
        const StepResult r = trainer.step(true);
        reference.run();
        const std::lock_guard lock(mutex);
        see(trainer, r);
      }
      const std::lock_guard lock(mutex);
      out.reference += reference.seconds() / options.ranks;
    });
  });
}

// Ops of data-parallel steps.
void add_ops(const Job& job, const CalibrationOptions& options, RunSamples& out) {
  recorded(job, options, out, [&](const Trainer& trainer, const StepResult& r) {
    double inside = 0;
    sim::SimTime last{-1};
    std::uint32_t slot = ~0u;
    for (const sim::Event& event : trainer.executor().events()) {
      const double seconds = sim::seconds(event.end - event.start).si;
      inside += seconds;
      if (op_of(trainer, event) == nullptr) continue;
      if (event.slot == slot && last.ps >= 0) {
        out.gaps += sim::seconds(event.start - last).si;
        out.gap_count += 1;
      }
      slot = event.slot, last = event.end;
      out.ops.push_back({work_of(trainer, event), seconds});
    }
    out.outside += r.seconds - inside;
    out.steps += 1;
  });
}

// Collectives of context-parallel steps.
void add_meetings(const Job& job, const CalibrationOptions& options, RunSamples& out) {
  recorded(job, options, out, [&](const Trainer& trainer, const StepResult&) {
    sim::SimTime met{-1};
    for (const sim::Event& event : trainer.executor().events()) {
      if (event.stream != sim::Stream::Model || op_of(trainer, event) == nullptr) continue;
      if (met.ps >= 0 && event.start > met)
        out.meetings.push_back({work_of(trainer, event), sim::seconds(event.end - event.start).si,
                                sim::seconds(event.start - met).si});
      met = event.end;
    }
  });
}

}  // namespace

void Reference::run() {
  trainer_.step();
  seconds_.push_back(trainer_.step().seconds);
}

double Reference::seconds() const {
  return median(seconds_);
}

void beside_reference(const DeviceChoice& device, Transport& transport,
                      const std::function<void(Reference& reference)>& measure) {
  DeviceChoice own = device;
  if (own.cuda && !own.index)
    own.index = transport.rank() % static_cast<int>(cuda_build().devices.size());
  const Job job = calibration_job(
      device.cuda ? ModelSize{1024, 2048, true, plan::Precision::Bf16} : ModelSize{192, 96, true},
      {.device = own}, 3);
  run_local(1, [&](Transport& alone) {  // on the same core as this thread
    Trainer trainer(job, alone, nullptr, equipment(own, alone));
    Reference reference(trainer);
    measure(reference);
  });
}

double reference_seconds(const CalibrationOptions& options, double look) {
  double sum = 0;
  std::mutex mutex;
  run_local(options.ranks, [&](Transport& transport) {
    if (!options.device.cuda) stay_on_core(transport.rank(), transport.size());
    beside_reference(options.device, transport, [&](Reference& reference) {
      const Clock::time_point start = Clock::now();
      do reference.run();
      while (std::chrono::duration<double>(Clock::now() - start).count() < look);
      const std::lock_guard lock(mutex);
      sum += reference.seconds();
    });
  });
  return sum / options.ranks;
}

StepSamples measure_steps(const CalibrationOptions& options) {
  using enum plan::Precision;
  std::vector<ModelSize> sizes = {
      {64, 48, false}, {96, 96, true}, {160, 192, false}, {320, 96, true}};
  if (!options.quick) sizes.insert(sizes.end(), {{320, 320, false}, {480, 192, true}});
  if (options.device.cuda) {
    sizes = {{1024, 2048, true, Bf16}, {2048, 4096, false, Bf16}, {1024, 4096, true, Fp8DeepSeek}};
    if (!options.quick)
      sizes.insert(sizes.end(), {{2048, 2048, true, Bf16},
                                 {512, 1024, true, Bf16},
                                 {2048, 4096, true, Fp8DeepSeek},
                                 {1024, 2048, true, Fp32}});
  }
  std::vector<RunSamples> runs;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const ModelSize& size = sizes[i];
    if (options.progress) options.progress(static_cast<int>(i), static_cast<int>(sizes.size()));
    const auto next = [&](bool recompute) -> RunSamples& {
      return runs.emplace_back(RunSamples{.model = i, .recompute = recompute});
    };
    Job job = calibration_job(size, options, 3 * std::int64_t{options.ranks});
    job.plan.dp = options.ranks;
    add_ops(job, options, next(false));
    job.plan.recompute.mode = plan::Recompute::Mode::Full;
    add_ops(job, options, next(true));
    if (options.ranks == 1 || size.seq % (2 * options.ranks) != 0) continue;
    job.plan.recompute = {};
    job.plan.dp = 1;
    job.plan.cp = options.ranks;
    job.step.global_batch = 3;
    add_meetings(job, options, next(false));
  }

  std::vector<double> references;
  for (const RunSamples& r : runs) references.push_back(r.reference);
  StepSamples out{.reference = median(references)};
  struct Sums {
    double gaps = 0, gap_count = 0, outside = 0, steps = 0;
  };
  std::array<Sums, 2> sums;
  for (StepSamples::Regime* regime : {&out.usual, &out.recomputing})
    regime->models.resize(sizes.size());
  for (const RunSamples& r : runs) {
    const double speed = out.reference / r.reference;
    auto& ops = (r.recompute ? out.recomputing : out.usual).models[r.model];
    for (const Sample& s : r.ops) ops.push_back({s.work, speed * s.seconds});
    for (const StepSamples::Meeting& m : r.meetings)
      out.meetings.push_back({m.work, speed * m.seconds, speed * m.since});
    Sums& sum = sums[r.recompute];
    sum.gaps += speed * r.gaps, sum.gap_count += r.gap_count;
    sum.outside += speed * r.outside, sum.steps += r.steps;
  }
  for (const bool recompute : {false, true}) {
    const Sums& sum = sums[recompute];
    StepSamples::Regime& regime = recompute ? out.recomputing : out.usual;
    regime.gap = sum.gaps / std::max(1.0, sum.gap_count);
    regime.per_step = std::max(0.0, (sum.outside - sum.gaps) / std::max(1.0, sum.steps));
  }
  return out;
}

}  // namespace reckon::real
