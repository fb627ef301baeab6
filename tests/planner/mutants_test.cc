// Every shipped scenario, broken in every way that a deterministic list of mutations gives: each
// mutant must be an InputError that names the file, the line and the key. What reads all the same
// must be one of the few mutations that leave a valid scenario, by the tables of fields: a key
// removed that the schema does not require.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>

#include "planner/scenario_json.h"
#include "planner/scenario_schema.h"

using namespace reckon;
using nlohmann::ordered_json;
using Pointer = ordered_json::json_pointer;

namespace {

struct Mutant {
  std::string what;     // "removed /plan/tp"
  std::string pointer;  // of the mutated value
  std::string key;      // that the message must show; "": none (the whole text is broken)
  std::string text;
  bool removed = false;
};

void collect(const ordered_json& j, const std::string& at, std::vector<std::string>& out) {
  if (!at.empty()) out.push_back(at);
  if (j.is_object())
    for (const auto& [key, value] : j.items()) collect(value, at + "/" + key, out);
  if (j.is_array())
    for (std::size_t i = 0; i < j.size(); ++i) collect(j[i], at + "/" + std::to_string(i), out);
}

std::string last(const std::string& pointer) {
  return pointer.substr(pointer.rfind('/') + 1);
}

bool is_index(const std::string& key) {
  return !key.empty() && key.find_first_not_of("0123456789") == std::string::npos;
}

bool may_be_a_fraction(const std::string& key) {
  for (const char* known :
       {"price_per_gpu_hour", "spread", "route_scale", "init_std", "lr", "min_lr", "within"})
    if (key == known) return true;
  return false;
}

std::vector<Mutant> mutants(const ordered_json& scenario) {
  std::vector<Mutant> out;
  std::vector<std::string> pointers;
  collect(scenario, "", pointers);
  for (const std::string& p : pointers) {
    const Pointer at(p);
    const ordered_json& old = scenario.at(at);
    const std::string key = last(p);
    const auto replaced = [&](const char* how, const ordered_json& value) {
      ordered_json j = scenario;
      j[at] = value;
      out.push_back({std::string(how) + " " + p, p, key, j.dump(2)});
    };
    const bool free_text = key == "name" || key == "description" || key == "$schema";
    // Wrong types.
    replaced("null", nullptr);
    replaced("nested", {{"value", {1, 2}}});
    if (!old.is_array()) replaced("array", {1, 2, 3});
    if (!old.is_boolean()) replaced("true", true);
    if (!free_text) replaced("misspelt text", "qwertz");
    if (!free_text) replaced("empty text", "");
    if (old.is_number() || (old.is_string() && !free_text)) {
      replaced("negative",
               old.is_number() ? ordered_json(-old.get<double>() - 1) : ordered_json("-5 GB/s"));
      if (!may_be_a_fraction(key)) replaced("fraction", 0.37);
    }
    if (old.is_number()) {
      replaced("absurd", 1e18);
      replaced("number as text", std::to_string(old.get<double>()));
      replaced("zero where no zero fits or bare", "0");
    }
    if (old.is_string() && !free_text) {
      const std::string text = old.get<std::string>();
      replaced("misspelt value", text + "x");
      replaced("number", 12);
      if (std::isdigit(static_cast<unsigned char>(text[0])) && text.find(' ') != text.npos) {
        const std::string number = text.substr(0, text.find(' '));
        replaced("no unit", number);
        replaced("wrong unit", number + " furlongs");
        replaced("unit of another family", number + " GFLOP/s/W");
        replaced("absurd", "9e25" + text.substr(number.size()));
        replaced("negative quantity", "-" + text);
        replaced("nan", "nan" + text.substr(number.size()));
        replaced("infinite", "inf" + text.substr(number.size()));
      }
    }
    if (is_index(key)) continue;
    // Keys: removed, misspelt, twice.
    ordered_json parent = scenario.at(at.parent_pointer());
    {
      ordered_json j = scenario;
      j[at.parent_pointer()].erase(key);
      // Without its base a part lacks everything: the message names what is missed first.
      out.push_back({"removed " + p, p, key == "base" ? "the key \"" : key, j.dump(2), true});
    }
    for (const std::string& wrong :
         {key + "s", key + "_", key.substr(1), "x_" + key, std::string(key).replace(0, 1, "Z")}) {
      if (parent.contains(wrong)) continue;  // etp as tp: would take the place of tp
      ordered_json renamed = ordered_json::object();
      for (const auto& [k, v] : parent.items()) renamed[k == key ? wrong : k] = v;
      ordered_json j = scenario;
      j[at.parent_pointer()] = renamed;
      out.push_back({"key " + wrong + " for " + p, p, wrong, j.dump(2)});
    }
    {
      // A marker that dump() leaves alone becomes the key again.
      ordered_json j = scenario;
      j[at.parent_pointer()]["@twice@"] = old;
      std::string text = j.dump(2);
      text.replace(text.find("@twice@"), 7, key);
      out.push_back({"twice " + p, p, key, text});
    }
  }
  const std::string text = scenario.dump(2);
  for (std::size_t n = 0; n + 1 < text.size(); n += 1 + text.size() / 100)
    out.push_back({"cut at byte " + std::to_string(n), "", "", text.substr(0, n)});
  return out;
}

// The schema of the value at `pointer` of a scenario, following the alternative that an object
// with or without "base" takes.
const ordered_json& resolve(const ordered_json& schema, const ordered_json& node,
                            const ordered_json& value) {
  if (node.contains("$ref"))
    return resolve(schema, schema.at(Pointer(node["$ref"].get<std::string>().substr(1))), value);
  if (node.contains("allOf")) return resolve(schema, node["allOf"][0], value);
  if (node.contains("anyOf") && value.is_object())
    return resolve(schema, node["anyOf"][value.contains("base") ? 2 : 1], value);
  if (node.contains("anyOf") && value.is_array())
    for (const auto& branch : node["anyOf"])
      if (branch.contains("items")) return branch;
  return node;
}

// "base" is what its changes stand on, though the schema of changes alone doesn't require it.
bool optional_key(const ordered_json& schema, const ordered_json& scenario,
                  const std::string& pointer) {
  const Pointer parent = Pointer(pointer).parent_pointer();
  const ordered_json* node = &schema;
  const ordered_json* value = &scenario;
  std::istringstream steps(parent.to_string());
  std::string step;
  std::getline(steps, step, '/');
  while (std::getline(steps, step, '/')) {
    const ordered_json& here = resolve(schema, *node, *value);
    node = is_index(step) ? &here.at("items") : &here.at("properties").at(step);
    value = is_index(step) ? &value->at(std::stoul(step)) : &value->at(step);
  }
  const ordered_json& object = resolve(schema, *node, *value);
  if (last(pointer) == "base") return false;
  if (!object.contains("required")) return true;
  for (const auto& key : object["required"])
    if (key == last(pointer)) return false;
  return true;
}

}  // namespace

