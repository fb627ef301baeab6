// The Program: what every rank does, as in-order streams of ops with dependencies across streams
// and ranks. Both executors read it: the simulators price its ops, the trainer runs them. It holds
// shapes and bytes, no durations.
//
// Two levels, because a training step repeats itself:
//   Block   a template: the ops of one pass of one pipeline chunk over one micro-batch, on a few
//   streams of one device. Slot    one call of a block by a role, with the messages it waits for. A
//   role is a list of slots, executed in order.
// Ranks that do the same work share one role, so a Program is as large as its distinct work, not as
// its cluster.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sim/work.h"

namespace reckon::sim {

// In-order queues of one device. Ops on one stream never overlap; ops on different streams overlap
// unless one waits.
enum class Stream : std::uint8_t {
  Compute,
  Compute2,  // second compute queue
  Expert,    // expert-parallel token exchange
  Model,     // tensor- and context-parallel collectives
  Data,      // data-parallel reduce-scatter and all-gather
  Pipe,      // pipeline sends and receives
};
inline bool is_compute(Stream s) {
  return s == Stream::Compute || s == Stream::Compute2;
}
inline constexpr int kStreams = 6;

// Forward, input gradient, weight gradient; and what is none of them.
enum class Phase : std::uint8_t {
  F,
  B,         // input gradient alone
  W,         // weight gradient alone
  BW,        // both, as one backward pass
  FB,        // a forward overlapped with the backward (B and W) of another micro-batch
  Optimizer  // after the last micro-batch
};

struct Op {
  const char* label = "";  // static text, e.g. "attn.qkv"; the key under which modelled and
                           // measured times are joined
  std::uint32_t work = 0;  // index into Block::works
  Stream stream = Stream::Compute;
  Phase phase = Phase::F;  // F, B or W also inside a BW or FB block
  bool recompute = false;  // repeats forward work
  std::int16_t part = -1;  // of the chunk that it works for, e.g. a layer; -1: none in particular
  std::uint32_t first_wait = 0, waits = 0;  // range in Block::waits
};

// INVARIANT: an op waits only for ops before it in `ops`, so `ops` is a topological order.
struct Block {
  std::string name;
  std::vector<Op> ops;
  std::vector<std::uint32_t> waits;  // op indices
  std::vector<Work> works;
};

// A message that a slot needs: the output of slot `slot` of role `role`, moved by
// Program::works[work].
struct Message {
  std::uint32_t role = 0;
  std::uint32_t slot = 0;
  std::uint32_t work = 0;
  Phase phase = Phase::F;  // F: what the sender's forward made; B: a gradient
};

struct Slot {
  std::uint32_t block = 0;  // index into Program::blocks
  Phase phase = Phase::F;
  std::uint16_t chunk = 0,
                chunk2 = 0;  // pipeline chunk; chunk2: of the backward half of an FB slot
  std::uint32_t micro_batch = 0, micro_batch2 = 0;  // likewise
  std::uint32_t first_message = 0, messages = 0;    // range in Role::messages
};

// A data-parallel collective beside the slots, on the role's Data stream, in order.
// before: a parameter gather that starts with the step; `slot` is the first that needs it.
// otherwise: a gradient reduction of what `slot` is the last to produce.
// With `buckets` > 1 it moves in that many pieces, so that it overlaps the slot it belongs to.
struct Sync {
  const char* label = "";   // static text, as of ops
  std::uint16_t chunk = 0;  // whose parameters or gradients move
  std::uint32_t work = 0;   // index into Program::works: one piece of `buckets`
  std::uint32_t slot = 0;
  std::uint32_t buckets = 1;
  bool before = false;
};

struct Role {
  std::string name;
  std::vector<Slot> slots;
  std::vector<Message> messages;
  std::vector<Sync> syncs;
  std::uint32_t tail = 0;   // index into Program::blocks: optimizer step, after all slots and syncs
  std::uint32_t ranks = 1;  // how many ranks play it
};

struct Program {
  std::vector<Work> works;
  std::vector<std::shared_ptr<const Block>>
      blocks;  // shared with other Programs of the same search
  std::vector<Role> roles;
  bool blocking_messages = false;  // the sender's compute waits until its message has left
};

}  // namespace reckon::sim
