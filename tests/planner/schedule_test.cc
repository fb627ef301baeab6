#include "planner/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <deque>
#include <map>
#include <string>

#include "tests/planner/schedule_reference.h"

using namespace reckon::plan;
using reckon::sim::Phase;

namespace {

constexpr ScheduleKind kKinds[] = {
    ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::Interleaved, ScheduleKind::ZbH1,
    ScheduleKind::ZbH2,  ScheduleKind::ZbV,      ScheduleKind::DualPipe,    ScheduleKind::DualPipeV,
};

// Longest wait of a rank between its first and its last task.
std::int64_t bubble(const std::vector<RankRun>& ranks) {
  std::int64_t most = 0;
  for (const RankRun& r : ranks) most = std::max(most, r.last_end - r.first_start - r.busy);
  return most;
}

int most_in_flight(const std::vector<RankRun>& ranks) {
  int most = 0;
  for (const RankRun& r : ranks) most = std::max(most, r.in_flight);
  return most;
}

// Calls check(pp, vpp, micro_batches) for every legal combination of small ones.
template <class Check>
void for_legal(ScheduleKind kind, int max_pp, Check check) {
  for (int pp = 1; pp <= max_pp; ++pp)
    for (int vpp = 1; vpp <= 4; ++vpp)
      for (int m = 1; m <= 4 * pp + 1; ++m)
        if (!why_illegal(kind, pp, vpp, m)) check(pp, vpp, m);
}

}  // namespace

TEST_CASE("every order is complete, on the right rank, and runs without deadlock") {
  for (ScheduleKind kind : kKinds) {
    int cases = 0;
    for_legal(kind, 9, [&](int pp, int vpp, int m) {
      const Schedule s = make_schedule(kind, pp, vpp, m);
      INFO("kind " << static_cast<int>(kind) << " pp " << pp << " vpp " << vpp << " m " << m);
      REQUIRE(s.chunks == pp * vpp);
      REQUIRE(s.order.size() == static_cast<std::size_t>(pp));
      REQUIRE(s.bidirectional == (kind == ScheduleKind::DualPipe));
      REQUIRE(breach(s, kind, pp, vpp) == "");
      REQUIRE(run_in_order(s, {}));
      ++cases;
    });
    CHECK(cases >= 20);
  }
}

TEST_CASE("a list in the wrong order is noticed") {
  Schedule s = make_schedule(ScheduleKind::OneFOneB, 4, 1, 8);
  std::swap(s.order[2].front(), s.order[2].back());
  CHECK(breach(s, ScheduleKind::OneFOneB, 4, 1) != "");
  CHECK_FALSE(run_in_order(s, {}));
}

TEST_CASE("1F1B, GPipe and interleaved 1F1B wait (pp - 1)(f + b + w) / vpp, to the tick") {
  for (ScheduleKind kind : {ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::Interleaved})
    for (const UniformCosts c : {UniformCosts{7, 9, 5}, UniformCosts{10, 10, 10}, {13, 20, 1}})
      for_legal(kind, 8, [&](int pp, int vpp, int m) {
        INFO("kind " << static_cast<int>(kind) << " pp " << pp << " vpp " << vpp << " m " << m);
        const auto run = run_in_order(make_schedule(kind, pp, vpp, m), c);
        REQUIRE(bubble(*run) ==
                published_bubble(kind, pp, vpp, vpp * c.f, vpp * c.b, vpp * c.w, 0));
      });
}

TEST_CASE("ZB-H1 and ZB-H2 wait (pp - 1)(f + b - w) and (pp - 1)(f + b - 2 w)") {
  for (const UniformCosts c : {UniformCosts{10, 10, 10}, UniformCosts{10, 12, 8},
                               UniformCosts{12, 10, 10}, UniformCosts{20, 10, 5}})
    for (int pp = 1; pp <= 8; ++pp)
      for (int m : {pp, pp + 1, 2 * pp, 2 * pp + 3, 5 * pp}) {
        INFO("pp " << pp << " m " << m << " f " << c.f);
        const auto h1 = run_in_order(make_schedule(ScheduleKind::ZbH1, pp, 1, m), c);
        REQUIRE(bubble(*h1) == published_bubble(ScheduleKind::ZbH1, pp, 1, c.f, c.b, c.w, 0));
        if (m < 2 * pp - 1) continue;
        const auto h2 = run_in_order(make_schedule(ScheduleKind::ZbH2, pp, 1, m), c);
        REQUIRE(bubble(*h2) == published_bubble(ScheduleKind::ZbH2, pp, 1, c.f, c.b, c.w, 0));
      }
}

