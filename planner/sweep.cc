// Points are independent, so each is one thread's work from reading the scenario to the bill, and
// the answers do not depend on how many threads or processes there are.
#include "planner/sweep.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <regex>
#include <sstream>

#include "planner/bill.h"
#include "planner/file.h"
#include "planner/parallel.h"
#include "planner/plan_json.h"
#include "planner/report.h"
#include "planner/scenario_fields.h"
#include "planner/scenario_json.h"
#include "planner/search_cache.h"

namespace reckon::plan {

namespace {

// At commas outside of quotes and brackets.
std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> items(1);
  int depth = 0;
  bool quoted = false;
  for (char c : text) {
    if (c == '"') quoted = !quoted;
    if (!quoted && (c == '[' || c == '{')) ++depth;
    if (!quoted && (c == ']' || c == '}')) --depth;
    if (c == ',' && depth == 0 && !quoted)
      items.emplace_back();
    else
      items.back() += c;
  }
  return items;
}

std::string trimmed(const std::string& text) {
  const std::size_t begin = text.find_first_not_of(' ');
  if (begin == std::string::npos) return {};
  return text.substr(begin, text.find_last_not_of(' ') - begin + 1);
}

nlohmann::json value_of(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  return json.is_discarded() ? nlohmann::json(text) : json;
}

// "1024..8192*2", "25..100+25 GB/s"; nothing if it is no range.
std::vector<nlohmann::json> range_of(const std::string& text) {
  static const std::regex form(R"(([0-9.eE]+?)\.\.([0-9.eE]+)([*+])([0-9.eE]+)( ?[A-Za-z%].*)?)");
  std::smatch m;
  if (!std::regex_match(text, m, form)) return {};
  const double from = std::atof(m[1].str().c_str()), to = std::atof(m[2].str().c_str()),
               by = std::atof(m[4].str().c_str());
  const bool factor = m[3] == "*";
  constexpr std::size_t kMost = 100000;
  if ((factor && (by <= 1 || from <= 0)) || (!factor && by <= 0))
    throw InputError(fmt::format("--vary: the range {} never ends", text));
  std::vector<nlohmann::json> values;
  for (std::size_t i = 0; values.size() < kMost; ++i) {
    const double step = static_cast<double>(i);
    // From the start each time, so that errors don't add up.
    const double v = factor ? from * std::pow(by, step) : from + by * step;
    if (v > to * (1 + 1e-9)) break;
    if (m[5].matched)
      values.emplace_back(fmt::format("{}{}", v, m[5].str()));
    else if (v == std::floor(v))
      values.emplace_back(static_cast<std::int64_t>(v));
    else
      values.emplace_back(v);
  }
  return values;
}

void set_path(nlohmann::json& root, const std::string& path, nlohmann::json value) {
  std::vector<std::string> keys;
  std::istringstream in(path);
  for (std::string key; std::getline(in, key, '.');) keys.push_back(key);
  if (keys.empty()) throw InputError("--vary: expected PATH=VALUES");
  // A list of values to try, given as one of them.
  if (keys.size() == 2 && keys[0] == "search" && !value.is_array() && keys[1] != "target" &&
      keys[1] != "framework_version")
    value = nlohmann::json::array({value});
  nlohmann::json* at = &root;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (at->is_string()) *at = {{"base", at->get<std::string>()}};
    if (at->is_array()) {
      std::size_t index = 0;
      const char* end = keys[i].data() + keys[i].size();
      const auto [stop, error] = std::from_chars(keys[i].data(), end, index);
      if (error != std::errc() || stop != end || index >= at->size())
        throw InputError(fmt::format("--vary {}: expected an index below {}, got \"{}\"", path,
                                     at->size(), keys[i]));
      at = &(*at)[index];
    } else if (at->is_object() || at->is_null()) {
      at = &(*at)[keys[i]];
    } else {
      throw InputError(fmt::format("--vary {}: there is nothing below \"{}\"", path, keys[i - 1]));
    }
  }
  *at = std::move(value);
}

// Calls each(holder) for all that hold a plan.
template <class Each>
void for_each_plan(nlohmann::json& root, Each each) {
  const auto at = [&](nlohmann::json& holder) {
    if (holder.is_object() && holder.contains("plan")) each(holder);
  };
  at(root);
  if (root.contains("campaign") && root["campaign"].is_array())
    for (nlohmann::json& phase : root["campaign"]) at(phase);
}

