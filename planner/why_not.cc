// Named fields are laid over a plan by the reader of plan files, so that their errors are its
// errors. What follows from them and is not named itself (data-parallel ranks, chunks, layout) is
// worked out again.
#include "planner/why_not.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "planner/plan_fields.h"
#include "planner/report.h"
#include "planner/step_bound.h"

namespace reckon::plan {

namespace {

using Verdict = WhyNotCase::Verdict;

nlohmann::json number_or_text(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  return json.is_number() || json.is_boolean() ? json : nlohmann::json(text);
}

// "none", "full", "full:2", "norm+activation", as describe(Recompute) writes it.
nlohmann::json recompute_of(const std::string& text) {
  if (text == "none") return {{"mode", "none"}};
  if (text == "full") return {{"mode", "full"}};
  if (text.starts_with("full:"))
    return {{"mode", "full"}, {"full_layers", number_or_text(text.substr(5))}};
  nlohmann::json modules = nlohmann::json::array();
  for (std::size_t from = 0; from <= text.size();) {
    const std::size_t plus = std::min(text.find('+', from), text.size());
    modules.push_back(text.substr(from, plus - from));
    from = plus + 1;
  }
  return {{"mode", "selective"}, {"modules", modules}};
}

hw::Document document(const nlohmann::json& fields) {
  return hw::parse_json("--why-not", fields.dump());
}

bool pairs(ScheduleKind kind) {
  return kind == ScheduleKind::DualPipe || kind == ScheduleKind::DualPipeV;
}

// `base` with the named fields, and with what follows from them.
std::variant<Plan, Infeasible> with_fields(const Scenario& s, const Plan& base,
                                           const NamedFields& named) {
  const hw::Document fields = document(named.fields);
  Plan p = base;
  if (named.has("recompute")) p.recompute = {};
  hw::read_fields(hw::Value(fields), p, true);
  if (named.has("schedule") && !named.has("vpp"))
    p.vpp = is_v_shaped(p.schedule)                      ? 2
            : p.schedule != ScheduleKind::Interleaved    ? 1
            : base.schedule == ScheduleKind::Interleaved ? base.vpp
                                                         : 2;
  const auto overlap = named.fields.find("overlap");
  if (overlap == named.fields.end() || !overlap->contains("expert")) {
    if (pairs(p.schedule))
      p.overlap.expert = Overlap::Expert::Pair;
    else if (p.overlap.expert == Overlap::Expert::Pair)
      p.overlap.expert = Overlap::Expert::None;
  }
  if (!named.has("sequence_parallel")) p.sequence_parallel = p.tp > 1;
  if (p.tp == 1) p.overlap.tp = false;
  if (!named.has("dp")) {
    const std::int64_t others = std::int64_t{p.tp} * p.cp * p.pp;
    if (s.cluster.gpus % others != 0)
      return Infeasible{
          "tp x cp x pp does not divide the GPUs",
          fmt::format("tp {} x cp {} x pp {}, {} GPUs", p.tp, p.cp, p.pp, s.cluster.gpus)};
    p.dp = static_cast<int>(s.cluster.gpus / others);
  }
  const int chunks = p.pp * p.vpp;
  if (p.layout.size() != static_cast<std::size_t>(chunks))
    p.layout = balanced_layout({.layers = s.model.layers, .mtp = s.model.mtp_depth}, chunks);
  return p;
}

bool in_space(const Scenario& s, const StepShape& step, const Plan& p) {
  const Candidates space(s, step);
  Tally ignored;
  const auto same = [&](const Candidate& c) {
    return c.tp == p.tp && c.pp == p.pp && c.vpp == p.vpp && c.cp == p.cp && c.ep == p.ep &&
           c.etp == p.etp && c.micro_batch == p.micro_batch && c.schedule == p.schedule &&
           c.precision == p.precision && c.zero == p.zero && space.plan(c) == p;
  };
  const std::vector<Candidate> legal = space.legal(ignored);
  return std::any_of(legal.begin(), legal.end(), same);
}

WhyNotCase judged(const Scenario& s, const StepShape& step, const FoundPlan& best,
                  const std::variant<Plan, Infeasible>& plan) {
  WhyNotCase c;
  if (const auto* no = std::get_if<Infeasible>(&plan)) {
    c.illegal = *no;
    return c;
  }
  c.plan = std::get<Plan>(plan);
  auto result = evaluate(variant(s, c.plan), step);
  if (auto* no = std::get_if<Infeasible>(&result)) {
    c.illegal = std::move(*no);
    return c;
  }
  c.result = std::move(std::get<VariantResult>(result));
  const Prediction& p = c.result->prediction;
  c.verdict = p.memory.peak > memory_limit(s) ? Verdict::TooLarge
              : p.step > best.prediction.step ? Verdict::Slower
              : p.step < best.prediction.step ? Verdict::Faster
                                              : Verdict::Same;
  c.in_space = in_space(s, step, c.plan);
  if (c.in_space) c.bound = StepBound(s.model, s.cluster, s.stack).of(c.plan, step);
  return c;
}

// A dimension of the search: the key of plan files and where SearchSpace lists its values.
struct Searched {
  const char *key, *dimension;
  std::string (*text)(const Plan&);
  void (*restrict)(SearchSpace&, const Plan&);
};

template <int Plan::*field>
std::string number_text(const Plan& p) {
  return std::to_string(p.*field);
}

const Searched kSearched[] = {
    {"tp", "tp", number_text<&Plan::tp>, [](SearchSpace& r, const Plan& p) { r.tp = {p.tp}; }},
    {"pp", "pp", number_text<&Plan::pp>, [](SearchSpace& r, const Plan& p) { r.pp = {p.pp}; }},
    {"cp", "cp", number_text<&Plan::cp>, [](SearchSpace& r, const Plan& p) { r.cp = {p.cp}; }},
    {"ep", "ep", number_text<&Plan::ep>, [](SearchSpace& r, const Plan& p) { r.ep = {p.ep}; }},
    {"etp", "etp", number_text<&Plan::etp>, [](SearchSpace& r, const Plan& p) { r.etp = {p.etp}; }},
    {"micro_batch", "micro-batch", number_text<&Plan::micro_batch>,
     [](SearchSpace& r, const Plan& p) { r.micro_batch = {p.micro_batch}; }},
    {"schedule", "schedule", [](const Plan& p) { return std::string(hw::spelling(p.schedule)); },
     [](SearchSpace& r, const Plan& p) { r.schedule = {p.schedule}; }},
    {"precision", "precision", [](const Plan& p) { return std::string(hw::spelling(p.precision)); },
     [](SearchSpace& r, const Plan& p) { r.precision = {p.precision}; }},
    {"recompute", "recompute", [](const Plan& p) { return describe(p.recompute); },
     [](SearchSpace& r, const Plan& p) { r.recompute = {p.recompute}; }},
    {"zero", "ZeRO", [](const Plan& p) { return std::to_string(static_cast<int>(p.zero)); },
     [](SearchSpace& r, const Plan& p) { r.zero = {p.zero}; }},
};

std::string expert_text(const Plan& p) {
  return hw::spelling(p.overlap.expert);
}

}  // namespace

NamedFields read_named_fields(const std::string& text) {
  NamedFields named{.text = text, .fields = nlohmann::json::object()};
  for (std::size_t from = 0; from <= text.size();) {
    const std::size_t comma = std::min(text.find(',', from), text.size());
    const std::string item = text.substr(from, comma - from);
    from = comma + 1;
    const std::size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == item.size())
      throw InputError(
          fmt::format("--why-not: expected KEY=VALUE,..., got \"{}\"", item.empty() ? text : item));
    const std::string key = item.substr(0, equals), value = item.substr(equals + 1);
    const auto set = [&](nlohmann::json& at, const std::string& name, nlohmann::json to) {
      if (at.contains(name)) throw InputError(fmt::format("--why-not: {} is given twice", key));
      at[name] = std::move(to);
    };
    if (key == "mbs") {
      set(named.fields, "micro_batch", number_or_text(value));
    } else if (key == "recompute") {
      set(named.fields, key, recompute_of(value));
    } else if (key == "zero" && value.size() == 1 && value[0] >= '0' && value[0] <= '3') {
      set(named.fields, key, hw::spelling(static_cast<Zero>(value[0] - '0')));
    } else if (key.starts_with("overlap.")) {
      nlohmann::json& overlap = named.fields["overlap"];
      if (overlap.is_null()) overlap = nlohmann::json::object();
      set(overlap, key.substr(8), number_or_text(value));
    } else {
      set(named.fields, key, number_or_text(value));
    }
  }
  const hw::Document fields = document(named.fields);
  Plan plan;
  hw::read_fields(hw::Value(fields), plan, true);
  return named;
}

