// Collectives over a Transport. Export: make_group.
//
// Every sum is taken element by element in member order, ((x0 + x1) + x2) + ..., by whichever rank
// owns the element, so the path a message takes never shows in the result. Exchanges are direct:
// each member sends every other one its part, which for the few ranks of a CPU run moves as many
// bytes as a ring and waits one message instead of size - 1.
#include "real/group.h"

#include <algorithm>
#include <cstring>

#include "sim/check.h"

namespace reckon::real {
namespace {

// Vectors of up to this many bytes are summed by every member whole: (size - 1) times the bytes,
// but one exchange instead of two.
constexpr std::size_t kWholeBytes = 4 << 10;
// Larger sums arrive in pieces of this size, two at a time from each member: working memory stays
// small however long the vector is, and a piece is still in the cache when it is added.
constexpr std::size_t kPieceBytes = 256 << 10;
// Groups send under tags from here on; see make_group.
constexpr std::uint32_t kGroupTags = 1u << 29;

struct Sum {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {  // NaN if either is
  template <class T>
  T operator()(T a, T b) const {
    return b > a || b != b ? b : a;
  }
};

// out[n] := in[0] op in[1] op ... in this order; out may be one of them. By blocks that stay in the
// first-level cache, so that each input is read once and out is written once.
template <class T, class Op>
void fold(const std::vector<const T*>& in, T* out, std::size_t n, Op op) {
  constexpr std::size_t kBlock = 1024;
  T total[kBlock];
  for (std::size_t begin = 0; begin < n; begin += kBlock) {
    const std::size_t count = std::min(kBlock, n - begin);
    std::copy_n(in[0] + begin, count, total);
    for (std::size_t m = 1; m < in.size(); ++m) {
      const T* x = in[m] + begin;
      for (std::size_t i = 0; i < count; ++i) total[i] = op(total[i], x[i]);
    }
    std::copy_n(total, count, out + begin);
  }
}

void copy_bytes(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
}

class TransportGroup final : public Group {
 public:
  TransportGroup(Transport& transport, std::vector<int> members, std::uint32_t id)
      : transport_(transport), members_(std::move(members)), tag_(kGroupTags + id) {
    check(std::is_sorted(members_.begin(), members_.end()), "members ascend");
    check(std::adjacent_find(members_.begin(), members_.end()) == members_.end(),
          "members are distinct");
    const auto me = std::lower_bound(members_.begin(), members_.end(), transport.rank());
    check(me != members_.end() && *me == transport.rank(), "a rank makes its own groups");
    check(id < 1u << 12, "group ids are below 2^12");
    index_ = static_cast<int>(me - members_.begin());
  }

  int index() const override { return index_; }
  int size() const override { return static_cast<int>(members_.size()); }

  void all_reduce(float* values, std::size_t n) override { reduce_everywhere(values, n, Sum()); }
  void all_reduce(double* values, std::size_t n) override { reduce_everywhere(values, n, Sum()); }
  void all_reduce_max(float* values, std::size_t n) override {
    reduce_everywhere(values, n, Max());
  }

  void reduce_scatter(const float* in, float* out, std::size_t n) override {
    reduce_parts(in, out, std::vector<std::size_t>(members_.size(), n), Sum());
  }
  void reduce_scatter_parts(const float* in, float* out,
                            const std::vector<std::size_t>& counts) override {
    reduce_parts(in, out, counts, Sum());
  }
  void all_gather(const float* in, float* out, std::size_t n) override {
    gather_parts(in, out, std::vector<std::size_t>(members_.size(), n));
  }
  void all_gather_parts(const float* in, float* out,
                        const std::vector<std::size_t>& counts) override {
    gather_parts(in, out, counts);
  }

  void all_to_all(const float* in, const std::vector<std::size_t>& send_counts, float* out,
                  const std::vector<std::size_t>& receive_counts) override {
    exchange(in, send_counts, out, receive_counts);
  }
  void all_to_all_counts(const std::vector<std::int32_t>& in, std::size_t per_member,
                         std::vector<std::int32_t>& out) override {
    check(in.size() == per_member * members_.size(), "counts for every member");
    out.resize(in.size());
    const std::vector<std::size_t> counts(members_.size(), per_member);
    exchange(in.data(), counts, out.data(), counts);
  }

  void broadcast(float* values, std::size_t n, int root) override;
  void barrier() override;

