#include "planner/launch/megatron_text.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <type_traits>

namespace reckon::plan::launch {

namespace {

// ---- one value as text, and back

std::string text_of(int v) {
  return fmt::format("{}", v);
}
std::string text_of(std::int64_t v) {
  return fmt::format("{}", v);
}
std::string text_of(double v) {
  return fmt::format("{}", v);
}
std::string text_of(const std::string& v) {
  return v;
}

bool read_text(const std::string& text, std::string& out) {
  out = text;
  return true;
}
template <class T>
requires std::is_integral_v<T>
bool read_text(const std::string& text, T& out) {
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, out);
  return error == std::errc() && at == end;
}
bool read_text(const std::string& text, double& out) {
  char* end = nullptr;
  out = std::strtod(text.c_str(), &end);
  return !text.empty() && end == text.c_str() + text.size();
}

// ---- command line

struct OptionWriter {
  std::vector<Option> out = {};
  void off(const char* flag, const char*, bool member) {
    if (!member) out.push_back({flag, {}});
  }
  void operator()(const char* flag, const char*, bool member) {
    if (member) out.push_back({flag, {}});
  }
  void operator()(const char* flag, const char*, const std::vector<PipelineStage>& member) {
    if (!member.empty()) out.push_back({flag, {layout_text(member)}});
  }
  template <class T>
  void operator()(const char* flag, const char*, const std::optional<T>& member) {
    if (member) out.push_back({flag, {text_of(*member)}});
  }
  template <class T>
  void operator()(const char* flag, const char*, const std::vector<T>& member) {
    if (member.empty()) return;
    Option o{flag, {}};
    for (const T& value : member) o.values.push_back(text_of(value));
    out.push_back(std::move(o));
  }
  void operator()(const char* flag, const char*, int member) {
    out.push_back({flag, {text_of(member)}});
  }
  void operator()(const char* flag, const char*, const std::string& member) {
    out.push_back({flag, {member}});
  }
};

// Older names of the same arguments.
const char* current_name(const std::string& name) {
  if (name == "--moe-router-padding-for-fp8") return "--moe-router-padding-for-quantization";
  return name.c_str();
}

struct OptionReader {
  std::span<const Option> options;
  const std::string& file;

  const Option* last(const char* flag) const {
    const Option* found = nullptr;
    for (const Option& o : options)
      if (std::string_view(current_name(o.name)) == flag) found = &o;
    return found;
  }
  [[noreturn]] void fail(const Option& o, const char* expected) const {
    throw InputError(fmt::format("{}:{}: {}: expected {}, got \"{}\"", file, o.line, o.name,
                                 expected, fmt::join(o.values, " ")));
  }
  template <class T>
  void value(const Option& o, const std::string& text, T& member) const {
    if (!read_text(text, member)) fail(o, std::is_same_v<T, double> ? "a number" : "an integer");
  }

  void off(const char* flag, const char*, bool& member) {
    if (last(flag) != nullptr) member = false;
  }
  void operator()(const char* flag, const char*, bool& member) {
    if (last(flag) != nullptr) member = true;
  }
  void operator()(const char* flag, const char*, std::vector<PipelineStage>& member) {
    const Option* o = last(flag);
    if (o == nullptr) return;
    const auto layout = o->values.size() == 1 ? read_layout(o->values[0]) : std::nullopt;
    if (!layout) fail(*o, "a layout such as 'Et|(tt|)*30mL'");
    member = *layout;
  }
  template <class T>
  void operator()(const char* flag, const char*, std::optional<T>& member) {
    if (const Option* o = last(flag)) {
      if (o->values.size() != 1) fail(*o, "one value");
      value(*o, o->values[0], member.emplace());
    }
  }
  template <class T>
  void operator()(const char* flag, const char*, std::vector<T>& member) {
    if (const Option* o = last(flag)) {
      member.clear();
      for (const std::string& text : o->values) value(*o, text, member.emplace_back());
    }
  }
  template <class T>
  requires std::is_same_v<T, int> || std::is_same_v<T, std::string>
  void operator()(const char* flag, const char*, T& member) {
    if (const Option* o = last(flag)) {
      if (o->values.size() != 1) fail(*o, "one value");
      value(*o, o->values[0], member);
    }
  }
};

// ---- Megatron-Bridge, in Hydra's grammar

struct OverrideWriter {
  std::vector<std::string> out = {};
  void add(const char* key, const std::string& value) {
    if (*key != '\0') out.push_back(fmt::format("{}={}", key, value));
  }
  void off(const char* flag, const char* key, bool member) { (*this)(flag, key, member); }
  void operator()(const char*, const char* key, bool member) {
    add(key, member ? "true" : "false");
  }
  void operator()(const char*, const char* key, const std::vector<PipelineStage>& member) {
    // Quoted for Hydra: "|", "(" and "*" are grammar there.
    if (!member.empty()) add(key, fmt::format("'{}'", layout_text(member)));
  }
  template <class T>
  void operator()(const char*, const char* key, const std::optional<T>& member) {
    if (member) add(key, text_of(*member));
  }
  template <class T>
  void operator()(const char*, const char* key, const std::vector<T>& member) {
    if (!member.empty()) add(key, fmt::format("[{}]", fmt::join(member, ",")));
  }
  void operator()(const char*, const char* key, int member) { add(key, text_of(member)); }
  void operator()(const char*, const char* key, const std::string& member) { add(key, member); }
};

struct OverrideReader {
  std::span<const std::string> overrides;

