// How tensors get from rank to rank: collectives among groups and messages between pairs, enqueued
// on queues of the rank's device. Three implementations: CPU ranks over a Transport (threads or MPI
// processes), GPU ranks as threads that share one GPU, and NCCL.
//
// Each has its Transport beside it, for what hosts tell each other.
#pragma once

#include <memory>
#include <vector>

#include "real/device.h"
#include "real/group.h"

namespace reckon::real {

// REQUIRES: all members make the same calls in the same order; one thread at a time per group.
// Counts in elements. Sums are taken in the order of ranks, but for NCCL's.
class TensorGroup {
 public:
  virtual ~TensorGroup() = default;
  // The same members, for numbers of the host.
  virtual Group& host() = 0;
  int index() { return host().index(); }
  int size() { return host().size(); }

  virtual void all_reduce(Queue& q, View values, std::size_t n) = 0;
  // As Group's of the same names.
  virtual void reduce_scatter(Queue& q, ConstView in, View out, std::size_t n) = 0;
  virtual void all_gather(Queue& q, ConstView in, View out, std::size_t n) = 0;
  virtual void reduce_scatter_parts(Queue& q, ConstView in, View out,
                                    const std::vector<std::size_t>& counts) = 0;
  virtual void all_gather_parts(Queue& q, ConstView in, View out,
                                const std::vector<std::size_t>& counts) = 0;
  struct Exchange {
    ConstView in;
    const std::vector<std::size_t>& send_counts;
    View out;
    const std::vector<std::size_t>& receive_counts;
  };
  virtual void all_to_all(Queue& q, const Exchange& e) = 0;
};

// A message between two ranks: n elements.
struct Letter {
  int peer;
  std::uint32_t tag;      // tells the messages of a pair apart
  std::uint32_t channel;  // a kind of message: within one, messages are received in the order of
                          // their sending
  View at;
  std::int64_t n;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual Transport& transport() = 0;
  // As make_group's.
  virtual std::unique_ptr<TensorGroup> group(std::vector<int> members, std::uint32_t id) = 0;
  // Behind what `q` was given so far. The memory must live until the Pending is done.
  virtual std::unique_ptr<Pending> send(Queue& q, const Letter& letter) = 0;
  // What `q` is given from now on finds the message there.
  virtual void receive(Queue& q, const Letter& letter) = 0;
};

std::unique_ptr<Communicator> make_cpu_communicator(Transport& transport);
// REQUIRES: the ranks are threads of this process, and what one's queues write the others' can
// read: they share one GPU (or the CPU, in tests).
std::unique_ptr<Communicator> make_shared_communicator(Device& device, Transport& transport);

}  // namespace reckon::real
