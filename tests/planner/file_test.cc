#include "planner/file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "sim/input_error.h"
#include "tests/folder.h"

namespace reckon::plan {
TEST_CASE("a target that can't be written is found beforehand, and nothing is left of the look") {
  reckon_test::Folder folder;
  check_writable(folder / "new.json");
  CHECK(folder.entries() == 0);
  write_file(folder / "old.json", "kept");
  check_writable(folder / "old.json");
  CHECK(read_file(folder / "old.json") == "kept");
  CHECK(folder.entries() == 1);
  check_writable("/dev/null");
  CHECK_THROWS_AS(check_writable(folder / "no/such.json"), InputError);
  CHECK_THROWS_AS(check_writable(folder.path.string()), InputError);
}

TEST_CASE("a file is replaced whole, keeps its mode and leaves nothing beside it") {
  reckon_test::Folder folder;
  write_file(folder / "plan.json", "first");
  ::chmod((folder / "plan.json").c_str(), 0640);
  const std::string big(3'000'000, 'x');
  write_file(folder / "plan.json", big);
  CHECK(read_file(folder / "plan.json") == big);
  struct stat s;
  REQUIRE(::stat((folder / "plan.json").c_str(), &s) == 0);
  CHECK((s.st_mode & 0777) == 0640);
  CHECK(folder.entries() == 1);
}

TEST_CASE("a failed write leaves the folder as it was") {
  reckon_test::Folder folder;
  std::filesystem::create_directory(folder / "plan.json");
  CHECK_THROWS_AS(write_file(folder / "plan.json", "x"), InputError);
  CHECK_THROWS_AS(write_file(folder / "missing/plan.json", "x"), InputError);
  CHECK(folder.entries() == 1);
}

TEST_CASE("a device is written in place") {
  write_file("/dev/null", "x");
  CHECK(std::filesystem::is_character_file("/dev/null"));
  CHECK_THROWS_AS(write_file("/dev/full", "x"), InputError);
}

TEST_CASE("what can't be read is named") {
  reckon_test::Folder folder;
  CHECK_THROWS_WITH(read_file(folder / "none.json"), Catch::Contains("none.json"));
  CHECK_THROWS_AS(read_file(folder.path.string()), InputError);
}

}  // namespace reckon::plan
