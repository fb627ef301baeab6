// Token data: files of token ids, memory-mapped, cut into sequences whose order is fixed by a seed.
//
//   NAME.tokens   magic, version, vocabulary size, token width, token and document counts, checksum
//                 of the header, checksum of the tokens; then the ids, little endian, 16 or 32
//                 bits; documents end with the end-of-text id
//   NAME.vocab    JSON: byte-level, or BPE merges; the end-of-text id
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace reckon::real {

// Byte-level BPE; without merges, bytes. Ids 0-255 are bytes, 256 ends a text, 257... are merges.
class Tokenizer {
 public:
  static Tokenizer bytes();
  // Learns merges up to `vocabulary` ids from the texts; merges stay within words (a run of letters
  // with the space before it, a run of digits, a run of anything else). Deterministic.
  static Tokenizer train(const std::vector<std::string>& texts, int vocabulary);
  static Tokenizer load(const std::string& file);  // throws InputError
  void save(const std::string& file) const;        // atomically
  int vocabulary() const;
  std::int32_t end_of_text() const { return 256; }
  std::vector<std::int32_t> encode(std::string_view text) const;
  std::string decode(const std::vector<std::int32_t>& ids) const;

 private:
  std::vector<std::pair<std::int32_t, std::int32_t>> merges_;
};

// Writes NAME.tokens and NAME.vocab from text files, one document per file. Both appear whole or
// not at all.
void write_token_data(const std::string& name, const Tokenizer& tokenizer,
                      const std::vector<std::string>& files);

// One or several .tokens files as one long stream of tokens, cut into windows of `length` tokens
// plus `extra` (the targets beyond the end: 1 and one per MTP module). Each epoch visits every
// window once, in an order that depends only on seed and epoch.
class TokenData {
 public:
  // Throws InputError naming the file: not token data, truncated, checksum wrong, vocabularies that
  // differ, fewer tokens than one window, ids beyond the vocabulary.
  TokenData(const std::vector<std::string>& files, int length, int extra, std::uint64_t seed);
  ~TokenData();
  TokenData(TokenData&&) noexcept;

  int vocabulary() const;
  std::int64_t windows() const;  // per epoch
  // The `index`-th window since the start of training, over all epochs: length + extra ids.
  // Any thread.
  void window(std::int64_t index, std::int32_t* out) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace reckon::real
