// A software stack as data: which kernels a training framework of some date launches, what it
// fuses, what it overlaps. One hardware entry must explain Megatron-2021, NeMo-2025 and DeepSeek's
// own runs by these switches alone.
#pragma once

#include <string>

#include "sim/units.h"

namespace reckon::hw {

enum class AttentionKernel { Unfused, Flash1, Flash2, Flash3, CuDnn };
enum class GroupedGemmKernel { Loop, CublasGrouped, DeepGemm };  // Loop: one launch per expert
enum class Dispatcher { AllToAll, DeepEp, HybridEp };

struct Stack {
  std::string name;  // catalogue name, e.g. "megatron-2021"

  AttentionKernel attention = AttentionKernel::Flash2;
  GroupedGemmKernel grouped_gemm = GroupedGemmKernel::CublasGrouped;
  Dispatcher dispatcher = Dispatcher::AllToAll;

  // Fusions of memory-bound work. False: the separate kernels run, each reading and writing its
  // operands.
  bool fused_norm = true;        // norm in one kernel
  bool fused_activation = true;  // bias + activation (or gate) in one kernel
  bool fused_residual = true;    // bias + dropout + add in one kernel
  bool fused_rope = true;
  bool fused_cross_entropy = true;  // no fp32 copy of the logits
  bool fused_permute = true;        // token permutation in one kernel
  bool fused_router = false;
  bool fused_optimizer = true;           // multi-tensor Adam
  bool fused_wgrad_accumulation = true;  // weight gradient GEMM adds into the fp32 gradient buffer
  bool dropout = false;
  bool reckon_ops = false;  // the op list of reckon's own trainer (real/): products quantise their
                            // own operands and add into one gradient, keys and values of a context
                            // are gathered before the attention; see planner/layer_ops.h
  bool balanced_context = true;  // context-parallel ranks get equal causal work (zigzag split);
                                 // false: the last rank's slice sees every key
  bool cuda_graphs = false;

  // Costs between kernels.
  Seconds kernel_gap;       // device idle between two kernels of one stream, back to back
  Seconds host_per_kernel;  // host time to launch one kernel; a block can't run faster than its
                            // launches
  Seconds host_per_step;    // data loading, logging, gradient-norm read-back: not overlapped

  // Overlap abilities. A plan switches them on, a stack that lacks one makes the plan illegal.
  bool can_overlap_grad_reduce = true;
  bool can_overlap_param_gather = true;
  bool can_overlap_p2p = true;  // with interleaved schedules
  bool can_overlap_tp = false;
  bool can_overlap_expert_1f1b =
      false;                 // a forward's all-to-all under another micro-batch's backward
  bool can_pair_fb = false;  // DualPipe-style F&B blocks
  bool can_split_backward =
      true;                   // weight gradients apart from input gradients: zero-bubble schedules
  bool can_fp8 = true;        // per-tensor scales
  bool can_fp8_block = true;  // 1x128 and 128x128 scales
  bool can_mxfp8 = true;      // 1x32 scales
  bool static_sm_partition = false;  // GEMMs never use the SMs reserved for communication
  int comm_sms = 16;                 // SMs that a communication kernel occupies

  Bytes reduce_bytes{4};  // per parameter, of a gradient on the wire

  // Memory. Activations follow from the fusions above.
  Bytes weight_bytes{2};  // per parameter, at rest; 4: fp32 shards, gathered in bf16 for use (FSDP)
  Bytes fp8_weight_bytes{4};  // per matrix parameter of an fp8 plan: bf16 and both fp8 layouts, or
                              // 2 with fp8 parameters
  Bytes logit_bytes{6};       // per logit when the loss peaks: logits, softmax, their gradients
  bool fp8_saves = true;  // fp8 maps keep their fp8 input for the weight gradient, not the bf16 one
  bool wgrad_placeholders = false;  // autograd gets one bf16 tensor per distinct weight shape, kept
                                    // for good (Transformer Engine 2 with fused accumulation)
  Bytes grad_bytes{4};              // per parameter, of the main gradient buffer
  Bytes optimizer_bytes{12};        // per parameter: master copy and both moments
  Bytes reserve{0};  // context, libraries, communicator buffers, allocator fragmentation

  // Fitted multipliers of this software, each with its fit in the catalogue's provenance.
  double gemm_efficiency = 1;  // of matrix products relative to the fitted kernel tables
  double attention_efficiency = 1;
  double memory_efficiency = 1;  // of memory-bound kernels
  double comm_efficiency = 1;    // of collectives relative to the fitted network tables
  double exchange_release = 1;   // of token exchange kernels: rate between nodes over that of the
                                 // release which the network table is fitted to (June 2025)
  double expert_imbalance = 1;   // busiest rank's tokens over the mean
};

}  // namespace reckon::hw