 private:
  // Messages under way. Destroyed on the way out of an exception, they are withdrawn.
  using Messages = std::vector<std::unique_ptr<Pending>>;
  static void wait(Messages& messages) {
    for (const auto& m : messages)
      if (m) m->wait();
    messages.clear();
  }

  std::unique_ptr<Pending> send(int member, const void* bytes, std::size_t count) {
    return transport_.send(members_[static_cast<std::size_t>(member)], tag_, bytes, count);
  }
  std::unique_ptr<Pending> receive(int member, void* bytes, std::size_t count) {
    return transport_.receive(members_[static_cast<std::size_t>(member)], tag_, bytes, count);
  }
  // The other members, next one first, so that not all send to the same one at once.
  template <class Each>
  void for_others(Each each) const {
    for (int step = 1; step < size(); ++step) each((index_ + step) % size());
  }
  // Where part i starts.
  static std::vector<std::size_t> starts(const std::vector<std::size_t>& counts) {
    std::vector<std::size_t> start(counts.size() + 1, 0);
    for (std::size_t i = 0; i < counts.size(); ++i) start[i + 1] = start[i] + counts[i];
    return start;
  }
  template <class T>
  T* scratch(std::size_t n) {
    const std::size_t bytes = n * sizeof(T);
    if (scratch_.size() * sizeof(double) < bytes) scratch_.resize((bytes + 7) / sizeof(double));
    return reinterpret_cast<T*>(scratch_.data());
  }

  template <class T, class Op>
  void reduce_everywhere(T* values, std::size_t n, Op op);
  template <class T, class Op>
  void reduce_parts(const T* in, T* out, const std::vector<std::size_t>& counts, Op op);
  template <class T>
  void gather_parts(const T* in, T* out, const std::vector<std::size_t>& counts);
  template <class T>
  void exchange(const T* in, const std::vector<std::size_t>& send_counts, T* out,
                const std::vector<std::size_t>& receive_counts);

