// `reckon data`: text files as token data for the trainer.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>

#include "real/cli.h"
#include "real/disk_file.h"
#include "real/token_data.h"
#include "sim/input_error.h"

namespace reckon::real {
namespace {

Tokenizer chosen_tokenizer(const DataOptions& options) {
  if (!options.tokenizer.empty()) return Tokenizer::load(options.tokenizer);
  if (options.bpe == 0) return Tokenizer::bytes();
  std::vector<std::unique_ptr<MappedFile>> files;
  std::vector<std::string_view> texts;
  for (const std::string& path : options.texts) {
    files.push_back(std::make_unique<MappedFile>(path));
    texts.push_back(files.back()->text());
  }
  return Tokenizer::train(texts, options.bpe);
}

}  // namespace

int data_command(const DataOptions& options, const plan::CommonOptions& common) try {
  const int ways = (options.bpe > 0) + options.bytes + !options.tokenizer.empty();
  if (ways > 1) throw InputError("expected one of --bpe, --bytes and --tokenizer");
  const Tokenizer tokenizer = chosen_tokenizer(options);
  if (options.bpe > tokenizer.vocabulary())
    fmt::print(stderr, "no pair of tokens comes twice after {} of {} ids: too little text\n",
               tokenizer.vocabulary(), options.bpe);
  const WrittenTokens written = write_token_data(options.output, tokenizer, options.texts);
  const double bytes_per_token =
      static_cast<double>(written.text_bytes) / static_cast<double>(written.tokens);
  if (common.json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"tokens_file", options.output + ".tokens"},
                                              {"vocabulary_file", options.output + ".vocab"},
                                              {"documents", written.documents},
                                              {"text_bytes", written.text_bytes},
                                              {"tokens", written.tokens},
                                              {"vocabulary", tokenizer.vocabulary()},
                                              {"bytes_per_token", bytes_per_token}}
                           .dump(2));
    return plan::kDone;
  }
  fmt::print(
      "{}.tokens: {} tokens of {} documents, {:.2f} bytes of text each\n"
      "{}.vocab: {} ids\n",
      options.output, written.tokens, written.documents, bytes_per_token, options.output,
      tokenizer.vocabulary());
  return plan::kDone;
} catch (const std::system_error& e) {
  throw InputError(e.what());
}

}  // namespace reckon::real
