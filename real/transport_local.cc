// Ranks as threads of one process. Export: run_local.
//
// Each ordered pair of ranks has a channel: a mutex and the messages of either end that have no
// partner yet. Whoever posts the second end of a message copies it, straight from the sender's
// buffer to the receiver's, and completes the first end; small messages are instead kept by the
// channel, so that their sender goes on at once. A waiting thread looks at its message for a few
// microseconds, as long as nobody else wants its core, and then sleeps.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "real/patience.h"
#include "real/transport.h"
#include "sim/check.h"

namespace reckon::real {
namespace {

// Messages up to this size are kept by the channel: a copy of 16 KiB costs about as much as putting
// the sender to sleep and waking it again.
constexpr std::size_t kKeptBytes = 16 << 10;
// ... as long as it holds no more than this; a sender that runs ahead further waits.
constexpr std::size_t kChannelBytes = 1 << 20;
void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

enum class State : std::uint8_t {
  Waiting,  // for the other end to be posted; the channel knows the message
  Copying,  // by the thread that posted the other end
  Done,
  Lost,  // will never have a partner
};

class Channel;

// One end of a message.
class Message final : public Pending {
 public:
  Message(Channel& channel, bool sends, std::uint32_t tag, std::size_t count)
      : channel_(channel), sends_(sends), tag_(tag), count_(count) {}
  ~Message() override;
  void wait() override;
  bool done() override { return over(); }

  const void* from = nullptr;  // of a sender
  void* to = nullptr;          // of a receiver

 private:
  friend class Channel;
  bool over() const { return state_.load(std::memory_order_acquire) >= State::Done; }
  void wait_until_over();

  Channel& channel_;
  const bool sends_;
  const std::uint32_t tag_;
  const std::size_t count_;
  // Written under the channel's lock, or before the message is in the channel. Done and Lost are
  // the last that another thread writes: the owner may then destroy the message.
  std::atomic<State> state_ = State::Waiting;
  bool asleep_ = false;  // its owner waits on the channel's condition; under the lock
};

// From one rank to another.
class Channel {
 public:
  void post(Message& message);
  void withdraw(Message& message);  // if it has no partner
  void sleep_until_over(Message& message);
  // Whatever has no partner now or later is lost.
  void close(const std::string& reason);
  std::string reason();

 private:
  // A posted end without partner: a message, or (message null) what the channel keeps of one.
  struct Posted {
    std::uint32_t tag = 0;
    Message* message = nullptr;
    std::unique_ptr<std::byte[]> kept;
    std::size_t count = 0;
  };
  void finish(Message& message, State state);  // REQUIRES: locked

