#include "real/calibrate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <mutex>
#include <numeric>
#include <random>

#include "hw-models/catalog.h"
#include "real/kernels.h"
#include "real/machine.h"

namespace reckon::real {

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Where a rank measures.
struct Bench {
  Device& device;
  TensorGroup& world;
  Meter& meter;
  Tensor numbers;  // that no kernel treats specially: operands are parts of it
  Queue& q() const { return device.compute(); }
};

// One op to time: its description, and a function that enqueues it once with the operands of set
// `i`.
struct Case {
  sim::Work work;
  std::function<void(int set)> run;
};

// Operands alternate between sets, as they do between the layers of a step.
constexpr int kSets = 4;

// Runs the case `n` times; seconds.
double time_of(const Case& c, Bench& b, int n) {
  Queue& q = b.q();
  if (!b.device.remote()) {
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < n; ++i) c.run(i % kSets);
    return since(start);
  }
  const Mark from = q.stamp();
  for (int i = 0; i < n; ++i) c.run(i % kSets);
  const Mark to = q.stamp();
  q.finish();
  return b.device.between(from, to).si;
}

// Median time of a case on this rank. Ranks start together.
double time_case(const Case& c, Bench& b) {
  c.run(0);  // scratch, page faults, algorithms of a library
  c.run(1);
  b.q().finish();
  b.world.host().barrier();
  // One run says how many fit into the time for a case.
  float slowest = static_cast<float>(time_of(c, b, 1));
  b.world.host().all_reduce_max(&slowest, 1);  // all ranks repeat as often
  const double once = std::max<double>(1e-7, slowest);
  const int batch = std::clamp(static_cast<int>(2e-4 / once), 1, 1000);
  const int batches = std::clamp(static_cast<int>(4e-3 / (once * batch)), 3, 15);
  std::vector<double> times;
  for (int i = 0; i < batches; ++i) times.push_back(time_of(c, b, batch) / batch);
  return median(std::move(times));
}

std::vector<float> odd_numbers(std::int64_t n) {
  std::vector<float> v(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < v.size(); ++i)
    v[i] = 0.01f * static_cast<float>(static_cast<int>(i * 2654435761u % 201) - 100);
  return v;
}

// Times the cases on all ranks at once; `cases_of(bench)` makes a rank's own.
std::vector<Sample> timed(const CalibrationOptions& options,
                          const std::function<std::vector<Case>(Bench& b)>& cases_of) {
  std::vector<Sample> samples;
  std::mutex mutex;
  run_local(options.ranks, [&](Transport& transport) {
    if (!options.device.cuda) stay_on_core(transport.rank(), transport.size());
    const std::unique_ptr<Equipment> e = equipment(options.device, transport);
    Meter meter(e->device->memory());
    std::vector<int> all;
    for (int r = 0; r < transport.size(); ++r) all.push_back(r);
    const auto world = e->communicator->group(all, 0);
    Bench bench{*e->device, *world, meter, {}};
    std::vector<Case> cases = cases_of(bench);
    {
      const std::lock_guard lock(mutex);
      if (samples.empty())
        for (const Case& c : cases) samples.push_back({c.work, 0});
    }
    for (std::size_t i = 0; i < cases.size(); ++i) {
      if (transport.rank() == 0 && options.progress)
        options.progress(static_cast<int>(i), static_cast<int>(cases.size()));
      const double seconds = time_case(cases[i], bench);
      cases[i].run = nullptr;  // frees its operands
      const std::lock_guard lock(mutex);
      samples[i].seconds += seconds / options.ranks;
    }
    bench.q().finish();
  });
  return samples;
}

