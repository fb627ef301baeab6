// Ranks as processes of an MPI job. Exports: run_mpi, built_with_mpi, under_mpi.
//
// Messages are MPI_Isend and MPI_Irecv on communicators of our own, completed by MPI_Test with
// pauses between: MPI_Wait spins, and on a machine with more ranks than cores takes time from those
// it waits for. A rank that fails tells all others on a control communicator, which every waiting
// thread looks at; they unwind, and the job is aborted once all have, or after two seconds.
//
// A rank that unwinds destroys buffers that MPI may still read or write. So it first says that it
// posts nothing more, cancels its receives, and keeps its sends until all ranks have said so too:
// what no rank has received by then never will be.
//
// Not noticed: a rank that waits for a message which nobody will send.
#define OMPI_SKIP_MPICXX  // the C++ bindings, removed from MPI 3
#include <mpi.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <mutex>
#include <optional>
#include <source_location>
#include <thread>

#include "real/patience.h"
#include "real/transport.h"
#include "sim/check.h"
#include "sim/input_error.h"

namespace reckon::real {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// MPI counts are ints: longer messages are sent in pieces of this size.
constexpr std::size_t kPieceBytes = std::size_t{1} << 30;
// How long the job waits for its ranks to unwind before it is aborted.
constexpr auto kGrace = 2s;
// How long what two ranks have begun to exchange may take to arrive once all have stopped: 1 GB.
constexpr auto kUnderWay = 100ms;
constexpr std::uint64_t kTags = std::uint64_t{1} << 30;  // see Transport::send
constexpr int kReasonBytes = 1024;

// MPI says no: a peer is gone, or the network is.
struct MpiError : PeerLost {
  using PeerLost::PeerLost;
};

void ok(int code, std::source_location where = std::source_location::current()) {
  if (code == MPI_SUCCESS) [[likely]]
    return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw MpiError("MPI: " + std::string(text, static_cast<std::size_t>(length)) + " (" +
                 where.file_name() + ":" + std::to_string(where.line()) + ")");
}

// Pauses between looks at a request: at first none, then sleeps that grow to 0.2 ms, which adds at
// most that much to a wait of more than about a millisecond.
class BackOff {
 public:
  void pause() {
    if (!slept_ && patience_.look_again()) return;
    if (!slept_) ::prctl(PR_SET_TIMERSLACK, 1000);  // ns; by default sleeps last 50 us longer
    slept_ = true;
    std::this_thread::sleep_for(sleep_);
    sleep_ = std::min<Clock::duration>(2 * sleep_, 200us);
  }
  bool slept() const { return slept_; }

 private:
  Patience patience_;
  bool slept_ = false;
  Clock::duration sleep_ = 10us;
};

// What the ranks tell each other about the end of the job. All calls from any thread.
class Control {
 public:
  explicit Control(MPI_Comm comm) : comm_(comm) {
    ok(MPI_Comm_rank(comm_, &rank_));
    ok(MPI_Comm_size(comm_, &size_));
    stopped_.resize(static_cast<std::size_t>(size_));
    listen();
  }
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  // This rank posts nothing more. Every rank's waits, this one's too, throw PeerLost from now on.
  void stop() { say(""); }
  // The same; the reason is to be told at the end, if nothing says more.
  void abort(const std::string& reason);
  std::optional<std::string> abort_reason();
  // The same as stop(), with the reason.
  void tell(const std::string& reason) { say(reason.empty() ? "no reason given" : reason); }
  // Listens. Throws PeerLost where any rank has stopped.
  void look();
  // Listens. Whether no rank posts anything more, and what was under way has had time to arrive.
  bool quiet();
  // Has another rank stopped?
  bool heard();
  // What this rank told, unless a lower rank told the same.
  std::optional<std::string> own_reason();
  // Ends the listening. REQUIRES: all ranks are past their last other call.
  void close();

 private:
  void say(const std::string& reason);
  void listen() {
    ok(MPI_Irecv(heard_, kReasonBytes, MPI_CHAR, MPI_ANY_SOURCE, 0, comm_, &listening_));
  }
  void hear();                              // what has arrived; REQUIRES: locked
  void note(int rank, const char* reason);  // REQUIRES: locked

