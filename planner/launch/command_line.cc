// A small reader of shell words: enough for launch scripts that list flags, and nothing is expanded
// but ${NAME} and $NAME from the given variables.
#include "planner/launch/command_line.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

namespace reckon::plan::launch {

namespace {

[[noreturn]] void fail(const std::string& file, int line, const std::string& what) {
  throw InputError(fmt::format("{}:{}: {}", file, line, what));
}

bool is_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

// `text` with its variables put in; `at`: where, for errors.
std::string expanded(std::string_view text, const Variables& variables,
                     const std::pair<std::string, int>& at) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '$' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    const bool braces = text[i + 1] == '{';
    std::size_t begin = i + (braces ? 2 : 1), end = begin;
    while (end < text.size() && is_name(text[end])) ++end;
    std::string name(text.substr(begin, end - begin)), otherwise;
    bool has_default = false;
    if (braces) {
      const std::size_t close = text.find('}', end);
      if (close == std::string_view::npos) fail(at.first, at.second, "an open ${");
      if (text.substr(end, 2) == ":-") {
        has_default = true;
        otherwise = text.substr(end + 2, close - end - 2);
      }
      end = close + 1;
    }
    if (name.empty()) {
      out += '$';
      continue;
    }
    const auto it = variables.find(name);
    if (it == variables.end() && !has_default)
      fail(at.first, at.second,
           fmt::format("expected a value for the variable {}; give it with --set {}=VALUE", name,
                       name));
    out += it != variables.end() ? it->second : otherwise;
    i = end - 1;
  }
  return out;
}

struct Word {
  std::string text;
  int line;
  bool literal;  // has no variables that a shell would expand
};

// Words of a script, with comments and line continuations taken out; line ends are words "\n".
std::vector<Word> words_of(const std::string& file, std::string_view text) {
  std::vector<Word> words;
  std::string word;
  bool open = false, literal = true;
  int line = 1;
  const auto end_word = [&] {
    if (open) words.push_back({word, line, literal});
    word.clear();
    open = false;
    literal = true;
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\' && i + 1 < text.size() && text[i + 1] == '\n') {
      end_word();
      ++line, ++i;
    } else if (c == '\n') {
      end_word();
      words.push_back({"\n", line, true});
      ++line;
    } else if (std::isspace(static_cast<unsigned char>(c)) != 0) {
      end_word();
    } else if (c == '#' && !open) {
      while (i + 1 < text.size() && text[i + 1] != '\n') ++i;
    } else if (c == '\'' || c == '"') {
      const int from = line;
      open = true;
      for (++i; i < text.size() && text[i] != c; ++i) {
        if (text[i] == '\n') ++line;
        if (text[i] == '\\' && c == '"' && i + 1 < text.size()) ++i;
        if (c == '"' && text[i] == '$') literal = false;
        word += text[i];
      }
      if (i == text.size()) fail(file, from, "a quote that is never closed");
    } else {
      open = true;
      if (c == '$') literal = false;
      if (c == '\\' && i + 1 < text.size())
        word += text[++i];
      else
        word += c;
    }
  }
  end_word();
  return words;
}

bool is_option(const std::string& word) {
  return word.size() > 2 && word.compare(0, 2, "--") == 0 &&
         std::isalpha(static_cast<unsigned char>(word[2])) != 0;
}

void add(CommandLine& out, const std::string& word, int line) {
  const std::size_t equals = word.find('=');
  if (equals == std::string::npos)
    out.options.push_back({word, {}, line});
  else
    out.options.push_back({word.substr(0, equals), {word.substr(equals + 1)}, line});
}

// #SBATCH --nodes=128, --ntasks-per-node=8, --ntasks=1024: how many processes a job has.
std::optional<int> world_of(std::string_view text) {
  const auto number = [&](std::string_view name) -> std::optional<int> {
    for (const char* separator : {"=", " "}) {
      const std::string key = std::string("#SBATCH ") + std::string(name) + separator;
      if (const auto at = text.find(key); at != std::string_view::npos)
        return std::atoi(std::string(text.substr(at + key.size(), 12)).c_str());
    }
    return std::nullopt;
  };
  if (const auto tasks = number("--ntasks")) return tasks;
  const auto nodes = number("--nodes");
  const auto gpus = number("--gpus-per-node"), tasks = number("--ntasks-per-node");
  if (!nodes || (!gpus && !tasks)) return std::nullopt;
  return *nodes * std::max(gpus.value_or(0), tasks.value_or(0));
}

}  // namespace

