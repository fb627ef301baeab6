#include "hw-models/strict_json.h"

#include <catch2/catch.hpp>

#include "hw-models/catalog.h"

using namespace reckon;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

std::string error_of(const std::string& text, void (*read)(const hw::Value&)) {
  try {
    const hw::Document d = hw::parse_json("f.json", text);
    read(hw::Value(d));
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

void nothing(const hw::Value&) {}

void as_fabric(const hw::Value& v) {
  hw::Fabric f;
  hw::read_value(v, f, {});
}

double bandwidth(const std::string& text) {
  const hw::Document d = hw::parse_json("f.json", "\"" + text + "\"");
  return hw::read_quantity(hw::Value(d), hw::bandwidth_units(), 0, 1e15);
}

}  // namespace

TEST_CASE("every value and key knows its line and column") {
  const hw::Document d =
      hw::parse_json("f.json", "{\n  \"a\": [1,\n    22, {\"b/c\": 3\n}],\"d\"\n:\ttrue}");
  const auto at = [&](const char* p) {
    return std::pair(d.values.at(p).line, d.values.at(p).column);
  };
  CHECK(at("") == std::pair(1, 1));
  CHECK(at("/a") == std::pair(2, 8));
  CHECK(at("/a/0") == std::pair(2, 9));
  CHECK(at("/a/1") == std::pair(3, 5));
  CHECK(at("/a/2") == std::pair(3, 9));
  CHECK(at("/a/2/b~1c") == std::pair(3, 17));
  CHECK(at("/d") == std::pair(5, 3));
  CHECK(d.keys.at("/d").line == 4);
  CHECK(d.root["a"][2]["b/c"] == 3);
}

TEST_CASE("broken JSON is an error with file, line, column and the place in the tree") {
  CHECK_THAT(error_of("{\"a\": {\"b\": 1,\n \"c\": tru}}", nothing),
             StartsWith("f.json:2:") && Contains("/a/c: expected valid JSON"));
  CHECK_THAT(error_of("{\"a\": 1,\n\"a\": 2}", nothing),
             StartsWith("f.json:2:1: /a: expected every key once") && Contains("line 1"));
  CHECK_THAT(error_of(std::string(100, '['), nothing), Contains("at most 64 levels"));
  for (const char* bad :
       {"", "{", "[1,]", "{\"a\":}", "nan", "{\"a\": 1e999}", "{} x", "// c\n{}", "\"\xff\""})
    CHECK_THAT(error_of(bad, nothing), StartsWith("f.json:"));
}

TEST_CASE("quantities need their unit") {
  CHECK(bandwidth("50 GB/s") == 50e9);
  CHECK(bandwidth("50GB/s") == 50e9);
  CHECK(bandwidth("3.35 TB/s") == 3.35e12);
  CHECK(bandwidth("400 Gbit/s") == 50e9);
  CHECK(bandwidth("1e3 kB/s") == 1e6);
  for (const char* bad :
       {"50", "50 GB", "GB/s", "50  GB/s", "-1 GB/s", "-0 GB/s", "nan GB/s", "inf GB/s",
        "1e30 GB/s", "1e999 GB/s", "0x10 GB/s", "1. GB/s", "50 GB/s "})
    CHECK_THROWS_AS(bandwidth(bad), InputError);
}

TEST_CASE("quantities written are read back exactly") {
  for (const hw::UnitFamily* f :
       {&hw::byte_units(), &hw::bandwidth_units(), &hw::time_units(), &hw::token_units()})
    for (double x : {0., 1., 3.35e12, 1 / 3., 14.8e12, 2e-6, 80 * 1073741824., 123456789.}) {
      const std::string text = hw::quantity_text(x, *f);
      const hw::Document d = hw::parse_json("f", "\"" + text + "\"");
      CHECK(hw::read_quantity(hw::Value(d), *f, 0, 1e15) == x);
    }
  CHECK(hw::quantity_text(3.35e12, hw::bandwidth_units()) == "3.35 TB/s");
  CHECK(hw::quantity_text(2e-6, hw::time_units()) == "2 us");
}

TEST_CASE("struct readers name the key, the range and the nearest spelling") {
  const char* good = R"({"nic": "50 GB/s", "latency": "2 us", "oversubscription": 1})";
  CHECK(error_of(good, as_fabric).empty());
  CHECK(error_of(R"({"nix": "50 GB/s", "latency": "2 us", "oversubscription": 1})", as_fabric) ==
        "f.json:1:2: /nix: expected a known key, got \"nix\"; did you mean \"nic\"?");
  CHECK(error_of(R"({"nic": "50 GB/s", "oversubscription": 1})", as_fabric) ==
        "f.json:1:1: /: expected the key \"latency\" (of one message, end to end), got an object "
        "without it");
  CHECK(
      error_of(R"({"nic": 50, "latency": "2 us", "oversubscription": 1})", as_fabric) ==
      "f.json:1:9: /nic: expected a bandwidth with its unit, such as \"50 GB/s\" (units: bytes/s, "
      "B/s, kB/s, MB/s, GB/s, TB/s, GiB/s, Gbit/s, Tbit/s), got 50");
  CHECK_THAT(error_of(R"({"nic": "50 Gb/s", "latency": "2 us", "oversubscription": 1})", as_fabric),
             Contains("did you mean \"50 GB/s\"?"));
  CHECK_THAT(error_of(R"({"nic": "50 GB/s", "latency": "2 h", "oversubscription": 1})", as_fabric),
             Contains("/latency: expected a time from 0 s to 1 s, got \"2 h\""));
  CHECK_THAT(
      error_of(R"({"nic": "50 GB/s", "latency": "2 us", "oversubscription": "1"})", as_fabric),
      Contains("/oversubscription: expected a number from 1 to 1000"));
  CHECK_THAT(error_of("\"ib-ndr40\"", as_fabric), Contains("did you mean \"ib-ndr400\"?"));
}