// What of plans can't be left as it is when other parts change.
void loosen(nlohmann::json& root, const Sweep& sweep) {
  const auto varies = [&](const char* prefix) {
    return std::any_of(sweep.variations.begin(), sweep.variations.end(),
                       [&](const Variation& v) { return v.path.starts_with(prefix); });
  };
  for_each_plan(root, [&](nlohmann::json& holder) {
    nlohmann::json& plan = holder["plan"];
    if (!plan.is_object()) return;
    if (!varies("plan.dp")) plan.erase("dp");  // the GPUs that the other degrees leave
    if (varies("model") || varies("plan.pp") || varies("plan.vpp")) plan.erase("layout");
  });
}

nlohmann::ordered_json priced(const Scenario& s, const Plan& plan, Predictor& predictor,
                              const Prediction& p,
                              const std::vector<std::optional<Plan>>& of_others) {
  nlohmann::ordered_json a;
  a["plan"] = describe(plan);
  a["step_s"] = p.step.si;
  std::vector<Plan> plans = plans_of_phases(s, plan);
  for (std::size_t i = 0; i < plans.size(); ++i)
    if (of_others[i]) plans[i] = *of_others[i];
  const auto bill = predicted_bill(s, plans, predictor);
  if (const Bill* b = std::get_if<Bill>(&bill)) {
    a["gpu_hours"] = b->gpu_hours;
    a["days"] = b->days;
    if (b->money) a["money"] = *b->money;
    const Verdict v = verdict(*b, s.budget);
    if (!v.lines.empty()) a["meets_budget"] = v.meets;
  } else {
    const NoBill& no = std::get<NoBill>(bill);
    a["reason"] = fmt::format("phase {}: {} {}", no.phase, no.why.why, no.why.detail);
  }
  a["peak_memory_GiB"] = p.memory.peak / GiB;
  a["fits"] = p.memory.peak <= memory_limit(s);
  a["mfu"] = p.mfu_causal;
  a["plan_json"] = plan_to_json(plan);
  return a;
}

// Whether a phase has a plan that can run and fits. `reckon plan` holds such a plan too.
bool runs_its_own(const Scenario& s, const PhaseOfCampaign& phase) {
  const StepShape step = step_shape(phase);
  return phase.plan && !why_illegal(s.model, s.cluster, s.stack, *phase.plan, step) &&
         predict(s.model, s.cluster, s.stack, *phase.plan, step).memory.peak <= memory_limit(s);
}

nlohmann::ordered_json reason(const std::string& text) {
  return {{"reason", text}};
}

// Equal for points whose searches can share a cache: the scenario's text without what a cache does
// not depend on (search_cache.h). Text, so that no rounding makes two machines one.
std::string machine_of(const Sweep& sweep, const SweepPoint& point) {
  nlohmann::json root = sweep.scenario.root;
  for (std::size_t i = 0; i < point.size(); ++i)
    if (!point[i].is_null()) set_path(root, sweep.variations[i].path, point[i]);
  for (const char* key : {"name", "description", "budget", "constraints", "search", "plan",
                          "campaign", "training", "failures", "disturbances", "codesign"})
    root.erase(key);
  if (nlohmann::json& cluster = root["cluster"]; cluster.is_object()) {
    cluster.erase("price_per_gpu_hour");
    cluster.erase("currency");
    if (cluster.contains("gpu") && cluster["gpu"].is_object()) cluster["gpu"].erase("memory");
  }
  return root.dump();
}

// Caches of the machines that were searched last. A thread takes one for a point and gives it back.
class Caches {
 public:
  explicit Caches(int threads) : most_(static_cast<std::size_t>(threads)) {}

