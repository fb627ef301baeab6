// Threads of a block as fibers (Boost.Context). The scheduler gives each fiber that can run its
// turn, warp by warp; who waits at the barrier of the block is let go when all that live have come.
#include "emulation.h"

#include <boost/context/fiber.hpp>
#include <boost/context/fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>

namespace reckon::real::cuda::emulation {

namespace {

namespace context = boost::context;

[[noreturn]] void fail(const char* why) {
  std::fprintf(stderr, "emulated device: %s\n", why);
  std::abort();
}

enum class State { Ready, AtWarp, AtBlock, Done };

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
  bool valid;
};

void perform(const Copy& c) {
  if (c.valid)
    std::memcpy(c.to, c.from, c.bytes);
  else
    std::memset(c.to, 0, c.bytes);
}

struct Thread {
  context::fiber fiber, scheduler;
  State state = State::Done;
  dim3 index;
  int warp = 0, lane = 0;
  std::vector<Copy> open;                    // not committed
  std::vector<std::vector<Copy>> committed;  // oldest first
};

struct Warp {
  const char* what = nullptr;
  int arrived = 0;
  void* slots[kLanes];
};

struct Device {
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  std::vector<unsigned char> shared_storage;
  unsigned char* shared = nullptr;
  dim3 block, block_size, grid_size;
  const std::function<void()>* kernel = nullptr;
  Thread* current = nullptr;
  std::size_t turn = 0;  // of the scheduler, over all blocks
  bool eager = false;    // asynchronous copies happen when they are asked for
};

Device device;

constexpr std::size_t kStack = 256 * 1024;

std::unique_ptr<Thread> new_thread() {
  auto thread = std::make_unique<Thread>();
  Thread* t = thread.get();
  t->fiber = context::fiber(std::allocator_arg, context::fixedsize_stack(kStack),
                            [t](context::fiber&& scheduler) {
                              t->scheduler = std::move(scheduler);
                              for (;;) {
                                (*device.kernel)();
                                t->state = State::Done;
                                t->scheduler = std::move(t->scheduler).resume();
                              }
                              return std::move(t->scheduler);
                            });
  return thread;
}

void wait(State state) {
  Thread& t = *device.current;
  t.state = state;
  t.scheduler = std::move(t.scheduler).resume();
}

void run_block(std::size_t threads) {
  for (std::size_t i = 0; i < threads; ++i) {
    Thread& t = *device.threads[i];
    t.state = State::Ready;
    t.open.clear();
    t.committed.clear();
  }
  device.eager = !device.eager;
  const std::size_t warps = threads / kLanes;
  device.warps.assign(warps, Warp());
  for (;;) {
    bool ran = false;
    // Another order of warps, and of lanes, each time: who relies on one without a barrier is found
    // out sooner or later.
    const std::size_t turn = device.turn++;
    for (std::size_t n = 0; n < warps; ++n) {
      const std::size_t w = (turn % 2 == 0 ? n + turn / 2 : 2 * warps - 1 - n + turn / 2) % warps;
      for (bool again = true; again;) {
        again = false;
        for (std::size_t l = 0; l < kLanes; ++l) {
          const std::size_t i = w * kLanes + (turn % 3 == 0 ? kLanes - 1 - l : l);
          Thread& t = *device.threads[i];
          if (t.state != State::Ready) continue;
          device.current = &t;
          t.fiber = std::move(t.fiber).resume();
          ran = again = true;
        }
      }
    }
    std::size_t done = 0, at_block = 0;
    for (std::size_t i = 0; i < threads; ++i) {
      done += device.threads[i]->state == State::Done;
      at_block += device.threads[i]->state == State::AtBlock;
    }
    if (done == threads) return;
    if (done + at_block == threads) {
      for (std::size_t i = 0; i < threads; ++i)
        if (device.threads[i]->state == State::AtBlock) device.threads[i]->state = State::Ready;
    } else if (!ran) {
      fail("threads wait for lanes of their warp that never come");
    }
  }
}

}  // namespace

void run(dim3 blocks, dim3 threads, std::size_t shared, const std::function<void()>& kernel) {
  static std::mutex one_at_a_time;  // ranks of a trainer share the device
  const std::lock_guard lock(one_at_a_time);
  const std::size_t n = std::size_t{threads.x} * threads.y * threads.z;
  if (n == 0 || n % kLanes != 0 || n > 1024) fail("a block is 1 to 32 whole warps");
  if (shared > 227 * 1024) fail("a block has at most 227 KiB of shared memory");
  while (device.threads.size() < n) device.threads.push_back(new_thread());
  for (std::size_t i = 0; i < n; ++i) {
    Thread& t = *device.threads[i];
    const auto at = static_cast<unsigned>(i);
    t.index = dim3(at % threads.x, at / threads.x % threads.y, at / threads.x / threads.y);
    t.warp = static_cast<int>(i) / kLanes;
    t.lane = static_cast<int>(i) % kLanes;
  }
  device.kernel = &kernel;
  device.block_size = threads;
  device.grid_size = blocks;
  for (unsigned z = 0; z < blocks.z; ++z)
    for (unsigned y = 0; y < blocks.y; ++y)
      for (unsigned x = 0; x < blocks.x; ++x) {
        device.block = dim3(x, y, z);
        // As large as asked for, so that a sanitizer sees what goes beyond.
        auto* memory =
            static_cast<unsigned char*>(std::aligned_alloc(1024, (shared + 1024) & ~1023ul));
        std::memset(memory, 0xff, shared);
        device.shared = memory;
        run_block(n);
        std::free(memory);
      }
}

