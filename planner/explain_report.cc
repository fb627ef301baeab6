#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "planner/bill.h"
#include "planner/explain.h"
#include "planner/plan_json.h"
#include "planner/table.h"

namespace reckon::plan {

namespace {

constexpr std::size_t kOps = 8;  // shown

// Causes that any of the accounts has, those with most time first.
std::vector<std::size_t> present(const std::vector<const Causes*>& accounts) {
  const auto most = [&](std::size_t c) {
    Seconds t;
    for (const Causes* a : accounts) t = std::max(t, (*a)[c]);
    return t;
  };
  std::vector<std::size_t> order;
  for (std::size_t c = 0; c < kStepCauses; ++c)
    if (most(c).si > 0) order.push_back(c);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return most(a) > most(b); });
  return order;
}

std::string cause_text(std::size_t c) {
  return description(static_cast<StepCause>(c));
}

std::string signed_duration(Seconds t) {
  if (std::abs(t.si) < 1e-9) return "0 s";  // rounding of sums
  return (t.si > 0 ? "+" : "") + duration(t);
}

std::string signed_hours(double hours) {
  return (hours > 0 ? "+" : "") + grouped(hours);
}

std::string percent_of(double share) {
  return fmt::format("{:.3f} %", 100 * share);
}

std::string binds_text(const Explanation& e) {
  const StepAccount& a = e.result.account;
  const Seconds step = e.result.prediction.step;
  Table t{.columns = {{"", Align::Left}, {"critical path"}, {""}, {"mean rank"}, {""}}};
  const auto add = [&](const std::string& name, Seconds path, Seconds mean) {
    const auto cell = [](Seconds x) { return x.si > 0 ? duration(x) : std::string(); };
    const auto share = [&](Seconds x) { return x.si > 0 ? percent(x / step) : std::string(); };
    t.rows.push_back({name, cell(path), share(path), cell(mean), share(mean)});
  };
  for (const std::size_t c : present({&a.path, &a.mean})) add(cause_text(c), a.path[c], a.mean[c]);
  add("step", sum(a.path), sum(a.mean));
  std::string out = text(t);
  if (a.recompute.si > 0)
    out += wrapped(fmt::format("Of the mean rank's compute, {} ({}) repeats forward work.",
                               duration(a.recompute), percent(a.recompute / step)));
  std::string ops = "Largest ops of the mean rank:";
  for (std::size_t i = 0; i < std::min(kOps, a.ops.size()); ++i)
    ops += fmt::format("{} {} {}", i > 0 ? "," : "", a.ops[i].label, duration(a.ops[i].time));
  return out + wrapped(ops + ".");
}

std::string elasticities_text(const Explanation& e) {
  if (e.elasticities.empty() && !e.memory)
    return wrapped(
        "None: tables of this machine stand in for the equations, and nothing says how they would "
        "change.");
  Table t{.columns = {{"", Align::Left}, {"1 % more: step"}, {"half of it"}, {"twice"}}};
  const auto time = [](Seconds x) { return x.si > 0 ? duration(x) : std::string(); };
  for (const Elasticity& x : e.elasticities)
    t.rows.push_back({x.description,
                      (x.less == 0  ? ""
                       : x.less > 0 ? "-"
                                    : "+") +
                          percent_of(std::abs(x.less)),
                      time(x.half), time(x.twice)});
  if (e.memory)
    t.rows.push_back({"memory, the best plan with it",
                      (e.memory->less > 0 ? "-" : "") + percent_of(e.memory->less), "",
                      duration(e.memory->gains.empty() ? e.result.prediction.step
                                                       : e.memory->gains.back().step)});
  std::string out = text(t);
  if (!e.memory || e.memory->gains.empty()) return out;
  out += "  What more memory on each GPU would let run\n";
  Table gains{.columns = {{"more"}, {"step"}, {"plan", Align::Left}}};
  for (const MemoryGain& g : e.memory->gains)
    gains.rows.push_back({"+" + gibibytes(g.more), duration(g.step), describe(g.plan)});
  return out + text(gains);
}

