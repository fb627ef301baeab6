#include "sim/trace.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <nlohmann/json.hpp>

namespace reckon::sim {
namespace {

// Two stages; the second runs a forward and a backward of the same micro-batch.
Timeline two_stage_timeline() {
  Timeline t;
  t.roles = {"stage 0", "stage \"1\"\n"};
  t.labels = {"attn.qkv", "send"};
  t.events = {
      {.role = 1,
       .slot = 1,
       .op = 0,
       .label = 0,
       .phase = Phase::B,
       .micro_batch = 7,
       .start = {9'000'001},
       .end = {12'000'000}},
      {.role = 1,
       .slot = 0,
       .op = 1,
       .label = 0,
       .chunk = 1,
       .micro_batch = 7,
       .start = {6'000'000},
       .end = {8'000'000}},
      {.role = 1,
       .slot = 0,
       .op = 0,
       .label = 0,
       .chunk = 1,
       .micro_batch = 7,
       .start = {5'000'000},
       .end = {6'000'000}},
      {.role = 0,
       .slot = 0,
       .op = 0,
       .label = 0,
       .micro_batch = 7,
       .start = {0},
       .end = {4'500'000}},
      {.role = 1,
       .slot = 0,
       .op = 2,
       .label = 1,
       .stream = Stream::Pipe,
       .micro_batch = 7,
       .start = {4'500'000},
       .end = {5'000'000}},
  };
  return t;
}

}  // namespace

TEST_CASE("a trace is JSON with every event, its key and its exact time") {
  const auto json = nlohmann::json::parse(chrome_trace(two_stage_timeline()));
  int ops = 0, passes = 0;
  std::map<std::string, int> names;
  for (const auto& e : json["traceEvents"]) {
    if (e["ph"] == "M") {
      if (e["name"] == "process_name") ++names[e["args"]["name"]];
      continue;
    }
    (e["tid"] == 0 ? passes : ops) += 1;
  }
  CHECK(ops == 5);
  CHECK(passes == 3);
  CHECK(names["stage 0"] == 1);
  CHECK(names["stage \"1\"\n"] == 1);
}

TEST_CASE("microseconds keep every picosecond") {
  const std::string text = chrome_trace(two_stage_timeline());
  CHECK(text.find("\"ts\":9.000001,\"dur\":2.999999") != std::string::npos);
}

TEST_CASE("a pass spans the compute ops of its slot and says what it works for") {
  const auto json = nlohmann::json::parse(chrome_trace(two_stage_timeline()));
  bool found = false;
  for (const auto& e : json["traceEvents"])
    if (e["ph"] == "X" && e["tid"] == 0 && e["name"] == "F c1 m7") {
      found = true;
      CHECK(e["ts"] == 5.0);
      CHECK(e["dur"] == 3.0);
    }
  CHECK(found);
}

TEST_CASE("the order of events does not reach the trace") {
  Timeline reversed = two_stage_timeline();
  std::reverse(reversed.events.begin(), reversed.events.end());
  CHECK(chrome_trace(two_stage_timeline()) == chrome_trace(reversed));
}

}  // namespace reckon::sim
