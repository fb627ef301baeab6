// Files of token ids. Exports: write_token_data, TokenData.
//
// The checksum of the ids is continued from block to block of 1 MiB, each the seed of the next, so
// that a writer needs no more memory than that and a reader touches each block once: for the
// checksum and for the largest id.
#include "real/token_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "real/disk_file.h"
#include "real/permutation.h"
#include "sim/check.h"
#include "sim/input_error.h"

namespace reckon::real {
namespace {

static_assert(std::endian::native == std::endian::little);
constexpr std::size_t kBlockBytes = 1 << 20;
constexpr std::size_t kTextBytes = 4 << 20;  // of a text that are encoded at once

std::uint64_t head_checksum(const TokenHead& head) {
  return checksum(&head, offsetof(TokenHead, head_checksum));
}

// The ids of NAME.tokens, as they come.
class TokenFile {
 public:
  TokenFile(const std::string& path, const Tokenizer& tokenizer) : file_(path) {
    head_.vocabulary = static_cast<std::uint32_t>(tokenizer.vocabulary());
    head_.id_bytes = head_.vocabulary <= 65536 ? 2 : 4;
    head_.vocabulary_checksum = tokenizer.checksum();
    file_.write(&head_, sizeof head_);
  }
  void add(const std::vector<std::int32_t>& ids) {
    for (const std::int32_t id : ids) {
      const char* bytes = reinterpret_cast<const char*>(&id);
      block_.insert(block_.end(), bytes, bytes + head_.id_bytes);
      if (block_.size() == kBlockBytes) flush();
    }
    head_.tokens += ids.size();
  }
  void end_document(std::int32_t end_of_text) {
    add({end_of_text});
    ++head_.documents;
  }
  const TokenHead& finish() {
    flush();
    head_.head_checksum = head_checksum(head_);
    file_.write_at_start(&head_, sizeof head_);
    file_.finish();
    return head_;
  }

 private:
  void flush() {
    if (block_.empty()) return;
    head_.tokens_checksum = checksum(block_.data(), block_.size(), head_.tokens_checksum);
    file_.write(block_.data(), block_.size());
    block_.clear();
  }
  NewFile file_;
  TokenHead head_;
  std::vector<char> block_;
};

template <class Id>
std::uint32_t largest(const std::byte* bytes, std::size_t count) {
  const Id* ids = reinterpret_cast<const Id*>(bytes);
  Id most = 0;
  for (std::size_t i = 0; i < count; ++i) most = std::max(most, ids[i]);
  return most;
}

// The head of a file all of whose bytes are right.
TokenHead checked_head(const MappedFile& file) {
  const auto fail = [&](const std::string& what) { throw InputError(file.path() + ": " + what); };
  TokenHead head;
  const auto magic = head.magic;
  if (file.size() < sizeof head || std::memcmp(file.bytes(), magic.data(), magic.size()) != 0)
    fail("not token data; expected a file that `reckon data` has written");
  std::memcpy(&head, file.bytes(), sizeof head);
  if (head.head_checksum != head_checksum(head)) fail("damaged: the checksum of its head is wrong");
  const std::uint64_t bytes = file.size() - sizeof head;
  if ((head.id_bytes != 2 && head.id_bytes != 4) || head.vocabulary == 0)
    fail(fmt::format("ids of {} bytes below {}; expected 2 or 4", head.id_bytes, head.vocabulary));
  if (bytes / head.id_bytes != head.tokens || bytes % head.id_bytes != 0)
    fail(fmt::format("{}: {} bytes of tokens, expected {} tokens of {} bytes",
                     bytes / head.id_bytes < head.tokens ? "truncated" : "damaged", bytes,
                     head.tokens, head.id_bytes));
  std::uint64_t sum = 0;
  std::uint32_t most = 0;
  for (std::uint64_t at = 0; at < bytes; at += kBlockBytes) {
    const std::byte* block = file.bytes() + sizeof head + at;
    const std::size_t n = std::min<std::uint64_t>(kBlockBytes, bytes - at);
    sum = checksum(block, n, sum);
    most = std::max(most, head.id_bytes == 2 ? largest<std::uint16_t>(block, n / 2)
                                             : largest<std::uint32_t>(block, n / 4));
  }
  if (sum != head.tokens_checksum) fail("damaged: the checksum of its tokens is wrong");
  if (head.tokens > 0 && most >= head.vocabulary)
    fail(fmt::format("holds the id {}, beyond its vocabulary of {}", most, head.vocabulary));
  return head;
}

}  // namespace

WrittenTokens write_token_data(const std::string& name, const Tokenizer& tokenizer,
                               const std::vector<std::string>& files) {
  const std::string tokens = name + ".tokens", partial = tokens + ".partial";
  WrittenTokens written;
  try {
    TokenFile out(partial, tokenizer);
    std::vector<std::int32_t> ids;
    for (const std::string& path : files) {
      const MappedFile file(path);
      for (std::string_view rest = file.text(); !rest.empty();) {
        ids.clear();
        rest.remove_prefix(tokenizer.encode_some(rest, kTextBytes, ids));
        out.add(ids);
      }
      out.end_document(tokenizer.end_of_text());
      written.text_bytes += file.size();
    }
    const TokenHead& head = out.finish();
    written.tokens = head.tokens;
    written.documents = head.documents;
    // The tokens last: where they are, their vocabulary is.
    tokenizer.save(name + ".vocab");
    replace_file(partial, tokens);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(partial, ignored);
    throw;
  }
  return written;
}

struct TokenData::State {
  struct File {
    MappedFile file;
    TokenHead head;
    std::int64_t first = 0;  // place of its first token in the stream
    explicit File(const std::string& path) : file(path), head(checked_head(file)) {}
  };
  std::vector<std::unique_ptr<File>> files;
  std::int64_t tokens = 0, windows = 0;
  int length = 0, extra = 0;
  std::uint64_t seed = 0;

