// The software that a plan is launched with, and its release.
#pragma once

#include <optional>
#include <string>

#include "hw-models/json_fields.h"

namespace reckon::plan::launch {

// Releases of Megatron-LM, oldest first; Dev is a branch of its own.
enum class MegatronRelease { V0_16, V0_17, V0_18, V0_19, Main, Dev };

enum class Framework {
  Megatron,        // Megatron-LM, pretrain_gpt.py
  MegatronBridge,  // Megatron-Bridge, run_recipe.py
  Torchtitan,
  DeepSpeed,
  Native,  // reckon train
};

inline const auto& spellings(Framework) {
  static constexpr hw::Spelling<Framework> t[] = {{Framework::Megatron, "megatron"},
                                                  {Framework::MegatronBridge, "megatron-bridge"},
                                                  {Framework::Torchtitan, "torchtitan"},
                                                  {Framework::DeepSpeed, "deepspeed"},
                                                  {Framework::Native, "native"}};
  return t;
}

struct Target {
  Framework framework = Framework::Megatron;
  std::optional<MegatronRelease> release;  // of Megatron-LM; nothing: what all releases accept
  bool torchtitan_main = false;            // Python recipes, after v0.2.2's TOML
  bool operator==(const Target&) const = default;
};

// `version` "": the default. nullopt: this framework has no such version.
std::optional<Target> target_of(Framework framework, const std::string& version);
// What target_of accepts, in words.
std::string versions_of(Framework framework);

}  // namespace reckon::plan::launch