CommandLine read_arguments(const std::string& file, std::string_view text,
                           const Variables& variables) {
  CommandLine out{.file = file, .world = world_of(text)};
  const std::vector<Word> words = words_of(file, text);
  // From the program's name if there is one: what stands before it are options of launchers.
  std::size_t begin = 0;
  bool script = false;
  for (std::size_t i = 0; i < words.size(); ++i)
    if (words[i].text.find("pretrain_") != std::string::npos && words[i].text.size() > 3 &&
        words[i].text.ends_with(".py")) {
      begin = i + 1;
      script = true;
      break;
    }
  for (std::size_t i = 0; i + 1 < words.size() && i < begin; ++i)
    if (words[i].text == "export")
      for (++i; i < begin && words[i].text != "\n"; ++i)
        if (const std::size_t equals = words[i].text.find('=');
            equals != std::string::npos && words[i].literal)
          out.environment[words[i].text.substr(0, equals)] = words[i].text.substr(equals + 1);

  for (std::size_t i = begin; i < words.size(); ++i) {
    const Word& w = words[i];
    if (w.text == "\n") {
      if (script && !out.options.empty()) break;  // the command ends with its line
      continue;
    }
    const std::string value =
        w.literal ? w.text : expanded(w.text, variables, std::pair(file, w.line));
    if (is_option(value))
      add(out, value, w.line);
    else if (!out.options.empty())
      out.options.back().values.push_back(value);
    else
      fail(file, w.line, fmt::format("expected an option (--name), got \"{}\"", value));
  }
  if (out.options.empty())
    throw InputError(file + ": expected a command line with options (--name value ...), got none");
  return out;
}

CommandLine read_model_zoo(const std::string& file, const std::string& text,
                           const Variables& variables) {
  CommandLine out{.file = file};
  YAML::Node root;
  try {
    root = YAML::Load(text);
  } catch (const YAML::Exception& e) {
    fail(file, e.mark.line + 1, "not YAML: " + e.msg);
  }
  if (!root.IsMap() || !root["MODEL_ARGS"] || !root["MODEL_ARGS"].IsMap())
    fail(file, 1, "expected a mapping with the key MODEL_ARGS (\"--flag: value\")");
  const auto text_of = [&](const YAML::Node& node) {
    return expanded(node.Scalar(), variables, std::pair(file, node.Mark().line + 1));
  };
  for (const auto& entry : root["MODEL_ARGS"]) {
    const int line = entry.first.Mark().line + 1;
    Option option{.name = entry.first.Scalar(), .values = {}, .line = line};
    if (!is_option(option.name))
      fail(file, line, fmt::format("expected an option (--name), got \"{}\"", option.name));
    const YAML::Node& value = entry.second;
    if (value.IsSequence()) {
      for (const auto& item : value) option.values.push_back(text_of(item));
    } else if (value.IsScalar()) {
      const std::string all = text_of(value);
      // An unquoted true or false switches; everything else is one or several values.
      if (all == "false") continue;
      if (all != "true") {
        if (all.find_first_of("[(") != std::string::npos) {
          option.values = {all};
        } else {
          for (const Word& w : words_of(file, all)) option.values.push_back(w.text);
        }
      }
    } else if (!value.IsNull()) {
      fail(file, line, "expected a value, a list, true or false");
    }
    out.options.push_back(std::move(option));
  }
  if (root["ENV_VARS"] && root["ENV_VARS"].IsMap())
    for (const auto& entry : root["ENV_VARS"])
      if (entry.second.IsScalar()) out.environment[entry.first.Scalar()] = entry.second.Scalar();
  return out;
}

std::string quoted(const std::string& word) {
  const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
    return is_name(c) || std::string_view("-+=./:,@%").find(c) != std::string_view::npos;
  });
  if (plain) return word;
  std::string out = "'";
  for (char c : word)
    if (c == '\'')
      out += "'\\''";
    else
      out += c;
  return out + "'";
}

std::string to_text(const Option& option) {
  std::string line = option.name;
  for (const std::string& value : option.values) line += " " + quoted(value);
  return line;
}

}  // namespace reckon::plan::launch