TEST_CASE("every mutant of every scenario is refused with file, line and key") {
  const ordered_json schema = plan::scenario_schema();
  const std::filesystem::path folder = RECKON_SOURCE_DIR "/scenarios";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".json" || entry.path().stem().extension() == ".schema")
      continue;
    std::ifstream in(entry.path());
    const ordered_json scenario = ordered_json::parse(in);
    const std::vector<Mutant> all = mutants(scenario);
    std::size_t refused = 0, optional = 0;
    for (const Mutant& m : all) {
      INFO(entry.path().filename() << ": " << m.what);
      std::string error;
      try {
        plan::scenario_from_json(hw::parse_json("mutant.json", m.text));
      } catch (const InputError& e) {
        error = e.what();
      }
      if (error.empty()) {
        CHECK(m.removed);
        if (m.removed) CHECK(optional_key(schema, scenario, m.pointer));
        ++optional;
        continue;
      }
      INFO(error);
      ++refused;
      static const std::regex start("^mutant\\.json:[1-9][0-9]*:[1-9][0-9]*: /");
      CHECK(std::regex_search(error, start));
      // An optional key may be missed elsewhere: without its gpus, a cluster refuses the plan's dp.
      const bool elsewhere = m.removed && optional_key(schema, scenario, m.pointer);
      CHECK(error.find(elsewhere ? ": /" : m.key) != std::string::npos);
    }
    INFO(entry.path().filename());
    CHECK(refused >= 500);
    CHECK(optional <= all.size() / 15);
    std::printf("%-32s %4zu mutants: %4zu refused, %2zu without an optional key\n",
                entry.path().stem().c_str(), all.size(), refused, optional);
  }
}
