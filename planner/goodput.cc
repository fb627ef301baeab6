#include "planner/goodput.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <queue>

#include "planner/report.h"
#include "planner/table.h"
#include "sim/check.h"

namespace reckon::plan {

namespace {

// Numbers in (0, 1]: splitmix64 (Sebastiano Vigna); std's distributions differ between libraries.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  double next() {
    std::uint64_t x = state_ += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    x ^= x >> 31;
    return static_cast<double>((x >> 11) + 1) * 0x1p-53;
  }
  double exponential(double mean) { return -mean * std::log(next()); }

 private:
  std::uint64_t state_;
};

// Seconds of one run.
struct Run {
  double length = 0, rework = 0, down = 0, checkpoints = 0, waiting = 0;
  std::vector<int> failures;  // by class
};

// "3.1 h", "4.2 min", "2.9 s".
std::string span_text(Seconds t) {
  if (t >= hour) return fmt::format("{:.1f} h", t / hour);
  if (t.si >= 60) return fmt::format("{:.1f} min", t.si / 60);
  return duration(t);
}

struct Rules {
  const FailureSpec& spec;
  double training, mtbf, interval, stall, load;
  int spares;
};

Run run_once(const Rules& rules, Random random) {
  Run run;
  run.failures.assign(rules.spec.classes.size(), 0);
  double rate = 0;
  for (const FailureClass& c : rules.spec.classes) rate += c.per_gpu_day;
  int spares = rules.spares;
  std::priority_queue<double, std::vector<double>, std::greater<>> repairs;  // when hosts are back
  double left = rules.training;
  const double cycle = rules.interval + rules.stall;

  const auto fail = [&] {
    double pick = random.next() * rate;
    std::size_t c = 0;
    while (c + 1 < rules.spec.classes.size() && pick > rules.spec.classes[c].per_gpu_day)
      pick -= rules.spec.classes[c++].per_gpu_day;
    ++run.failures[c];
    for (; !repairs.empty() && repairs.top() <= run.length; repairs.pop()) ++spares;
    if (!rules.spec.classes[c].host_lost) return;
    repairs.push(run.length + rules.spec.repair.si);
    if (spares > 0) {
      --spares;
      return;
    }
    const double wait = repairs.top() - run.length;
    repairs.pop();
    run.length += wait;
    run.waiting += wait;
  };

  for (;;) {
    // The last stretch needs no checkpoint at its end.
    const double stalls = std::max(0.0, std::ceil(left / rules.interval) - 1) * rules.stall;
    const double failure = random.exponential(rules.mtbf);
    if (failure >= left + stalls) {
      run.length += left + stalls;
      run.checkpoints += stalls;
      return run;
    }
    const double cycles = std::floor(failure / cycle);
    left -= cycles * rules.interval;
    run.length += failure;
    run.checkpoints += cycles * rules.stall;
    run.rework += failure - cycles * cycle;
    const double down = rules.spec.detect.si + rules.spec.restart.si + rules.load;
    for (;;) {
      fail();
      const double next = random.exponential(rules.mtbf);
      const double spent = std::min(next, down);
      run.length += spent;
      run.down += spent;
      if (next >= down) break;
    }
  }
}

}  // namespace

Seconds best_interval(Seconds stall, Seconds between_failures) {
  return std::max(Seconds(std::sqrt(2 * stall.si * between_failures.si)), stall);
}

