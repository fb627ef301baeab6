// How fast the CUDA kernels are on this device, beside what it can do: copies of memory, and the
// best product of matrices. Not a test: prints, judges nothing. Times are means over runs back to
// back, by events of the stream.
//   bench-cuda-kernels [products|grouped|attention|memory]...
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "real/cuda/kernels_gemm.h"
#include "real/cuda/launch.h"

using namespace reckon::real;
using namespace reckon::real::cuda;

namespace {

// Device memory of n numbers: small ones of both signs, so that no sum overflows and no power is
// saved on zeros.
class Buffer {
 public:
  Buffer(const Context& c, Index n, Element e) : element_(e) {
    const auto bytes = static_cast<std::size_t>(n * bytes_of(e));
    ok(cudaMalloc(&at_, bytes), "memory for a benchmark");
    if (e == Element::Int32) return;
    constexpr Index kPeriod = 4099;  // a prime: no two rows are alike
    std::vector<float> host(static_cast<std::size_t>(std::min(n, Index{1} << 20)));
    for (std::size_t i = 0; i < host.size(); ++i)
      host[i] = static_cast<float>(static_cast<Index>(i * 2654435761u % kPeriod) - kPeriod / 2) /
                static_cast<float>(kPeriod);
    void* memory = nullptr;
    ok(cudaMalloc(&memory, host.size() * sizeof(float)), "memory for a benchmark");
    auto* wide = static_cast<float*>(memory);
    ok(cudaMemcpy(wide, host.data(), host.size() * sizeof(float), cudaMemcpyHostToDevice), "copy");
    for (Index i = 0; i < n; i += Index{1} << 20)
      cast(c, wide, view() + i, std::min(n - i, Index{1} << 20));
    ok(cudaStreamSynchronize(c.stream), "benchmark");
    ok(cudaFree(wide), "memory of a benchmark");
  }
  Buffer(const Context& c, const std::vector<std::int32_t>& x)
      : Buffer(c, static_cast<Index>(x.size()), Element::Int32) {
    ok(cudaMemcpy(at_, x.data(), x.size() * sizeof(std::int32_t), cudaMemcpyHostToDevice), "copy");
  }
  ~Buffer() { static_cast<void>(cudaFree(at_)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  View view() const { return {at_, element_}; }
  operator View() const { return view(); }
  operator ConstView() const { return view(); }
  float* floats() const { return static_cast<float*>(at_); }
  std::int32_t* ints() const { return static_cast<std::int32_t*>(at_); }
  double* doubles() const { return static_cast<double*>(at_); }

 private:
  void* at_ = nullptr;
  Element element_;
};

// Seconds of one call.
double seconds(const Context& c, const std::function<void()>& run) {
  constexpr int kWarmUp = 3;
  constexpr double kSeconds = 0.1;
  cudaEvent_t begin, end;
  ok(cudaEventCreate(&begin), "an event");
  ok(cudaEventCreate(&end), "an event");
  const auto time = [&](int runs) {
    ok(cudaEventRecord(begin, c.stream), "an event");
    for (int i = 0; i < runs; ++i) run();
    ok(cudaEventRecord(end, c.stream), "an event");
    ok(cudaEventSynchronize(end), "a benchmark");
    float milliseconds = 0;
    ok(cudaEventElapsedTime(&milliseconds, begin, end), "a benchmark");
    return static_cast<double>(milliseconds) * 1e-3 / runs;
  };
  time(kWarmUp);
  const double once = time(kWarmUp);
  const double mean = time(std::clamp(static_cast<int>(kSeconds / once), 3, 1000));
  ok(cudaEventDestroy(begin), "an event");
  ok(cudaEventDestroy(end), "an event");
  return mean;
}

struct Ceilings {
  double bytes = 0, bf16 = 0, fp8 = 0;  // per second
};

enum class Unit { Bytes, Bf16, Fp8 };

// One line. `rival`: seconds of the library on the same product, 0 if there is none.
void line(const Ceilings& most, const std::string& name, Unit unit, double work, double time,
          double rival = 0) {
  const double rate = work / time;
  const double ceiling = unit == Unit::Bytes  ? most.bytes
                         : unit == Unit::Bf16 ? most.bf16
                                              : most.fp8;
  fmt::print("{:<52} {:>9.1f} us {:>8.1f} {:<7} {:>5.1f} %", name, time * 1e6,
             rate * (unit == Unit::Bytes ? 1e-9 : 1e-12), unit == Unit::Bytes ? "GB/s" : "TFLOP/s",
             100 * rate / ceiling);
  if (rival > 0) fmt::print("  {:.2f} x cuBLASLt", rival / time);
  fmt::print("\n");
}

double flops(Index m, Index n, Index k) {
  return 2 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

struct Operands {
  Buffer x, w, dy, y, dx, dw;
  Operands(const Context& c, Index m, Index n, Index k, Index groups = 1)
      : x(c, m * k, Element::Bf16),
        w(c, groups * n * k, Element::Bf16),
        dy(c, m * n, Element::Bf16),
        y(c, m * n, Element::Bf16),
        dx(c, m * k, Element::Bf16),
        dw(c, groups * n * k, Element::Fp32) {}
};

// An operand of E4M3 with its memory.
struct Codes {
  Buffer memory;
  Fp8Matrix matrix;
  Codes(const Context& c, Index rows, Index cols, Fp8Scales kind)
      : memory(c, rows * fp8_stride(cols) / 4 + 64 + fp8_scale_count(rows, cols, kind),
               Element::Int32),
        matrix{.rows = rows, .cols = cols, .kind = kind} {
    matrix.codes = reinterpret_cast<std::uint8_t*>(memory.ints());
    matrix.scales = reinterpret_cast<float*>(matrix.codes + rows * fp8_stride(cols));
  }
};

Ceilings measured_ceilings(const Context& c) {
  Ceilings most;
  constexpr std::size_t kBytes = std::size_t{1} << 30;
  const Buffer from(c, kBytes / 4, Element::Int32), to(c, kBytes / 4, Element::Int32);
  const double copy = seconds(c, [&] {
    ok(cudaMemcpyAsync(to.ints(), from.ints(), kBytes, cudaMemcpyDeviceToDevice, c.stream), "copy");
  });
  most.bytes = 2 * static_cast<double>(kBytes) / copy;
  const Index n = 8192;
  const Operands o(c, n, n, n);
  most.bf16 = flops(n, n, n) / seconds(c, [&] {
                linear_forward(c, {n, n, n, Numbers::Bf16}, o.x, o.w, o.y);
              });
  const Codes a(c, n, n, Fp8Scales::PerRow), b(c, n, n, Fp8Scales::Square);
  quantise(c, o.x, a.matrix);
  quantise(c, o.w, b.matrix);
  most.fp8 = flops(n, n, n) / seconds(c, [&] { linear_fp8(c, a.matrix, b.matrix, o.y); });
  fmt::print(
      "ceilings: copy {:.0f} GB/s; product of {}^3: bf16 {:.0f} TFLOP/s, E4M3 {:.0f} TFLOP/s\n",
      most.bytes * 1e-9, n, most.bf16 * 1e-12, most.fp8 * 1e-12);
  return most;
}

void bench_products(const Context& c, const Ceilings& most) {
  const cpu::LinearShape shapes[] = {
      {4096, 7168, 2048}, {4096, 2048, 7168}, {8192, 4096, 2048}, {4096, 24576, 1536}};
  for (const cpu::LinearShape& s : shapes) {
    const Operands o(c, s.m, s.n, s.k);
    const double work = flops(s.m, s.n, s.k);
    const std::string size = fmt::format("{}x{}x{}", s.m, s.n, s.k);
    for (const Numbers numbers : {Numbers::Bf16, Numbers::Fp8Block}) {
      cpu::LinearShape of = s;
      of.numbers = numbers;
      const bool fp8 = numbers == Numbers::Fp8Block;
      const Unit unit = fp8 ? Unit::Fp8 : Unit::Bf16;
      const std::string kind = fp8 ? " E4M3 with its quantising" : " bf16";
      line(most, "product " + size + kind, unit, work,
           seconds(c, [&] { linear_forward(c, of, o.x, o.w, o.y); }));
      line(most, "  input gradient", unit, work,
           seconds(c, [&] { linear_input_grad(c, of, o.dy, o.w, o.dx); }));
      line(most, "  weight gradient", unit, work,
           seconds(c, [&] { linear_weight_grad(c, of, o.dy, o.x, o.dw); }));
    }
    const Codes a(c, s.m, s.k, Fp8Scales::PerRow), b(c, s.n, s.k, Fp8Scales::Square);
    quantise(c, o.x, a.matrix);
    quantise(c, o.w, b.matrix);
    const double library = seconds(c, [&] { linear_fp8(c, a.matrix, b.matrix, o.y); });
    line(most, "  E4M3 alone, the library", Unit::Fp8, work, library);
    Context by_groups(c.stream, c.deterministic);
    for (const bool wgmma : {false, true}) {
      by_groups.warp_groups = wgmma;
      const double own = seconds(
          c, [&] { own_fp8_product(by_groups, {.rows = s.m}, a.matrix, b.matrix, o.y, false); });
      line(most, wgmma ? "  E4M3 alone, our kernel with wgmma" : "  E4M3 alone, our kernel",
           Unit::Fp8, work, own, library);
    }
  }
}

void bench_grouped(const Context& c, const Ceilings& most) {
  // Rows of groups differ as a router makes them differ.
  for (const auto& [groups, mean, n, k] :
       {std::tuple<Index, Index, Index, Index>{8, 4096, 4096, 7168}, {64, 512, 1536, 2048}}) {
    std::vector<std::int32_t> offsets{0};
    for (Index g = 0; g < groups; ++g)
      offsets.push_back(offsets.back() +
                        static_cast<std::int32_t>(mean / 2 + (g * 37 % 17) * mean / 16));
    const Index rows = offsets.back();
    const Buffer offset(c, offsets);
    const Operands o(c, rows, n, k, groups);
    const double work = flops(rows, n, k);
    // The rival multiplies as many rows by one group's weights.
    const double dense = seconds(c, [&] {
      linear_forward(c, {rows, n, k, Numbers::Bf16}, o.x, o.w, o.y);
    });
    struct Way {
      const char* name;
      Numbers numbers;
      bool wgmma, library;
    };
    const Way ways[] = {{" bf16", Numbers::Bf16, false, false},
                        {" bf16, one by one", Numbers::Bf16, false, true},
                        {" E4M3 with its quantising", Numbers::Fp8Block, false, false},
                        {" E4M3, wgmma", Numbers::Fp8Block, true, false}};
    Context on(c.stream, c.deterministic);
    for (const Way& way : ways) {
      on.warp_groups = way.wgmma;
      const GroupedShape s{rows, groups, n, k, way.numbers, way.library ? offsets.data() : nullptr};
      const bool fp8 = way.numbers == Numbers::Fp8Block;
      const Unit unit = fp8 ? Unit::Fp8 : Unit::Bf16;
      line(most, fmt::format("{} groups, {} rows, {}x{}{}", groups, rows, n, k, way.name), unit,
           work, seconds(c, [&] { linear_grouped_forward(on, s, offset.ints(), o.x, o.w, o.y); }),
           dense);
      line(most, "  input gradient", unit, work,
           seconds(c, [&] { linear_grouped_input_grad(on, s, offset.ints(), o.dy, o.w, o.dx); }),
           dense);
      line(most, "  weight gradient", unit, work,
           seconds(c, [&] { linear_grouped_weight_grad(on, s, offset.ints(), o.dy, o.x, o.dw); }),
           dense);
    }
  }
}

void bench_attention(const Context& c, const Ceilings& most) {
  for (const auto& [heads, kv_heads, qk, v] :
       {std::tuple<Index, Index, Index, Index>{16, 16, 192, 128},
        {32, 8, 128, 128},
        {32, 32, 64, 64}}) {
    const Index seq = 4096, batch = 2;
    const AttentionShape s{.batch = batch,
                           .heads = heads,
                           .kv_heads = kv_heads,
                           .seq_q = seq,
                           .seq_k = seq,
                           .qk_dim = qk,
                           .v_dim = v,
                           .scale = 1 / std::sqrt(static_cast<float>(qk))};
    const Element e = Element::Bf16;
    const Buffer q(c, batch * seq * heads * qk, e), k(c, batch * seq * kv_heads * qk, e),
        values(c, batch * seq * kv_heads * v, e), out(c, batch * seq * heads * v, e),
        dout(c, batch * seq * heads * v, e), lse(c, batch * seq * heads, Element::Fp32),
        dq(c, batch * seq * heads * qk, e), dk(c, batch * seq * kv_heads * qk, e),
        dv(c, batch * seq * kv_heads * v, e);
    // Causal: half of the scores.
    const double scores = static_cast<double>(batch * heads) * static_cast<double>(seq * seq) / 2;
    line(most, fmt::format("attention {}/{}, {}:{} heads, {} causal", qk, v, heads, kv_heads, seq),
         Unit::Bf16, 2 * scores * static_cast<double>(qk + v),
         seconds(c, [&] { attention_forward(c, s, q, k, values, out, lse.floats()); }));
    line(most, "  backward", Unit::Bf16, 2 * scores * static_cast<double>(3 * qk + 2 * v),
         seconds(c, [&] {
           attention_backward(c, s, q, k, values, out, lse.floats(), dout, dq, dk, dv);
         }));
  }
}

void bench_memory(const Context& c, const Ceilings& most) {
  const Index tokens = 8192, h = 4096, width = 8192, experts = 256, top_k = 8, vocab = 129280;
  const Element e = Element::Bf16;
  const auto bytes = [](Index numbers, int size = 2) {
    return static_cast<double>(numbers) * size;
  };
  const auto show = [&](const char* name, double work, const std::function<void()>& run) {
    line(most, name, Unit::Bytes, work, seconds(c, run));
  };
  {
    const Buffer x(c, tokens * h, e), y(c, tokens * h, e), sum(c, tokens * h, e), w(c, h, e),
        dw(c, h, Element::Fp32), statistics(c, tokens, Element::Fp32);
    const NormShape s{tokens, h, 1e-6f};
    show("sum", bytes(3 * tokens * h), [&] { add(c, x, y, sum, tokens * h); });
    show("RMS norm", bytes(2 * tokens * h),
         [&] { norm_forward(c, s, x, w, {}, y, statistics.floats()); });
    show("RMS norm behind a residual sum", bytes(4 * tokens * h),
         [&] { norm_residual_forward(c, s, x, y, sum, w, {}, y, statistics.floats()); });
    show("RMS norm, gradients", bytes(3 * tokens * h),
         [&] { norm_backward(c, s, x, sum, w, statistics.floats(), y, dw, {}, false); });
    const Codes straight(c, tokens, h, Fp8Scales::PerRow), turned(c, h, tokens, Fp8Scales::PerRow);
    show("quantise 1x128", bytes(tokens * h) + bytes(tokens * h, 1),
         [&] { quantise(c, x, straight.matrix); });
    show("quantise 128x1, transposed", bytes(tokens * h) + bytes(tokens * h, 1),
         [&] { quantise_transposed(c, x, turned.matrix); });
  }
  {
    const Buffer x(c, tokens * 2 * width, e), y(c, tokens * width, e), dx(c, tokens * 2 * width, e);
    show("SwiGLU", bytes(3 * tokens * width),
         [&] { activation_forward(c, Activation::SwiGlu, x, y, tokens, width); });
    show("SwiGLU, gradient", bytes(5 * tokens * width),
         [&] { activation_backward(c, Activation::SwiGlu, x, y, dx, {}, tokens, width); });
  }
  {
    const RouterShape s{.tokens = tokens,
                        .experts = experts,
                        .top_k = top_k,
                        .groups = 8,
                        .limited_groups = 4,
                        .sigmoid = true,
                        .scale = 2.5f};
    const Index copies = tokens * top_k;
    const Buffer logits(c, tokens * experts, Element::Fp32),
        scores(c, tokens * experts, Element::Fp32), weights(c, copies, Element::Fp32),
        chosen(c, copies, Element::Int32), token_of(c, copies, Element::Int32),
        copy_of(c, copies, Element::Int32), counts(c, experts, Element::Int32),
        offsets(c, experts + 1, Element::Int32);
    show("router, 8 of 256", bytes(2 * tokens * experts, 4), [&] {
      router_forward(c, s, logits, nullptr, scores.floats(), chosen.ints(), weights.floats());
    });
    show("sort of copies by expert", bytes(4 * copies, 4), [&] {
      sort_by_expert(c, chosen.ints(), tokens, top_k, experts, nullptr,
                     {counts.ints(), offsets.ints(), token_of.ints(), copy_of.ints()});
    });
    const Buffer x(c, tokens * h, e), rows(c, copies * h, e);
    show("permute", bytes(2 * copies * h),
         [&] { gather_rows(c, x, token_of.ints(), copies, h, rows); });
    show("unpermute", bytes((copies + tokens) * h),
         [&] { combine_rows(c, rows, copy_of.ints(), nullptr, tokens, top_k, h, x, false); });
  }
  {
    const Index n = 2048;
    const Buffer logits(c, n * vocab, e), partial(c, 3 * n, Element::Fp32),
        lse(c, n, Element::Fp32);
    const Buffer targets(c, std::vector<std::int32_t>(static_cast<std::size_t>(n), 7));
    show("cross-entropy", bytes(n * vocab),
         [&] { loss_partial(c, logits, targets.ints(), n, vocab, 0, partial.floats()); });
    show("cross-entropy, gradient", bytes(2 * n * vocab),
         [&] { loss_backward(c, logits, targets.ints(), lse.floats(), n, vocab, 0, 1e-3f); });
  }
  {
    const Index n = Index{1} << 28;
    const Buffer grad(c, n, Element::Fp32), master(c, n, Element::Fp32), w(c, n, e), m(c, n, e),
        v(c, n, e), sum(c, 2, Element::Int32);
    const AdamPiece piece{grad, w, master.floats(), m, v, n, 0.1};
    const Adam a{
        .lr = 1e-4, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .gradient_scale = 1, .step = 10};
    show("AdamW, bf16 moments", bytes(n, 4 + 8 + 2 + 4 + 4), [&] { adam_update(c, a, &piece, 1); });
    show("sum of squares", bytes(n, 4), [&] { square_sum(c, grad, n, sum.doubles()); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    fmt::print(stderr, "bench-cuda-kernels: no CUDA device\n");
    return 2;
  }
  cudaDeviceProp properties;
  ok(cudaGetDeviceProperties(&properties, 0), "the device");
  const std::vector<std::string> wanted(argv + 1, argv + argc);
  const auto asked = [&](const char* part) {
    return wanted.empty() || std::find(wanted.begin(), wanted.end(), part) != wanted.end();
  };
  try {
    const Context c(nullptr, false);
    fmt::print("{}, {} SMs\n", properties.name, c.sm_count);
    const Ceilings most = measured_ceilings(c);
    if (asked("products")) bench_products(c, most);
    if (asked("grouped")) bench_grouped(c, most);
    if (asked("attention")) bench_attention(c, most);
    if (asked("memory")) bench_memory(c, most);
  } catch (const CudaError& e) {
    fmt::print(stderr, "bench-cuda-kernels: {}\n", e.what());
    return 1;
  }
  return 0;
}