TEST_CASE("ZB-V has no bubble where f = b = w") {
  for (int pp = 1; pp <= 10; ++pp)
    for (int m : {2 * pp - 1, 2 * pp, 3 * pp + 1}) {
      INFO("pp " << pp << " m " << m);
      const auto run = run_in_order(make_schedule(ScheduleKind::ZbV, pp, 2, m), {5, 5, 5});
      REQUIRE(bubble(*run) == published_bubble(ScheduleKind::ZbV, pp, 2, 10, 10, 10, 0));
    }
}

TEST_CASE("DualPipe waits (pp/2 - 1)(FB + B - 3 W), DualPipeV the same with its 2 pp chunks") {
  for (const std::int64_t w : {10, 7, 4}) {
    const UniformCosts c{.f = 10, .b = 10, .w = w, .fb = 20 + w};
    for (int pp = 2; pp <= 16; pp += 2)
      for (int m : {2 * pp, 2 * pp + 2, 4 * pp}) {
        INFO("pp " << pp << " m " << m << " w " << w);
        const auto dual = run_in_order(make_schedule(ScheduleKind::DualPipe, pp, 1, m), c);
        const std::int64_t full_b = c.b + c.w;  // the paper's B
        REQUIRE(bubble(*dual) == (pp / 2 - 1) * (c.fb + full_b - 3 * c.w));
        REQUIRE(published_bubble(ScheduleKind::DualPipe, pp, 1, c.f, c.b, c.w, c.fb) ==
                bubble(*dual));
        const auto v =
            run_in_order(make_schedule(ScheduleKind::DualPipeV, pp / 2, 2, m / 2 + m % 4), c);
        REQUIRE(bubble(*v) == (pp / 2 - 1) * (c.fb + full_b - 3 * c.w));
        REQUIRE(published_bubble(ScheduleKind::DualPipeV, pp / 2, 2, 2 * c.f, 2 * c.b, 2 * c.w,
                                 c.fb) == bubble(*v));
      }
  }
}

TEST_CASE("activations in flight stay within what each schedule promises") {
  for (int pp = 1; pp <= 8; ++pp) {
    const int m = 4 * pp;
    const auto run = [&](ScheduleKind kind, int vpp) {
      return *run_in_order(make_schedule(kind, pp, vpp, m), {});
    };
    INFO("pp " << pp);
    for (const RankRun& r : run(ScheduleKind::GPipe, 1)) CHECK(r.in_flight == m);
    const auto one = run(ScheduleKind::OneFOneB, 1);
    for (int r = 0; r < pp; ++r) CHECK(one[static_cast<std::size_t>(r)].in_flight == pp - r);
    CHECK(most_in_flight(run(ScheduleKind::ZbH1, 1)) == pp);
    CHECK(most_in_flight(run(ScheduleKind::ZbH2, 1)) == 2 * pp - 1);
    for (const RankRun& r : run(ScheduleKind::ZbV, 2)) CHECK(r.in_flight == 2 * pp);
    for (const RankRun& r : run(ScheduleKind::DualPipeV, 2)) CHECK(r.in_flight == 2 * pp + 1);
    if (pp % 2 == 0)
      for (const RankRun& r : run(ScheduleKind::DualPipe, 1)) CHECK(r.in_flight == pp + 1);
    if (pp == 1) continue;
    // SC21: first rank, 2 (pp - 1) + (vpp - 1) pp + 1 chunks
    for (int vpp : {2, 3})
      CHECK(run(ScheduleKind::Interleaved, vpp)[0].in_flight == 2 * (pp - 1) + (vpp - 1) * pp + 1);
  }
}

