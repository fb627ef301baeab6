// Text to token ids and back: byte-level byte-pair encoding (Sennrich et al. 2016).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace reckon::real {

// Ids 0-255 are bytes, 256 ends a text, 257... are merges of two earlier ids; without merges, ids
// are bytes. Any bytes can be encoded, and decode(encode(text)) is text. A value; const calls from
// any thread.
class Tokenizer {
 public:
  static Tokenizer bytes();
  // Learns merges, the most frequent pair first (ties to the smaller ids), up to `vocabulary` ids
  // or until no pair comes twice. Merges stay within words: a run of letters with the space before
  // it, a run of digits, a run of anything else; bytes from 128 on are letters, and words longer
  // than 48 bytes are cut. Depends on nothing but its arguments. REQUIRES: vocabulary >= 257.
  static Tokenizer train(const std::vector<std::string_view>& texts, int vocabulary);

  // NAME.vocab, JSON: the merges by id. load throws InputError, save (which writes the whole file
  // or nothing) std::system_error.
  static Tokenizer load(const std::string& file);
  void save(const std::string& file) const;

  int vocabulary() const { return kFirstMerge + static_cast<int>(merges_.size()); }
  std::int32_t end_of_text() const { return kEndOfText; }
  std::uint64_t checksum() const;  // of the merges: the same for the same vocabulary

  std::vector<std::int32_t> encode(std::string_view text) const;
  // Appends the ids of the text's first words, which have at least `bytes` bytes, or of all;
  // returns how many bytes those words have. Encoding goes on there as if it had not stopped.
  std::size_t encode_some(std::string_view text, std::size_t bytes,
                          std::vector<std::int32_t>& out) const;
  // The end of a text is no text. REQUIRES: ids in [0, vocabulary()).
  std::string decode(const std::vector<std::int32_t>& ids) const;

 private:
  static constexpr std::int32_t kEndOfText = 256, kFirstMerge = 257;
  using Merge = std::pair<std::int32_t, std::int32_t>;

  explicit Tokenizer(std::vector<Merge> merges);
  void encode_word(std::string_view word, std::vector<std::int32_t>& out) const;

  std::vector<Merge> merges_;                              // of id kFirstMerge + index
  std::unordered_map<std::uint64_t, std::int32_t> id_of_;  // by pair
  std::vector<std::string> text_of_;                       // by id
};

// How many bytes the first word of a text has. REQUIRES: not empty.
std::size_t word_length(std::string_view text);

}  // namespace reckon::real