const dim3& thread_index() {
  return device.current->index;
}
const dim3& block_index() {
  return device.block;
}
const dim3& block_size() {
  return device.block_size;
}
const dim3& grid_size() {
  return device.grid_size;
}
unsigned char* dynamic_shared() {
  return device.shared;
}
int lane() {
  return device.current->lane;
}

void sync_block() {
  wait(State::AtBlock);
}

void collective(const char* what, void* slot, const std::function<void(void* const*)>& all) {
  Thread& t = *device.current;
  Warp& w = device.warps[static_cast<std::size_t>(t.warp)];
  if (w.arrived == 0) w.what = what;
  if (std::strcmp(w.what, what) != 0) fail("lanes of one warp do different things");
  w.slots[t.lane] = slot;
  if (++w.arrived < kLanes) return wait(State::AtWarp);
  w.arrived = 0;
  all(w.slots);
  const auto first = static_cast<std::size_t>(t.warp * kLanes);
  for (std::size_t i = first; i < first + kLanes; ++i)
    if (i != first + static_cast<std::size_t>(t.lane)) device.threads[i]->state = State::Ready;
}

void copy_async(void* to, const void* from, std::size_t bytes, bool valid) {
  if (reinterpret_cast<std::uintptr_t>(to) % bytes != 0 ||
      reinterpret_cast<std::uintptr_t>(from) % bytes != 0)
    fail("an asynchronous copy is not aligned");
  const Copy copy{to, from, bytes, valid};
  if (device.eager)
    perform(copy);
  else
    device.current->open.push_back(copy);
}

void commit_copies() {
  Thread& t = *device.current;
  t.committed.push_back(std::move(t.open));
  t.open.clear();
}

void wait_copies(int open) {
  Thread& t = *device.current;
  while (t.committed.size() > static_cast<std::size_t>(open)) {
    for (const Copy& c : t.committed.front()) perform(c);
    t.committed.erase(t.committed.begin());
  }
}

}  // namespace reckon::real::cuda::emulation

namespace reckon::real::cuda {

namespace {

std::uint32_t bf16_bits(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  if (x != x) return 0x7fff;
  return (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}
float bf16_value(std::uint32_t bits) {
  return std::bit_cast<float>(bits << 16);
}

// The nearest of the 127 codes of positive numbers, which ascend; ties to the even one.
std::uint8_t e4m3_code(float x) {
  if (x != x) return 0x7f;
  const float size = std::fabs(x);
  int low = 0, high = 0x7e;  // codes around it
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (widen_e4m3(static_cast<std::uint8_t>(middle)) <= size ? low : high) = middle;
  }
  const float below = size - widen_e4m3(static_cast<std::uint8_t>(low));
  const float above = widen_e4m3(static_cast<std::uint8_t>(high)) - size;
  const int best = above < below || (above == below && high % 2 == 0) ? high : low;
  return static_cast<std::uint8_t>(best | (std::signbit(x) ? 0x80 : 0));
}

// Four 8x8 matrices for all lanes; element (i, j) of a matrix, or (j, i).
void matrices(const char* what, std::uint32_t (&r)[4], const void* row, bool transposed) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) std::abort();
  struct Slot {
    const void* row;
    std::uint32_t* out;
  } slot{row, r};
  emulation::collective(what, &slot, [transposed](void* const* slots) {
    std::uint16_t value[4][8][8];
    for (int l = 0; l < 32; ++l)
      std::memcpy(value[l / 8][l % 8], static_cast<Slot*>(slots[l])->row, 16);
    for (int l = 0; l < 32; ++l)
      for (int m = 0; m < 4; ++m) {
        const int i = l / 4, j = 2 * (l % 4);
        const std::uint32_t low = transposed ? value[m][j][i] : value[m][i][j];
        const std::uint32_t high = transposed ? value[m][j + 1][i] : value[m][i][j + 1];
        static_cast<Slot*>(slots[l])->out[m] = low | high << 16;
      }
  });
}

struct Product {
  float* d;
  const std::uint32_t* a;
  std::uint32_t b[2];
};

