// The program from outside.
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace {

struct Outcome {
  int code = -1;
  std::string out, err;
};

std::string contents(const std::filesystem::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Runs `reckon ARGUMENTS` through the shell.
Outcome reckon(const std::string& arguments) {
  std::string name = (std::filesystem::temp_directory_path() / "reckon-cli-test-XXXXXX").string();
  const std::filesystem::path folder = ::mkdtemp(name.data());
  const std::string command = std::string("'") + RECKON_PROGRAM + "' " + arguments + " >" +
                              (folder / "out").string() + " 2>" + (folder / "err").string() +
                              " </dev/null";
  const int status = std::system(command.c_str());
  Outcome o{WIFEXITED(status) ? WEXITSTATUS(status) : -1, contents(folder / "out"),
            contents(folder / "err")};
  std::filesystem::remove_all(folder);
  return o;
}

}  // namespace

TEST_CASE("help and version are answers on stdout") {
  const Outcome help = reckon("--help");
  CHECK(help.code == 0);
  CHECK(help.out.find("doctor") != std::string::npos);
  CHECK(help.err.empty());
  const Outcome version = reckon("--version");
  CHECK(version.code == 0);
  CHECK(version.out.rfind("reckon ", 0) == 0);
}

TEST_CASE("a wrong command line exits 2, says why on stderr and nothing on stdout") {
  for (const char* arguments :
       {"", "sale", "doctor --threads 0", "doctor --threads two", "doctor --jsn", "doctor extra"}) {
    CAPTURE(arguments);
    const Outcome o = reckon(arguments);
    CHECK(o.code == 2);
    CHECK(o.out.empty());
    CHECK(o.err.rfind("reckon: ", 0) == 0);
  }
}

TEST_CASE("a misspelt command is told the nearest") {
  CHECK(reckon("--json docter").err.find("did you mean 'doctor'?") != std::string::npos);
}

TEST_CASE("doctor finds the compiler or cmake that built this, and --json says the same") {
  const Outcome table = reckon("doctor");
  CHECK(table.code == 0);
  CHECK(table.err.empty());
  const Outcome o = reckon("doctor --json");
  REQUIRE(o.code == 0);
  const auto json = nlohmann::json::parse(o.out);
  CHECK(json["cores"] > 0);
  CHECK(json["memory_GiB"] > 0);
  int found = 0;
  for (const auto& tool : json["tools"])
    if (tool["found"]) {
      ++found;
      CHECK(table.out.find(tool["version"].get<std::string>()) != std::string::npos);
    }
  CHECK(found > 0);
}