  std::unique_ptr<SearchCache> take(const std::string& machine, const Scenario& s) {
    const std::lock_guard<std::mutex> guard(lock_);
    for (auto it = idle_.begin(); it != idle_.end(); ++it)
      if (it->first == machine) {
        auto cache = std::move(it->second);
        idle_.erase(it);
        return cache;
      }
    return std::make_unique<SearchCache>(s);
  }
  void give_back(const std::string& machine, std::unique_ptr<SearchCache> cache) {
    std::unique_ptr<SearchCache> oldest;  // freed without the lock
    const std::lock_guard<std::mutex> guard(lock_);
    idle_.emplace_back(machine, std::move(cache));
    if (idle_.size() <= most_) return;
    oldest = std::move(idle_.front().second);
    idle_.erase(idle_.begin());
  }

 private:
  std::mutex lock_;
  std::size_t most_;
  std::vector<std::pair<std::string, std::unique_ptr<SearchCache>>> idle_;  // oldest first
};

// The values of a point in one text: the key of a journal.
std::string key_of(const SweepPoint& point) {
  return nlohmann::json(point).dump();
}

nlohmann::json signature(const Sweep& sweep) {
  nlohmann::json s = {{"scenario", sweep.scenario.root},
                      {"one_at_a_time", sweep.one_at_a_time},
                      {"search", sweep.search}};
  for (const Variation& v : sweep.variations) s["vary"].push_back({v.path, v.values});
  if (!sweep.chosen.empty()) s["points"] = sweep.chosen;
  return s;
}

// The files JOURNAL and JOURNAL.N that exist, by name.
std::vector<std::string> journals(const std::string& journal) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  std::error_code error;
  const fs::path path(journal);
  const std::string stem = path.filename().string();
  for (const auto& entry : fs::directory_iterator(fs::absolute(path, error).parent_path(), error)) {
    const std::string name = entry.path().filename().string();
    if (name == stem || name.starts_with(stem + ".")) files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// A process may have been killed in the middle of its last line: what is not a whole line is not an
// answer.
std::map<std::string, nlohmann::ordered_json> read_journals(const std::string& journal,
                                                            const nlohmann::json& wanted) {
  std::map<std::string, nlohmann::ordered_json> answers;
  for (const std::string& file : journals(journal)) {
    std::istringstream in(read_file(file));
    bool first = true;
    for (std::string line; std::getline(in, line) && !in.eof(); first = false) {
      const auto json = nlohmann::ordered_json::parse(line, nullptr, false);
      if (json.is_discarded()) continue;
      if (first && nlohmann::json(json) != wanted)
        throw InputError(
            fmt::format("{}: is of another sweep; finish that one, or remove the file", file));
      if (!first) answers[json.at("point").get<std::string>()] = json.at("answer");
    }
  }
  return answers;
}

class Journal {
 public:
  Journal(const std::string& path, const nlohmann::json& head) : path_(path) {
    const bool begins = !std::filesystem::exists(path) || std::filesystem::file_size(path) == 0;
    fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd_ < 0) throw InputError(path + ": can't write");
    // A cut last line must not swallow the next.
    write((begins ? head.dump() : "") + "\n");
  }
  ~Journal() { ::close(fd_); }
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  void add(const SweepPoint& point, const nlohmann::ordered_json& answer) {
    write(nlohmann::ordered_json{{"point", key_of(point)}, {"answer", answer}}.dump() + "\n");
  }

 private:
  void write(const std::string& text) {
    if (::write(fd_, text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
        ::fsync(fd_) != 0)
      throw InputError(path_ + ": can't write");
  }
  std::string path_;
  int fd_ = -1;
};

}  // namespace

Variation read_variation(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    throw InputError(fmt::format("--vary: expected PATH=VALUE,VALUE,..., got \"{}\"", text));
  Variation v{.path = trimmed(text.substr(0, equals)), .values = {}};
  for (const std::string& item : split(text.substr(equals + 1))) {
    const std::string word = trimmed(item);
    if (word.empty())
      throw InputError(fmt::format("--vary {}: expected a value between commas", v.path));
    const auto range = range_of(word);
    if (range.empty())
      v.values.push_back(value_of(word));
    else
      v.values.insert(v.values.end(), range.begin(), range.end());
  }
  // "12.5,25,50 GB/s": the unit behind the last number is that of all.
  static const std::regex with_unit("[0-9.eE+-]+( ?[A-Za-z%].*)");
  std::smatch m;
  const std::string last = v.values.back().is_string() ? v.values.back().get<std::string>() : "";
  const bool bare = std::all_of(v.values.begin(), v.values.end() - 1,
                                [](const nlohmann::json& value) { return value.is_number(); });
  if (bare && std::regex_match(last, m, with_unit))
    for (auto it = v.values.begin(); it != v.values.end() - 1; ++it) *it = it->dump() + m[1].str();
  return v;
}

