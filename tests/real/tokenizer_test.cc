// Byte-pair encoding: equal to the textbook's loop, and nothing is lost whatever the bytes.
#include "real/tokenizer.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <functional>
#include <map>
#include <random>

#include "sim/input_error.h"
#include "tests/real/temporary_folder.h"

using namespace reckon;
using namespace reckon::real;

namespace {

using Tokens = std::vector<std::int32_t>;

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> out;
  while (!text.empty()) {
    out.emplace_back(text.substr(0, word_length(text)));
    text.remove_prefix(out.back().size());
  }
  return out;
}

void replace(Tokens& ids, std::int32_t a, std::int32_t b, std::int32_t id) {
  Tokens out;
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (i + 1 < ids.size() && ids[i] == a && ids[i + 1] == b) {
      out.push_back(id);
      ++i;
    } else {
      out.push_back(ids[i]);
    }
  ids = out;
}

// The textbook: count all pairs of all words, merge the most frequent everywhere, again.
std::vector<Tokens> trained_slowly(const std::string& text, int vocabulary,
                                   std::vector<Tokens>& merges) {
  std::vector<Tokens> all;
  for (const std::string& word : words(text)) {
    all.emplace_back();
    for (char c : word) all.back().push_back(static_cast<unsigned char>(c));
  }
  for (std::int32_t id = 257; id < vocabulary; ++id) {
    std::map<std::pair<std::int32_t, std::int32_t>, int> count;
    for (const Tokens& ids : all)
      for (std::size_t i = 0; i + 1 < ids.size(); ++i) ++count[{ids[i], ids[i + 1]}];
    int most = 1;
    std::pair<std::int32_t, std::int32_t> best;
    for (const auto& [pair, n] : count)
      if (n > most) most = n, best = pair;
    if (most < 2) break;
    merges.push_back({best.first, best.second});
    for (Tokens& ids : all) replace(ids, best.first, best.second, id);
  }
  return all;
}

std::string random_bytes(std::mt19937& random, std::size_t n, int alphabet) {
  std::string out(n, 0);
  for (char& c : out)
    c = alphabet == 256 ? static_cast<char>(random())
                        : "ab 1.cd2\n\xc3\xa9"[random() % static_cast<unsigned>(alphabet)];
  return out;
}

// All C++ files of the project: text that every machine with these tests has.
const std::vector<std::string>& project_texts() {
  static const std::vector<std::string> texts = [] {
    std::vector<std::string> paths, out;
    for (const char* folder : {"sim", "hw-models", "planner", "real"})
      for (const auto& entry :
           std::filesystem::directory_iterator(RECKON_SOURCE "/" + std::string(folder)))
        if (entry.path().extension() == ".cc") paths.push_back(entry.path().string());
    std::sort(paths.begin(), paths.end());
    for (const std::string& path : paths) out.push_back(file_bytes(path));
    return out;
  }();
  return texts;
}

}  // namespace

TEST_CASE("words: letters with a space before, digits, the rest") {
  using Words = std::vector<std::string>;
  CHECK(words("Hello  world, 2024x!\n") == Words{"Hello", " ", " world", ", ", "2024", "x", "!\n"});
  CHECK(words(" \xc3\xa9t\xc3\xa9 ") == Words{" \xc3\xa9t\xc3\xa9", " "});
  // Cut at 48 bytes, not within a character.
  const Words cut = words(std::string(100, 'x'));
  CHECK(cut == Words{std::string(48, 'x'), std::string(48, 'x'), std::string(4, 'x')});
  std::string accents = "x";
  for (int i = 0; i < 30; ++i) accents += "\xc3\xa9";
  CHECK(words(accents)[0].size() == 47);
}

TEST_CASE("training and encoding equal the textbook's loop on random texts") {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    const std::string text =
        random_bytes(random, random() % 400, 2 + static_cast<int>(random() % 10));
    const int vocabulary = 257 + static_cast<int>(random() % 40);
    std::vector<Tokens> merges;
    Tokens expected;
    for (const Tokens& ids : trained_slowly(text, vocabulary, merges))
      expected.insert(expected.end(), ids.begin(), ids.end());
    const Tokenizer t = Tokenizer::train({text}, vocabulary);
    REQUIRE(t.vocabulary() == 257 + static_cast<int>(merges.size()));
    REQUIRE(t.encode(text) == expected);
    // Texts that it was not trained on: the merges, one after the other.
    const std::string other = random_bytes(random, 200, 10);
    Tokens others;
    for (const std::string& word : words(other)) {
      Tokens ids;
      for (char c : word) ids.push_back(static_cast<unsigned char>(c));
      for (std::size_t m = 0; m < merges.size(); ++m)
        replace(ids, merges[m][0], merges[m][1], 257 + static_cast<std::int32_t>(m));
      others.insert(others.end(), ids.begin(), ids.end());
    }
    REQUIRE(t.encode(other) == others);
  }
}

