// Modules of a selective recomputation, in both spellings.
#pragma once

#include "planner/plan.h"

namespace reckon::plan::launch {

struct RecomputeName {
  RecomputeModule bit;
  const char* name;  // of --recompute-modules
};

// moe_act repeats the activation of experts; dense layers of a mixture keep theirs.
inline constexpr RecomputeName kRecomputeNames[] = {
    {kCoreAttention, "core_attn"},    {kNorm, "layernorm"}, {kActivation, "moe_act"},
    {kMlaUp, "mla_up_proj"},          {kMlp, "mlp"},        {kMoe, "moe"},
    {kSharedExpert, "shared_experts"}};

}  // namespace reckon::plan::launch
