// Checkpoints: what one set of ranks writes, any other reads; damage is found and named.
#include "real/checkpoint.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>
#include <random>

#include "real/checkpoint_format.h"
#include "real/piece_copy.h"
#include "sim/input_error.h"
#include "tests/real/temporary_folder.h"

using namespace reckon;
using namespace reckon::real;
namespace fs = std::filesystem;

namespace {

using Random = std::mt19937;
using Sizes = std::vector<std::int64_t>;

int below(Random& random, std::int64_t n) {
  return static_cast<int>(random() % static_cast<unsigned>(n));
}

std::int64_t volume(const Sizes& extent) {
  return std::accumulate(extent.begin(), extent.end(), std::int64_t{1}, std::multiplies<>());
}

// The value of an element of a whole tensor, from its place: every element has its own.
float value_at(const Piece& p, std::int64_t in_box) {
  std::int64_t whole = 0, scale = 1;
  for (std::size_t d = p.shape.size(); d-- > 0; in_box /= p.extent[d]) {
    whole += (p.begin[d] + in_box % p.extent[d]) * scale;
    scale *= p.shape[d];
  }
  return static_cast<float>(whole) + static_cast<float>(p.tensor.size()) * 1e-3f;
}

std::vector<float> values_of(const Piece& p) {
  std::vector<float> out(static_cast<std::size_t>(p.count));
  for (std::int64_t i = 0; i < p.count; ++i)
    out[static_cast<std::size_t>(i)] = value_at(p, p.first + i);
  return out;
}

Piece whole(const std::string& name, const Sizes& shape) {
  return {name, shape, Sizes(shape.size(), 0), shape, 0, volume(shape)};
}

// A tensor cut into boxes by random cuts, and each box into flat ranges.
void cut(const Piece& box, Random& random, int depth, std::vector<Piece>& out) {
  std::vector<std::size_t> wide;
  for (std::size_t d = 0; d < box.extent.size(); ++d)
    if (box.extent[d] > 1) wide.push_back(d);
  if (depth > 0 && !wide.empty() && below(random, 4) > 0) {
    const std::size_t d =
        wide[static_cast<std::size_t>(below(random, static_cast<int>(wide.size())))];
    const std::int64_t at = 1 + below(random, box.extent[d] - 1);
    for (const bool upper : {false, true}) {
      Piece part = box;
      part.begin[d] += upper ? at : 0;
      part.extent[d] = upper ? box.extent[d] - at : at;
      part.count = volume(part.extent);
      cut(part, random, depth - 1, out);
    }
    return;
  }
  for (std::int64_t first = 0; first < volume(box.extent) || first == 0;) {
    Piece part = box;
    part.first = first;
    part.count = std::min<std::int64_t>(volume(box.extent) - first, 1 + below(random, 60));
    out.push_back(part);
    first += std::max<std::int64_t>(part.count, 1);
  }
}

// Any part of the tensor.
Piece random_piece(const Piece& tensor, Random& random) {
  Piece p = tensor;
  for (std::size_t d = 0; d < p.shape.size(); ++d) {
    if (p.shape[d] == 0 || below(random, 2) == 0) continue;
    p.begin[d] = below(random, p.shape[d]);
    p.extent[d] = 1 + below(random, p.shape[d] - p.begin[d]);
  }
  p.first = below(random, volume(p.extent) + 1);
  p.count = below(random, volume(p.extent) - p.first + 1);
  if (below(random, 2) == 0) {
    p.first = 0;
    p.count = volume(p.extent);
  }
  return p;
}

// Saves what each rank has.
void save(const std::string& directory, std::int64_t step, int keep,
          const std::vector<std::vector<Piece>>& by_rank,
          const std::function<std::vector<float>(const Piece&)>& values = values_of) {
  run_local(static_cast<int>(by_rank.size()), [&](Transport& t) {
    std::vector<int> all(by_rank.size());
    std::iota(all.begin(), all.end(), 0);
    const auto world = make_group(t, all, 0);
    SavedState state{.step = step, .metadata = "{\"step\": " + std::to_string(step) + "}"};
    std::vector<std::vector<float>> kept;
    for (const Piece& p : by_rank[static_cast<std::size_t>(t.rank())]) {
      kept.push_back(values(p));
      state.pieces.push_back({p, kept.back().data()});
    }
    save_checkpoint(directory, state, keep, *world);
  });
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const InputError& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("copies between pieces equal the copy element by element") {
  // The slow way: for each element of `to`, look for it in `from`.
  Random random(1);
  int some = 0;
  for (int round = 0; round < 10000; ++round) {
    Sizes shape(static_cast<std::size_t>(below(random, 5)));
    for (auto& n : shape) n = below(random, 12) == 0 ? 0 : 1 + below(random, 6);
    const Piece tensor = whole("t", shape);
    const Piece from = random_piece(tensor, random), to = random_piece(tensor, random);
    const std::vector<float> in = values_of(from), wanted = values_of(to);
    std::vector<float> expected(wanted.size(), -1), out = expected;
    for (std::size_t i = 0; i < wanted.size(); ++i)
      if (std::find(in.begin(), in.end(), wanted[i]) != in.end()) expected[i] = wanted[i];
    Filled filled(to.count);
    copy_common({from, in.data()}, to, out.data(), filled);
    const std::int64_t gap = std::find(expected.begin(), expected.end(), -1) - expected.begin();
    if (out != expected || filled.first_gap() != gap)
      FAIL("round " << round << ": shape " << shape_text(shape));
    if (std::count(out.begin(), out.end(), -1) < static_cast<std::ptrdiff_t>(out.size())) ++some;
  }
  CHECK(some > 2000);  // pairs of pieces that have anything in common
}

TEST_CASE("what N ranks write M ranks read, whatever boxes and flat ranges either holds") {
  const TemporaryFolder folder;
  Random random(2);
  for (int round = 0; round < 12; ++round) {
    const auto writers = static_cast<std::size_t>(1 + below(random, 5));
    std::vector<Piece> tensors;
    std::vector<std::vector<Piece>> by_rank(writers);
    for (int t = 0; t < 12; ++t) {
      Sizes shape(static_cast<std::size_t>(below(random, 5)));
      for (auto& n : shape) n = 1 + below(random, 7);
      tensors.push_back(
          whole("adam.m/tensor " + std::string(static_cast<std::size_t>(t), 'x'), shape));
      std::vector<Piece> pieces;
      cut(tensors.back(), random, 5, pieces);
      for (const Piece& p : pieces)
        by_rank[static_cast<std::size_t>(below(random, static_cast<int>(writers)))].push_back(p);
    }
    save(folder.path, round, 2, by_rank);

    const auto loaded = Checkpoint::newest(folder.path, nullptr);
    REQUIRE(loaded);
    CHECK(loaded->step() == round);
    CHECK(loaded->metadata() == "{\"step\": " + std::to_string(round) + "}");
    std::atomic<int> wrong = 0;
    run_local(1 + below(random, 5), [&](Transport& t) {
      Random own(static_cast<unsigned>(100 * round + t.rank()));
      for (const Piece& tensor : tensors)
        for (int i = 0; i < 20; ++i) {
          const Piece p = random_piece(tensor, own);
          std::vector<float> out(static_cast<std::size_t>(p.count));
          loaded->read(p, out.data());
          if (out != values_of(p)) ++wrong;
        }
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("what is not in a checkpoint is named") {
  const TemporaryFolder folder;
  Piece most = whole("layers.3.mlp.up", {4, 5});
  most.count = 17;
  save(folder.path, 1, 1, {{most, whole("layers.3.norm", {4})}});
  const Checkpoint c = Checkpoint::open(folder / "step-00000001");
  CHECK(c.has("layers.3.mlp.up"));
  CHECK_FALSE(c.has("layers.4.mlp.up"));
  std::vector<float> out(1000);
  c.read(most, out.data());
  const auto error = [&](const Piece& p) { return error_of([&] { c.read(p, out.data()); }); };
  const std::string where = folder / "step-00000001: ";
  CHECK(error(whole("layers.3.mlp.upp", {4, 5})) ==
        where + "no tensor 'layers.3.mlp.upp'; nearest: 'layers.3.mlp.up'");
  CHECK(error(whole("layers.3.mlp.up", {5, 4})) ==
        where + "tensor 'layers.3.mlp.up' has the shape [4, 5], expected [5, 4]");
  CHECK(error(whole("layers.3.mlp.up", {4, 5})) ==
        where + "tensor 'layers.3.mlp.up': element [3, 2] is in no rank's file");
}

TEST_CASE("only the last checkpoints are kept, and a step can be saved again") {
  const TemporaryFolder folder;
  const auto names = [&] {
    std::string all;
    std::vector<std::string> sorted;
    for (const auto& entry : fs::directory_iterator(folder.path))
      sorted.push_back(entry.path().filename().string());
    std::sort(sorted.begin(), sorted.end());
    for (const std::string& name : sorted) all += name + " ";
    return all;
  };
  const std::vector<std::vector<Piece>> by_rank = {{whole("a", {2})}, {whole("b", {3})}};
  fs::create_directories(folder / "step-00000900.partial/x");  // of a crash
  fs::create_directories(folder / "notes");                    // not ours
  for (int step = 10; step <= 50; step += 10) save(folder.path, step, 3, by_rank);
  CHECK(names() == "notes step-00000030 step-00000040 step-00000050 ");
  // A run that went back to step 30 leaves later ones alone, until it comes to them.
  save(folder.path, 35, 1, by_rank);
  CHECK(names() == "notes step-00000035 step-00000040 step-00000050 ");
  save(folder.path, 40, 2, by_rank,
       [](const Piece& p) { return std::vector<float>(static_cast<std::size_t>(p.count), 7); });
  CHECK(names() == "notes step-00000035 step-00000040 step-00000050 ");
  std::vector<float> out(2);
  Checkpoint::open(folder / "step-00000040").read(whole("a", {2}), out.data());
  CHECK(out == std::vector<float>{7, 7});
  CHECK_FALSE(Checkpoint::newest(folder / "nowhere", nullptr));
}

TEST_CASE("no damaged byte is ever loaded") {
  const TemporaryFolder folder;
  const std::vector<std::vector<Piece>> by_rank = {{whole("weights", {3, 5}), whole("bias", {7})},
                                                   {whole("embedding", {4, 4})}};
  save(folder.path, 1, 5, by_rank);
  save(folder.path, 2, 5, by_rank);
  const std::string latest = folder / "step-00000002";
  const std::string before = Checkpoint::open(latest).metadata();
  // One bit of each byte of each file, and each length of each file.
  Random random(3);
  for (const char* name : {"index.json", "rank-00000.bin", "rank-00001.bin"}) {
    const std::string path = latest + "/" + name, good = file_bytes(path);
    int harmless = 0;
    for (std::size_t at = 0; at < good.size(); ++at) {
      const auto byte = static_cast<std::streamoff>(at);
      std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
      file.seekp(byte).put(static_cast<char>(good[at] ^ (1 << below(random, 8)))).flush();
      std::vector<std::string> damage;
      const auto loaded = Checkpoint::newest(folder.path, &damage);
      file.seekp(byte).put(good[at]);
      REQUIRE(loaded);
      if (loaded->step() == 2) {
        // White space of the index became other white space: no content changed.
        ++harmless;
        CHECK(std::string(name) == "index.json");
        CHECK(loaded->metadata() == before);
        continue;
      }
      REQUIRE(damage.size() == 1);
      if (damage[0].rfind(latest + "/", 0) != 0) FAIL(damage[0]);
    }
    CHECK(harmless < 20);
    for (std::size_t length = 0; length < good.size(); length += 1 + good.size() / 40) {
      write_bytes(path, good.substr(0, length));
      CHECK(Checkpoint::newest(folder.path, nullptr)->step() == 1);
    }
    write_bytes(path, good + "x");
    CHECK(Checkpoint::newest(folder.path, nullptr)->step() == 1);
    fs::remove(path);
    CHECK(Checkpoint::newest(folder.path, nullptr)->step() == 1);
    write_bytes(path, good);
    CHECK(Checkpoint::newest(folder.path, nullptr)->step() == 2);
  }
}

TEST_CASE("damage and foreign files are named") {
  const TemporaryFolder folder;
  save(folder.path, 1, 5, {{whole("weights", {3, 5}), whole("bias", {7})}});
  save(folder.path, 2, 5, {{whole("weights", {3, 5}), whole("bias", {7})}},
       [](const Piece& p) { return std::vector<float>(static_cast<std::size_t>(p.count), 2); });
  const std::string one = folder / "step-00000001", two = folder / "step-00000002";
  const std::string file = one + "/rank-00000.bin", index = one + "/index.json";
  const std::string good = file_bytes(file), good_index = file_bytes(index);
  const auto error = [&] { return error_of([&] { Checkpoint::open(one); }); };

  std::string bad = good;
  bad[bad.size() - 1] ^= 1;
  write_bytes(file, bad);
  CHECK(error() ==
        file + ": damaged: tensor 'bias', 7 elements from [0] on: the checksum is wrong");
  write_bytes(file, good.substr(0, 100));
  CHECK(error() == file + ": damaged: 100 bytes, expected " + std::to_string(good.size()));
  write_bytes(file, std::string(good.size(), 'x'));
  CHECK(error() == file + ": not a rank's part of a checkpoint");
  write_bytes(file, file_bytes(two + "/rank-00000.bin"));
  CHECK(error() ==
        file + ": of another checkpoint: its header has not the checksum that the index says");
  write_bytes(file, good);
  CHECK(error() == "no error");

  write_bytes(index, "{\"model\": 3}");
  CHECK(error() ==
        index + ": expected \"format\": \"reckon checkpoint\"; not a checkpoint, or damaged");
  write_bytes(index, "hello");
  CHECK(error() == index + ": damaged: not JSON");
  write_bytes(index, file_bytes(two + "/index.json"));
  CHECK(error().rfind(file + ": of another checkpoint", 0) == 0);
  fs::remove(index);
  CHECK(error() == index + ": can't open: No such file or directory");
  write_bytes(index, good_index);
  fs::rename(one, folder / "step-00000007");
  CHECK(error_of([&] { Checkpoint::open(folder / "step-00000007"); }) ==
        folder / "step-00000007/index.json: of step 1, in a folder named for step 7");
  CHECK(error() == one + ": no such folder; expected a checkpoint");
}