std::string ladder_text(const Ladder& l) {
  Table t{.columns = {{"without", Align::Left},
                      {"", Align::Left},
                      {"step"},
                      {"it saves"},
                      {"GPU-hours"},
                      {"memory"},
                      {"", Align::Left}}};
  for (const Rung& r : l.rungs) {
    std::vector<std::string> row = {r.what, fmt::format("{} -> {}", r.from, r.to)};
    if (r.illegal) {
      row.insert(row.end(), {"", "", "", "", "can't run: " + std::string(r.illegal->why)});
    } else {
      row.insert(row.end(), {duration(r.step), signed_duration(r.worth),
                             r.gpu_hours ? signed_hours(*r.gpu_hours) : "", gibibytes(r.memory),
                             r.fits ? "" : "does not fit"});
    }
    t.rows.push_back(std::move(row));
  }
  return text(t);
}

// The plan's causes beside those of others, with the differences.
std::string beside(const Causes& own, const std::string& title, const std::vector<Rival>& rivals) {
  Table t{.columns = {{"mean rank", Align::Left}, {title}}};
  std::vector<const Causes*> accounts = {&own};
  for (const Rival& r : rivals) {
    t.columns.push_back({r.label});
    t.columns.push_back({"difference"});
    accounts.push_back(&r.result.account.mean);
  }
  const auto add = [&](const std::string& name, auto time) {
    std::vector<std::string> row = {name, duration(time(own))};
    for (const Rival& r : rivals) {
      row.push_back(duration(time(r.result.account.mean)));
      row.push_back(signed_duration(time(r.result.account.mean) - time(own)));
    }
    t.rows.push_back(std::move(row));
  };
  for (const std::size_t c : present(accounts))
    add(cause_text(c), [c](const Causes& a) { return a[c]; });
  add("step", [](const Causes& a) { return sum(a); });
  return text(t);
}

ordered_json causes_json(const Causes& causes) {
  ordered_json out = ordered_json::object();
  for (std::size_t c = 0; c < kStepCauses; ++c) out[key(static_cast<StepCause>(c))] = causes[c].si;
  return out;
}

ordered_json result_json(const Plan& plan, const VariantResult& r, const Scenario& s) {
  ordered_json ops = ordered_json::array();
  for (std::size_t i = 0; i < std::min(kOps, r.account.ops.size()); ++i)
    ops.push_back({{"name", r.account.ops[i].label}, {"time_s", r.account.ops[i].time.si}});
  return {{"name", describe(plan)},
          {"plan", plan_to_json(plan)},
          {"step_s", r.prediction.step.si},
          {"peak_memory_GiB", r.prediction.memory.peak / GiB},
          {"fits", r.prediction.memory.peak <= memory_limit(s)},
          {"critical_path_s", causes_json(r.account.path)},
          {"mean_rank_s", causes_json(r.account.mean)},
          {"recompute_s", r.account.recompute.si},
          {"largest_ops", ops}};
}

const char* verdict_word(WhyNotCase::Verdict v) {
  switch (v) {
    case WhyNotCase::Verdict::Illegal: return "illegal";
    case WhyNotCase::Verdict::TooLarge: return "too large";
    case WhyNotCase::Verdict::Slower: return "slower";
    case WhyNotCase::Verdict::Same: return "as fast";
    case WhyNotCase::Verdict::Faster: return "faster";
  }
  return "";
}