  std::mutex lock_;
  std::condition_variable changed_;
  // In the order of posting. Few at a time, so that looking through them beats a map.
  std::vector<Posted> sends_, receives_;
  std::size_t kept_bytes_ = 0;
  bool closed_ = false;
  std::string reason_;
};

void Channel::post(Message& message) {
  Posted partner;
  {
    const std::lock_guard guard(lock_);
    std::vector<Posted>& others = message.sends_ ? receives_ : sends_;
    const auto found = std::find_if(others.begin(), others.end(),
                                    [&](const Posted& p) { return p.tag == message.tag_; });
    if (found == others.end()) {
      if (closed_) {
        message.state_ = State::Lost;
        return;
      }
      if (message.sends_ && message.count_ <= kKeptBytes && kept_bytes_ < kChannelBytes) {
        Posted p{.tag = message.tag_,
                 .kept = std::unique_ptr<std::byte[]>(new std::byte[message.count_]),
                 .count = message.count_};
        if (message.count_ > 0) std::memcpy(p.kept.get(), message.from, message.count_);
        kept_bytes_ += message.count_;
        message.state_ = State::Done;
        sends_.push_back(std::move(p));
        return;
      }
      (message.sends_ ? sends_ : receives_)
          .push_back({.tag = message.tag_, .message = &message, .count = message.count_});
      return;
    }
    partner = std::move(*found);
    others.erase(found);
    if (partner.message)
      partner.message->state_ = State::Copying;
    else
      kept_bytes_ -= partner.count;
  }
  check(partner.count == message.count_, "both ends of a message agree on its size");
  if (message.count_ > 0) {
    if (message.sends_)
      std::memcpy(partner.message->to, message.from, message.count_);
    else
      std::memcpy(message.to, partner.message ? partner.message->from : partner.kept.get(),
                  message.count_);
  }
  message.state_ = State::Done;
  if (partner.message) {
    const std::lock_guard guard(lock_);
    finish(*partner.message, State::Done);
  }
}

void Channel::finish(Message& message, State state) {
  const bool asleep = message.asleep_;
  message.state_.store(state, std::memory_order_release);  // the owner may destroy it from here
  if (asleep) changed_.notify_all();
}

void Channel::withdraw(Message& message) {
  const std::lock_guard guard(lock_);
  std::vector<Posted>& own = message.sends_ ? sends_ : receives_;
  std::erase_if(own, [&](const Posted& p) { return p.message == &message; });
  if (message.state_ == State::Waiting) message.state_ = State::Lost;
}

void Channel::sleep_until_over(Message& message) {
  std::unique_lock guard(lock_);
  message.asleep_ = true;
  changed_.wait(guard, [&] { return message.over(); });
}

void Channel::close(const std::string& reason) {
  const std::lock_guard guard(lock_);
  if (closed_) return;
  closed_ = true;
  reason_ = reason;
  for (std::vector<Posted>* list : {&sends_, &receives_}) {
    for (const Posted& p : *list)
      if (p.message) finish(*p.message, State::Lost);
    std::erase_if(*list, [](const Posted& p) { return p.message != nullptr; });
  }
}

std::string Channel::reason() {
  const std::lock_guard guard(lock_);
  return reason_;
}

Message::~Message() {
  if (over()) return;
  channel_.withdraw(*this);
  wait_until_over();  // the other end may be copying
}

void Message::wait() {
  wait_until_over();
  if (state_ == State::Lost) throw PeerLost(channel_.reason());
}

void Message::wait_until_over() {
  if (over()) return;
  Patience patience;
  do {
    for (int i = 0; i < 32; ++i) {
      if (over()) return;
      pause();
    }
  } while (patience.look_again());
  channel_.sleep_until_over(*this);
}

// What the ranks of one run share.
class Hub {
 public:
  explicit Hub(int ranks) : ranks_(ranks), channels_(static_cast<std::size_t>(ranks) * ranks) {}
  int ranks() const { return ranks_; }
  Channel& channel(int from, int to) {
    check(from >= 0 && from < ranks_ && to >= 0 && to < ranks_, "the rank exists");
    return channels_[static_cast<std::size_t>(from) * ranks_ + to];
  }
  void abort(const std::string& reason) {
    for (Channel& c : channels_) c.close(reason);
  }
  // What is posted stays; nobody waits for more.
  void left(int rank) {
    const std::string reason = "rank " + std::to_string(rank) + " has ended";
    for (int other = 0; other < ranks_; ++other) {
      channel(rank, other).close(reason);
      channel(other, rank).close(reason);
    }
  }

 private:
  int ranks_;
  std::vector<Channel> channels_;
};

class LocalTransport final : public Transport {
 public:
  LocalTransport(Hub& hub, int rank) : hub_(hub), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return hub_.ranks(); }

  std::unique_ptr<Pending> send(int to, std::uint32_t tag, const void* bytes,
                                std::size_t count) override {
    Channel& channel = hub_.channel(rank_, to);
    auto message = std::make_unique<Message>(channel, true, tag, count);
    message->from = bytes;
    channel.post(*message);
    return message;
  }
  std::unique_ptr<Pending> receive(int from, std::uint32_t tag, void* bytes,
                                   std::size_t count) override {
    Channel& channel = hub_.channel(from, rank_);
    auto message = std::make_unique<Message>(channel, false, tag, count);
    message->to = bytes;
    channel.post(*message);
    return message;
  }
  void abort(const std::string& reason) override { hub_.abort(reason); }

 private:
  Hub& hub_;
  int rank_;
};

// The exception to throw again: the first that is not a consequence of another.
class FirstError {
 public:
  void note(std::exception_ptr error, bool peer_lost) {
    const std::lock_guard guard(lock_);
    if (error_ && !(peer_lost_ && !peer_lost)) return;
    error_ = std::move(error);
    peer_lost_ = peer_lost;
  }
  void throw_again() {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex lock_;
  std::exception_ptr error_;
  bool peer_lost_ = false;
};

}  // namespace

void run_local(int ranks, const std::function<void(Transport&)>& body) {
  check(ranks > 0, "a run has ranks");
  Hub hub(ranks);
  FirstError error;
  const auto run_rank = [&](int rank) {
    LocalTransport transport(hub, rank);
    const std::string failed = "rank " + std::to_string(rank) + " failed";
    try {
      body(transport);
      hub.left(rank);
    } catch (const PeerLost& e) {
      error.note(std::current_exception(), true);
      hub.abort(e.what());
    } catch (const std::exception& e) {
      error.note(std::current_exception(), false);
      hub.abort(failed + ": " + e.what());
    } catch (...) {
      error.note(std::current_exception(), false);
      hub.abort(failed);
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(ranks));
  try {
    for (int rank = 0; rank < ranks; ++rank) threads.emplace_back(run_rank, rank);
  } catch (const std::system_error& e) {  // the system has no more threads
    error.note(std::current_exception(), false);
    hub.abort(e.what());
  }
  for (std::thread& t : threads) t.join();
  error.throw_again();
}

}  // namespace reckon::real
