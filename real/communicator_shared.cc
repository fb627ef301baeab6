// Ranks as threads of one process whose devices see the same memory: several ranks on one GPU, so
// that every plan can be run and checked on a single card. Export: make_shared_communicator.
//
// Members tell each other where their operands lie and by which mark of their queue these are
// there; each then makes its queue wait for the others' marks and reads their memory itself. What
// was read may be written over, or freed, when all have read it: they meet a second time to say
// by which mark that is. Hosts meet over the Transport and so notice a lost rank; they don't wait
// for the device. (When a rank is lost its neighbours may still read what it frees as it unwinds: a
// GPU's pool keeps that memory mapped, and the step is thrown away.) Sums are added element by
// element in the order of members, as on the CPU.
#include <atomic>
#include <cstring>
#include <numeric>

#include "real/communicator.h"
#include "sim/check.h"

namespace reckon::real {

namespace {

// A mark on its way to other ranks; the last to read it removes it. (If a rank is lost on the way
// it stays behind.)
struct Published {
  Mark mark;
  std::atomic<int> readers;
};
Published* published(Mark mark, int readers) {
  return new Published{std::move(mark), readers};
}
void wait_for(Queue& q, Published* p) {
  q.wait(p->mark);
  if (p->readers.fetch_sub(1, std::memory_order_acq_rel) == 1) delete p;
}

// Where something lies, and the mark by which it is there.
struct Place {
  void* at;
  Published* ready;
};

// Working memory in the order of one queue.
class Room {
 public:
  Room(Device& device, Queue& q, std::int64_t n, Element e)
      : memory_(device.memory()),
        queues_(1u << q.index()),
        view_(memory_.allocate(n * bytes_of(e), q.index()), e) {}
  ~Room() { memory_.release(view_.at, queues_); }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  View view() const { return view_; }

 private:
  Memory& memory_;
  std::uint32_t queues_;
  View view_;
};

using Counts = std::vector<std::size_t>;

Counts starts(const Counts& counts) {
  Counts at(counts.size() + 1, 0);
  std::partial_sum(counts.begin(), counts.end(), at.begin() + 1);
  return at;
}

Index signed_of(std::size_t n) {
  return static_cast<Index>(n);
}

class SharedGroup final : public TensorGroup {
 public:
  SharedGroup(Device& device, std::unique_ptr<Group> group)
      : device_(device), group_(std::move(group)) {}
  Group& host() override { return *group_; }

  void all_reduce(Queue& q, View values, std::size_t n) override {
    if (size() == 1 || n == 0) return;
    Counts counts(members());
    for (std::size_t i = 0; i < members(); ++i)
      counts[i] = n * (i + 1) / members() - n * i / members();
    const Counts start = starts(counts);
    const Room own(device_, q, signed_of(counts[me()]), values.element);
    sum(q, meet(q, values.at), values.element, start[me()], own.view(), counts[me()]);
    // All have read the operands, and their parts of the sum are there.
    const std::vector<Theirs> sums = meet(q, own.view().at);
    for (std::size_t i = 0; i < members(); ++i)
      q.copy(ConstView(sums[i].at, values.element), values + signed_of(start[i]),
             signed_of(counts[i]));
    meet(q, nullptr);
  }

  void reduce_scatter(Queue& q, ConstView in, View out, std::size_t n) override {
    reduce_scatter_parts(q, in, out, Counts(members(), n));
  }
  void all_gather(Queue& q, ConstView in, View out, std::size_t n) override {
    all_gather_parts(q, in, out, Counts(members(), n));
  }

  void reduce_scatter_parts(Queue& q, ConstView in, View out, const Counts& counts) override {
    const Counts start = starts(counts);
    const Index n = signed_of(counts[me()]);
    if (size() == 1) {
      if (out.at != in.at) q.copy(in, out, n);
      return;
    }
    const Room own(device_, q, n, in.element);  // `out` may be part of `in`
    sum(q, meet(q, in.at), in.element, start[me()], own.view(), counts[me()]);
    q.copy(own.view(), out, n);
    meet(q, nullptr);
  }

  void all_gather_parts(Queue& q, ConstView in, View out, const Counts& counts) override {
    const Counts start = starts(counts);
    const std::vector<Theirs> theirs = meet(q, in.at);
    for (std::size_t i = 0; i < members(); ++i) {
      const View to = out + signed_of(start[i]);
      if (to.at != theirs[i].at)
        q.copy(ConstView(theirs[i].at, in.element), to, signed_of(counts[i]));
    }
    meet(q, nullptr);
  }