// A tensor of such numbers for several sets of n.
Tensor operands(const Bench& b, std::int64_t n, Element e = Element::Fp32) {
  Queue& q = b.q();
  Tensor t(b.meter, n, {.element = e, .queue = q.index()});
  // The numbers repeat a pattern: making them would take longer than the kernels do.
  const std::int64_t pattern = std::min<std::int64_t>(n, 1 << 16);
  const std::vector<float> host = odd_numbers(pattern);
  const Tensor wide(b.meter, pattern, {.queue = q.index()});
  q.upload(host.data(), q(wide), pattern);
  for (std::int64_t at = 0; at < n; at += pattern)
    q.copy(q(wide), q(t) + at, std::min(pattern, n - at));
  return t;
}

bool is_narrow(sim::DType d) {
  return d != sim::DType::Fp32;
}
cpu::Numbers numbers_of(sim::DType d) {
  return d == sim::DType::Fp8Block ? cpu::Numbers::Fp8Block
         : d == sim::DType::Bf16   ? cpu::Numbers::Bf16
                                   : cpu::Numbers::Fp32;
}

Case product_case(const Bench& b, const sim::MatMul& op) {
  const std::int64_t a = op.m * op.k, w = op.n * op.k, y = op.m * op.n;
  const Element e = is_narrow(op.dtype) ? b.device.narrow() : Element::Fp32;
  const bool gradient = op.pass == sim::Pass::WeightGrad;
  const Tensor x = operands(b, kSets * a, e), out = operands(b, kSets * y, e),
               weights = operands(b, kSets * w, gradient ? Element::Fp32 : e);
  const cpu::LinearShape shape{op.m, op.n, op.k, numbers_of(op.dtype)};
  Queue& q = b.q();
  return {op, [=, &q](int set) {
            const View px = q(x) + set * a, pw = q(weights) + set * w, py = q(out) + set * y;
            switch (op.pass) {
              case sim::Pass::Forward: return q.linear_forward(shape, px, pw, py);
              case sim::Pass::InputGrad: return q.linear_input_grad(shape, py, pw, px, false);
              case sim::Pass::WeightGrad:
                q.zero(pw, w);  // sums must not grow without end
                return q.linear_weight_grad(shape, py, px, pw);
            }
          }};
}

Case attention_case(const Bench& b, const sim::Attention& op) {
  const Element e = is_narrow(op.dtype) ? b.device.narrow() : Element::Fp32;
  const auto make = [&](std::int64_t n) { return operands(b, n, e); };
  const std::int64_t n_q = op.batch * op.seq_q * op.heads * op.qk_dim,
                     n_k = op.batch * op.seq_k * op.kv_heads * op.qk_dim,
                     n_v = op.batch * op.seq_k * op.kv_heads * op.v_dim,
                     n_o = op.batch * op.seq_q * op.heads * op.v_dim;
  const Tensor qs = make(n_q), ks = make(n_k), vs = make(n_v), os = make(n_o), dq = make(n_q),
               dk = make(n_k), dv = make(n_v), dos = make(n_o),
               lse = operands(b, op.batch * op.heads * op.seq_q);
  const cpu::AttentionShape shape{
      .batch = op.batch,
      .heads = op.heads,
      .kv_heads = op.kv_heads,
      .seq_q = op.seq_q,
      .seq_k = op.seq_k,
      .qk_dim = op.qk_dim,
      .v_dim = op.v_dim,
      .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(op.qk_dim)))};
  Queue& q = b.q();
  q.attention_forward(shape, q(qs), q(ks), q(vs), q(os), floats(q(lse)));
  return {op, [=, &q](int) {
            if (!op.backward)
              q.attention_forward(shape, q(qs), q(ks), q(vs), q(os), floats(q(lse)));
            else
              q.attention_backward(shape,
                                   {.q = q(qs),
                                    .k = q(ks),
                                    .v = q(vs),
                                    .out = q(os),
                                    .lse = floats(q(lse)),
                                    .dout = q(dos)},
                                   {.q = q(dq), .k = q(dk), .v = q(dv)});
          }};
}

constexpr sim::Pass kPasses[] = {sim::Pass::Forward, sim::Pass::InputGrad, sim::Pass::WeightGrad};