std::vector<SweepPoint> points(const Sweep& sweep) {
  if (!sweep.chosen.empty()) return sweep.chosen;
  const std::size_t n = sweep.variations.size();
  std::vector<SweepPoint> all;
  if (sweep.one_at_a_time) {
    all.emplace_back(n);  // the scenario itself
    for (std::size_t i = 0; i < n; ++i)
      for (const auto& value : sweep.variations[i].values) {
        SweepPoint p(n);
        p[i] = value;
        all.push_back(p);
      }
    return all;
  }
  all.emplace_back();
  for (const Variation& v : sweep.variations) {
    std::vector<SweepPoint> longer;
    for (const SweepPoint& p : all)
      for (const auto& value : v.values) {
        longer.push_back(p);
        longer.back().push_back(value);
      }
    all = std::move(longer);
  }
  return all;
}

hw::Document scenario_at(const Sweep& sweep, const SweepPoint& point) {
  nlohmann::json root = sweep.scenario.root;
  for (std::size_t i = 0; i < point.size(); ++i)
    if (!point[i].is_null()) set_path(root, sweep.variations[i].path, point[i]);
  loosen(root, sweep);
  // Parsed again, so that errors have places; paths of other files stay relative to the scenario's.
  hw::Document document = hw::parse_json(sweep.scenario.file, root.dump(1));
  if (!sweep.search) return document;
  // Plans that mean nothing any more go, and a search takes their place.
  try {
    scenario_from_json(document);
    return document;
  } catch (const InputError&) {
    for_each_plan(root, [](nlohmann::json& holder) { holder.erase("plan"); });
    return hw::parse_json(sweep.scenario.file, root.dump(1));
  }
}

ModelShape model_at(const Sweep& sweep, const SweepPoint& point) {
  nlohmann::json root = {{"model", sweep.scenario.root.at("model")}};
  for (std::size_t i = 0; i < point.size(); ++i)
    if (sweep.variations[i].path.starts_with("model.") && !point[i].is_null())
      set_path(root, sweep.variations[i].path, point[i]);
  const hw::Document document = hw::parse_json(sweep.scenario.file, root.dump());
  ModelShape model;
  ModelPart part{model};
  read_custom(*hw::Value(document).find("model"), part, {});
  return model;
}

std::string reason_of(const InputError& error) {
  const std::string what = error.what();
  const std::size_t pointer = what.find(": /");
  return pointer == std::string::npos ? what : what.substr(pointer + 2);
}

namespace {

// Null after a stop. `caches`: null: nothing is shared.
nlohmann::ordered_json answer_with(const Sweep& sweep, const SweepPoint& point, Caches* caches,
                                   const std::atomic<bool>* stop) {
  Scenario s;
  try {
    s = scenario_from_json(scenario_at(sweep, point));
  } catch (const InputError& e) {
    return reason(reason_of(e));  // this point is no scenario: 100 experts in 8 groups
  }
  const std::optional<std::size_t> phase = searched_phase(s);
  if (!phase) return reason("no phase to predict");
  const StepShape step = step_shape(s.campaign[*phase]);
  std::vector<std::optional<Plan>> of_others(s.campaign.size());
  if (!sweep.search) {
    const std::optional<Plan>& plan = s.campaign[*phase].plan ? s.campaign[*phase].plan : s.plan;
    if (!plan) return reason("the scenario has no plan");
    if (plan->comm_sms > 0) s.stack.comm_sms = plan->comm_sms;
    if (const auto no = why_illegal(s.model, s.cluster, s.stack, *plan, step))
      return reason(fmt::format("{}{}", no->why, no->detail.empty() ? "" : ": " + no->detail));
    Predictor predictor(s.model, s.cluster, s.stack);
    return priced(s, *plan, predictor, predictor.predict(*plan, step), of_others);
  }
  const std::string machine = machine_of(sweep, point);
  std::unique_ptr<SearchCache> cache =
      caches != nullptr ? caches->take(machine, s) : std::make_unique<SearchCache>(s);
  const auto searched = [&](const StepShape& shape) {
    return search(s, shape, {.keep = 1, .front_within = 1, .stop = stop}, *cache);
  };
  const auto stopped = [&] { return stop != nullptr && stop->load(); };
  nlohmann::ordered_json answer;
  const SearchResult found = searched(step);
  if (found.best.empty()) {
    answer = reason("no plan runs and fits");
  } else {
    for (std::size_t i = 0; i < s.campaign.size() && !stopped(); ++i) {
      if (i == *phase || s.campaign[i].gpu_hours > 0 || runs_its_own(s, s.campaign[i])) continue;
      const SearchResult other = searched(step_shape(s.campaign[i]));
      if (!other.best.empty()) of_others[i] = other.best.front().plan;
    }
    const FoundPlan& best = found.best.front();
    answer = priced(s, best.plan, cache->predictor, best.prediction, of_others);
  }
  if (caches != nullptr) caches->give_back(machine, std::move(cache));
  if (stopped()) return nullptr;  // of a search that may have been cut short
  return answer;
}

}  // namespace

