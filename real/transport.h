// Moves bytes between ranks: the one thing that differs between ranks as threads of one process
// and ranks as processes of an MPI job. Collectives are written once on top of it (group.h), so
// both give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace reckon::real {

// A rank died, or the job is being ended: thrown from every waiting call of every rank, so that all
// of them unwind.
struct PeerLost : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A message that is under way. The buffer must live until wait() returns, or else until this is
// destroyed, which withdraws the message: a rank that unwinds destroys it before the buffer.
class Pending {
 public:
  virtual ~Pending() = default;
  // Blocks without burning a core. Throws PeerLost.
  virtual void wait() = 0;
  // Whether wait() would return at once: the buffer is free again. Does not block.
  virtual bool done() = 0;
};

// One rank's end. All calls may come from several threads of the rank at once; messages match by
// (sender, receiver, tag) in the order in which they were posted.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // `tag`: any 30-bit number; groups take those from 2^29 on. Sizes of both ends must agree.
  virtual std::unique_ptr<Pending> send(int to, std::uint32_t tag, const void* bytes,
                                        std::size_t count) = 0;
  virtual std::unique_ptr<Pending> receive(int from, std::uint32_t tag, void* bytes,
                                           std::size_t count) = 0;
  // Ends the job: every rank's waits throw PeerLost, and posting may.
  virtual void abort(const std::string& reason) = 0;
};

// Runs `body` once per rank, each on a thread of its own with a Transport to the others, and
// returns when all have ended. An exception of one rank ends all; the first that is not PeerLost is
// thrown again here. Waiting for a rank that has returned is PeerLost too.
void run_local(int ranks, const std::function<void(Transport&)>& body);

// The same where this process is one rank of an MPI job; call it at most once. Returns when the
// bodies of all ranks have. Where one fails it does not return: PeerLost unwinds the others, the
// reason is printed on stderr by the rank that failed, and the job ends with exit code 2
// (InputError) or 1. A rank that dies without a word (kill -9) is noticed by mpirun, which names it
// and ends the job. Throws InputError where there is no MPI, or one without MPI_THREAD_MULTIPLE.
void run_mpi(const std::function<void(Transport&)>& body);
bool built_with_mpi();  // false where the toolkit was absent at build time
bool under_mpi();       // started by mpirun (or srun with PMI)

}  // namespace reckon::real