  struct Told {
    int rank;
    std::string reason;
  };
  const MPI_Comm comm_;
  int rank_ = 0, size_ = 0;
  std::atomic<bool> over_ = false;
  std::mutex lock_;  // guards what follows
  std::vector<Told> told_;
  std::vector<bool> stopped_;  // by rank
  std::optional<std::string> abort_reason_;
  Clock::time_point all_stopped_ = Clock::time_point::max();
  char heard_[kReasonBytes] = "";
  MPI_Request listening_ = MPI_REQUEST_NULL;
  // The two things that this rank says, at most once each; the sends end with the job.
  char stop_[kReasonBytes] = "", reason_[kReasonBytes] = "";
};

void Control::say(const std::string& reason) {
  const std::lock_guard guard(lock_);
  const bool only_stop = reason.empty();
  if (only_stop ? stopped_[static_cast<std::size_t>(rank_)] : reason_[0] != 0) return;
  reason.copy(reason_, kReasonBytes - 1);
  for (int other = 0; other < size_; ++other) {
    if (other == rank_) continue;
    MPI_Request sent = MPI_REQUEST_NULL;
    // A lost peer can't be told.
    if (MPI_Isend(only_stop ? stop_ : reason_, kReasonBytes, MPI_CHAR, other, 0, comm_, &sent) ==
        MPI_SUCCESS)
      MPI_Request_free(&sent);
  }
  note(rank_, only_stop ? stop_ : reason_);
}

void Control::abort(const std::string& reason) {
  stop();
  const std::lock_guard guard(lock_);
  // Where others have stopped before, this is a consequence.
  if (told_.front().rank == rank_ && !abort_reason_) abort_reason_ = reason;
}

std::optional<std::string> Control::abort_reason() {
  const std::lock_guard guard(lock_);
  return abort_reason_;
}

void Control::note(int rank, const char* reason) {
  told_.push_back({rank, *reason ? reason : "rank " + std::to_string(rank) + " has stopped"});
  stopped_[static_cast<std::size_t>(rank)] = true;
  if (all_stopped_ == Clock::time_point::max() &&
      std::find(stopped_.begin(), stopped_.end(), false) == stopped_.end())
    all_stopped_ = Clock::now();
  over_ = true;
}

void Control::hear() {
  while (listening_ != MPI_REQUEST_NULL) {
    int arrived = 0;
    MPI_Status status;
    ok(MPI_Test(&listening_, &arrived, &status));
    if (!arrived) return;
    note(status.MPI_SOURCE, heard_);
    listen();
  }
}

void Control::look() {
  if (const std::unique_lock guard(lock_, std::try_to_lock); guard) hear();
  if (!over_) return;
  const std::lock_guard guard(lock_);
  throw PeerLost(told_.front().reason);
}

bool Control::quiet() {
  const std::lock_guard guard(lock_);
  hear();
  return all_stopped_ != Clock::time_point::max() && Clock::now() > all_stopped_ + kUnderWay;
}

bool Control::heard() {
  const std::lock_guard guard(lock_);
  return std::any_of(told_.begin(), told_.end(), [&](const Told& t) { return t.rank != rank_; });
}

std::optional<std::string> Control::own_reason() {
  const std::lock_guard guard(lock_);
  hear();
  const std::string own = reason_;
  const bool said_before = std::any_of(
      told_.begin(), told_.end(), [&](const Told& t) { return t.rank < rank_ && t.reason == own; });
  return own.empty() || said_before ? std::nullopt : std::optional(own);
}

void Control::close() {
  const std::lock_guard guard(lock_);
  if (listening_ == MPI_REQUEST_NULL) return;
  MPI_Cancel(&listening_);
  MPI_Wait(&listening_, MPI_STATUS_IGNORE);
}

class MpiPending final : public Pending {
 public:
  MpiPending(Control& control, bool sends) : control_(control), sends_(sends) {}
  ~MpiPending() override;
  void wait() override;
  bool done() override;
  // To be filled with a piece of this many bytes.
  MPI_Request* add(int bytes) {
    pieces_.push_back({MPI_REQUEST_NULL, bytes});
    return &pieces_.back().request;
  }

