// Byte-pair encoding. Exports: Tokenizer, word_length.
//
// Training counts each distinct word once, with its frequency, and keeps the frequency of every
// pair of neighbouring ids with the words that it was ever seen in; a merge visits those words
// alone. The pair to merge comes from a heap whose entries may be out of date: frequencies of known
// pairs only fall, so that an entry that still holds at the top is the largest.
#include "real/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <climits>
#include <nlohmann/json.hpp>
#include <queue>

#include "hw-models/strict_json.h"
#include "real/disk_file.h"
#include "sim/check.h"

namespace reckon::real {
namespace {

constexpr std::size_t kWordBytes = 48;
// Ids of words that were encoded before are remembered up to this many words; then it starts over.
constexpr std::size_t kRememberedWords = 1 << 18;

bool is_letter(char c) {
  const char lower = static_cast<char>(c | 0x20);
  return (lower >= 'a' && lower <= 'z') || static_cast<unsigned char>(c) >= 128;
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

std::uint64_t pair_key(std::int32_t a, std::int32_t b) {
  return static_cast<std::uint64_t>(a) << 32 | static_cast<std::uint32_t>(b);
}

std::int32_t byte_id(char c) {
  return static_cast<unsigned char>(c);
}

// Learns the merges of a set of texts.
class Training {
 public:
  explicit Training(const std::vector<std::string_view>& texts);
  // The next merge, applied to all words; `id` is its own.
  bool merge(std::int32_t id, std::pair<std::int32_t, std::int32_t>& merged);

 private:
  struct Word {
    std::vector<std::int32_t> ids;
    std::int64_t count = 0;
  };
  struct Pair {
    std::int64_t count = 0;
    std::vector<std::uint32_t> words;  // where it was ever seen
  };
  struct Candidate {
    std::int64_t count;
    std::uint64_t pair;
    bool operator<(const Candidate& other) const {  // the best is the greatest
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };
  void add(std::uint64_t key, std::uint32_t word, std::int64_t count) {
    Pair& pair = pairs_[key];
    pair.count += count;
    if (pair.words.empty() || pair.words.back() != word) pair.words.push_back(word);
  }

  std::vector<Word> words_;
  std::unordered_map<std::uint64_t, Pair> pairs_;
  std::priority_queue<Candidate> candidates_;
};

Training::Training(const std::vector<std::string_view>& texts) {
  std::unordered_map<std::string_view, std::uint32_t> index;
  for (std::string_view text : texts)
    while (!text.empty()) {
      const std::string_view word = text.substr(0, word_length(text));
      text.remove_prefix(word.size());
      const auto [at, is_new] = index.try_emplace(word, static_cast<std::uint32_t>(words_.size()));
      if (is_new) {
        words_.emplace_back();
        for (char c : word) words_.back().ids.push_back(byte_id(c));
      }
      ++words_[at->second].count;
    }
  for (std::uint32_t w = 0; w < words_.size(); ++w) {
    const std::vector<std::int32_t>& ids = words_[w].ids;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i)
      add(pair_key(ids[i], ids[i + 1]), w, words_[w].count);
  }
  for (const auto& [key, pair] : pairs_) candidates_.push({pair.count, key});
}

bool Training::merge(std::int32_t id, std::pair<std::int32_t, std::int32_t>& merged) {
  for (;;) {
    if (candidates_.empty()) return false;
    const Candidate top = candidates_.top();
    const std::int64_t count = pairs_.at(top.pair).count;
    if (count == top.count) break;
    candidates_.pop();
    if (count > 1) candidates_.push({count, top.pair});
  }
  const Candidate best = candidates_.top();
  candidates_.pop();
  if (best.count < 2) return false;
  const auto a = static_cast<std::int32_t>(best.pair >> 32);
  const auto b = static_cast<std::int32_t>(best.pair & 0xffffffff);
  merged = {a, b};

  std::vector<std::uint64_t> grown;  // pairs with the new id
  const auto grow = [&](std::uint64_t key, std::uint32_t word) {
    add(key, word, words_[word].count);
    grown.push_back(key);
  };
  for (const std::uint32_t w : std::exchange(pairs_.at(best.pair).words, {})) {
    std::vector<std::int32_t>& ids = words_[w].ids;
    const std::int64_t times = words_[w].count;
    // From left to right, in place: [0, kept) is what the word becomes. The pairs that are counted
    // are at every moment those of kept ids followed by ids still to be looked at.
    std::size_t kept = 0;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (i + 1 == ids.size() || ids[i] != a || ids[i + 1] != b) {
        ids[kept++] = ids[i];
        continue;
      }
      pairs_.at(best.pair).count -= times;
      if (kept > 0) {
        pairs_.at(pair_key(ids[kept - 1], a)).count -= times;
        grow(pair_key(ids[kept - 1], id), w);
      }
      if (i + 2 < ids.size()) {
        pairs_.at(pair_key(b, ids[i + 2])).count -= times;
        grow(pair_key(id, ids[i + 2]), w);
      }
      ids[kept++] = id;
      ++i;
    }
    ids.resize(kept);
  }
  std::sort(grown.begin(), grown.end());
  grown.erase(std::unique(grown.begin(), grown.end()), grown.end());
  for (const std::uint64_t key : grown) candidates_.push({pairs_.at(key).count, key});
  return true;
}

}  // namespace

std::size_t word_length(std::string_view text) {
  const auto is_word_start = [&](std::size_t i) {  // a space and a letter
    return text[i] == ' ' && i + 1 < text.size() && is_letter(text[i + 1]);
  };
  const std::size_t limit = std::min(text.size(), kWordBytes);
  std::size_t n = 1;
  if (is_letter(text[0]) || is_word_start(0)) {
    while (n < limit && is_letter(text[n])) ++n;
    // Not within a UTF-8 character, if there is any start of one.
    if (n == kWordBytes && n < text.size())
      for (std::size_t back = 0; back < 4; ++back)
        if ((static_cast<unsigned char>(text[n - back]) & 0xc0) != 0x80) return n - back;
  } else if (is_digit(text[0])) {
    while (n < limit && is_digit(text[n])) ++n;
  } else {
    while (n < limit && !is_letter(text[n]) && !is_digit(text[n]) && !is_word_start(n)) ++n;
  }
  return n;
}

Tokenizer::Tokenizer(std::vector<Merge> merges) : merges_(std::move(merges)) {
  for (int b = 0; b < 256; ++b) text_of_.emplace_back(1, static_cast<char>(b));
  text_of_.emplace_back();
  for (const auto& [a, b] : merges_) {
    id_of_.emplace(pair_key(a, b), static_cast<std::int32_t>(text_of_.size()));
    text_of_.push_back(text_of_[static_cast<std::size_t>(a)] +
                       text_of_[static_cast<std::size_t>(b)]);
  }
}

Tokenizer Tokenizer::bytes() {
  return Tokenizer({});
}

Tokenizer Tokenizer::train(const std::vector<std::string_view>& texts, int vocabulary) {
  check(vocabulary >= kFirstMerge, "a vocabulary has the bytes and the end of text");
  Training training(texts);
  std::vector<Merge> merges;
  Merge merge;
  for (std::int32_t id = kFirstMerge; id < vocabulary && training.merge(id, merge); ++id)
    merges.push_back(merge);
  return Tokenizer(std::move(merges));
}

Tokenizer Tokenizer::load(const std::string& file) {
  static const std::vector<std::string> kKeys = {"format", "version", "end_of_text", "merges"};
  const hw::Document document = hw::read_json_file(file);
  const hw::Value root(document);
  root.expect_object("a vocabulary");
  for (const auto& [key, value] : root.json().items())
    if (std::find(kKeys.begin(), kKeys.end(), key) == kKeys.end()) root.fail_key(key, kKeys);
  const auto member = [&](const std::string& key) {
    const auto value = root.find(key);
    if (!value) root.fail(fmt::format("a vocabulary with \"{}\"", key));
    return *value;
  };
  if (member("format").json() != "reckon vocabulary")
    member("format").fail("\"reckon vocabulary\"");
  read_integer(member("version"), 1, 1);
  read_integer(member("end_of_text"), kEndOfText, kEndOfText);
  const hw::Value list = member("merges");
  list.expect_array("merges");
  std::vector<Merge> merges;
  std::unordered_map<std::uint64_t, std::size_t> seen;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const hw::Value pair = list.at(i);
    const std::int32_t own = kFirstMerge + static_cast<std::int32_t>(i);
    if (!pair.json().is_array() || pair.size() != 2) pair.fail("two ids");
    const auto id = [&](std::size_t side) {
      const auto n = static_cast<std::int32_t>(read_integer(pair.at(side), 0, own - 1));
      if (n == kEndOfText) pair.at(side).fail("an id that is text");
      return n;
    };
    merges.emplace_back(id(0), id(1));
    if (!seen.try_emplace(pair_key(merges[i].first, merges[i].second), i).second)
      pair.fail("a pair that was not merged before");
  }
  return Tokenizer(std::move(merges));
}