  std::optional<std::string> last(const char* key) const {
    if (*key == '\0') return std::nullopt;
    std::optional<std::string> found;
    for (const std::string& o : overrides) {
      const std::size_t equals = o.find('=');
      if (equals == std::string::npos) continue;
      std::string_view name = std::string_view(o).substr(0, equals);
      while (!name.empty() && (name[0] == '+' || name[0] == '~')) name.remove_prefix(1);
      if (name == key) found = o.substr(equals + 1);
    }
    if (found && found->size() >= 2 && found->front() == '\'' && found->back() == '\'')
      found = found->substr(1, found->size() - 2);
    return found;
  }
  [[noreturn]] void fail(const char* key, const std::string& text) const {
    throw InputError(fmt::format("{}: can't read the value \"{}\"", key, text));
  }

  void off(const char* flag, const char* key, bool& member) { (*this)(flag, key, member); }
  void operator()(const char*, const char* key, bool& member) {
    if (const auto text = last(key)) {
      if (*text != "true" && *text != "True" && *text != "false" && *text != "False")
        fail(key, *text);
      member = *text == "true" || *text == "True";
    }
  }
  void operator()(const char*, const char* key, std::vector<PipelineStage>& member) {
    if (const auto text = last(key)) {
      const auto layout = read_layout(*text);
      if (!layout) fail(key, *text);
      member = *layout;
    }
  }
  template <class T>
  void operator()(const char*, const char* key, std::optional<T>& member) {
    const auto text = last(key);
    if (!text) return;
    if (*text == "null" || *text == "None")
      member.reset();
    else if (!read_text(*text, member.emplace()))
      fail(key, *text);
  }
  template <class T>
  void operator()(const char*, const char* key, std::vector<T>& member) {
    auto text = last(key);
    if (!text) return;
    if (text->size() >= 2 && text->front() == '[') *text = text->substr(1, text->size() - 2);
    member.clear();
    for (std::size_t at = 0; at < text->size();) {
      const std::size_t comma = std::min(text->find(',', at), text->size());
      if (!read_text(text->substr(at, comma - at), member.emplace_back())) fail(key, *text);
      at = comma + 1;
    }
  }
  template <class T>
  requires std::is_same_v<T, int> || std::is_same_v<T, std::string>
  void operator()(const char*, const char* key, T& member) {
    if (const auto text = last(key))
      if (!read_text(*text, member)) fail(key, *text);
  }
};

}  // namespace

std::vector<Option> megatron_options(const MegatronArgs& args) {
  OptionWriter w;
  MegatronArgs copy = args;  // tables take their struct by reference
  fields(w, copy);
  return std::move(w.out);
}

MegatronArgs megatron_args(std::span<const Option> options, const std::string& file) {
  MegatronArgs args;
  OptionReader r{options, file};
  fields(r, args);
  return args;
}

std::vector<std::string> bridge_overrides(const MegatronArgs& args) {
  OverrideWriter w;
  MegatronArgs copy = args;
  fields(w, copy);
  return std::move(w.out);
}

void read_bridge_overrides(std::span<const std::string> overrides, MegatronArgs& args) {
  OverrideReader r{overrides};
  fields(r, args);
}

}  // namespace reckon::plan::launch
