// Runs the program from outside, as a user's shell does.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/folder.h"

namespace reckon_test {

inline const std::string kScenarios = RECKON_SOURCE "/scenarios/";

inline std::string contents(const std::filesystem::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct Outcome {
  int code = -1;  // of exit; -1: ended by a signal
  std::string out, err;
};

// Runs `reckon ARGUMENTS` through the shell.
inline Outcome reckon(const std::string& arguments) {
  const Folder folder;
  const std::string command = std::string("'") + RECKON_PROGRAM + "' " + arguments + " >" +
                              folder / "out" + " 2>" + folder / "err" + " </dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, contents(folder / "out"),
          contents(folder / "err")};
}

}  // namespace reckon_test