  Transport& transport_;
  std::vector<int> members_;
  std::uint32_t tag_;
  int index_ = 0;
  std::vector<double> scratch_;
};

template <class T, class Op>
void TransportGroup::reduce_everywhere(T* values, std::size_t n, Op op) {
  const std::size_t members = members_.size();
  if (members == 1 || n == 0) return;
  if (n * sizeof(T) > kWholeBytes) {
    std::vector<std::size_t> counts(members);
    for (std::size_t i = 0; i < members; ++i) counts[i] = n * (i + 1) / members - n * i / members;
    T* own = values + n * static_cast<std::size_t>(index_) / members;
    reduce_parts(values, own, counts, op);
    gather_parts(own, values, counts);
    return;
  }
  T* const others = scratch<T>(members * n);
  std::vector<const T*> in(members);
  in[static_cast<std::size_t>(index_)] = values;
  Messages sends, receives;
  for_others([&](int m) {
    T* const slot = others + static_cast<std::size_t>(m) * n;
    in[static_cast<std::size_t>(m)] = slot;
    receives.push_back(receive(m, slot, n * sizeof(T)));
  });
  for_others([&](int m) { sends.push_back(send(m, values, n * sizeof(T))); });
  wait(receives);
  wait(sends);
  fold(in, values, n, op);
}

// in: parts of counts[i] elements; out[counts[index]]: the fold over members of part `index`. `out`
// may be that part of `in`.
template <class T, class Op>
void TransportGroup::reduce_parts(const T* in, T* out, const std::vector<std::size_t>& counts,
                                  Op op) {
  const std::size_t members = members_.size(), me = static_cast<std::size_t>(index_);
  check(counts.size() == members, "a count for every member");
  const std::vector<std::size_t> start = starts(counts);
  constexpr std::size_t kPiece = kPieceBytes / sizeof(T);
  const std::size_t n = counts[me], pieces = (n + kPiece - 1) / kPiece, width = std::min(n, kPiece);
  T* const others = scratch<T>(std::min<std::size_t>(pieces, 2) * (members - 1) * width);
  const auto slot = [&](std::size_t piece, std::size_t member) {
    return others + (piece % 2 * (members - 1) + member - (member > me ? 1 : 0)) * width;
  };
  const auto length = [&](std::size_t piece) { return std::min(kPiece, n - piece * kPiece); };
  Messages sends, receives[2];
  const auto post = [&](std::size_t piece) {
    if (piece < pieces)
      for_others([&](int m) {
        receives[piece % 2].push_back(
            receive(m, slot(piece, static_cast<std::size_t>(m)), length(piece) * sizeof(T)));
      });
  };
  post(0);
  post(1);
  for_others([&](int m) {
    const auto i = static_cast<std::size_t>(m);
    for (std::size_t done = 0; done < counts[i]; done += kPiece)
      sends.push_back(
          send(m, in + start[i] + done, std::min(kPiece, counts[i] - done) * sizeof(T)));
  });
  std::vector<const T*> parts(members);
  for (std::size_t piece = 0; piece < pieces; ++piece) {
    wait(receives[piece % 2]);
    for (std::size_t m = 0; m < members; ++m)
      parts[m] = m == me ? in + start[me] + piece * kPiece : slot(piece, m);
    fold(parts, out + piece * kPiece, length(piece), op);
    post(piece + 2);
  }
  wait(sends);
}

template <class T>
void TransportGroup::gather_parts(const T* in, T* out, const std::vector<std::size_t>& counts) {
  const auto me = static_cast<std::size_t>(index_);
  check(counts.size() == members_.size(), "a count for every member");
  const std::vector<std::size_t> start = starts(counts);
  Messages sends, receives;
  for_others([&](int m) {
    const auto i = static_cast<std::size_t>(m);
    if (counts[i] > 0) receives.push_back(receive(m, out + start[i], counts[i] * sizeof(T)));
  });
  if (counts[me] > 0)
    for_others([&](int m) { sends.push_back(send(m, in, counts[me] * sizeof(T))); });
  copy_bytes(out + start[me], in, counts[me] * sizeof(T));
  wait(receives);
  wait(sends);
}

template <class T>
void TransportGroup::exchange(const T* in, const std::vector<std::size_t>& send_counts, T* out,
                              const std::vector<std::size_t>& receive_counts) {
  const auto me = static_cast<std::size_t>(index_);
  check(send_counts.size() == members_.size() && receive_counts.size() == members_.size(),
        "a count for every member");
  check(send_counts[me] == receive_counts[me], "a member receives what it sends itself");
  const std::vector<std::size_t> from = starts(send_counts), to = starts(receive_counts);
  Messages sends, receives;
  for_others([&](int m) {
    const auto i = static_cast<std::size_t>(m);
    if (receive_counts[i] > 0)
      receives.push_back(receive(m, out + to[i], receive_counts[i] * sizeof(T)));
  });
  for_others([&](int m) {
    const auto i = static_cast<std::size_t>(m);
    if (send_counts[i] > 0) sends.push_back(send(m, in + from[i], send_counts[i] * sizeof(T)));
  });
  copy_bytes(out + to[me], in + from[me], send_counts[me] * sizeof(T));
  wait(receives);
  wait(sends);
}

// Down a binomial tree: with members counted from the root, m receives from m without its highest
// bit, then sends to m + 2^k for each larger power of two.
void TransportGroup::broadcast(float* values, std::size_t n, int root) {
  check(root >= 0 && root < size(), "the root is a member");
  if (n == 0) return;
  const int me = (index_ - root + size()) % size();
  const auto member = [&](int from_root) { return (from_root + root) % size(); };
  int highest = 0;  // the power of two after which this member sends
  for (int bit = 1; bit <= me; bit *= 2) highest = bit;
  if (me > 0) receive(member(me - highest), values, n * sizeof(float))->wait();
  Messages sends;
  for (int bit = highest == 0 ? 1 : highest * 2; me + bit < size(); bit *= 2)
    sends.push_back(send(member(me + bit), values, n * sizeof(float)));
  wait(sends);
}

// Dissemination (Hensgen, Finkel, Manber 1988): in round k each tells the member 2^k ahead.
void TransportGroup::barrier() {
  for (int ahead = 1; ahead < size(); ahead *= 2) {
    const auto heard = receive((index_ - ahead + size()) % size(), nullptr, 0);
    const auto told = send((index_ + ahead) % size(), nullptr, 0);
    heard->wait();
    told->wait();
  }
}

}  // namespace

std::unique_ptr<Group> make_group(Transport& transport, std::vector<int> members,
                                  std::uint32_t id) {
  return std::make_unique<TransportGroup>(transport, std::move(members), id);
}

}  // namespace reckon::real
