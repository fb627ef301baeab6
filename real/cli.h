// The subcommands of `reckon` that belong to the trainer; see planner/cli.h for how they behave.
#pragma once

#include <string>
#include <vector>

#include "planner/cli.h"

namespace reckon::real {

struct DataOptions {
  std::string output;              // NAME of NAME.tokens and NAME.vocab
  std::vector<std::string> texts;  // files, one document each
  int bpe = 0;                     // vocabulary to learn from the texts; 0: none
  bool bytes = false;              // a token is a byte
  std::string tokenizer;           // file of a vocabulary to use; empty: none
};
int data_command(const DataOptions& options, const plan::CommonOptions& common);

}  // namespace reckon::real
