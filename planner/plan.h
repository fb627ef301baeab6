// A Plan: how a training step is spread over a cluster. Plain data; JSON in and out (plan_json.h).
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "sim/work.h"

namespace reckon::plan {

enum class ScheduleKind {
  GPipe,        // all forwards, then all backwards
  OneFOneB,     // PipeDream-flush
  Interleaved,  // 1F1B over vpp chunks per rank (Megatron-LM SC21)
  ZbH1,  // zero bubble, 1F1B's memory (Qi et al. 2024; ZB-1p has the same order on uniform costs)
  ZbH2,  // zero bubble, twice 1F1B's memory (ZB-2p)
  ZbV,   // V-shaped placement of two chunks per rank
  DualPipe,   // bidirectional, F and B of two micro-batches paired (DeepSeek-V3)
  DualPipeV,  // DualPipe cut in half: V-shaped placement
};
inline bool is_v_shaped(ScheduleKind kind) {
  return kind == ScheduleKind::ZbV || kind == ScheduleKind::DualPipeV;
}

// Activations that are recomputed in the backward pass instead of kept. Bits of Recompute::modules.
enum RecomputeModule : std::uint32_t {
  kCoreAttention = 1u << 0,  // softmax(qk)v of an unfused attention
  kNorm = 1u << 1,
  kActivation = 1u << 2,  // the MLP's or experts' activation function
  kMlaUp = 1u << 3,       // MLA up-projections
  kMlp = 1u << 4,         // a dense layer's whole MLP
  kMoe = 1u << 5,         // the whole mixture layer, dispatch included
  kSharedExpert = 1u << 6,
  kPerOp = 1u << 7,  // all but the attention output and every second matrix product (torchtitan's
                     // per-op selective checkpointing)
};

struct Recompute {
  enum class Mode { None, Selective, Full } mode = Mode::None;
  std::uint32_t modules = 0;  // of Selective
  int full_layers = 0;        // of Full: layers per chunk that are recomputed; 0 = all of them
  bool operator==(const Recompute&) const = default;
};

// Which numbers the matrix products use. Everything else is bf16 with fp32 main gradients unless
// said otherwise.
enum class Precision {
  Fp32,
  Fp16,
  Bf16,
  Fp8,  // per-tensor scaling of linear layers (Transformer Engine delayed or current scaling,
        // torchao)
  Fp8DeepSeek,  // 1x128 and 128x128 block scales, dispatch in fp8, bf16 moments
  Mxfp8,        // 1x32 block scales
};
inline bool is_fp8(Precision p) {
  return p == Precision::Fp8 || p == Precision::Fp8DeepSeek || p == Precision::Mxfp8;
}

enum class Zero { None, Optimizer, Gradients, Full };  // ZeRO stage 0 to 3; Full is FSDP

struct Overlap {
  bool grad_reduce = true;   // gradient reduce-scatter under the last backward passes
  bool param_gather = true;  // parameter all-gather under the first forward passes
  bool tp = false;           // tensor-parallel collectives under the GEMM that needs or makes them
  bool p2p = true;  // pipeline messages under compute (interleaved and bidirectional schedules)
  enum class Expert {
    None,
    OneFOneB,
    Pair
  } expert = Expert::None;  // what hides the experts' all-to-all
  bool operator==(const Overlap&) const = default;
};

// What one pipeline chunk holds. Chunks are numbered in forward order, 0 to pp * vpp - 1.
struct ChunkLayout {
  int first_layer = 0, layers = 0;
  bool embedding = false, head = false;
  int mtp = 0;  // MTP modules
  bool operator==(const ChunkLayout&) const = default;
};

struct Plan {
  int tp = 1, pp = 1, vpp = 1, dp = 1, cp = 1;
  int ep = 1, etp = 1;  // experts: ep * etp * expert-dp == tp * cp * dp of one stage
  int micro_batch = 1;  // sequences
  ScheduleKind schedule = ScheduleKind::OneFOneB;
  std::vector<ChunkLayout> layout;  // pp * vpp entries; V-shaped schedules use vpp = 2
  Recompute recompute;
  Precision precision = Precision::Bf16;
  Zero zero = Zero::Optimizer;
  int shard_group = 0;  // ranks that share one optimizer (or FSDP) shard set; 0: all of dp * cp
  bool sequence_parallel = true;  // with tp > 1: norms and residuals split along the sequence
  Overlap overlap;
  int comm_sms = 0;  // SMs given to expert communication; 0: the stack's own choice
  bool operator==(const Plan&) const = default;
};

// GPUs of the plan.
inline int world_size(const Plan& p) {
  return p.tp * p.pp * p.dp * p.cp;
}

// What a layout has to place. `embedding` and `head`: their weight in layers, when ends are weighed
// (Megatron-LM's account-for-embedding and account-for-loss count each as one); an MTP module is a
// layer and one more pass through the head.
struct ModelParts {
  int layers = 0;
  int mtp = 0;
  int embedding = 1, head = 1;
};

// Balanced layout: layers spread as evenly as divisibility allows, embedding on the first chunk,
// head and MTP on the last; with `weigh_ends` the first and last chunk give up layers for the
// embedding, head and MTP they carry. The layers add up to model.layers; each chunk has at least
// one while there are enough. Chunks with one layer more are late ones (1F1B's early stages hold
// more activations), but not the last.
std::vector<ChunkLayout> balanced_layout(ModelParts model, int chunks, bool weigh_ends = false);

// One line, e.g. "tp1 pp16 dp128 ep64 DualPipe fp8-deepseek mbs1".
std::string describe(const Plan& p);

// "none", "full", "full:2" (layers per chunk), or the modules: "norm+activation".
std::string describe(const Recompute& recompute);

}  // namespace reckon::plan