void Tokenizer::save(const std::string& file) const {
  std::string text = fmt::format(
      "{{\n  \"format\": \"reckon vocabulary\",\n  \"version\": 1,\n  \"end_of_text\": {},\n  "
      "\"merges\": [",
      kEndOfText);
  for (std::size_t i = 0; i < merges_.size(); ++i)
    text += fmt::format("{}\n    [{}, {}]", i > 0 ? "," : "", merges_[i].first, merges_[i].second);
  text += "\n  ]\n}\n";
  NewFile out(file + ".partial");
  out.write(text.data(), text.size());
  out.finish();
  replace_file(file + ".partial", file);
}

std::uint64_t Tokenizer::checksum() const {
  return real::checksum(merges_.data(), merges_.size() * sizeof(Merge));
}

// Merges the pair that was learnt first, the leftmost of several, until none is left. Words are
// short: looking through all pairs beats keeping them in order.
void Tokenizer::encode_word(std::string_view word, std::vector<std::int32_t>& out) const {
  std::int32_t ids[kWordBytes], by_pair[kWordBytes];  // by_pair: the id of a merge here, or none
  constexpr std::int32_t kNone = INT_MAX;
  std::size_t n = word.size();
  for (std::size_t i = 0; i < n; ++i) ids[i] = byte_id(word[i]);
  const auto look_up = [&](std::size_t i) {
    const auto found = id_of_.find(pair_key(ids[i], ids[i + 1]));
    by_pair[i] = found == id_of_.end() ? kNone : found->second;
  };
  if (!merges_.empty())
    for (std::size_t i = 0; i + 1 < n; ++i) look_up(i);
  while (n > 1 && !merges_.empty()) {
    const auto best =
        static_cast<std::size_t>(std::min_element(by_pair, by_pair + n - 1) - by_pair);
    if (by_pair[best] == kNone) break;
    ids[best] = by_pair[best];
    std::copy(ids + best + 2, ids + n, ids + best + 1);
    if (best + 2 < n) std::copy(by_pair + best + 2, by_pair + n - 1, by_pair + best + 1);
    --n;
    if (best > 0) look_up(best - 1);
    if (best + 1 < n) look_up(best);
  }
  out.insert(out.end(), ids, ids + n);
}

