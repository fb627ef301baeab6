// Why a plan that somebody has in mind is not the answer: what of it is named, the rest as in the
// best plan, and the rest searched.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "hw-models/strict_json.h"
#include "planner/search.h"
#include "planner/variant.h"

namespace reckon::plan {

// Some fields of a plan, e.g. "tp=8,pp=8,schedule=1F1B,recompute=norm+mla-up,overlap.p2p=false".
// Keys as in plan files, those of `overlap` with a dot; recompute in one word as reports print it.
struct NamedFields {
  std::string text;
  nlohmann::json fields;  // as in a plan file
  bool has(const char* key) const { return fields.contains(key); }
};
// Errors: InputError that names the nearest key or spelling.
NamedFields read_named_fields(const std::string& text);

struct WhyNotCase {
  enum class Verdict { Illegal, TooLarge, Slower, Same, Faster } verdict = Verdict::Illegal;
  Plan plan;
  std::optional<Infeasible> illegal;
  std::optional<VariantResult> result;  // unless illegal
  // Where a search has such plans: of the plan, no simulation can be faster.
  std::optional<Seconds> bound;
  bool in_space = false;  // the scenario's own search looks at it
};

struct WhyNot {
  NamedFields named;
  WhyNotCase as_best;  // the rest as in the best plan
  // The rest searched: the fastest plan that fits, else the smallest. Nothing if no search varies
  // what is named, or none of its plans is legal.
  std::optional<WhyNotCase> searched;
  bool search_asked = false;
  std::map<std::string, std::int64_t> rejected;  // of that search, by reason
  std::int64_t candidates = 0;
  std::vector<std::string> outside;  // named values that the scenario's search does not try
};

// `best`: the fastest plan of the scenario's own search.
WhyNot why_not(const Scenario& s, const StepShape& step, const FoundPlan& best,
               const NamedFields& named, const SearchOptions& options);

}  // namespace reckon::plan
