// Token data: files of token ids, memory-mapped, cut into sequences whose order is fixed by a seed.
//
//   NAME.tokens   TokenHead (below), then the ids, little endian, 16 or 32 bits; documents end with
//                 the end-of-text id
//   NAME.vocab    the tokenizer (see tokenizer.h)
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "real/tokenizer.h"

namespace reckon::real {

// The first bytes of NAME.tokens.
struct TokenHead {
  std::array<char, 8> magic = {'r', 'e', 'c', 'k', 'o', 'n', 'T', '1'};
  std::uint32_t vocabulary = 0;  // ids are below
  std::uint32_t id_bytes = 0;    // 2 or 4
  std::uint64_t tokens = 0, documents = 0;
  std::uint64_t vocabulary_checksum = 0;  // of the tokenizer
  std::uint64_t tokens_checksum = 0;      // of the ids' bytes, block by block; see token_data.cc
  std::uint64_t head_checksum = 0;        // of what stands before it
};
static_assert(sizeof(TokenHead) == 56);

struct WrittenTokens {
  std::uint64_t tokens = 0, documents = 0, text_bytes = 0;
};

// Writes NAME.tokens and NAME.vocab from text files, one document per file. Neither is ever there
// in part; a crash between the two leaves the vocabulary alone. Errors: InputError for a text that
// can't be read, std::system_error where the disk says no.
WrittenTokens write_token_data(const std::string& name, const Tokenizer& tokenizer,
                               const std::vector<std::string>& files);

// One or several .tokens files as one long stream of tokens, cut into windows of `length` tokens
// plus `extra` (the targets beyond the end: 1 and one per MTP module). Each epoch visits every
// window once, in an order that depends only on seed and epoch.
class TokenData {
 public:
  // Reads every byte, to compare checksums. Throws InputError naming the file: not token data,
  // truncated, checksum wrong, vocabularies that differ, fewer tokens than one window, ids beyond
  // the vocabulary. REQUIRES: length > 0, extra >= 0.
  TokenData(const std::vector<std::string>& files, int length, int extra, std::uint64_t seed);
  ~TokenData();
  TokenData(TokenData&&) noexcept;
  TokenData& operator=(TokenData&&) noexcept;

  int vocabulary() const;
  std::int64_t tokens() const;
  std::int64_t windows() const;               // per epoch
  std::uint64_t vocabulary_checksum() const;  // of the tokenizer
  // -sum p log p over the ids of all files, in nats: the loss of the best prediction that knows
  // nothing but how frequent each id is. Reads every token.
  double unigram_entropy() const;
  // The `index`-th window since the start of training, over all epochs: length + extra ids.
  // Any thread. REQUIRES: index >= 0.
  void window(std::int64_t index, std::int32_t* out) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace reckon::real
