// A framework's command line as options with values: from a file of arguments, a shell or sbatch
// script, or a Megatron-MoE-ModelZoo YAML; and back to text.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/input_error.h"

namespace reckon::plan::launch {

// "--name value value"; "--name=value" is read as the same.
struct Option {
  std::string name;
  std::vector<std::string> values;
  int line = 0;  // in the file; 0: not from a file
  bool operator==(const Option& o) const { return name == o.name && values == o.values; }
};

struct CommandLine {
  std::string file;                                // for errors
  std::vector<Option> options;                     // in order
  std::map<std::string, std::string> environment;  // "export NAME=value" and ENV_VARS
  std::optional<int> world;                        // processes, if the script says (#SBATCH, srun)
};

// Values of ${NAME} in a script.
using Variables = std::map<std::string, std::string>;

// Arguments, or a script with a line that runs a program on them. Quotes, comments and "\" at the
// end of a line are read as a shell reads them; nothing is run. Words from the first that starts
// with "--" after the program's name (pretrain_*.py), or from the start, are options.
// Errors: InputError for an open quote, a variable that has no value, no option at all.
CommandLine read_arguments(const std::string& file, std::string_view text,
                           const Variables& variables);

// Keys MODEL_ARGS ("--flag: value", true and false for switches) and ENV_VARS. Errors: InputError.
CommandLine read_model_zoo(const std::string& file, const std::string& text,
                           const Variables& variables);

// A word as a shell would need it.
std::string quoted(const std::string& word);

// One option in one line, quoted.
std::string to_text(const Option& option);

}  // namespace reckon::plan::launch