sim::Attention attention_of(const CalibrationAxes& axes, std::int64_t seq, std::int64_t width,
                            bool backward) {
  // MLA's heads have 192 for queries and keys, 128 for values.
  const std::int64_t qk = width == 320 ? 192 : width / 2;
  return {.batch = 1,
          .heads = axes.heads,
          .kv_heads = axes.heads,
          .seq_q = seq,
          .seq_k = seq,
          .qk_dim = qk,
          .v_dim = width - qk,
          .backward = backward,
          .dtype = axes.dtypes.front()};
}

bool is_short(const CalibrationAxes& axes, std::int64_t m, std::int64_t n, std::int64_t k) {
  return static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) <=
         axes.largest_product;
}

}  // namespace

CalibrationAxes calibration_axes(const CalibrationOptions& options) {
  if (options.device.cuda)
    return {.m = options.quick ? std::vector<std::int64_t>{256, 4096}
                               : std::vector<std::int64_t>{64, 256, 1024, 4096, 16384},
            .n = {256, 1024, 4096, 8192},
            .k = {256, 1024, 4096, 8192},
            .seq = options.quick ? std::vector<std::int64_t>{512, 2048}
                                 : std::vector<std::int64_t>{256, 512, 1024, 2048, 4096, 8192},
            .width = {128, 256, 320},
            .bytes = {1 << 12, 1 << 16, 1 << 20, 1 << 24, 1 << 28},
            .dtypes = {sim::DType::Bf16, sim::DType::Fp8Block, sim::DType::Fp32},
            .largest_product = 1.2e12,
            .heads = 16};
  CalibrationAxes axes{.m = {8, 32, 128, 512},
                       .n = {32, 128, 512},
                       .k = {32, 128, 512},
                       .seq = {64, 256},
                       .width = {64, 128},
                       .bytes = {64, 4096, 262144, 1 << 22}};
  if (!options.quick)
    axes = {.m = {4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048},
            .n = {16, 32, 64, 128, 256, 512, 1024, 2048},
            .k = {16, 32, 64, 128, 256, 512, 1024, 2048},
            .seq = {32, 64, 128, 256, 512, 1024, 2048},
            .width = {16, 32, 64, 128, 256, 320},
            .bytes = {64, 512, 4096, 32768, 131072, 1 << 19, 1 << 21, 1 << 23, 1 << 25}};
  axes.dtypes = {sim::DType::Fp32};
  axes.largest_product = 0.3e9;  // some milliseconds of one core
  axes.heads = 4;
  return axes;
}

std::vector<Sample> measure_products(const CalibrationOptions& options) {
  const CalibrationAxes axes = calibration_axes(options);
  return timed(options, [&](Bench& b) {
    std::vector<Case> cases;
    for (const sim::DType dtype : axes.dtypes)
      for (const sim::Pass pass : kPasses)
        for (std::int64_t m : axes.m)
          for (std::int64_t n : axes.n)
            for (std::int64_t k : axes.k)
              if (is_short(axes, m, n, k))
                cases.push_back(
                    {sim::MatMul{.m = m, .n = n, .k = k, .pass = pass, .dtype = dtype}, nullptr});
    // Operands are made when their turn comes, and freed after it.
    for (Case& c : cases) {
      auto made = std::make_shared<Case>();
      const sim::MatMul op = std::get<sim::MatMul>(c.work);
      c.run = [made, op, &b](int set) {
        if (!made->run) *made = product_case(b, op);
        made->run(set);
      };
    }
    return cases;
  });
}

std::vector<Sample> measure_attention(const CalibrationOptions& options) {
  const CalibrationAxes axes = calibration_axes(options);
  return timed(options, [&](Bench& b) {
    std::vector<Case> cases;
    for (bool backward : {false, true})
      for (std::int64_t seq : axes.seq)
        for (std::int64_t width : axes.width)
          cases.push_back(attention_case(b, attention_of(axes, seq, width, backward)));
    return cases;
  });
}