 private:
  struct Piece {
    MPI_Request request;
    int bytes;
  };
  Control& control_;
  const bool sends_;
  std::vector<Piece> pieces_;
};

void MpiPending::wait() {
  for (BackOff back_off; !done();) {
    back_off.pause();
    if (back_off.slept()) control_.look();
  }
}

bool MpiPending::done() {
  for (; !pieces_.empty(); pieces_.pop_back()) {
    Piece& piece = pieces_.back();
    MPI_Status status;
    int over = 0;
    ok(MPI_Test(&piece.request, &over, &status));
    if (!over) return false;
    int bytes = piece.bytes;
    if (!sends_) ok(MPI_Get_count(&status, MPI_BYTE, &bytes));
    check(bytes == piece.bytes, "both ends of a message agree on its size");
  }
  return true;
}

// Unfinished only where the rank unwinds and the job ends; see the top of the file.
MpiPending::~MpiPending() {
  if (pieces_.empty()) return;
  try {
    control_.stop();
    for (Piece& piece : pieces_)
      if (!sends_ && piece.request != MPI_REQUEST_NULL) ok(MPI_Cancel(&piece.request));
    const Clock::time_point end = Clock::now() + kGrace / 2;
    BackOff back_off;
    for (Piece& piece : pieces_) {
      for (int done = 0; !done && !control_.quiet() && Clock::now() < end; back_off.pause())
        ok(MPI_Test(&piece.request, &done, MPI_STATUS_IGNORE));
      if (piece.request != MPI_REQUEST_NULL) ok(MPI_Request_free(&piece.request));
    }
  } catch (const MpiError&) {
    // The exception that unwinds this rank goes first.
  }
}

class MpiTransport final : public Transport {
 public:
  // `comms`: as many as the tags need, see communicators().
  MpiTransport(std::vector<MPI_Comm> comms, Control& control)
      : comms_(std::move(comms)), control_(control) {
    ok(MPI_Comm_rank(comms_[0], &rank_));
    ok(MPI_Comm_size(comms_[0], &size_));
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  std::unique_ptr<Pending> send(int to, std::uint32_t tag, const void* bytes,
                                std::size_t count) override {
    return post(true, tag, count, [&](std::size_t at, int n, Place p, MPI_Request* request) {
      const char* from = static_cast<const char*>(bytes);
      return MPI_Isend(from + at, n, MPI_BYTE, to, p.tag, p.comm, request);
    });
  }
  std::unique_ptr<Pending> receive(int from, std::uint32_t tag, void* bytes,
                                   std::size_t count) override {
    return post(false, tag, count, [&](std::size_t at, int n, Place p, MPI_Request* request) {
      return MPI_Irecv(static_cast<char*>(bytes) + at, n, MPI_BYTE, from, p.tag, p.comm, request);
    });
  }
  void abort(const std::string& reason) override { control_.abort(reason); }

 private:
  struct Place {
    MPI_Comm comm;
    int tag;
  };
  template <class Start>
  std::unique_ptr<Pending> post(bool sends, std::uint32_t tag, std::size_t count, Start start) {
    check(tag < kTags, "tags have 30 bits");
    control_.look();
    const std::uint64_t span = kTags / comms_.size();
    const Place place{comms_[tag / span], static_cast<int>(tag % span)};
    auto pending = std::make_unique<MpiPending>(control_, sends);
    std::size_t at = 0;
    do {
      const std::size_t n = std::min(count - at, kPieceBytes);
      const int bytes = static_cast<int>(n);
      ok(start(at, bytes, place, pending->add(bytes)));
      at += n;
    } while (at < count);
    return pending;
  }

  std::vector<MPI_Comm> comms_;
  Control& control_;
  int rank_ = 0, size_ = 0;
};

MPI_Comm own_communicator() {
  MPI_Comm comm = MPI_COMM_NULL;
  ok(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
  ok(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN));
  return comm;
}

// Tags have 30 bits; MPI_TAG_UB is 2^31 - 1 in Open MPI's own point-to-point layer and 2^23 - 1
// over UCX. The upper bits choose among this many communicators, a power of two.
std::vector<MPI_Comm> communicators() {
  std::vector<MPI_Comm> comms = {own_communicator()};
  void* attribute = nullptr;
  int known = 0;
  ok(MPI_Comm_get_attr(comms[0], MPI_TAG_UB, &attribute, &known));
  const std::uint64_t tags =
      known ? static_cast<std::uint64_t>(*static_cast<int*>(attribute)) + 1 : 32768;
  std::uint64_t needed = 1;
  while (needed * tags < kTags) needed *= 2;
  if (needed > 1024)
    throw InputError("this MPI allows tags up to " + std::to_string(tags - 1) +
                     " only; expected 2^20 or more (with Open MPI: mpirun --mca pml ob1)");
  while (comms.size() < needed) comms.push_back(own_communicator());
  return comms;
}

// Waits until all ranks are here or, once the job has failed, at most kGrace.
// Returns whether the job has failed.
bool all_ended(MPI_Comm comm, Control& control, bool failed) {
  MPI_Request barrier = MPI_REQUEST_NULL;
  if (MPI_Ibarrier(comm, &barrier) != MPI_SUCCESS) return true;
  Clock::time_point end = Clock::now() + kGrace;
  BackOff back_off;
  for (int done = 0; !done;) {
    if (MPI_Test(&barrier, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return true;
    try {
      control.look();
    } catch (const PeerLost&) {
      if (!failed) end = Clock::now() + kGrace;
      failed = true;
      control.stop();
    }
    if (failed && Clock::now() > end) break;
    if (!done) back_off.pause();
  }
  return failed;
}

// Gives the others the time to end the job, and moves their messages meanwhile.
void linger(MPI_Comm comm) {
  for (const auto end = Clock::now() + 2 * kGrace; Clock::now() < end;) {
    int there = 0;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm, &there, MPI_STATUS_IGNORE);
    std::this_thread::sleep_for(1ms);
  }
}

std::string host() {
  char name[MPI_MAX_PROCESSOR_NAME] = "";
  int length = 0;
  MPI_Get_processor_name(name, &length);
  return {name, static_cast<std::size_t>(length)};
}

}  // namespace

bool built_with_mpi() {
  return true;
}

bool under_mpi() {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMIX_RANK"})
    if (std::getenv(variable)) return true;
  return false;
}

void run_mpi(const std::function<void(Transport&)>& body) {
  int initialised = 0;
  MPI_Initialized(&initialised);
  check(!initialised, "run_mpi is called once");
  int threads = MPI_THREAD_SINGLE;
  ok(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &threads));
  if (threads < MPI_THREAD_MULTIPLE) {
    MPI_Finalize();
    throw InputError("this MPI was built without MPI_THREAD_MULTIPLE, which reckon needs");
  }

  const MPI_Comm last = own_communicator();
  Control control(own_communicator());
  int code = 1;
  bool failed = true;
  int rank = 0;
  try {
    MpiTransport transport(communicators(), control);
    rank = transport.rank();
    body(transport);
    const auto reason = control.abort_reason();
    if (reason) throw PeerLost(*reason);
    failed = false;
  } catch (const MpiError& e) {
    control.tell(e.what());
  } catch (const PeerLost& e) {
    const auto reason = control.abort_reason();
    if (reason || !control.heard()) control.tell(reason.value_or(e.what()));
  } catch (const InputError& e) {
    code = 2;
    control.tell(e.what());
  } catch (const std::exception& e) {
    control.tell(e.what());
  } catch (...) {
    control.tell("an exception that is no std::exception");
  }
  if (!all_ended(last, control, failed)) {
    control.close();
    MPI_Finalize();
    return;
  }

  std::cout.flush();
  std::fflush(nullptr);
  if (const auto reason = control.own_reason())
    std::fprintf(stderr, "reckon: rank %d on %s: %s\n", rank, host().c_str(), reason->c_str());
  else  // whoever failed speaks and ends the job
    linger(last);
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

}  // namespace reckon::real