namespace {

char letter(Phase phase) {
  switch (phase) {
    case Phase::F:
    case Phase::FB: return 'F';
    case Phase::B: return 'b';
    case Phase::W: return 'W';
    default: return 'B';
  }
}

// A rank's list in the words of DualPipe's publication: F0 is a forward of flow 0, b1 a backward of
// flow 1 without its W, B1 one with it, F0&B1 a pair. Flow 0 is the one that a rank meets first.
std::string in_flows(const Schedule& s, int rank) {
  const auto& order = s.order[static_cast<std::size_t>(rank)];
  const int chunk0 = order.front().chunk;
  std::string text;
  for (const Task& t : order) {
    const int flow = t.chunk == chunk0 ? 0 : 1;
    text += fmt::format("{}{}", letter(t.phase), flow);
    if (t.phase == Phase::FB) {
      REQUIRE((t.chunk2 == chunk0) == (flow == 1));
      text += fmt::format("&B{}", 1 - flow);
    }
    text += ' ';
  }
  return text;
}

std::string repeat(int n, const std::string& text) {
  std::string all;
  for (int i = 0; i < n; ++i) all += text;
  return all;
}

// The eight steps with the loop counts of github.com/deepseek-ai/DualPipe, there named step_1 to
// step_8; `half` ranks meet `flow` micro-batches each way, h = 0 is the end of the pipeline.
std::string published_steps(int half, int h, int flow) {
  const int step_1 = (half - h - 1) * 2, step_2 = h + 1, step_3 = half - h - 1;
  const int step_4 = flow - 2 * half + h + 1, step_5 = half - h - 1, step_6 = h + 1;
  const int step_7 = half - h - 1, step_8 = h + 1;
  std::string text = repeat(step_1, "F0 ") + repeat(step_2, "F0 F1 ") + repeat(step_3, "b1 W1 F1 ");
  for (int i = 0; i < step_4; ++i)
    text += i == 0 && h == half - 1 ? "F0 B1 F1&B0 " : "F0&B1 F1&B0 ";
  text += repeat(step_5, "B1 F1&B0 ");
  // Zero bubble is switched on inside iteration step_6 / 2: before its B1 where h is odd, else
  // after.
  std::deque<std::string> due;
  bool zero_bubble = false;
  auto backward = [&](const std::string& which) {
    text += zero_bubble ? "b" : "B";
    text += which;
    text += ' ';
    if (zero_bubble) due.push_back(fmt::format("W{} ", which));
  };
  auto weight = [&] {
    text += due.front();
    due.pop_front();
  };
  for (int i = 0; i < step_6; ++i) {
    if (i == step_6 / 2 && h % 2 == 1) zero_bubble = true;
    backward("1");
    if (i == step_6 / 2 && h % 2 == 0) zero_bubble = true;
    backward("0");
  }
  for (int i = 0; i < step_7; ++i) {
    weight();
    zero_bubble = true;
    backward("0");
  }
  for (int i = 0; i < step_8; ++i) weight();
  REQUIRE(due.empty());
  return text;
}

// Micro-batches of each flow go through each phase in the order in which they enter.
void require_in_order(const Schedule& s) {
  for (const auto& order : s.order) {
    std::map<std::pair<int, int>, std::int64_t> last;  // (chunk, F B or W) -> micro-batch
    auto follows = [&](int chunk, int phase, std::uint32_t micro_batch) {
      const auto it = last.find({chunk, phase});
      if (it != last.end()) REQUIRE(it->second < micro_batch);
      last[{chunk, phase}] = micro_batch;
    };
    for (const Task& t : order) {
      if (t.phase == Phase::F || t.phase == Phase::FB) follows(t.chunk, 0, t.micro_batch);
      if (t.phase == Phase::B || t.phase == Phase::BW) follows(t.chunk, 1, t.micro_batch);
      if (t.phase == Phase::W || t.phase == Phase::BW) follows(t.chunk, 2, t.micro_batch);
      if (t.phase == Phase::FB) follows(t.chunk2, 1, t.micro_batch2);
      if (t.phase == Phase::FB) follows(t.chunk2, 2, t.micro_batch2);
    }
  }
}

}  // namespace

