// The subcommands of `reckon` that belong to the trainer; see planner/cli.h for how they behave.
#pragma once

#include <cstdint>
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

struct TrainOptions {
  std::string scenario;
  std::string plan;               // file; empty: the scenario's own
  std::string phase;              // of the campaign; empty: the first that is predicted
  std::vector<std::string> data;  // .tokens files; empty: the scenario's
  std::string output;             // folder of checkpoints; empty: the scenario's, or none
  std::int64_t steps = 0;         // step to end behind; 0: the phase's
  bool resume = false;
  std::string log;             // file; empty: none
  std::string device = "cpu";  // or "cuda", "cuda:N"
  bool autotune = false;       // on CUDA, see DeviceChoice::deterministic
};
int train_command(const TrainOptions& options, const plan::CommonOptions& common);

}  // namespace reckon::real
