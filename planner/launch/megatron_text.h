// MegatronArgs as a command line and as Megatron-Bridge overrides, both by the table of
// megatron_args.h.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "planner/launch/command_line.h"
#include "planner/launch/megatron_args.h"

namespace reckon::plan::launch {

std::vector<Option> megatron_options(const MegatronArgs& args);

// What is not in the table decides nothing that a plan says and is left out; a repeated option
// counts as the last one, as in argparse. `file`: for errors. Errors: InputError for a value that
// can't be read. REQUIRES: the argument parser accepts the options, else only the values are
// checked.
MegatronArgs megatron_args(std::span<const Option> options, const std::string& file);

// "model.tensor_model_parallel_size=2", for scripts/training/run_recipe.py. Everything that has a
// key is written, switches also when they are off.
std::vector<std::string> bridge_overrides(const MegatronArgs& args);

// Overrides onto `args` (what the recipe sets). Errors: InputError for a value that can't be read;
// keys that are not in the table are left out.
void read_bridge_overrides(std::span<const std::string> overrides, MegatronArgs& args);

}  // namespace reckon::plan::launch