TEST_CASE("DualPipe and DualPipeV follow the published eight steps") {
  for (int pp : {2, 4, 8, 16})
    for (int m : {2 * pp, 2 * pp + 2, 5 * pp}) {
      const Schedule dual = make_schedule(ScheduleKind::DualPipe, pp, 1, m);
      require_in_order(dual);
      for (int r = 0; r < pp; ++r) {
        INFO("pp " << pp << " rank " << r << " m " << m);
        REQUIRE(in_flows(dual, r) == published_steps(pp / 2, std::min(r, pp - 1 - r), m / 2));
        // first: the micro-batch that enters on this side; last: its mirror's weight gradient
        REQUIRE(dual.order[static_cast<std::size_t>(r)].front().micro_batch ==
                static_cast<std::uint32_t>(r < pp / 2 ? 0 : m / 2));
        REQUIRE(dual.order[static_cast<std::size_t>(r)].back().phase == Phase::W);
      }
      const Schedule v = make_schedule(ScheduleKind::DualPipeV, pp, 2, m);
      require_in_order(v);
      for (int r = 0; r < pp; ++r) REQUIRE(in_flows(v, r) == published_steps(pp, r, m));
    }
}

TEST_CASE("DualPipe on 4 ranks with 8 micro-batches, in full") {
  const Schedule s = make_schedule(ScheduleKind::DualPipe, 4, 1, 8);
  std::string text;
  for (const auto& order : s.order) {
    for (const Task& t : order) {
      text += fmt::format("{}{}.{}", letter(t.phase), t.chunk, t.micro_batch);
      if (t.phase == Phase::FB) text += fmt::format("&B{}.{}", t.chunk2, t.micro_batch2);
      text += ' ';
    }
    text.back() = '\n';
  }
  CHECK(
      text ==
      R"(F0.0 F0.1 F0.2 F3.4 b3.4 W3.4 F3.5 F0.3&B3.5 F3.6&B0.0 B3.6 F3.7&B0.1 B3.7 b0.2 W0.2 b0.3 W0.3
F1.0 F2.4 F1.1 F2.5 F1.2 B2.4 F2.6&B1.0 F1.3&B2.5 F2.7&B1.1 B2.6 B1.2 b2.7 b1.3 W2.7 W1.3
F1.4 F2.0 F1.5 F2.1 F1.6 B2.0 F2.2&B1.4 F1.7&B2.1 F2.3&B1.5 B2.2 B1.6 b2.3 b1.7 W2.3 W1.7
F0.4 F0.5 F0.6 F3.0 b3.0 W3.0 F3.1 F0.7&B3.1 F3.2&B0.4 B3.2 F3.3&B0.5 B3.3 b0.6 W0.6 b0.7 W0.7
)");
}

TEST_CASE("what a schedule demands is said") {
  CHECK(why_illegal(ScheduleKind::DualPipe, 3, 1, 12));
  CHECK(why_illegal(ScheduleKind::DualPipe, 4, 1, 9));
  CHECK(why_illegal(ScheduleKind::DualPipe, 4, 1, 6));
  CHECK_FALSE(why_illegal(ScheduleKind::DualPipe, 4, 1, 8));
  CHECK(why_illegal(ScheduleKind::DualPipeV, 4, 1, 8));
  CHECK(why_illegal(ScheduleKind::DualPipeV, 4, 2, 7));
  CHECK(why_illegal(ScheduleKind::Interleaved, 4, 2, 6));
  CHECK(why_illegal(ScheduleKind::Interleaved, 1, 2, 6));
  CHECK(why_illegal(ScheduleKind::OneFOneB, 4, 2, 8));
  CHECK(why_illegal(ScheduleKind::ZbV, 4, 1, 8));
  CHECK_FALSE(why_illegal(ScheduleKind::ZbV, 4, 2, 1));
  CHECK(why_illegal(ScheduleKind::GPipe, 4, 1, 0));
}
