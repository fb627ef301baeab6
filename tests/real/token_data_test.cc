// Token files: every window once an epoch, the same order every time, no damage unnoticed.
#include "real/token_data.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>
#include <random>
#include <set>

#include "real/disk_file.h"
#include "real/permutation.h"
#include "sim/input_error.h"
#include "tests/real/temporary_folder.h"

using namespace reckon;
using namespace reckon::real;

namespace {

using Ids = std::vector<std::int32_t>;

std::string data_error(const std::function<void()>& action) {
  try {
    action();
  } catch (const InputError& e) {
    return e.what();
  }
  return "no error";
}

// A text in which every place looks different.
std::string text(int seed, std::size_t bytes) {
  std::mt19937 random(static_cast<unsigned>(seed));
  std::string out(bytes, 0);
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

}  // namespace

TEST_CASE("permutations visit everything once, in an order that depends on the key") {
  for (std::uint64_t n = 1; n <= 300; ++n)
    for (std::uint64_t key = 0; key < 3; ++key) {
      const Permutation p(n, key);
      std::vector<bool> seen(n, false);
      for (std::uint64_t i = 0; i < n; ++i) seen[p(i)] = true;
      REQUIRE(std::count(seen.begin(), seen.end(), true) == static_cast<std::ptrdiff_t>(n));
    }
  // As random as chance: about 1 fixed point, and about n/2 ascents.
  const std::uint64_t n = 10000;
  double fixed = 0, ascents = 0;
  for (std::uint64_t key = 0; key < 20; ++key) {
    const Permutation p(n, key);
    for (std::uint64_t i = 0; i < n; ++i) {
      fixed += p(i) == i;
      ascents += i + 1 < n && p(i) < p(i + 1);
    }
  }
  CHECK(fixed / 20 < 3);
  CHECK(ascents / 20 / static_cast<double>(n) == Approx(0.5).margin(0.01));
  CHECK(Permutation(std::uint64_t{1} << 62, 1)(12345) < std::uint64_t{1} << 62);
}

TEST_CASE("windows are parts of the stream of all files; an epoch has each once") {
  const TemporaryFolder folder;
  Ids stream;
  std::vector<std::string> files;
  for (int f = 0; f < 3; ++f) {
    std::vector<std::string> texts;
    for (int d = 0; d < 3; ++d) {
      texts.push_back(folder / ("text" + std::to_string(3 * f + d)));
      write_bytes(texts.back(),
                  text(3 * f + d, static_cast<std::size_t>(d == 1 ? 0 : 200 + 37 * f)));
      const Ids ids = Tokenizer::bytes().encode(file_bytes(texts.back()));
      stream.insert(stream.end(), ids.begin(), ids.end());
      stream.push_back(256);
    }
    const std::string name = folder / ("data" + std::to_string(f));
    const WrittenTokens written = write_token_data(name, Tokenizer::bytes(), texts);
    CHECK(written.documents == 3);
    CHECK(written.tokens == written.text_bytes + 3);
    files.push_back(name + ".tokens");
  }

  for (const auto& [length, extra] : {std::pair{16, 1}, {64, 3}, {1000, 1}, {7, 0}}) {
    const TokenData data(files, length, extra, 1);
    CHECK(data.vocabulary() == 257);
    CHECK(data.tokens() == static_cast<std::int64_t>(stream.size()));
    const std::int64_t n = (data.tokens() - extra) / length;
    REQUIRE(data.windows() == n);
    std::set<Ids> expected;
    for (std::int64_t w = 0; w < n; ++w)
      expected.emplace(stream.begin() + w * length, stream.begin() + (w + 1) * length + extra);
    std::vector<std::vector<Ids>> epochs(3);
    for (std::int64_t i = 0; i < 3 * n; ++i) {
      Ids ids(static_cast<std::size_t>(length + extra));
      data.window(i, ids.data());
      epochs[static_cast<std::size_t>(i / n)].push_back(ids);
    }
    for (const auto& epoch : epochs) CHECK(std::set<Ids>(epoch.begin(), epoch.end()) == expected);
    if (n > 20) CHECK(epochs[0] != epochs[1]);

    // The same again from another object; another order with another seed.
    const TokenData again(files, length, extra, 1), other(files, length, extra, 2);
    Ids a(static_cast<std::size_t>(length + extra)), b = a;
    int differ = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      again.window(i, a.data());
      REQUIRE(a == epochs[0][static_cast<std::size_t>(i)]);
      other.window(i, b.data());
      differ += a != b;
    }
    if (n > 20) CHECK(differ > n / 2);
  }
  CHECK_THAT(data_error([&] { TokenData(files, 100000, 1, 1); }),
             Catch::Contains(files[0]) && Catch::Contains("expected at least 100001"));
  CHECK_THAT(data_error([&] { TokenData({}, 10, 1, 1); }), Catch::Contains("no token data"));
}

