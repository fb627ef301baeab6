// Strict reading of JSON: every value knows its file, line, column and JSON pointer, and whatever
// is wrong with it is an InputError that says so:
//   file:line:column: /json/pointer: expected ..., got ...; did you mean "..."?
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sim/input_error.h"

namespace reckon::hw {

struct Position {
  int line = 1, column = 1;
};

// A parsed file, with the place of every value and key in it, by JSON pointer.
struct Document {
  std::string file;
  nlohmann::json root;
  std::map<std::string, Position> values, keys;
};

// Errors: invalid JSON, a key given twice, nesting deeper than 64, more than 16 MiB.
Document parse_json(std::string file, std::string_view text);
Document read_json_file(const std::string& path);  // also: a file that can't be read

// One value of a document; the document must outlive it.
class Value {
 public:
  explicit Value(const Document& document) : document_(&document), json_(&document.root) {}

  const nlohmann::json& json() const { return *json_; }
  const Document& document() const { return *document_; }
  const std::string& pointer() const { return pointer_; }  // "" is the whole file
  std::string where() const;                               // "file:line:column: /pointer"

  std::optional<Value> find(std::string_view key) const;  // REQUIRES: an object
  Value at(std::size_t index) const;                      // REQUIRES: an array
  std::size_t size() const { return json_->size(); }

  void expect_object(std::string_view what) const;
  void expect_array(std::string_view what) const;

  // `nearest`: a valid spelling to suggest; "": none.
  [[noreturn]] void fail(std::string_view expected, std::string_view nearest = {}) const;
  // Like fail, with `got` in place of the value's own text.
  [[noreturn]] void fail_got(std::string_view expected, std::string_view got,
                             std::string_view nearest = {}) const;
  // The key `key` of this object is not one of `valid`.
  [[noreturn]] void fail_key(std::string_view key, std::span<const std::string> valid) const;

 private:
  Value(const Document* document, const nlohmann::json* json, std::string pointer)
      : document_(document), json_(json), pointer_(std::move(pointer)) {}
  const Document* document_;
  const nlohmann::json* json_;
  std::string pointer_;
};

// The member of `valid` with the smallest edit distance to `text` (ties: the first), if it is close
// enough to be meant: at most 2 edits, or a third of its length.
std::string nearest_spelling(std::string_view text, std::span<const std::string> valid);

// A physical dimension as users write it: a number, at most one space, a unit.
struct UnitFamily {
  struct Unit {
    std::string_view name;
    double factor;  // value of one such unit as stored
  };
  std::string_view what;     // "a bandwidth"
  std::string_view example;  // "50 GB/s"
  double max;                // as stored; larger values are refused as absurd
  std::span<const Unit> units;
};

const UnitFamily& byte_units();                      // stored in bytes
const UnitFamily& bandwidth_units();                 // bytes per second
const UnitFamily& time_units();                      // seconds
const UnitFamily& flop_rate_units();                 // flops per second
const UnitFamily& power_units();                     // watts
const UnitFamily& token_units();                     // tokens
const UnitFamily& gpu_hour_units();                  // GPU-hours
const UnitFamily& day_units();                       // days
std::string unit_pattern(const UnitFamily& family);  // regular expression of what is accepted

// Scalars. Each refuses other types, and values outside [min, max].
bool read_bool(const Value& v);
std::int64_t read_integer(const Value& v, double min, double max);
double read_number(const Value& v, double min, double max);
std::string read_text(const Value& v);
double read_quantity(const Value& v, const UnitFamily& family, double min, double max);
std::size_t read_choice(const Value& v, std::span<const std::string> valid);

// Shortest text that reads back as exactly this value.
std::string quantity_text(double value, const UnitFamily& family);

}  // namespace reckon::hw
