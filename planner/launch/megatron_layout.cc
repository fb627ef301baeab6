// The two small languages of Megatron-LM's arguments: pipeline layouts and layer patterns.
#include <fmt/format.h>

#include <cctype>
#include <cstdlib>

#include "planner/launch/megatron_args.h"

namespace reckon::plan::launch {

namespace {

constexpr std::size_t kLongest = 100000;  // stages or layers; longer is a mistake

// "(tt|)*30" written out. No nesting, as in Megatron-LM.
std::optional<std::string> unrolled(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ',' || std::isspace(static_cast<unsigned char>(text[i])) != 0) continue;
    std::string unit(1, text[i]);
    if (text[i] == '(') {
      const std::size_t close = text.find(')', i);
      if (close == std::string::npos) return std::nullopt;
      unit = text.substr(i + 1, close - i - 1);
      i = close;
    }
    std::size_t times = 1;
    if (i + 2 < text.size() && text[i + 1] == '*') {
      std::size_t end = i + 2;
      while (end < text.size() && std::isdigit(static_cast<unsigned char>(text[end])) != 0) ++end;
      times = static_cast<std::size_t>(std::atoll(text.substr(i + 2, end - i - 2).c_str()));
      i = end - 1;
    }
    if (times > kLongest || out.size() + times * unit.size() > kLongest) return std::nullopt;
    for (std::size_t k = 0; k < times; ++k) out += unit;
  }
  return out;
}

std::string stage_text(const PipelineStage& s) {
  std::string text = s.embedding ? "E" : "";
  text.append(static_cast<std::size_t>(s.layers), 't');
  text.append(static_cast<std::size_t>(s.mtp), 'm');
  return s.loss ? text + 'L' : text;
}

// expression := term ('+' term)*; term := atom ('*' number)*; atom := '[' numbers ']' | '('
// expression ')'.
class PatternReader {
 public:
  explicit PatternReader(const std::string& text) : text_(text) {}
  std::optional<std::vector<bool>> read() {
    auto value = expression();
    if (!value || at_ != text_.size()) return std::nullopt;
    return value;
  }

 private:
  using Bits = std::optional<std::vector<bool>>;
  bool eat(char c) {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  std::optional<std::size_t> number() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    const std::size_t begin = at_;
    while (at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_])) != 0) ++at_;
    if (begin == at_ || at_ - begin > 6) return std::nullopt;
    return static_cast<std::size_t>(std::atoi(text_.substr(begin, at_ - begin).c_str()));
  }
  Bits expression() {
    Bits left = term();
    while (left && eat('+')) {
      const Bits right = term();
      if (!right) return std::nullopt;
      left->insert(left->end(), right->begin(), right->end());
    }
    return left;
  }
  Bits term() {
    Bits value = atom();
    while (value && eat('*')) {
      const auto times = number();
      if (!times || value->size() * *times > kLongest) return std::nullopt;
      const std::vector<bool> once = *value;
      value->clear();
      for (std::size_t i = 0; i < *times; ++i)
        value->insert(value->end(), once.begin(), once.end());
    }
    return value;
  }
  Bits atom() {
    if (eat('(')) {
      if (++depth_ > 20) return std::nullopt;
      const Bits inner = expression();
      return inner && eat(')') ? inner : std::nullopt;
    }
    if (!eat('[')) return std::nullopt;
    std::vector<bool> bits;
    do {
      const auto bit = number();
      if (!bit || *bit > 1) return std::nullopt;
      bits.push_back(*bit == 1);
    } while (eat(','));
    return eat(']') ? Bits(bits) : std::nullopt;
  }

  const std::string& text_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

std::optional<std::vector<PipelineStage>> read_layout(const std::string& text) {
  const auto flat = unrolled(text);
  if (!flat || flat->empty()) return std::nullopt;
  std::vector<PipelineStage> stages(1);
  for (char c : *flat) {
    PipelineStage& s = stages.back();
    switch (c) {
      case '|': stages.emplace_back(); break;
      case 'E': s.embedding = true; break;
      case 't': ++s.layers; break;
      case 'm': ++s.mtp; break;
      case 'L': s.loss = true; break;
      default: return std::nullopt;
    }
  }
  return stages;
}

std::string layout_text(const std::vector<PipelineStage>& stages) {
  std::string text;
  for (std::size_t i = 0, run = 0; i < stages.size(); i += run) {
    for (run = 1; i + run < stages.size() && stages[i + run] == stages[i];) ++run;
    // A repeated unit ends its stage itself, so the last stage stays out of it.
    const std::size_t ended = i + run == stages.size() ? run - 1 : run;
    const std::string stage = stage_text(stages[i]);
    if (ended > 2)
      text += fmt::format("({}|)*{}", stage, ended);
    else
      for (std::size_t k = 0; k < ended; ++k) text += stage + '|';
    if (ended < run) text += stage;
  }
  return text;
}

std::optional<std::vector<bool>> read_pattern(const std::string& text, int layers) {
  if (!text.empty() && text.find_first_not_of("0123456789") == std::string::npos) {
    const int every = std::atoi(text.c_str());
    if (every < 1) return std::nullopt;
    std::vector<bool> pattern;
    for (int l = 0; l < layers; ++l) pattern.push_back(l % every == 0);
    return pattern;
  }
  return PatternReader(text).read();
}

std::string pattern_text(const std::vector<bool>& pattern) {
  // A period of at most 8, repeated; else runs.
  for (std::size_t period = 2; period <= 8 && period < pattern.size(); ++period) {
    bool repeats = pattern.size() % period == 0;
    for (std::size_t i = period; i < pattern.size(); ++i)
      repeats = repeats && pattern[i] == pattern[i - period];
    bool varies = false;
    for (std::size_t i = 1; i < period; ++i) varies = varies || pattern[i] != pattern[0];
    if (!repeats || !varies) continue;
    std::string text = "[";
    for (std::size_t i = 0; i < period; ++i)
      text += fmt::format("{}{}", i > 0 ? "," : "", static_cast<int>(pattern[i]));
    return fmt::format("({}]*{})", text, pattern.size() / period);
  }
  std::string text = "(";
  for (std::size_t i = 0, run = 0; i < pattern.size(); i += run) {
    for (run = 1; i + run < pattern.size() && pattern[i + run] == pattern[i];) ++run;
    text += fmt::format("{}[{}]*{}", i > 0 ? "+" : "", static_cast<int>(pattern[i]), run);
  }
  return text + ")";
}

}  // namespace reckon::plan::launch