nlohmann::ordered_json answer_at(const Sweep& sweep, const SweepPoint& point) {
  return answer_with(sweep, point, nullptr, nullptr);
}

std::vector<nlohmann::ordered_json> run(const Sweep& sweep, const SweepOptions& options) {
  const std::vector<SweepPoint> all = points(sweep);
  std::vector<nlohmann::ordered_json> answers(all.size());
  const nlohmann::json head = signature(sweep);
  const auto collect = [&] {
    if (options.journal.empty()) return;
    const auto known = read_journals(options.journal, head);
    for (std::size_t i = 0; i < all.size(); ++i)
      if (const auto it = known.find(key_of(all[i])); it != known.end()) answers[i] = it->second;
  };
  collect();
  Caches caches(options.threads);
  std::vector<std::size_t> mine;
  for (std::size_t i = 0; i < all.size(); ++i)
    if (answers[i].is_null() &&
        static_cast<int>(i % static_cast<std::size_t>(options.parts)) == options.part)
      mine.push_back(i);
  // Points of one machine one after the other; where there are many machines, on one thread.
  std::vector<std::vector<std::size_t>> rounds;
  std::map<std::string, std::size_t> round_of;  // by machine
  for (const std::size_t i : mine) {
    std::string machine;
    try {
      if (sweep.search) machine = machine_of(sweep, all[i]);
    } catch (const InputError&) {  // no scenario
    }
    const auto [it, fresh] = round_of.try_emplace(machine, rounds.size());
    if (fresh) rounds.emplace_back();
    rounds[it->second].push_back(i);
  }
  if (rounds.size() < 4 * static_cast<std::size_t>(options.threads)) {
    std::vector<std::vector<std::size_t>> single;
    for (const auto& round : rounds)
      for (const std::size_t i : round) single.push_back({i});
    rounds = std::move(single);
  }

  std::optional<Journal> journal;
  if (!options.journal.empty() && !mine.empty())
    journal.emplace(
        options.parts > 1 ? fmt::format("{}.{}", options.journal, options.part) : options.journal,
        head);
  std::mutex lock;
  SweepProgress progress{.done = 0, .all = all.size()};
  for (const auto& a : answers) progress.done += !a.is_null();
  const auto answer = [&](std::size_t i) {
    nlohmann::ordered_json a = answer_with(sweep, all[i], &caches, options.stop);
    if (a.is_null()) return;
    const std::lock_guard<std::mutex> guard(lock);
    if (journal) journal->add(all[i], a);
    answers[i] = std::move(a);
    ++progress.done;
    if (options.progress) options.progress(progress);
  };
  for_each_index(rounds.size(), options.threads, [&](std::size_t k) {
    for (const std::size_t i : rounds[k]) {
      if (options.stop != nullptr && options.stop->load()) return;
      answer(i);
    }
  });
  if (options.parts > 1) collect();
  return answers;
}

void remove_journals(const std::string& journal) {
  std::error_code error;
  for (const std::string& file : journals(journal)) std::filesystem::remove(file, error);
}

}  // namespace reckon::plan