  // stream[begin, begin + count) -> out
  void copy(std::int64_t begin, std::int64_t count, std::int32_t* out) const;
};

void TokenData::State::copy(std::int64_t begin, std::int64_t count, std::int32_t* out) const {
  // The last file that starts at or before `begin`.
  auto at = std::upper_bound(files.begin(), files.end(), begin,
                             [](std::int64_t x, const auto& f) { return x < f->first; });
  for (--at; count > 0; ++at) {
    const File& f = **at;
    const std::int64_t skip = begin - f.first;
    const auto n = std::min(count, static_cast<std::int64_t>(f.head.tokens) - skip);
    const std::byte* const from =
        f.file.bytes() + sizeof(TokenHead) + skip * static_cast<std::int64_t>(f.head.id_bytes);
    if (f.head.id_bytes == 2)
      std::copy_n(reinterpret_cast<const std::uint16_t*>(from), n, out);
    else
      std::copy_n(reinterpret_cast<const std::int32_t*>(from), n, out);
    out += n;
    begin += n;
    count -= n;
  }
}

TokenData::TokenData(const std::vector<std::string>& files, int length, int extra,
                     std::uint64_t seed)
    : state_(std::make_unique<State>()) {
  check(length > 0 && extra >= 0, "a window has tokens");
  if (files.empty()) throw InputError("no token data; expected at least one .tokens file");
  state_->length = length;
  state_->extra = extra;
  state_->seed = seed;
  for (const std::string& path : files) {
    auto file = std::make_unique<State::File>(path);
    const TokenHead& head = file->head;
    const TokenHead& first = state_->files.empty() ? head : state_->files[0]->head;
    if (head.vocabulary != first.vocabulary ||
        head.vocabulary_checksum != first.vocabulary_checksum)
      throw InputError(fmt::format(
          "{}: encoded with another vocabulary ({} ids) than {} ({} ids); expected the same", path,
          head.vocabulary, state_->files[0]->file.path(), first.vocabulary));
    file->first = state_->tokens;
    state_->tokens += static_cast<std::int64_t>(head.tokens);
    state_->files.push_back(std::move(file));
  }
  state_->windows = std::max<std::int64_t>(0, state_->tokens - extra) / length;
  if (state_->windows == 0)
    throw InputError(fmt::format(
        "{}{}: {} tokens; expected at least {}, one sequence and its targets", files[0],
        files.size() > 1 ? " and the other files" : "", state_->tokens, length + extra));
}

TokenData::~TokenData() = default;
TokenData::TokenData(TokenData&&) noexcept = default;
TokenData& TokenData::operator=(TokenData&&) noexcept = default;

int TokenData::vocabulary() const {
  return static_cast<int>(state_->files[0]->head.vocabulary);
}
std::int64_t TokenData::tokens() const {
  return state_->tokens;
}
std::int64_t TokenData::windows() const {
  return state_->windows;
}

std::uint64_t TokenData::vocabulary_checksum() const {
  return state_->files[0]->head.vocabulary_checksum;
}

double TokenData::unigram_entropy() const {
  std::vector<std::int64_t> count(static_cast<std::size_t>(vocabulary()), 0);
  std::vector<std::int32_t> block(1 << 16);
  for (std::int64_t at = 0; at < tokens(); at += std::ssize(block)) {
    const std::int64_t n = std::min<std::int64_t>(std::ssize(block), tokens() - at);
    state_->copy(at, n, block.data());
    for (std::int64_t i = 0; i < n; ++i)
      ++count[static_cast<std::size_t>(block[static_cast<std::size_t>(i)])];
  }
  const auto all = static_cast<double>(tokens());
  double entropy = 0;
  for (const std::int64_t n : count)
    if (n > 0) entropy -= static_cast<double>(n) / all * std::log(static_cast<double>(n) / all);
  return entropy;
}

void TokenData::window(std::int64_t index, std::int32_t* out) const {
  check(index >= 0, "windows are counted from 0");
  const State& s = *state_;
  const auto n = static_cast<std::uint64_t>(s.windows), i = static_cast<std::uint64_t>(index);
  const Permutation order(n, mixed(s.seed) + i / n);
  s.copy(static_cast<std::int64_t>(order(i % n)) * s.length, s.length + s.extra, out);
}

}  // namespace reckon::real