// One product of fragments. `per` numbers in a register, `widen(register, index)` one of them.
template <int per, class Widen>
void product(const char* what, Product mine, Widen widen) {
  emulation::collective(what, &mine, [widen](void* const* slots) {
    constexpr int kDepth = 8 * per;
    float a[16][kDepth], b[8][kDepth];
    for (int l = 0; l < 32; ++l) {
      const auto* p = static_cast<const Product*>(slots[l]);
      const int g = l / 4, t = l % 4;
      for (int e = 0; e < per; ++e)
        for (int half = 0; half < 2; ++half) {
          const int k = half * 4 * per + t * per + e;
          a[g][k] = widen(p->a[2 * half], e);
          a[g + 8][k] = widen(p->a[2 * half + 1], e);
          b[g][k] = widen(p->b[half], e);
        }
    }
    for (int l = 0; l < 32; ++l) {
      auto* p = static_cast<Product*>(slots[l]);
      for (int i = 0; i < 4; ++i) {
        const int row = l / 4 + 8 * (i / 2), col = 2 * (l % 4) + i % 2;
        float sum = 0;
        for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[col][k];
        p->d[i] += sum;
      }
    }
  });
}

}  // namespace

std::uint32_t pack_bf16(float low, float high) {
  return bf16_bits(low) | bf16_bits(high) << 16;
}

std::uint16_t pack_e4m3(float low, float high) {
  return static_cast<std::uint16_t>(e4m3_code(low) | e4m3_code(high) << 8);
}

// E4M3 (OCP 8-bit floating point, 2023): bias 7, 3 bits of mantissa, 0x7f is NaN.
float widen_e4m3(std::uint8_t code) {
  static const std::vector<float> values = [] {
    std::vector<float> v(256);
    for (std::size_t i = 0; i < v.size(); ++i) {
      const int exponent = static_cast<int>(i >> 3) & 15, mantissa = static_cast<int>(i) & 7;
      const float size = exponent == 0
                             ? std::ldexp(static_cast<float>(mantissa), -9)
                             : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
      v[i] = (i & 0x7f) == 0x7f ? std::nanf("") : i & 0x80 ? -size : size;
    }
    return v;
  }();
  return values[code];
}

std::uint32_t match_any(std::uint32_t x) {
  struct Slot {
    std::uint32_t in, out;
  } slot{x, 0};
  emulation::collective("match_any", &slot, [](void* const* slots) {
    for (int l = 0; l < 32; ++l)
      for (int m = 0; m < 32; ++m)
        if (static_cast<Slot*>(slots[l])->in == static_cast<Slot*>(slots[m])->in)
          static_cast<Slot*>(slots[l])->out |= 1u << m;
  });
  return slot.out;
}

void sync_warp() {
  emulation::collective("sync_warp", nullptr, [](void* const*) {});
}

void load_matrices(std::uint32_t (&r)[4], const void* row) {
  matrices("load_matrices", r, row, false);
}
void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
  matrices("load_matrices_transposed", r, row, true);
}

void multiply_bf16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  product<2>("multiply_bf16", {d, a, {b0, b1}},
             [](std::uint32_t r, int e) { return bf16_value(r >> (16 * e) & 0xffff); });
}
void multiply_e4m3(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  product<4>("multiply_e4m3", {d, a, {b0, b1}}, [](std::uint32_t r, int e) {
    return widen_e4m3(static_cast<std::uint8_t>(r >> (8 * e) & 0xff));
  });
}

// As the device's: the address within shared memory, the distance of groups of 8 rows, the swizzle.
std::uint64_t tile_descriptor(const void* at) {
  const auto address = static_cast<const unsigned char*>(at) - emulation::dynamic_shared();
  return static_cast<std::uint64_t>(address >> 4) | std::uint64_t{1024 >> 4} << 32 |
         std::uint64_t{1} << 62;
}

namespace {

// Byte k of a row of the tile: bits 4 to 6 of an address are swizzled with its bits 7 to 9.
float tile_value(std::uint64_t descriptor, int row, int k) {
  const std::uint64_t start = (descriptor & 0x3fff) << 4, distance = (descriptor >> 32 & 0x3fff)
                                                                     << 4;
  const std::uint64_t linear = start + static_cast<std::uint64_t>(row / 8) * distance +
                               static_cast<std::uint64_t>(row % 8 * 128 + k);
  return widen_e4m3(emulation::dynamic_shared()[linear ^ ((linear >> 7 & 7) << 4)]);
}

}  // namespace

// Each warp does its own rows, at once.
void multiply_e4m3_group(float (&d)[16][4], std::uint64_t a, std::uint64_t b, bool accumulate) {
  const int lane = emulation::lane(), warp = static_cast<int>(emulation::thread_index().x) / 32 % 4;
  emulation::collective("multiply_e4m3_group", nullptr, [](void* const*) {});
  for (int j = 0; j < 16; ++j)
    for (int e = 0; e < 4; ++e) {
      const int row = warp * 16 + lane / 4 + e / 2 * 8, column = j * 8 + lane % 4 * 2 + e % 2;
      float sum = 0;
      for (int k = 0; k < 32; ++k) sum += tile_value(a, row, k) * tile_value(b, column, k);
      d[j][e] = accumulate ? d[j][e] + sum : sum;
    }
}

}  // namespace reckon::real::cuda