  void all_to_all(Queue& q, const Exchange& e) override {
    const Counts from = starts(e.send_counts), to = starts(e.receive_counts);
    // Where what is for this member begins in the others' memory.
    std::vector<std::int32_t> begins(members()), theirs_begin;
    for (std::size_t i = 0; i < members(); ++i) begins[i] = static_cast<std::int32_t>(from[i]);
    check(from.back() < (std::size_t{1} << 31), "an exchange has below 2^31 elements");
    group_->all_to_all_counts(begins, 1, theirs_begin);
    const std::vector<Theirs> theirs = meet(q, e.in.at);
    for (std::size_t i = 0; i < members(); ++i)
      q.copy(ConstView(theirs[i].at, e.in.element) + theirs_begin[i], e.out + signed_of(to[i]),
             signed_of(e.receive_counts[i]));
    meet(q, nullptr);
  }

 private:
  struct Theirs {
    const void* at;
  };
  std::size_t members() { return static_cast<std::size_t>(size()); }
  std::size_t me() { return static_cast<std::size_t>(index()); }

  // Every member's operand, readable by what `q` is given from now on. Until the next meeting
  // nobody may change or free what it has published.
  std::vector<Theirs> meet(Queue& q, const void* at) {
    std::vector<Place> places(members());
    static_assert(sizeof(Place) % sizeof(float) == 0);
    constexpr std::size_t kWords = sizeof(Place) / sizeof(float);
    std::vector<float> out(kWords * members());
    const Place mine{const_cast<void*>(at), size() > 1 ? published(q.mark(), size() - 1) : nullptr};
    float words[kWords];
    std::memcpy(words, &mine, sizeof mine);
    group_->all_gather(words, out.data(), kWords);
    std::memcpy(places.data(), out.data(), out.size() * sizeof(float));
    std::vector<Theirs> theirs;
    for (std::size_t i = 0; i < members(); ++i) {
      if (i != me()) wait_for(q, places[i].ready);
      theirs.push_back({places[i].at});
    }
    return theirs;
  }

  // out[n] := sum over members of their operands from `begin` on.
  void sum(Queue& q, const std::vector<Theirs>& in, Element e, std::size_t begin, View out,
           std::size_t n) {
    for (std::size_t i = 0; i < members(); ++i) {
      const ConstView x = ConstView(in[i].at, e) + signed_of(begin);
      if (i == 0)
        q.copy(x, out, signed_of(n));
      else
        q.add_to(out, x, signed_of(n));
    }
  }

  Device& device_;
  std::unique_ptr<Group> group_;
};

// Acknowledgements take the tags from here on.
constexpr std::uint32_t kAck = 1u << 28;

// A message under way: over when the receiver's copy is enqueued, behind which `q` then waits.
class SharedLetter final : public Pending {
 public:
  SharedLetter(Queue& q, Transport& transport, const Letter& l)
      : q_(q), place_{l.at.at, published(q.mark(), 1)} {
    sent_ = transport.send(l.peer, l.tag, &place_, sizeof place_);
    ack_ = transport.receive(l.peer, l.tag | kAck, &copied_, sizeof copied_);
  }
  void wait() override {
    sent_->wait();
    ack_->wait();
    if (copied_ != nullptr) wait_for(q_, copied_);
    copied_ = nullptr;
  }
  bool done() override {
    if (!ack_->done()) return false;
    wait();
    return true;
  }

 private:
  Queue& q_;
  Place place_{};
  Published* copied_ = nullptr;
  std::unique_ptr<Pending> sent_, ack_;
};

class SharedCommunicator final : public Communicator {
 public:
  SharedCommunicator(Device& device, Transport& transport)
      : device_(device), transport_(transport) {}
  Transport& transport() override { return transport_; }
  std::unique_ptr<TensorGroup> group(std::vector<int> members, std::uint32_t id) override {
    return std::make_unique<SharedGroup>(device_, make_group(transport_, std::move(members), id));
  }
  std::unique_ptr<Pending> send(Queue& q, const Letter& l) override {
    check(l.tag < kAck, "tags of messages are below 2^28");
    return std::make_unique<SharedLetter>(q, transport_, l);
  }
  void receive(Queue& q, const Letter& l) override {
    Place place{};
    transport_.receive(l.peer, l.tag, &place, sizeof place)->wait();
    wait_for(q, place.ready);
    q.copy(ConstView(place.at, l.at.element), l.at, l.n);
    Published* const copied = published(q.mark(), 1);
    transport_.send(l.peer, l.tag | kAck, &copied, sizeof copied)->wait();
  }

 private:
  Device& device_;
  Transport& transport_;
};

}  // namespace

std::unique_ptr<Communicator> make_shared_communicator(Device& device, Transport& transport) {
  return std::make_unique<SharedCommunicator>(device, transport);
}

}  // namespace reckon::real