std::vector<Sample> measure_other_shapes(const CalibrationOptions& options) {
  const CalibrationAxes axes = calibration_axes(options);
  const bool cuda = options.device.cuda;
  return timed(options, [&](Bench& b) {
    std::mt19937 random(7);  // the same shapes on every rank
    const auto pick = [&](double low, double high) {
      const double u = static_cast<double>(random()) / 4294967296.0;
      return static_cast<std::int64_t>(low * std::pow(high / low, u));
    };
    const double most = cuda ? 12000 : 1500;
    const std::int64_t grain = cuda ? 16 : 1;  // of n and k
    std::vector<Case> cases;
    while (cases.size() < (options.quick ? 12u : 60u)) {
      const std::int64_t m = pick(8, most), n = pick(24, most), k = pick(24, most);
      const sim::MatMul op{.m = m,
                           .n = (n + grain - 1) / grain * grain,
                           .k = (k + grain - 1) / grain * grain,
                           .pass = kPasses[cases.size() % 3],
                           .dtype = axes.dtypes.front()};
      if (is_short(axes, op.m, op.n, op.k)) cases.push_back(product_case(b, op));
    }
    for (int i = 0; i < (options.quick ? 4 : 16); ++i)
      cases.push_back(attention_case(
          b, attention_of(axes, pick(cuda ? 300 : 40, cuda ? 8000 : 1500),
                          cuda ? axes.width[static_cast<std::size_t>(i) % axes.width.size()]
                               : 8 * pick(3, 30),
                          i % 2 == 1)));
    return cases;
  });
}

std::vector<Sample> measure_exchanges(const CalibrationOptions& options) {
  if (options.ranks < 2) return {};
  const CalibrationAxes axes = calibration_axes(options);
  const int ranks = options.ranks;
  return timed(options, [&](Bench& b) {
    std::vector<Case> cases;
    for (std::int64_t bytes : axes.bytes) {
      const auto n = static_cast<std::size_t>(bytes) / sizeof(float);
      const std::size_t part = std::max<std::size_t>(1, n / static_cast<std::size_t>(ranks));
      const Tensor in = operands(b, static_cast<std::int64_t>(part) * ranks),
                   out = operands(b, static_cast<std::int64_t>(part) * ranks);
      TensorGroup* g = &b.world;
      Queue& q = b.q();
      const auto add = [&](sim::CollectiveKind kind, std::function<void()> run) {
        cases.push_back({sim::Collective{.kind = kind,
                                         .bytes = Bytes(static_cast<double>(bytes)),
                                         .group = {.size = ranks, .per_node = ranks}},
                         [run](int) { run(); }});
      };
      add(sim::CollectiveKind::AllGather, [=, &q] { g->all_gather(q, q(in), q(out), part); });
      add(sim::CollectiveKind::ReduceScatter,
          [=, &q] { g->reduce_scatter(q, q(in), q(out), part); });
      add(sim::CollectiveKind::AllReduce, [=, &q] {
        g->all_reduce(q, q(out), part * static_cast<std::size_t>(ranks));
        q.zero(q(out), 1);
      });
      const std::vector<std::size_t> counts(static_cast<std::size_t>(ranks), part);
      add(sim::CollectiveKind::AllToAll, [=, &q] {
        g->all_to_all(q, {q(in), counts, q(out), counts});
      });
      // Between neighbours: one rank's buffer to all is what a gather of that rank's part does.
      std::vector<std::size_t> first(static_cast<std::size_t>(ranks), 0);
      first[0] = part * static_cast<std::size_t>(ranks);
      cases.push_back(
          {sim::Transfer{.bytes = Bytes(static_cast<double>(bytes)), .inter_node = false},
           [=, &q](int) { g->all_gather_parts(q, q(in), q(out), first); }});
    }
    return cases;
  });
}

double median(std::vector<double> x) {
  if (x.empty()) return 0;
  std::nth_element(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

}  // namespace reckon::real
