// Event loop over the ops of one block. Between two events every running op has a constant speed;
// the next event is the first op to finish. At most kStreams ops run at once, so each step is a
// handful of comparisons.
#include "sim/block_time.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <variant>

#include "sim/check.h"

namespace reckon::sim {

namespace {

constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

// When the host turns to an op's first kernel, and when it has issued its last one.
struct Launch {
  double first = 0, last = 0;
};

struct Running {
  const OpCost* cost;
  bool communication;
  double speed;
};

// Progressive filling: speeds of the open ops rise together; an op closes at its cap or when a
// resource it uses is full.
template <int kMax>
void fill_speeds(Running* ops, int n) {
  if (n == 1) {
    ops[0].speed = 1;  // neither SMs nor rates can be short
    return;
  }
  double held = 0, wanted = 0;
  for (int i = 0; i < n; ++i) (ops[i].communication ? held : wanted) += ops[i].cost->sm_share;
  const double left = std::max(0.05, 1 - held);  // a device is never wholly given to communication
  const double compute_cap = wanted > left ? left / wanted : 1;

  constexpr int kResources = 3;
  double use[kMax][kResources];
  double free[kResources] = {1, 1, 1};
  bool open[kMax];
  for (int i = 0; i < n; ++i) {
    const OpCost& c = *ops[i].cost;
    use[i][0] = c.hbm_share, use[i][1] = c.nvlink_share, use[i][2] = c.nic_share;
    ops[i].speed = 0;
    open[i] = true;
  }
  bool computing = false;
  for (int i = 0; i < n; ++i) computing = computing || !ops[i].communication;
  const auto cap_of = [&](const Running& op) {
    if (!op.communication) return compute_cap;
    return computing ? op.cost->beside_compute : 1;
  };
  double level = 0;
  for (int left_open = n; left_open > 0;) {
    double next = 1;  // the level at which something closes
    for (int i = 0; i < n; ++i)
      if (open[i]) next = std::min(next, cap_of(ops[i]));
    double demand[kResources] = {0, 0, 0};
    for (int i = 0; i < n; ++i)
      for (int r = 0; open[i] && r < kResources; ++r) demand[r] += use[i][r];
    int full = -1;
    for (int r = 0; r < kResources; ++r)
      if (demand[r] > 0 && level + free[r] / demand[r] < next) {
        next = level + std::max(0.0, free[r]) / demand[r];
        full = r;
      }
    for (int r = 0; r < kResources; ++r) free[r] -= demand[r] * (next - level);
    level = next;
    for (int i = 0; i < n; ++i) {
      if (!open[i]) continue;
      if ((full >= 0 && use[i][full] > 0) || (full < 0 && level >= cap_of(ops[i]))) {
        ops[i].speed = level;
        open[i] = false;
        --left_open;
      }
    }
  }
}

}  // namespace

std::vector<double> fair_speeds(const std::vector<OpCost>& running,
                                const std::vector<bool>& communication) {
  check(running.size() <= 16, "few ops run at once");
  std::array<Running, 16> ops{};
  for (std::size_t i = 0; i < running.size(); ++i) ops[i] = {&running[i], communication[i], 0};
  fill_speeds<16>(ops.data(), static_cast<int>(running.size()));
  std::vector<double> speeds;
  for (std::size_t i = 0; i < running.size(); ++i) speeds.push_back(ops[i].speed);
  return speeds;
}

std::vector<SimTime> slack_after(const Block& block, const BlockTime& time, std::uint32_t op) {
  constexpr SimTime kNever{std::numeric_limits<std::int64_t>::max()};
  std::vector<SimTime> slack(block.ops.size(), kNever);
  std::array<std::uint32_t, kStreams> before;
  before.fill(kNone);
  slack[op] = {};
  for (std::uint32_t i = 0; i < block.ops.size(); ++i) {
    const Op& o = block.ops[i];
    const auto pass = [&](std::uint32_t from) {
      if (from == kNone || slack[from] == kNever) return;
      slack[i] = std::min(slack[i], slack[from] + (time.spans[i].start - time.spans[from].end));
    };
    auto& last = before[static_cast<std::size_t>(o.stream)];
    if (i != op) {
      pass(last);
      for (std::uint32_t w = 0; w < o.waits; ++w) pass(block.waits[o.first_wait + w]);
    }
    last = i;
  }
  return slack;
}

namespace {

Meeting meeting_of(const Block& block, const BlockTime& time) {
  Meeting m;
  for (std::uint32_t i = 0; i < block.ops.size(); ++i) {
    const auto* c = std::get_if<Collective>(&block.works[block.ops[i].work]);
    if (c != nullptr && block.ops[i].phase == Phase::Optimizer && c->group.size > m.ranks)
      m = {.op = i, .ranks = c->group.size, .start = time.spans[i].start, .slack = time.duration};
  }
  if (m.ranks == 1) return m;
  const std::vector<SimTime> slack = slack_after(block, time, m.op);
  for (std::size_t i = 0; i < slack.size(); ++i)
    if (slack[i] < time.duration)
      m.slack = std::min(m.slack, slack[i] + (time.duration - time.spans[i].end));
  return m;
}

}  // namespace

BlockTime time_block(const Block& block, const CostOf& cost_of, Seconds host_per_kernel) {
  BlockTime t;
  const std::size_t n = block.ops.size();
  std::vector<OpCost> work_costs;
  work_costs.reserve(block.works.size());
  for (const Work& w : block.works) work_costs.push_back(cost_of(w));

  // The ops of each stream, in order: head[q], then `next` op by op.
  std::vector<std::uint32_t> next(n, kNone);
  std::array<std::uint32_t, kStreams> head, tail;
  head.fill(kNone), tail.fill(kNone);
  long kernels = 0;
  std::vector<Launch> launches(n);
  for (std::uint32_t i = 0; i < n; ++i) {
    const Op& op = block.ops[i];
    const auto q = static_cast<std::size_t>(op.stream);
    (tail[q] == kNone ? head[q] : next[tail[q]]) = i;
    tail[q] = i;
    const OpCost& c = work_costs[op.work];
    launches[i].first = static_cast<double>(kernels) * host_per_kernel.si;
    kernels += c.kernels;
    launches[i].last = static_cast<double>(kernels) * host_per_kernel.si;
    check(std::isfinite(c.alone.si) && c.alone.si >= 0, "an op takes a finite time");
    if (!c.calibrated) t.uncalibrated.push_back(op.label);
  }

  t.spans.resize(n);
  std::vector<char> done(n, 0);
  std::array<std::uint32_t, kStreams> running;
  std::array<double, kStreams> left{};  // seconds of the running op at its own speed
  running.fill(kNone);
  std::array<Running, kStreams> active;
  std::array<std::size_t, kStreams> stream_of{};
  double met = 0;  // when the ranks of a collective last met
  double now = 0, nic_time = 0, sm_time = 0, compute_time = 0;

  for (std::size_t finished = 0; finished < n;) {
    // Start what can start. One pass is enough: nothing ends in between.
    double next_launch = std::numeric_limits<double>::infinity();
    int count = 0;
    for (std::size_t q = 0; q < kStreams; ++q) {
      if (running[q] == kNone) {
        const std::uint32_t i = head[q];
        if (i == kNone) continue;
        const Op& op = block.ops[i];
        const auto* w = block.waits.data() + op.first_wait;
        if (!std::all_of(w, w + op.waits, [&](std::uint32_t d) { return done[d] != 0; })) continue;
        if (launches[i].first > now) {
          next_launch = std::min(next_launch, launches[i].first);
          continue;
        }
        running[q] = i;
        const OpCost& cost = work_costs[op.work];
        left[q] = cost.alone.si + cost.drift * std::sqrt(now - met);
        t.spans[i].start = ticks(Seconds(now));
      }
      const auto c = static_cast<std::size_t>(count++);
      stream_of[c] = q;
      active[c] = {&work_costs[block.ops[running[q]].work], !is_compute(static_cast<Stream>(q)), 0};
    }
    check(count > 0 || next_launch < std::numeric_limits<double>::infinity(),
          "a block never waits for itself");
    if (count > 0) fill_speeds<kStreams>(active.data(), count);

    double step = next_launch - now;
    for (int a = 0; a < count; ++a) {
      const auto u = static_cast<std::size_t>(a);
      const double device = left[stream_of[u]] / std::max(active[u].speed, 1e-9);
      step = std::min(step, std::max(device, launches[running[stream_of[u]]].last - now));
    }
    bool computing = false;
    for (int a = 0; a < count; ++a) {
      const auto u = static_cast<std::size_t>(a);
      const std::size_t q = stream_of[u];
      const OpCost& c = *active[u].cost;
      nic_time += step * active[u].speed * c.nic_share;
      if (active[u].communication)
        sm_time += step * c.sm_share;
      else
        computing = true;
      left[q] = std::max(0.0, left[q] - step * active[u].speed);
      // Ops that finish together, up to rounding, finish in the same event.
      const std::uint32_t i = running[q];
      if (left[q] <= 1e-15 + 1e-12 * c.alone.si && launches[i].last <= (now + step) * (1 + 1e-12)) {
        if (c.drift > 0) met = now + step;
        t.spans[i].end = ticks(Seconds(now + step));
        done[i] = 1;
        ++finished;
        running[q] = kNone;
        head[q] = next[i];
      }
    }
    if (computing) compute_time += step;
    now += step;
  }

  t.host = ticks(static_cast<double>(kernels) * host_per_kernel);
  t.duration = std::max(ticks(Seconds(now)), t.host);
  t.compute_busy = ticks(Seconds(compute_time));
  if (const double d = seconds(t.duration).si; d > 0) {
    t.nic_share = nic_time / d;
    t.sm_share = sm_time / d;
  }
  t.meeting = meeting_of(block, t);
  return t;
}

}  // namespace reckon::sim
