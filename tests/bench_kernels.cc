// How fast the trainer's kernels are on this machine, beside other libraries and memcpy. Not a
// test: prints, judges nothing. One core; rates are of CPU time, the best of several trials.
//   bench-kernels [products|attention|memory]...
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ctime>
#include <numeric>
#include <random>

#include "real/kernels.h"
#include "tests/bench_rivals.h"

using namespace reckon::real;
using namespace reckon::real::bench;
using cpu::Index;

namespace {

using Floats = std::vector<float>;

double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Units of work per nanosecond: GFLOP/s or GB/s.
template <class F>
double rate(double work, F run) {
  constexpr int kTrials = 5;
  constexpr double kTrialSeconds = 0.06;
  run();
  double best = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    const double start = cpu_seconds();
    double runs = 0;
    do {
      run();
      ++runs;
    } while (cpu_seconds() - start < kTrialSeconds);
    best = std::max(best, work * runs / (cpu_seconds() - start));
  }
  return best * 1e-9;
}

Floats random_floats(Index n) {
  static std::mt19937 engine(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  Floats x(static_cast<std::size_t>(n));
  for (float& v : x) v = uniform(engine);
  return x;
}

void bench_products() {
  const std::vector<Rival> others = rivals();
  fmt::print("products, GFLOP/s on one core (ours: linear_* of kernels.h, through oneDNN)\n");
  fmt::print("{:>18} {:<7} {:>7}", "m x n x k", "pass", "ours");
  for (const Rival& r : others) fmt::print(" {:>16}", r.name);
  fmt::print(" {:>10} {:>7}\n", "ours/best", "fp8");
  const cpu::LinearShape shapes[] = {
      {2048, 1024, 1024}, {512, 2048, 512}, {1024, 4096, 1024}, {1024, 7168, 2048},
      {256, 512, 256},    {128, 128, 128},  {64, 2048, 512},    {33, 512, 256},
      {16, 1024, 1024},   {4, 1024, 1024},  {1, 1024, 512},
  };
  for (const cpu::LinearShape& s : shapes) {
    const Floats x = random_floats(s.m * s.k), w = random_floats(s.n * s.k),
                 dy = random_floats(s.m * s.n);
    Floats y(dy.size()), dx(x.size()), dw(w.size());
    cpu::LinearShape fp8 = s;
    fp8.numbers = cpu::Numbers::Fp8Block;
    const double flops = 2.0 * static_cast<double>(s.m * s.n * s.k);
    const auto line = [&](const char* pass, const auto& ours, const auto& theirs) {
      const double our_rate = rate(flops, [&] { ours(s); });
      fmt::print("{:>18} {:<7} {:>7.1f}", fmt::format("{}x{}x{}", s.m, s.n, s.k), pass, our_rate);
      double best = our_rate;
      for (const Rival& r : others) {
        const double g = rate(flops, [&] { theirs(r.multiply); });
        best = std::max(best, g);
        fmt::print(" {:>16.1f}", g);
      }
      fmt::print(" {:>9.0f}% {:>7.1f}\n", 100 * our_rate / best, rate(flops, [&] { ours(fp8); }));
    };
    line(
        "forward",
        [&](const cpu::LinearShape& a) { cpu::linear_forward(a, x.data(), w.data(), y.data()); },
        [&](const Multiply& f) {
          f({s.m, s.n, s.k}, {x.data(), s.k}, {w.data(), s.k, true}, y.data());
        });
    line(
        "dgrad",
        [&](const cpu::LinearShape& a) {
          cpu::linear_input_grad(a, dy.data(), w.data(), dx.data());
        },
        [&](const Multiply& f) {
          f({s.m, s.k, s.n}, {dy.data(), s.n}, {w.data(), s.k}, dx.data());
        });
    line(
        "wgrad",
        [&](const cpu::LinearShape& a) {
          cpu::linear_weight_grad(a, dy.data(), x.data(), dw.data());
        },
        [&](const Multiply& f) {
          f({s.n, s.k, s.m, 1, true}, {dy.data(), s.n, true}, {x.data(), s.k}, dw.data());
        });
  }
}

void bench_attention() {
  const Index n = 1024;
  const Floats a = random_floats(n * n), b = random_floats(n * n);
  Floats c(a.size());
  const double gemm = rate(2.0 * n * n * n, [&] {
    cpu::linear_forward({n, n, n}, a.data(), b.data(), c.data());
  });
  fmt::print(
      "\nattention, GFLOP/s of the pairs that the causal mask leaves (product of 1024^3: {:.1f})\n",
      gemm);
  fmt::print("{:>6} {:>6} {:>9} {:>7} {:>7} {:>9} {:>8} {:>9} {:>8}\n", "seq", "heads", "kv heads",
             "qk dim", "v dim", "forward", "of GEMM", "backward", "of GEMM");
  struct Case {
    Index seq, heads, kv_heads, qk_dim, v_dim, window = 0;
  };
  for (const Case& k : {Case{1024, 4, 4, 192, 128},
                        {1024, 4, 1, 128, 128},
                        {1024, 4, 4, 64, 64},
                        {4096, 1, 1, 128, 128},
                        {256, 8, 8, 64, 64},
                        {256, 8, 8, 48, 32},
                        {128, 8, 2, 32, 32},
                        {4096, 1, 1, 128, 128, 512}}) {
    cpu::AttentionShape s{
        1,       k.heads,  k.kv_heads, k.seq,
        k.seq,   k.qk_dim, k.v_dim,    1 / std::sqrt(static_cast<float>(k.qk_dim)),
        k.window};
    const Floats q = random_floats(k.seq * k.heads * k.qk_dim),
                 key = random_floats(k.seq * k.kv_heads * k.qk_dim),
                 v = random_floats(k.seq * k.kv_heads * k.v_dim),
                 dout = random_floats(k.seq * k.heads * k.v_dim);
    Floats out(dout.size()), lse(static_cast<std::size_t>(k.heads * k.seq)), dq(q.size()),
        dk(key.size()), dv(v.size());
    double pairs = 0;
    for (Index i = 0; i < k.seq; ++i)
      pairs += static_cast<double>((k.window > 0 ? std::min(k.window, i + 1) : i + 1) * k.heads);
    const double qk = static_cast<double>(k.qk_dim), vd = static_cast<double>(k.v_dim);
    const double forward = rate(2 * pairs * (qk + vd), [&] {
      cpu::attention_forward(s, q.data(), key.data(), v.data(), out.data(), lse.data());
    });
    const double backward = rate(2 * pairs * (3 * qk + 2 * vd), [&] {
      cpu::attention_backward(s, q.data(), key.data(), v.data(), out.data(), lse.data(),
                              dout.data(), dq.data(), dk.data(), dv.data());
    });
    fmt::print("{:>6} {:>6} {:>9} {:>7} {:>7} {:>9.1f} {:>7.0f}% {:>9.1f} {:>7.0f}%{}\n", k.seq,
               k.heads, k.kv_heads, k.qk_dim, k.v_dim, forward, 100 * forward / gemm, backward,
               100 * backward / gemm, k.window > 0 ? fmt::format("  window {}", k.window) : "");
  }
}

// Each at a size that the caches don't hold, and at one that the second-level cache does.
void bench_memory() {
  fmt::print("\nmemory-bound kernels, GB/s read and written\n");
  fmt::print("{:<24} {:>14} {:>8} {:>14} {:>8}\n", "", "4096 x 2048", "", "64 x 512", "");
  struct Line {
    std::string name;
    double small = 0, large = 0;
  };
  std::vector<Line> lines;
  for (const bool large : {true, false}) {
    const Index rows = large ? 4096 : 64, width = large ? 2048 : 512, n = rows * width;
    std::size_t next = 0;
    // floats: how many the kernel reads or writes
    const auto line = [&](const char* name, Index floats, const auto& run) {
      if (large) lines.push_back({name});
      const double r = rate(4.0 * static_cast<double>(floats), run);
      (large ? lines[next].large : lines[next].small) = r;
      ++next;
    };
    Floats a = random_floats(2 * n), b = random_floats(2 * n), c = random_floats(2 * n),
           d = random_floats(2 * n);
    Floats w = random_floats(width), dw(w.size()), statistics(static_cast<std::size_t>(rows));
    Floats mix = random_floats(rows), dmix(mix.size());
    std::vector<std::int32_t> order(static_cast<std::size_t>(rows));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(1));
    const cpu::NormShape norm{rows, width, 1e-6f};
    line("memcpy", 2 * n,
         [&] { std::memcpy(a.data(), b.data(), static_cast<std::size_t>(n) * sizeof(float)); });
    line("add", 3 * n, [&] { cpu::add(a.data(), b.data(), c.data(), n); });
    Floats place = a;  // of the kernels that work in place
    line("add_to", 3 * n, [&] { cpu::add_to(place.data(), b.data(), n); });
    place = a;
    line("norm_forward (rms)", 2 * n, [&] {
      cpu::norm_forward(norm, a.data(), w.data(), nullptr, b.data(), statistics.data());
    });
    line("norm_backward (rms)", 3 * n, [&] {
      cpu::norm_backward(norm, b.data(), a.data(), w.data(), statistics.data(), c.data(), dw.data(),
                         nullptr, false);
    });
    line("activation_forward", 3 * n, [&] {
      cpu::activation_forward(cpu::Activation::SwiGlu, a.data(), b.data(), rows, width);
    });
    line("activation_backward", 6 * n, [&] {
      cpu::activation_backward(cpu::Activation::SwiGlu, a.data(), b.data(), c.data(), d.data(),
                               rows, width);
    });
    line("gather_rows", 2 * n,
         [&] { cpu::gather_rows(a.data(), order.data(), rows, width, b.data()); });
    line("combine_rows (top 4)", n + n / 4, [&] {
      cpu::combine_rows(a.data(), order.data(), mix.data(), rows / 4, 4, width, b.data(), false);
    });
    line("combine_rows_backward", 2 * n + n / 4, [&] {
      cpu::combine_rows_backward(b.data(), a.data(), order.data(), mix.data(), rows / 4, 4, width,
                                 c.data(), dmix.data());
    });
    const std::vector<std::int32_t> target(static_cast<std::size_t>(rows), 3);
    Floats partial(static_cast<std::size_t>(3 * rows));
    line("loss_partial", n,
         [&] { cpu::loss_partial(a.data(), target.data(), rows, width, 0, partial.data()); });
    Floats lse(static_cast<std::size_t>(rows), 20);
    line("loss_backward", 2 * n, [&] {
      cpu::loss_backward(place.data(), target.data(), lse.data(), rows, width, 0, 0.5f);
    });
    line("round_bf16", 2 * n, [&] { cpu::round_bf16(place.data(), n); });
    line("round_fp8 1x128", 2 * n,
         [&] { cpu::round_fp8(a.data(), b.data(), rows, width, 1, 128); });
    line("round_fp8 128x1", 2 * n,
         [&] { cpu::round_fp8(a.data(), b.data(), rows, width, 128, 1); });
    line("round_fp8 128x128", 2 * n,
         [&] { cpu::round_fp8(a.data(), b.data(), rows, width, 128, 128); });
    double sum = 0;
    line("square_sum", n, [&] { sum += cpu::square_sum(a.data(), n); });
    Floats m(static_cast<std::size_t>(n)), v(static_cast<std::size_t>(n));
    const cpu::Adam adam{1e-4, 0.9, 0.95, 1e-8, 0.1, 1, 10};
    line("adam_update", 7 * n,
         [&] { cpu::adam_update(adam, b.data(), place.data(), m.data(), v.data(), n); });
    const cpu::RopeTable table = cpu::rope_table({}, rows, 64);
    line("rope", 2 * n, [&] {
      cpu::rope(table, {place.data(), rows, width / 64, 64, 0}, order.data(), false);
    });
    // logits of 256 experts: read them, write the scores
    const cpu::RouterShape router{n / 256, 256, 8, 8, 4, true};
    const Floats bias(256);
    std::vector<std::int32_t> chosen(static_cast<std::size_t>(router.tokens * 8));
    Floats weights(chosen.size());
    line("router_forward (8/256)", 2 * n, [&] {
      cpu::router_forward(router, c.data(), bias.data(), d.data(), chosen.data(), weights.data());
    });
    if (std::isnan(sum)) fmt::print("");  // the sum is used
  }
  for (const Line& l : lines)
    fmt::print("{:<24} {:>14.1f} {:>7.0f}% {:>14.1f} {:>7.0f}%\n", l.name, l.large,
               100 * l.large / lines[0].large, l.small, 100 * l.small / lines[0].small);
}

}  // namespace

int main(int argc, char** argv) {
  const auto wanted = [&](const char* part) {
    for (int i = 1; i < argc; ++i)
      if (std::strcmp(argv[i], part) == 0) return true;
    return argc == 1;
  };
  if (wanted("products")) bench_products();
  if (wanted("attention")) bench_attention();
  if (wanted("memory")) bench_memory();
}