std::size_t Tokenizer::encode_some(std::string_view text, std::size_t bytes,
                                   std::vector<std::int32_t>& out) const {
  if (merges_.empty()) {
    const std::size_t n = std::min(bytes, text.size());
    for (char c : text.substr(0, n)) out.push_back(byte_id(c));
    return n;
  }
  struct Run {
    std::size_t begin, count;  // of `remembered`
  };
  std::unordered_map<std::string_view, Run> known;
  std::vector<std::int32_t> remembered;
  std::size_t at = 0;
  while (at < text.size() && at < bytes) {
    const std::string_view word = text.substr(at, word_length(text.substr(at)));
    at += word.size();
    if (known.size() >= kRememberedWords) {
      known.clear();
      remembered.clear();
    }
    const auto [found, is_new] = known.try_emplace(word, Run{remembered.size(), 0});
    Run& range = found->second;
    if (is_new) {
      encode_word(word, remembered);
      range.count = remembered.size() - range.begin;
    }
    const auto begin = remembered.begin() + static_cast<std::ptrdiff_t>(range.begin);
    out.insert(out.end(), begin, begin + static_cast<std::ptrdiff_t>(range.count));
  }
  return at;
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> out;
  encode_some(text, text.size(), out);
  return out;
}

std::string Tokenizer::decode(const std::vector<std::int32_t>& ids) const {
  std::string out;
  for (const std::int32_t id : ids) {
    check(id >= 0 && id < vocabulary(), "an id of the vocabulary");
    out += text_of_[static_cast<std::size_t>(id)];
  }
  return out;
}

}  // namespace reckon::real
