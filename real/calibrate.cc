#include "real/calibrate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <mutex>
#include <random>

#include "real/kernels.h"
#include "real/machine.h"

namespace reckon::real {

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

// One op to time: its description, and a function that runs it once with the operands of set `i`.
struct Case {
  sim::Work work;
  std::function<void(int set)> run;
};

// Operands alternate between sets, as they do between the layers of a step.
constexpr int kSets = 4;

// Median time of a case on this rank. Ranks start together.
double time_case(const Case& c, Group& world) {
  c.run(0);  // scratch, page faults
  world.barrier();
  // One run says how many fit into the time for a case.
  const Clock::time_point first = Clock::now();
  c.run(1);
  float slowest = static_cast<float>(since(first));
  world.all_reduce_max(&slowest, 1);  // all ranks repeat as often
  const double once = std::max<double>(1e-7, slowest);
  const int batch = std::clamp(static_cast<int>(2e-4 / once), 1, 1000);
  const int batches = std::clamp(static_cast<int>(4e-3 / (once * batch)), 3, 15);
  std::vector<double> times;
  for (int b = 0; b < batches; ++b) {
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < batch; ++i) c.run(i % kSets);
    times.push_back(since(start) / batch);
  }
  return median(std::move(times));
}

// Times the cases on all ranks at once; `cases_of(world)` makes a rank's own.
std::vector<Sample> timed(const CalibrationOptions& options,
                          const std::function<std::vector<Case>(Group& world)>& cases_of) {
  std::vector<Sample> samples;
  std::mutex mutex;
  run_local(options.ranks, [&](Transport& transport) {
    stay_on_core(transport.rank(), transport.size());
    std::vector<int> all;
    for (int r = 0; r < transport.size(); ++r) all.push_back(r);
    const auto world = make_group(transport, all, 0);
    std::vector<Case> cases = cases_of(*world);
    {
      const std::lock_guard lock(mutex);
      if (samples.empty())
        for (const Case& c : cases) samples.push_back({c.work, 0});
    }
    for (std::size_t i = 0; i < cases.size(); ++i) {
      if (transport.rank() == 0 && options.progress)
        options.progress(static_cast<int>(i), static_cast<int>(cases.size()));
      const double seconds = time_case(cases[i], *world);
      cases[i].run = nullptr;  // frees its operands
      const std::lock_guard lock(mutex);
      samples[i].seconds += seconds / options.ranks;
    }
  });
  return samples;
}

// Numbers that no kernel treats specially.
std::shared_ptr<std::vector<float>> operands(std::int64_t n) {
  auto v = std::make_shared<std::vector<float>>(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < v->size(); ++i)
    (*v)[i] = 0.01f * static_cast<float>(static_cast<int>(i * 2654435761u % 201) - 100);
  return v;
}

Case product_case(const sim::MatMul& op) {
  const std::int64_t a = op.m * op.k, w = op.n * op.k, y = op.m * op.n;
  const auto x = operands(kSets * a), weights = operands(kSets * w), out = operands(kSets * y);
  const cpu::LinearShape shape{
      op.m, op.n, op.k,
      op.dtype == sim::DType::Fp8Block ? cpu::Numbers::Fp8Block : cpu::Numbers::Fp32};
  return {op, [=](int set) {
            float *px = x->data() + set * a, *pw = weights->data() + set * w,
                  *py = out->data() + set * y;
            switch (op.pass) {
              case sim::Pass::Forward: return cpu::linear_forward(shape, px, pw, py);
              case sim::Pass::InputGrad: return cpu::linear_input_grad(shape, py, pw, px);
              case sim::Pass::WeightGrad:
                std::fill(pw, pw + w, 0.0f);  // sums must not grow without end
                return cpu::linear_weight_grad(shape, py, px, pw);
            }
          }};
}