TEST_CASE("ids of 32 bits, and a text larger than the blocks that it is read in") {
  const TemporaryFolder folder;
  // 66,000 merges of two ids each.
  std::string vocab =
      R"({"format": "reckon vocabulary", "version": 1, "end_of_text": 256, "merges": [)";
  for (int i = 0; i < 66000; ++i)
    vocab += (i ? ",[" : "[") + std::to_string(i / 256 + (i / 256 > 255)) + "," +
             std::to_string(i % 256) + "]";
  write_bytes(folder / "big.vocab", vocab + "]}");
  const Tokenizer big = Tokenizer::load(folder / "big.vocab");
  const Tokenizer small = Tokenizer::train({"aaaabbbb aaaabbbb"}, 260);
  std::string long_text;
  while (long_text.size() < (5 << 20)) long_text += "aaaabbbb caab \xff";
  write_bytes(folder / "text", long_text);
  for (const Tokenizer& t : {big, small}) {
    write_token_data(folder / "data", t, {folder / "text"});
    const Ids expected = t.encode(long_text);
    CHECK(std::filesystem::file_size(folder / "data.tokens") ==
          sizeof(TokenHead) + (expected.size() + 1) * (t.vocabulary() > 65536 ? 4 : 2));
    const TokenData data({folder / "data.tokens"}, static_cast<int>(expected.size()), 1, 1);
    CHECK(data.vocabulary() == t.vocabulary());
    Ids ids(expected.size() + 1);
    data.window(0, ids.data());
    CHECK(ids.back() == 256);
    ids.pop_back();
    CHECK(ids == expected);
    CHECK(Tokenizer::load(folder / "data.vocab").checksum() == t.checksum());
  }
}

TEST_CASE("damaged and foreign token files are refused by name") {
  const TemporaryFolder folder;
  write_bytes(folder / "text", text(1, 600));
  write_token_data(folder / "a", Tokenizer::bytes(), {folder / "text"});
  write_token_data(folder / "b", Tokenizer::train({"abab"}, 258), {folder / "text"});
  write_token_data(folder / "c", Tokenizer::train({"cdcd"}, 258), {folder / "text"});
  const std::string path = folder / "a.tokens", good = file_bytes(path);
  const auto error = [&](const std::vector<std::string>& files) {
    return data_error([&] { TokenData(files, 8, 1, 1); });
  };
  CHECK(error({path}) == "no error");
  std::mt19937 random(1);
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    const auto byte = static_cast<std::streamoff>(at);
    file.seekp(byte).put(static_cast<char>(good[at] ^ (1 << random() % 8))).flush();
    if (error({path}).rfind(path + ": ", 0) != 0) FAIL("byte " << at);
    file.seekp(byte).put(good[at]);
  }
  using Catch::Contains;
  write_bytes(path, good.substr(0, good.size() - 5));
  CHECK_THAT(error({path}), Contains(path + ": truncated: 1197 bytes of tokens, expected 601"));
  write_bytes(path, good + "xy");
  CHECK_THAT(error({path}), Contains(path + ": damaged"));
  for (const std::string& foreign : {std::string(), std::string("PK"), std::string(1000, 'x')}) {
    write_bytes(path, foreign);
    CHECK_THAT(error({path}), Contains(path + ": not token data"));
  }
  CHECK_THAT(error({folder / "none"}), Contains(folder / "none: can't open: No such file"));
  CHECK_THAT(error({folder.path}), Contains("Is a directory"));
  CHECK_THAT(error({folder / "b.tokens", folder / "c.tokens"}),
             Contains(folder / "c.tokens: encoded with another vocabulary (258 ids)"));

  // An id beyond the vocabulary, with right checksums: written by something else.
  TokenHead head;
  std::memcpy(&head, good.data(), sizeof head);
  head.vocabulary = 200;
  std::string wrong = good;
  std::memcpy(wrong.data(), &head, sizeof head);
  write_bytes(path, wrong);
  CHECK_THAT(error({path}), Contains("the checksum of its head is wrong"));
  head.head_checksum = checksum(&head, offsetof(TokenHead, head_checksum));
  std::memcpy(wrong.data(), &head, sizeof head);
  write_bytes(path, wrong);
  CHECK_THAT(error({path}), Contains(path + ": holds the id 256, beyond its vocabulary of 200"));
}

TEST_CASE("a text that can't be read leaves no token data") {
  const TemporaryFolder folder;
  CHECK_THAT(
      data_error([&] { write_token_data(folder / "a", Tokenizer::bytes(), {folder / "nowhere"}); }),
      Catch::Contains(folder / "nowhere"));
  CHECK(std::filesystem::is_empty(folder.path));
  CHECK_THROWS_AS(write_token_data(folder / "no/a", Tokenizer::bytes(), {}), std::system_error);
}