std::string why_not_case_text(const WhyNotCase& c, const FoundPlan& best,
                              const StepAccount& best_account, const Scenario& s) {
  using Verdict = WhyNotCase::Verdict;
  if (c.verdict == Verdict::Illegal)
    return wrapped(fmt::format("Illegal: {}{}.", c.illegal->why,
                               c.illegal->detail.empty() ? "" : " (" + c.illegal->detail + ")"));
  const Prediction& p = c.result->prediction;
  const Seconds more = p.step - best.prediction.step;
  std::string out = fmt::format("  {}\n", describe(c.plan));
  switch (c.verdict) {
    case Verdict::TooLarge: {
      out +=
          wrapped(fmt::format("Too large: {} of the {} that a GPU has, {} too much. Its step "
                              "would take {}.",
                              gibibytes(p.memory.peak), gibibytes(memory_limit(s)),
                              gibibytes(p.memory.peak - memory_limit(s)), duration(p.step)));
      const RankMemory &own = fullest_rank(p.memory), &other = fullest_rank(best.prediction.memory);
      Table t{.columns = {{"fullest stage", Align::Left}, {"this plan"}, {"best plan"}}};
      for (int i = 0; i < kCauses; ++i)
        t.rows.push_back(
            {name(static_cast<Cause>(i)), gibibytes(own.at_peak[i]), gibibytes(other.at_peak[i])});
      t.rows.push_back({"peak", gibibytes(own.peak), gibibytes(other.peak)});
      out += text(t);
      break;
    }
    case Verdict::Same:
      out += wrapped(
          fmt::format("As fast: {}, memory {}.", duration(p.step), gibibytes(p.memory.peak)));
      break;
    case Verdict::Slower:
    case Verdict::Faster:
      out += wrapped(fmt::format(
          "{}: {}, {} ({}) {} the best plan's {}; memory {}.", more.si > 0 ? "Slower" : "Faster",
          duration(p.step), duration(more.si > 0 ? more : -more),
          percent(std::abs(more / best.prediction.step)), more.si > 0 ? "over" : "under",
          duration(best.prediction.step), gibibytes(p.memory.peak)));
      out += beside(best_account.mean, "best plan", {{"this plan", c.plan, *c.result}});
      break;
    case Verdict::Illegal: break;
  }
  if (!c.in_space)
    out += wrapped("It is outside of the scenario's search space.");
  else if (c.bound && *c.bound > best.prediction.step)
    out +=
        wrapped(fmt::format("The search need not simulate it: its lower bound, {}, is above the "
                            "best step.",
                            duration(*c.bound)));
  else if (c.bound)
    out +=
        wrapped(fmt::format("The search looks at it: its lower bound, {}, is below the best "
                            "step.",
                            duration(*c.bound)));
  return out;
}

ordered_json why_not_case_json(const WhyNotCase& c, const FoundPlan& best, const Scenario& s) {
  ordered_json out = {{"verdict", verdict_word(c.verdict)}};
  if (c.illegal) {
    out["reason"] = c.illegal->why;
    out["detail"] = c.illegal->detail;
    return out;
  }
  out["slower_s"] = (c.result->prediction.step - best.prediction.step).si;
  out.update(result_json(c.plan, *c.result, s));
  const RankMemory& m = fullest_rank(c.result->prediction.memory);
  for (int i = 0; i < kCauses; ++i)
    out["fullest_stage_GiB"][name(static_cast<Cause>(i))] = m.at_peak[i] / GiB;
  out["in_search_space"] = c.in_space;
  out["bound_s"] = c.bound ? ordered_json(c.bound->si) : ordered_json(nullptr);
  out["cut_by_bound"] = c.bound && *c.bound > best.prediction.step;
  return out;
}

}  // namespace

std::string to_text(const Explanation& e, const Scenario& s) {
  const StepShape step = step_shape(s.campaign[e.phase]);
  const Prediction& p = e.result.prediction;
  std::string out =
      fmt::format("{}\n{}: {}\nStep {}, memory {} of {}{}\n", headline(s, step),
                  e.found ? "The best plan" : "The plan", describe(e.plan), duration(p.step),
                  gibibytes(p.memory.peak), gibibytes(memory_limit(s)),
                  p.memory.peak <= memory_limit(s) ? "" : ": DOES NOT FIT");
  if (e.interrupted) out += "Interrupted: the search had not ended, and a faster plan may exist.\n";
  out += "\nWhat the step waits for, and where the GPUs' time goes\n" + binds_text(e);
  out += "\nWith a little more of each\n" + elasticities_text(e);
  out += "\nEach optimisation switched off in turn\n" + ladder_text(e.ladder);
  if (!e.rivals.empty()) {
    out += "\nBeside other plans\n";
    for (const Rival& r : e.rivals) out += fmt::format("  {}: {}\n", r.label, describe(r.plan));
    out += beside(e.result.account.mean, e.found ? "best plan" : "the plan", e.rivals);
  }
  return out;
}

