// nlohmann's SAX parser reads characters through an iterator that counts them; each event then
// knows where its token began, because between two events stand only blanks, commas and colons.
#include "hw-models/strict_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>

namespace reckon::hw {

namespace {

using nlohmann::json;

constexpr std::size_t kMaxDepth = 64;        // a scenario needs 6
constexpr std::size_t kMaxBytes = 16 << 20;  // a scenario has 4 KiB

struct CountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at = nullptr;
  std::size_t* consumed = nullptr;

  reference operator*() const { return *at; }
  CountingIterator& operator++() {
    ++at;
    ++*consumed;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator old = *this;
    ++*this;
    return old;
  }
  bool operator==(const CountingIterator& o) const { return at == o.at; }
};

Position position_of(std::string_view text, std::size_t offset) {
  Position p;
  for (std::size_t i = 0; i < std::min(offset, text.size()); ++i)
    if (text[i] == '\n')
      ++p.line, p.column = 1;
    else
      ++p.column;
  return p;
}

std::string pointer_token(std::string_view key) {  // RFC 6901
  std::string s;
  for (char c : key)
    if (c == '~')
      s += "~0";
    else if (c == '/')
      s += "~1";
    else
      s += c;
  return s;
}

std::string location(const std::string& file, Position p, std::string_view pointer) {
  return fmt::format("{}:{}:{}: {}", file, p.line, p.column, pointer.empty() ? "/" : pointer);
}

class Builder : public json::json_sax_t {
 public:
  Builder(Document& d, std::string_view text) : document_(d), text_(text) {}

  std::size_t consumed = 0;

  bool null() override { return add(nullptr); }
  bool boolean(bool b) override { return add(b); }
  bool number_integer(number_integer_t n) override { return add(n); }
  bool number_unsigned(number_unsigned_t n) override { return add(n); }
  bool number_float(number_float_t x, const string_t&) override { return add(x); }
  bool string(string_t& s) override { return add(s); }
  bool binary(binary_t&) override { return false; }  // not in JSON text
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& k) override {
    key_ = k;
    const Position p = token();
    const std::string pointer = next_pointer();
    const auto [old, fresh] = document_.keys.emplace(pointer, p);
    if (!fresh)
      throw InputError(
          fmt::format("{}: expected every key once, got \"{}\" again (first on line {})",
                      location(document_.file, p, pointer), k, old->second.line));
    return true;
  }

  bool parse_error(std::size_t byte, const std::string&, const json::exception& e) override {
    std::string what = e.what();  // "[json.exception...] parse error at line 1, column 2: ..."
    if (const auto i = what.find(": "); i != std::string::npos) what = what.substr(i + 2);
    // The key being read, else the last value that was read in full.
    const std::string pointer = key_.empty() ? last_pointer_ : next_pointer();
    throw InputError(fmt::format(
        "{}: expected valid JSON, got a {}",
        location(document_.file, position_of(text_, byte ? byte - 1 : 0), pointer), what));
  }

 private:
  struct Open {
    json* value;
    std::string pointer;
  };

  // Where the token of this event began.
  Position token() {
    std::size_t i = previous_end_;
    while (i < text_.size() &&
           std::string_view(" \t\r\n,:").find(text_[i]) != std::string_view::npos)
      ++i;
    previous_end_ = consumed;
    for (; counted_ < i; ++counted_)
      if (text_[counted_] == '\n')
        ++at_.line, at_.column = 1;
      else
        ++at_.column;
    return at_;
  }

  std::string next_pointer() const {
    if (open_.empty()) return "";
    const Open& o = open_.back();
    return o.value->is_array() ? fmt::format("{}/{}", o.pointer, o.value->size())
                               : fmt::format("{}/{}", o.pointer, pointer_token(key_));
  }

  json* place_value(json&& value) {
    std::string pointer = next_pointer();
    document_.values.emplace(pointer, token());
    last_pointer_ = std::move(pointer);
    if (open_.empty()) return &(document_.root = std::move(value));
    json& parent = *open_.back().value;
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }

  bool add(json value) {
    place_value(std::move(value));
    key_.clear();
    return true;
  }

  bool open(json value) {
    json* v = place_value(std::move(value));
    open_.push_back({v, last_pointer_});
    key_.clear();
    if (open_.size() > kMaxDepth)
      throw InputError(fmt::format("{}: expected at most {} levels of nesting, got more",
                                   location(document_.file, at_, last_pointer_), kMaxDepth));
    return true;
  }

  bool close() {
    previous_end_ = consumed;
    open_.pop_back();
    key_.clear();
    return true;
  }

  Document& document_;
  std::string_view text_;
  std::vector<Open> open_;  // pointers into root stay valid: a parent grows only when its last
                            // child is closed
  std::string key_, last_pointer_;
  std::size_t previous_end_ = 0, counted_ = 0;
  Position at_;
};

std::string short_text(const json& j) {
  if (j.is_object()) return "an object";
  if (j.is_array()) return fmt::format("an array of {}", j.size());
  std::string s = j.dump(-1, ' ', false, json::error_handler_t::replace);
  if (s.size() > 60) s = s.substr(0, 56) + "...\"";
  return s;
}

}  // namespace

Document parse_json(std::string file, std::string_view text) {
  Document d;
  d.file = std::move(file);
  if (text.size() > kMaxBytes)
    throw InputError(fmt::format("{}:1:1: /: expected at most {} bytes, got {}", d.file, kMaxBytes,
                                 text.size()));
  Builder builder(d, text);
  const CountingIterator first{text.data(), &builder.consumed};
  const CountingIterator last{text.data() + text.size(), &builder.consumed};
  json::sax_parse(first, last, &builder);
  return d;
}

Document read_json_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  if (!in || !(text << in.rdbuf()))
    throw InputError(fmt::format("{}:1:1: /: expected a readable JSON file, got none", path));
  return parse_json(path, text.str());
}

std::string Value::where() const {
  const auto it = document_->values.find(pointer_);
  return location(document_->file, it == document_->values.end() ? Position{} : it->second,
                  pointer_);
}

std::optional<Value> Value::find(std::string_view key) const {
  const auto it = json_->find(std::string(key));
  if (it == json_->end()) return std::nullopt;
  return Value(document_, &*it, fmt::format("{}/{}", pointer_, pointer_token(key)));
}

Value Value::at(std::size_t index) const {
  return Value(document_, &(*json_)[index], fmt::format("{}/{}", pointer_, index));
}

void Value::expect_object(std::string_view what) const {
  if (!json_->is_object()) fail(fmt::format("{} (an object)", what));
}

void Value::expect_array(std::string_view what) const {
  if (!json_->is_array()) fail(fmt::format("{} (an array)", what));
}

void Value::fail(std::string_view expected, std::string_view nearest) const {
  fail_got(expected, short_text(*json_), nearest);
}

void Value::fail_got(std::string_view expected, std::string_view got,
                     std::string_view nearest) const {
  std::string text = fmt::format("{}: expected {}, got {}", where(), expected, got);
  if (!nearest.empty()) text += fmt::format("; did you mean \"{}\"?", nearest);
  throw InputError(text);
}

void Value::fail_key(std::string_view key, std::span<const std::string> valid) const {
  const std::string pointer = fmt::format("{}/{}", pointer_, pointer_token(key));
  const auto it = document_->keys.find(pointer);
  const Position p = it == document_->keys.end() ? Position{} : it->second;
  const std::string nearest = nearest_spelling(key, valid);
  throw InputError(fmt::format(
      "{}: expected a known key, got \"{}\"{}", location(document_->file, p, pointer), key,
      nearest.empty() ? fmt::format("; valid keys: {}", fmt::join(valid, ", "))
                      : fmt::format("; did you mean \"{}\"?", nearest)));
}

}  // namespace reckon::hw
