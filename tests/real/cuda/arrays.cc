#include "tests/real/cuda/arrays.h"

#include <bit>
#include <catch2/catch.hpp>
#include <cstring>

namespace reckon::real::cuda::test {

namespace {

constexpr std::size_t kGuard = 256;
constexpr unsigned char kGuardByte = 0xa5;

std::uint16_t bf16_bits(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  if (x != x) return 0x7fff;
  return static_cast<std::uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

cudaStream_t stream() {
  return context().stream;
}

}  // namespace

float to_grid(float x, Element e) {
  return e == Element::Bf16 ? std::bit_cast<float>(std::uint32_t{bf16_bits(x)} << 16) : x;
}

Memory::Memory(std::size_t bytes) : whole_(nullptr), bytes_(bytes) {
  void* p = nullptr;
  ok(cudaMallocAsync(&p, bytes + 2 * kGuard, stream()), "test memory");
  whole_ = static_cast<unsigned char*>(p);
  ok(cudaMemsetAsync(whole_, kGuardByte, bytes + 2 * kGuard, stream()), "guards");
  ok(cudaMemsetAsync(whole_ + kGuard, 0xff, bytes, stream()), "NaN");
}

Memory::Memory(Memory&& other) noexcept : whole_(other.whole_), bytes_(other.bytes_) {
  other.whole_ = nullptr;
}

Memory::~Memory() {
  if (whole_ == nullptr) return;
  std::vector<unsigned char> guards(2 * kGuard);
  ok(cudaMemcpyAsync(guards.data(), whole_, kGuard, cudaMemcpyDeviceToHost, stream()), "guard");
  ok(cudaMemcpyAsync(guards.data() + kGuard, whole_ + kGuard + bytes_, kGuard,
                     cudaMemcpyDeviceToHost, stream()),
     "guard");
  ok(cudaStreamSynchronize(stream()), "guards");
  if (guards != std::vector<unsigned char>(2 * kGuard, kGuardByte))
    FAIL_CHECK("written in front of or behind an array");
  static_cast<void>(cudaFreeAsync(whole_, stream()));
}

void* Memory::at() const {
  return whole_ + kGuard;
}

void Memory::write(const void* from, std::size_t bytes) {
  ok(cudaMemcpyAsync(at(), from, bytes, cudaMemcpyHostToDevice, stream()), "upload");
  ok(cudaStreamSynchronize(stream()), "upload");
}

void Memory::read(void* to, std::size_t bytes) const {
  ok(cudaMemcpyAsync(to, at(), bytes, cudaMemcpyDeviceToHost, stream()), "download");
  ok(cudaStreamSynchronize(stream()), "download");
}

Array::Array(const Floats& values, Element e)
    : element_(e), host_(values), memory_(values.size() * static_cast<std::size_t>(bytes_of(e))) {
  for (float& x : host_) x = to_grid(x, e);
  if (e == Element::Fp32) {
    memory_.write(host_.data(), host_.size() * sizeof(float));
    return;
  }
  std::vector<std::uint16_t> bits;
  for (const float x : host_) bits.push_back(bf16_bits(x));
  memory_.write(bits.data(), bits.size() * sizeof(std::uint16_t));
}

Array Array::random(Index n, Element e, std::mt19937& engine, float size) {
  std::uniform_real_distribution<float> uniform(-size, size);
  Floats x(static_cast<std::size_t>(n));
  for (float& v : x) v = uniform(engine);
  return {x, e};
}

Floats Array::now() const {
  Floats x(host_.size());
  if (element_ == Element::Fp32) {
    memory_.read(x.data(), x.size() * sizeof(float));
    return x;
  }
  std::vector<std::uint16_t> bits(x.size());
  memory_.read(bits.data(), bits.size() * sizeof(std::uint16_t));
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = std::bit_cast<float>(std::uint32_t{bits[i]} << 16);
  return x;
}

IntArray::IntArray(const Ints& values)
    : host_(values), memory_(values.size() * sizeof(std::int32_t)) {
  memory_.write(host_.data(), host_.size() * sizeof(std::int32_t));
}

Ints IntArray::now() const {
  Ints x(host_.size());
  memory_.read(x.data(), x.size() * sizeof(std::int32_t));
  return x;
}

double error(const Floats& a, const Floats& b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double square = 0, of_b = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) {
      if (std::isfinite(b[i])) of_b += static_cast<double>(b[i]) * static_cast<double>(b[i]);
      continue;
    }
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return HUGE_VAL;
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    square += d * d;
    of_b += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return std::sqrt(square / (of_b > 0 ? of_b : 1));
}

Context& context(bool deterministic) {
  static Context fixed(nullptr, true), any(nullptr, false);
  return deterministic ? fixed : any;
}

}  // namespace reckon::real::cuda::test