Goodput goodput(const FailureSpec& spec, const CampaignRun& campaign) {
  check(campaign.runs > 0 && campaign.gpus > 0, "there is something to run");
  double per_day = 0;
  for (const FailureClass& c : spec.classes) per_day += c.per_gpu_day * campaign.gpus;
  Goodput g{.percentile = spec.percentile, .spare_hosts = spec.spare_hosts, .runs = campaign.runs};
  g.between_failures = per_day > 0 ? day / per_day : Seconds(1e12);
  g.load = campaign.checkpoint / spec.storage;
  g.stall = spec.stall * g.load;
  // Without a stall checkpoints are free, but one is not done before it is written.
  g.interval = spec.interval.si > 0
                   ? spec.interval
                   : std::max({best_interval(g.stall, g.between_failures), g.load, Seconds(1)});
  const Rules rules{.spec = spec,
                    .training = campaign.training.si,
                    .mtbf = g.between_failures.si,
                    .interval = g.interval.si,
                    .stall = g.stall.si,
                    .load = g.load.si,
                    .spares = spec.spare_hosts};
  std::vector<double> lengths, failures(spec.classes.size(), 0);
  double length = 0;
  for (int i = 0; i < campaign.runs; ++i) {
    const Run run = run_once(
        rules, Random(campaign.seed * 0x9e3779b97f4a7c15 + static_cast<unsigned>(i) * 7919u));
    lengths.push_back(run.length);
    length += run.length / campaign.runs;
    g.rework += Seconds(run.rework / campaign.runs);
    g.down += Seconds(run.down / campaign.runs);
    g.checkpoints += Seconds(run.checkpoints / campaign.runs);
    g.waiting += Seconds(run.waiting / campaign.runs);
    for (std::size_t c = 0; c < failures.size(); ++c)
      failures[c] += static_cast<double>(run.failures[c]) / campaign.runs;
  }
  std::sort(lengths.begin(), lengths.end());
  const auto at = [&](double percent_of_runs) {
    const double rank = percent_of_runs / 100 * static_cast<double>(lengths.size() - 1);
    return Seconds(lengths[static_cast<std::size_t>(std::lround(rank))]);
  };
  g.p10 = at(10), g.p50 = at(50), g.p90 = at(90), g.budgeted = at(spec.percentile);
  g.effective = campaign.training.si / length;
  for (std::size_t c = 0; c < failures.size(); ++c) {
    g.failures += failures[c];
    g.by_class.emplace_back(spec.classes[c].name, failures[c]);
  }
  return g;
}

nlohmann::ordered_json to_json(const Goodput& g) {
  nlohmann::ordered_json classes = nlohmann::ordered_json::object();
  for (const auto& [name, count] : g.by_class) classes[name] = count;
  return {{"failures", g.failures},
          {"by_class", classes},
          {"between_failures_s", g.between_failures.si},
          {"effective_training_time", g.effective},
          {"days", {{"p10", g.p10 / day}, {"p50", g.p50 / day}, {"p90", g.p90 / day}}},
          {"budgeted_percentile", g.percentile},
          {"budgeted_days", g.budgeted / day},
          {"checkpoint_interval_s", g.interval.si},
          {"checkpoint_stall_s", g.stall.si},
          {"lost_work_s", g.rework.si},
          {"down_s", g.down.si},
          {"checkpoints_s", g.checkpoints.si},
          {"waiting_for_hosts_s", g.waiting.si},
          {"runs", g.runs}};
}

std::string to_text(const Goodput& g) {
  std::string out =
      fmt::format("Failures: {:.3g} expected, one in {}; {} of the time is training\n", g.failures,
                  span_text(g.between_failures), percent(g.effective));
  const auto days = [](Seconds t) { return days_text(t / day); };
  Table t{.columns = {{"", Align::Left}, {"", Align::Right}, {"", Align::Left}}, .header = false};
  t.rows = {
      {"length, p10, p50, p90",
       fmt::format("{}, {}, {} days", days(g.p10), days(g.p50), days(g.p90)),
       fmt::format("the budget has to cover p{}", g.percentile)},
      {"lost work", days(g.rework) + " days", "since the last checkpoint"},
      {"down", days(g.down) + " days", "detection, restarts, loading checkpoints"},
      {"checkpoints", days(g.checkpoints) + " days",
       fmt::format("{} of waiting every {}", span_text(g.stall), span_text(g.interval))},
      {"waiting for hosts", days(g.waiting) + " days", fmt::format("{} spare", g.spare_hosts)}};
  out += text(t);
  std::string classes;
  for (const auto& [name, count] : g.by_class)
    classes += fmt::format("{}{} {:.3g}", classes.empty() ? "" : ", ", name, count);
  return out + wrapped(fmt::format("Mean of {} random runs; by cause: {}.", g.runs, classes));
}

}  // namespace reckon::plan