Case attention_case(const sim::Attention& op) {
  const std::int64_t q = op.batch * op.seq_q * op.heads * op.qk_dim,
                     k = op.batch * op.seq_k * op.kv_heads * op.qk_dim,
                     v = op.batch * op.seq_k * op.kv_heads * op.v_dim,
                     o = op.batch * op.seq_q * op.heads * op.v_dim;
  const auto qs = operands(q), ks = operands(k), vs = operands(v), os = operands(o),
             lse = operands(op.batch * op.heads * op.seq_q), dq = operands(q), dk = operands(k),
             dv = operands(v), dos = operands(o);
  const cpu::AttentionShape shape{
      .batch = op.batch,
      .heads = op.heads,
      .kv_heads = op.kv_heads,
      .seq_q = op.seq_q,
      .seq_k = op.seq_k,
      .qk_dim = op.qk_dim,
      .v_dim = op.v_dim,
      .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(op.qk_dim)))};
  cpu::attention_forward(shape, qs->data(), ks->data(), vs->data(), os->data(), lse->data());
  return {op, [=](int) {
            if (!op.backward)
              cpu::attention_forward(shape, qs->data(), ks->data(), vs->data(), os->data(),
                                     lse->data());
            else
              cpu::attention_backward(shape, qs->data(), ks->data(), vs->data(), os->data(),
                                      lse->data(), dos->data(), dq->data(), dk->data(), dv->data());
          }};
}

constexpr sim::Pass kPasses[] = {sim::Pass::Forward, sim::Pass::InputGrad, sim::Pass::WeightGrad};
constexpr double kLargestProduct = 0.3e9;  // m n k: some milliseconds of one core

sim::Attention attention_of(std::int64_t seq, std::int64_t width, bool backward) {
  return {.batch = 1,
          .heads = 4,
          .kv_heads = 4,
          .seq_q = seq,
          .seq_k = seq,
          .qk_dim = width / 2,
          .v_dim = width - width / 2,
          .backward = backward,
          .dtype = sim::DType::Fp32};
}

}  // namespace

CalibrationAxes calibration_axes(bool quick) {
  if (quick)
    return {.m = {8, 32, 128, 512},
            .n = {32, 128, 512},
            .k = {32, 128, 512},
            .seq = {64, 256},
            .width = {64, 128},
            .bytes = {64, 4096, 262144, 1 << 22}};
  return {.m = {4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048},
          .n = {16, 32, 64, 128, 256, 512, 1024, 2048},
          .k = {16, 32, 64, 128, 256, 512, 1024, 2048},
          .seq = {32, 64, 128, 256, 512, 1024, 2048},
          .width = {16, 32, 64, 128, 256, 320},
          .bytes = {64, 512, 4096, 32768, 131072, 1 << 19, 1 << 21, 1 << 23, 1 << 25}};
}

std::vector<Sample> measure_products(const CalibrationOptions& options) {
  const CalibrationAxes axes = calibration_axes(options.quick);
  return timed(options, [&](Group&) {
    std::vector<Case> cases;
    for (const sim::Pass pass : kPasses)
      for (std::int64_t m : axes.m)
        for (std::int64_t n : axes.n)
          for (std::int64_t k : axes.k)
            if (static_cast<double>(m * n * k) <= kLargestProduct)
              cases.push_back(
                  {sim::MatMul{.m = m, .n = n, .k = k, .pass = pass, .dtype = sim::DType::Fp32},
                   nullptr});
    // Operands are made when their turn comes, and freed after it.
    for (Case& c : cases) {
      auto made = std::make_shared<Case>();
      const sim::MatMul op = std::get<sim::MatMul>(c.work);
      c.run = [made, op](int set) {
        if (!made->run) *made = product_case(op);
        made->run(set);
      };
    }
    return cases;
  });
}