ordered_json to_json(const Explanation& e, const Scenario& s) {
  ordered_json out = {{"scenario", s.name},
                      {"phase", s.campaign[e.phase].name},
                      {"found_by_search", e.found},
                      {"interrupted", e.interrupted}};
  out.update(result_json(e.plan, e.result, s));
  out["elasticities"] = ordered_json::object();
  for (const Elasticity& x : e.elasticities) {
    ordered_json one = {{"step_less_with_1_percent_more", x.less}};
    if (x.half.si > 0) one["step_s_with_half"] = x.half.si;
    if (x.twice.si > 0) one["step_s_with_twice"] = x.twice.si;
    out["elasticities"][x.key] = std::move(one);
  }
  if (e.memory) {
    ordered_json gains = ordered_json::array();
    for (const MemoryGain& g : e.memory->gains)
      gains.push_back({{"more_GiB", g.more / GiB},
                       {"step_s", g.step.si},
                       {"name", describe(g.plan)},
                       {"plan", plan_to_json(g.plan)}});
    out["elasticities"]["memory"] = {{"step_less_with_1_percent_more", e.memory->less},
                                     {"gains", gains}};
  }
  out["ladder"] = ordered_json::array();
  for (const Rung& r : e.ladder.rungs) {
    ordered_json rung = {{"what", r.what}, {"from", r.from}, {"to", r.to}};
    if (r.illegal) {
      rung["reason"] = r.illegal->why;
      rung["detail"] = r.illegal->detail;
    } else {
      rung["step_s"] = r.step.si;
      rung["saves_s"] = r.worth.si;
      rung["saves_gpu_hours"] = r.gpu_hours ? ordered_json(*r.gpu_hours) : ordered_json(nullptr);
      rung["peak_memory_GiB"] = r.memory / GiB;
      rung["fits"] = r.fits;
    }
    out["ladder"].push_back(std::move(rung));
  }
  out["rivals"] = ordered_json::array();
  for (const Rival& r : e.rivals) {
    ordered_json rival = {{"label", r.label}};
    rival.update(result_json(r.plan, r.result, s));
    for (std::size_t c = 0; c < kStepCauses; ++c)
      rival["difference_s"][key(static_cast<StepCause>(c))] =
          (r.result.account.mean[c] - e.result.account.mean[c]).si;
    out["rivals"].push_back(std::move(rival));
  }
  return out;
}

std::string to_text(const WhyNot& w, const FoundPlan& best, const Scenario& s,
                    const StepShape& step) {
  const auto of_best = evaluate(variant(s, best.plan), step);
  const StepAccount& account = std::get<VariantResult>(of_best).account;
  std::string out =
      fmt::format("Why not {}?\n  best plan: {}\n\n", w.named.text, describe(best.plan));
  if (!w.outside.empty())
    out +=
        wrapped(fmt::format("The scenario's search does not try {}.", fmt::join(w.outside, ", ")),
                0) +
        "\n";
  out += "With the rest as in the best plan\n" + why_not_case_text(w.as_best, best, account, s);
  if (!w.search_asked) return out;
  out += "\nWith the rest searched\n";
  if (w.searched && w.searched->plan == w.as_best.plan && w.as_best.result)
    return out + "  The same plan.\n";
  if (w.searched) return out + why_not_case_text(*w.searched, best, account, s);
  out += wrapped(fmt::format("No plan with it is legal; of {} candidates:",
                             grouped(static_cast<double>(w.candidates))));
  std::vector<std::pair<std::string, std::int64_t>> reasons(w.rejected.begin(), w.rejected.end());
  std::stable_sort(reasons.begin(), reasons.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  Table t{.columns = {{"rejected"}, {"because", Align::Left}}};
  for (const auto& [reason, n] : reasons)
    t.rows.push_back({grouped(static_cast<double>(n)), reason});
  return out + text(t);
}

ordered_json to_json(const WhyNot& w, const FoundPlan& best, const Scenario& s) {
  ordered_json out = {{"scenario", s.name},
                      {"named", w.named.fields},
                      {"best",
                       {{"name", describe(best.plan)},
                        {"plan", plan_to_json(best.plan)},
                        {"step_s", best.prediction.step.si}}},
                      {"memory_limit_GiB", memory_limit(s) / GiB},
                      {"not_in_search", w.outside},
                      {"rest_as_in_best", why_not_case_json(w.as_best, best, s)}};
  if (!w.search_asked) return out;
  out["rest_searched"] =
      w.searched ? why_not_case_json(*w.searched, best, s) : ordered_json(nullptr);
  out["rejected"] = ordered_json::object();
  for (const auto& [reason, n] : w.rejected) out["rejected"][reason] = n;
  return out;
}

}  // namespace reckon::plan