TEST_CASE("any bytes come back, in one go or in parts") {
  const Tokenizer bpe = Tokenizer::train({project_texts()[0], project_texts()[1]}, 600);
  CHECK(bpe.vocabulary() == 600);
  std::mt19937 random(2);
  for (const Tokenizer& t : {bpe, Tokenizer::bytes()})
    for (int round = 0; round < 100; ++round) {
      const std::string text =
          round % 2 ? random_bytes(random, random() % 3000, 256)
                    : project_texts()[static_cast<std::size_t>(round) % project_texts().size()];
      const Tokens ids = t.encode(text);
      REQUIRE(t.decode(ids) == text);
      Tokens parts;
      for (std::string_view rest = text; !rest.empty();)
        rest.remove_prefix(t.encode_some(rest, 1 + random() % 500, parts));
      REQUIRE(parts == ids);
    }
  CHECK(bpe.decode({'a', 256, 'b'}) == "ab");
  CHECK(Tokenizer::bytes().encode("\xff\x00z") == Tokens{255});
}

TEST_CASE("a vocabulary compresses, is the same every time, and is saved and loaded") {
  std::vector<std::string_view> texts(project_texts().begin(), project_texts().end());
  std::size_t bytes = 0, tokens = 0;
  const Tokenizer t = Tokenizer::train(texts, 1024);
  for (const std::string_view text : texts) {
    bytes += text.size();
    tokens += t.encode(text).size();
  }
  CHECK(t.vocabulary() == 1024);
  CHECK(static_cast<double>(bytes) / static_cast<double>(tokens) > 2);  // bytes a token
  CHECK(Tokenizer::train(texts, 1024).checksum() == t.checksum());
  CHECK(Tokenizer::train(texts, 1023).checksum() != t.checksum());

  const TemporaryFolder folder;
  t.save(folder / "a.vocab");
  const Tokenizer again = Tokenizer::load(folder / "a.vocab");
  CHECK(again.checksum() == t.checksum());
  CHECK(again.encode(texts[3]) == t.encode(texts[3]));
  Tokenizer::bytes().save(folder / "b.vocab");
  CHECK(Tokenizer::load(folder / "b.vocab").vocabulary() == 257);
  CHECK_FALSE(std::filesystem::exists(folder / "a.vocab.partial"));
}

TEST_CASE("a vocabulary file with an error is refused with the place") {
  const TemporaryFolder folder;
  const std::string path = folder / "x.vocab";
  const auto error = [&](const std::string& text) -> std::string {
    write_bytes(path, text);
    try {
      Tokenizer::load(path);
    } catch (const InputError& e) {
      return e.what();
    }
    return "no error";
  };
  const std::string start = R"({"format": "reckon vocabulary", "version": 1, "end_of_text": 256, )";
  using Catch::Contains;
  CHECK(error(start + R"("merges": [[104, 105], [257, 32]]})") == "no error");
  CHECK_THAT(error(start + R"("merges": [[104, 105], [258, 32]]})"),
             Contains(path + ":1") && Contains("/merges/1/0") && Contains("257"));
  CHECK_THAT(error(start + R"("merges": [[104, 256]]})"), Contains("an id that is text"));
  CHECK_THAT(error(start + R"("merges": [[104, 105], [104, 105]]})"),
             Contains("not merged before"));
  CHECK_THAT(error(start + R"("merges": [[104]]})"), Contains("two ids"));
  CHECK_THAT(error(start + R"("merge": []})"), Contains("did you mean \"merges\"?"));
  CHECK_THAT(error(R"({"format": "bpe"})"), Contains("expected \"reckon vocabulary\""));
  CHECK_THAT(error("\x01"), Contains(path));
  CHECK_THROWS_AS(Tokenizer::load(folder / "nowhere"), InputError);
}