std::vector<Sample> measure_attention(const CalibrationOptions& options) {
  const CalibrationAxes axes = calibration_axes(options.quick);
  return timed(options, [&](Group&) {
    std::vector<Case> cases;
    for (bool backward : {false, true})
      for (std::int64_t seq : axes.seq)
        for (std::int64_t width : axes.width)
          cases.push_back(attention_case(attention_of(seq, width, backward)));
    return cases;
  });
}

std::vector<Sample> measure_other_shapes(const CalibrationOptions& options) {
  return timed(options, [&](Group&) {
    std::mt19937 random(7);  // the same shapes on every rank
    const auto pick = [&](double low, double high) {
      const double u = static_cast<double>(random()) / 4294967296.0;
      return static_cast<std::int64_t>(low * std::pow(high / low, u));
    };
    std::vector<Case> cases;
    while (cases.size() < (options.quick ? 12u : 60u)) {
      const sim::MatMul op{.m = pick(8, 1500),
                           .n = pick(24, 1500),
                           .k = pick(24, 1500),
                           .pass = kPasses[cases.size() % 3],
                           .dtype = sim::DType::Fp32};
      if (static_cast<double>(op.m * op.n * op.k) <= kLargestProduct)
        cases.push_back(product_case(op));
    }
    for (int i = 0; i < (options.quick ? 4 : 16); ++i)
      cases.push_back(attention_case(attention_of(pick(40, 1500), 8 * pick(3, 30), i % 2 == 1)));
    return cases;
  });
}

std::vector<Sample> measure_exchanges(const CalibrationOptions& options) {
  if (options.ranks < 2) return {};
  const CalibrationAxes axes = calibration_axes(options.quick);
  const int ranks = options.ranks;
  return timed(options, [&](Group& world) {
    std::vector<Case> cases;
    for (std::int64_t bytes : axes.bytes) {
      const auto n = static_cast<std::size_t>(bytes) / sizeof(float);
      const std::size_t part = std::max<std::size_t>(1, n / static_cast<std::size_t>(ranks));
      const auto in = operands(static_cast<std::int64_t>(part) * ranks),
                 out = operands(static_cast<std::int64_t>(part) * ranks);
      const auto add = [&](sim::CollectiveKind kind, std::function<void()> run) {
        cases.push_back({sim::Collective{.kind = kind,
                                         .bytes = Bytes(static_cast<double>(bytes)),
                                         .group = {.size = ranks, .per_node = ranks}},
                         [in, out, run](int) { run(); }});
      };
      Group* g = &world;
      float *pi = in->data(), *po = out->data();
      add(sim::CollectiveKind::AllGather, [=] { g->all_gather(pi, po, part); });
      add(sim::CollectiveKind::ReduceScatter, [=] { g->reduce_scatter(pi, po, part); });
      add(sim::CollectiveKind::AllReduce, [=] {
        g->all_reduce(po, part * static_cast<std::size_t>(ranks));
        std::fill_n(po, 1, 0.0f);
      });
      const std::vector<std::size_t> counts(static_cast<std::size_t>(ranks), part);
      add(sim::CollectiveKind::AllToAll, [=] { g->all_to_all(pi, counts, po, counts); });
      // Between neighbours: one rank's buffer to all is what a broadcast among two does.
      cases.push_back(
          {sim::Transfer{.bytes = Bytes(static_cast<double>(bytes)), .inter_node = false},
           [in, out, g, pi, n](int) { g->broadcast(pi, n, 0); }});
    }
    return cases;
  });
}

namespace {

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

}  // namespace

