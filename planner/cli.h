// The subcommands of `reckon`. Results go to stdout, diagnostics and progress to stderr. Each
// returns the exit code; bad input is thrown as InputError, which main reports.
#pragma once

#include <string>

namespace reckon::plan {

enum ExitCode {
  kDone = 0,
  kInfeasible = 1,  // an answer: the plan can't run, or no plan meets the budget; the reason is
                    // printed
  kBadInput = 2,
};

// Given before or after the subcommand's name.
struct CommonOptions {
  bool json = false;  // the same numbers, for programs
  int threads = 0;    // 0: one per core
};

// What this machine has, and what each thing is needed for.
int doctor_command(const CommonOptions& common);

}  // namespace reckon::plan
