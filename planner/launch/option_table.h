// Which options and keys a framework accepts: names, arity, types, choices, releases. Read from
// launch/catalog; checked against an emitted artefact, and against what a user gives.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "planner/launch/command_line.h"
#include "planner/launch/target.h"

namespace reckon::plan::launch {

// A "no" of a framework: what it says, where in its source, and the figures of this case.
struct Refusal {
  const char* why = "";
  const char* where = "";
  std::string detail = {};
};

std::vector<std::string> megatron_releases();  // "0.16.0" ... "main", "dev"
// "0.19.0", "0.19", "core_v0.19.0", "main"; nullopt: no such release.
std::optional<MegatronRelease> megatron_release(const std::string& text);

// Whether pretrain_gpt.py accepts the option. nullopt for `release`: whether every release does.
bool megatron_accepts(const std::string& option, std::optional<MegatronRelease> release);

// The first thing that its argument parser refuses: an unknown (or abbreviated) option, a wrong
// number of values, a value of the wrong type or not among the choices.
std::optional<Refusal> megatron_parser_refusal(std::span<const Option> options,
                                               std::optional<MegatronRelease> release);

// Keys "section.key" of a configuration file.
enum class KeyTable { Torchtitan, TorchtitanMain, DeepSpeed };
// "int", "float", "bool", "text", "list", "any"; nullptr: no such key.
const char* key_type(KeyTable table, const std::string& key);
std::vector<std::string> keys_of(KeyTable table);  // sorted
// Its legal values; empty: any of its type.
std::vector<std::string> key_choices(KeyTable table, const std::string& key);

}  // namespace reckon::plan::launch