namespace {

// The op of an event; null of a collective beside the slots.
const sim::Op* op_of(const Trainer& trainer, const sim::Event& event) {
  const sim::Role& role = trainer.program().roles[event.role];
  const std::uint32_t block =
      event.slot < role.slots.size() ? role.slots[event.slot].block : role.tail;
  const sim::Block& b = *trainer.program().blocks[block];
  return event.op < b.ops.size() ? &b.ops[event.op] : nullptr;
}

const sim::Work& work_of(const Trainer& trainer, const sim::Event& event) {
  const sim::Role& role = trainer.program().roles[event.role];
  const std::uint32_t block =
      event.slot < role.slots.size() ? role.slots[event.slot].block : role.tail;
  const sim::Block& b = *trainer.program().blocks[block];
  return b.works[b.ops[event.op].work];
}

// Some steps of a job; `see` is called by every rank after each.
void recorded(const Job& job, const CalibrationOptions& options,
              const std::function<void(const Trainer&, const StepResult&)>& see) {
  run_local(options.ranks, [&](Transport& transport) {
    stay_on_core(transport.rank(), transport.size());
    Trainer trainer(job, transport);
    trainer.step();
    for (int i = 0; i < (options.quick ? 2 : 4); ++i) {
      const StepResult r = trainer.step(true);
      see(trainer, r);
    }
  });
}

}  // namespace

StepSamples measure_steps(const CalibrationOptions& options, const hw::Cluster& cluster,
                          const hw::Stack& stack) {
  StepSamples out;
  double gaps = 0, outside = 0, steps = 0, gap_count = 0;
  struct Size {
    int hidden, seq;
    bool latent;
  };
  std::vector<Size> sizes = {{64, 48, false}, {96, 96, true}, {160, 192, false}, {320, 96, true}};
  if (!options.quick) sizes.insert(sizes.end(), {{320, 320, false}, {480, 192, true}});
  std::mutex mutex;
  for (const Size& size : sizes) {
    if (options.progress)
      options.progress(static_cast<int>(out.models.size()), static_cast<int>(sizes.size()));
    std::vector<Sample>& ops = out.models.emplace_back();
    Job job{.model = calibration_model(size.hidden, size.latent),
            .cluster = cluster,
            .stack = stack,
            .step = {.seq = size.seq, .global_batch = 3 * std::int64_t{options.ranks}}};
    job.plan.dp = options.ranks;
    job.plan.zero = plan::Zero::None;
    job.plan.precision = plan::Precision::Fp32;
    job.plan.layout = plan::balanced_layout({.layers = job.model.layers}, 1);
    recorded(job, options, [&](const Trainer& trainer, const StepResult& r) {
      const Executor& e = trainer.executor();
      const std::lock_guard lock(mutex);
      double inside = 0;
      sim::SimTime last{-1};
      std::uint32_t slot = ~0u;
      for (const sim::Event& event : e.events()) {
        const double seconds = sim::seconds(event.end - event.start).si;
        inside += seconds;
        const sim::Op* op = op_of(trainer, event);
        if (op == nullptr) continue;
        if (event.slot == slot && last.ps >= 0) {
          gaps += sim::seconds(event.start - last).si;
          gap_count += 1;
        }
        slot = event.slot, last = event.end;
        ops.push_back({work_of(trainer, event), seconds});
      }
      outside += r.seconds - inside;
      steps += 1;
    });
    if (options.ranks == 1 || size.seq % (2 * options.ranks) != 0) continue;
    job.plan.dp = 1;
    job.plan.cp = options.ranks;
    job.step.global_batch = 3;
    recorded(job, options, [&](const Trainer& trainer, const StepResult&) {
      const Executor& e = trainer.executor();
      const std::lock_guard lock(mutex);
      sim::SimTime met{-1};
      for (const sim::Event& event : e.events()) {
        if (event.stream != sim::Stream::Model || op_of(trainer, event) == nullptr) continue;
        if (met.ps >= 0 && event.start > met)
          out.meetings.push_back({work_of(trainer, event), sim::seconds(event.end - event.start).si,
                                  sim::seconds(event.start - met).si});
        met = event.end;
      }
    });
  }
  out.gap = gaps / std::max(1.0, gap_count);
  out.per_step = std::max(0.0, outside / steps - gaps / steps);
  return out;
}

}  // namespace reckon::real