WhyNot why_not(const Scenario& s, const StepShape& step, const FoundPlan& best,
               const NamedFields& named, const SearchOptions& options) {
  WhyNot w{.named = named, .as_best = {}};
  const auto as_best = with_fields(s, best.plan, named);
  w.as_best = judged(s, step, best, as_best);

  // The same values alone, for the space that has them fixed.
  Plan values = best.plan;
  const hw::Document fields = document(named.fields);
  if (named.has("recompute")) values.recompute = {};
  hw::read_fields(hw::Value(fields), values, true);
  const std::vector<Dimension> dimensions = Candidates(s, step).dimensions();
  const auto tried = [&](const char* dimension, const std::string& text) {
    const auto d = std::find_if(dimensions.begin(), dimensions.end(), [&](const Dimension& each) {
      return std::string_view(each.name) == dimension;
    });
    return d != dimensions.end() &&
           std::any_of(d->values.begin(), d->values.end(), [&](const std::string& v) {
             return v == text || v.starts_with(text + " x");  // chunks of the interleaved schedule
           });
  };
  Scenario restricted = s;
  const auto outside = [&](const std::string& key, const std::string& value) {
    w.outside.push_back(key + "=" + value);
  };
  for (const Searched& d : kSearched) {
    if (!named.has(d.key)) continue;
    w.search_asked = true;
    d.restrict(restricted.search, values);
    if (!tried(d.dimension, d.text(values))) outside(d.key, d.text(values));
  }
  const auto overlap = named.fields.find("overlap");
  if (overlap != named.fields.end() && overlap->contains("expert")) {
    w.search_asked = true;
    restricted.search.expert_overlap = {values.overlap.expert};
    if (!tried("expert overlap", expert_text(values)))
      outside("overlap.expert", expert_text(values));
  }
  const bool dp = named.has("dp"), vpp = named.has("vpp");
  if (vpp) restricted.search.vpp = {values.vpp};
  w.search_asked = w.search_asked || dp || vpp;
  // What no candidate varies is laid over what the search finds.
  for (const auto& [key, value] : named.fields.items())
    for (const char* fixed : {"shard_group", "sequence_parallel", "layout", "comm_sms"})
      if (key == fixed) outside(key, value.dump());
  if (overlap != named.fields.end())
    for (const auto& [key, value] : overlap->items())
      if (key != "expert") outside("overlap." + key, value.dump());
  if (!w.search_asked) return w;

  SearchOptions rest = options;
  rest.keep = 1;
  rest.front_within = 1;
  if (dp || vpp)
    rest.only = [=](const Plan& p) {
      return (!dp || p.dp == values.dp) && (!vpp || p.vpp == values.vpp);
    };
  SearchResult found = search(restricted, step, rest);
  w.rejected = found.statistics.rejected;
  w.candidates = found.statistics.candidates;
  if (found.best.empty() && found.statistics.rejected.contains("does not fit in memory")) {
    // With memory without end: the smallest of them.
    restricted.cluster.gpu.memory = Bytes(1e15);
    rest.front_within = 4;
    found = search(restricted, step, rest);
    if (!found.pareto.empty()) found.best = {found.pareto.back()};
  }
  if (!found.best.empty())
    w.searched = judged(s, step, best, with_fields(s, found.best.front().plan, named));
  return w;
}

}  // namespace reckon::plan
