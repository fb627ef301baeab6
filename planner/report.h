// How answers are written: the same figures as text for people and as JSON for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "planner/campaign.h"
#include "planner/predict.h"
#include "planner/scenario.h"
#include "planner/step_use.h"

namespace reckon::plan {

using nlohmann::ordered_json;

// Figures in words.
std::string grouped(double value);      // "2,788,000"; below 10 two digits, "0.71"
std::string days_text(double days);     // "52.3"; below 1 two digits, "0.41"
std::string short_count(double value);  // three digits, "14.8T", "62.9M"
std::string duration(Seconds t);        // "19.93 s", "342 ms", "12.1 us"
std::string gibibytes(Bytes b);         // "61.2 GiB"
std::string percent(double share);      // "5.7 %"
const char* name(Cause cause);

// Of one GPU, less the margin that the scenario keeps free.
Bytes memory_limit(const Scenario& s);

// "DeepSeek-V3 on 2,048 H800, software deepseek-2024; 15,360 x 4,096 tokens a step".
std::string headline(const Scenario& s, const StepShape& step);

// One predicted plan, with what it was asked about.
struct StepAnswer {
  const Plan& plan;
  const Prediction& prediction;
  const StepShape& step;
  StepUse use;
  Bytes memory_limit;  // of one GPU, less the margin
};
bool fits(const StepAnswer& a);
double tokens_per_day(const StepAnswer& a);

// Keys that other programs read: step_s, phases_s, mfu, peak_memory_GiB, tokens_per_day.
ordered_json to_json(const StepAnswer& a);
std::string to_text(const StepAnswer& a);

ordered_json to_json(const Bill& bill);
std::string to_text(const Bill& bill, const std::string& currency);

ordered_json to_json(const Verdict& v);
// One line a budget line, e.g. "met      2,712,000 of 2,800,000 GPU-hours (96.9 %), binds".
std::string to_text(const Verdict& v, const std::string& currency);

}  // namespace reckon::plan
