// The ops of one transformer layer on one rank, cut where expert communication enters and leaves
// it.
//
//   forward    attention | [dispatch] | mlp | [combine] | rest
//   backward   rest | [grad dispatch] | mlp | [grad combine] | attention     weight gradients
//   apart, after their inputs
//
// With Stack::reckon_ops the list is that of reckon's own trainer, which real/ executes op by op:
// every op is one function there, found by label, phase and part.
//
// What is not modelled: the bytes of biases, loss scaling, index tensors; kernels below ~3 us other
// than by their launch.
#pragma once

#include "hw-models/routing.h"
#include "planner/block_writer.h"
#include "planner/groups.h"
#include "planner/model.h"
#include "planner/plan.h"

namespace reckon::plan {

// How tokens spread over the ranks of an expert-parallel group. REQUIRES: a mixture.
hw::Routing routing(const ModelShape& model, const Plan& plan, const Groups& groups);

class LayerOps {
 public:
  // `footprint`: of routing(...); of a model without experts, anything.
  LayerOps(const ModelShape& model, const Plan& plan, const hw::Stack& stack, const Groups& groups,
           const hw::Footprint& footprint, int seq, BlockWriter& out);

  // Forward. `layer` is the index in the model.
  void attention_forward(int layer);  // through the router of a mixture
  std::uint32_t dispatch_forward();   // returns the op that mlp_forward must wait for
  void mlp_forward(int layer);
  std::uint32_t combine_forward();
  void rest_forward(int layer);

  void rest_backward(int layer);
  std::uint32_t dispatch_backward();  // of output gradients: the backward of combine
  void mlp_backward(int layer);
  void mlp_weight_grad(int layer);
  std::uint32_t combine_backward();  // of input gradients: the backward of dispatch
  void attention_backward(int layer);
  void attention_weight_grad(int layer);

  // The whole layer in order, every exchange waited for.
  void forward(int layer);
  void backward(int layer, bool input, bool weights);

  void embedding_forward();
  void embedding_weight_grad();
  void head_forward();  // final norm, output projection, loss
  void head_backward();
  void head_weight_grad();
  void mtp_projection_forward();  // two norms and the 2h -> h projection in front of an MTP layer
  void mtp_projection_backward();
  void mtp_projection_weight_grad();

  bool is_moe(int layer) const { return is_moe_layer(model_, layer); }

 private:
  // Bytes of one fp8 element with its share of a 4-byte scale per 128.
  static constexpr double kBlockFp8 = 1 + 4.0 / 128;

  struct Linear {
    const char* label;
    double m;
    std::int64_t n, k;
    bool quantise = true;     // in fp8 recipes: false for what stays in bf16
    bool split_input = true;  // the input is quantised here and not shared with an earlier product
    bool quantise_grad = true;  // the output's gradient is quantised here; false: it arrives in fp8
  };

  void recompute_per_op(int layer);
  void linear_forward(const Linear& l);
  void linear_input_grad(const Linear& l);
  void linear_weight_grad(const Linear& l);
  void grouped(const char* label, std::int64_t n, std::int64_t k, sim::Pass pass);
  void memory(const char* label, sim::MemoryKind kind, double bytes, int kernels = 1);
  void norm_forward(const char* label, double tokens, std::int64_t width, bool residual);
  void norm_backward(const char* label, double tokens, std::int64_t width, bool residual);
  void recompute_norm(const char* label);
  void permute_copies();
  void mla_assemble();
  void core_attention(int layer, bool backward);
  void context_exchange(bool backward);
  std::uint32_t token_exchange(const char* label, bool combine, double element_bytes);
  // Sequence-parallel (or plain tensor-parallel) collectives around a pair of linear maps.
  void enter_tensor_parallel(const char* label);
  // The sharded forward input is gathered again for the weight gradient, under the input-gradient
  // product. Returns the op that the weight gradient waits for.
  std::uint32_t gather_again(const char* label);
  sim::Collective whole_tokens() const;
  void leave_tensor_parallel(const char* label, bool backward);
  void activation(const char* label, double rows, std::int64_t width, bool backward, bool routed);

  double router_bytes(double passes) const;
  double received_tokens() const;  // distinct tokens that this rank's experts receive
  bool recomputes(std::uint32_t module) const;
  bool gated() const { return is_gated(model_.mlp); }
  bool reckon() const { return stack_.reckon_ops; }
  // DeepSeek's recipe as its own kernels run it.
  bool block_fp8() const { return plan_.precision == Precision::Fp8DeepSeek && !reckon(); }
  bool fp8_recipe() const {
    return plan_.precision == Precision::Fp8 || plan_.precision == Precision::Mxfp8 ||
           plan_.precision == Precision::Fp8DeepSeek;
  }
  bool fp8() const { return fp8_recipe() && !reckon(); }  // with kernels that quantise
  // Of the products that an 8-bit recipe leaves alone, and of attention.
  sim::DType unquantised() const { return fp8_recipe() ? sim::DType::Bf16 : shape_.linear; }
  // Bytes of one element of an activation. Byte counts of memory() are given for 2.
  double element() const { return plan_.precision == Precision::Fp32 ? 4 : 2; }

  const ModelShape& model_;
  const Plan& plan_;
  const hw::Stack& stack_;
  const Groups& groups_;
  int seq_;
  RankShape shape_;
  const hw::Footprint& footprint_;
  BlockWriter& out_;
  // Second gathers of forward inputs, which weight gradients of the same block wait for.
  std::uint32_t attention_again_ = BlockWriter::kNoOp, mlp_again_ = BlockWriter::kNoOp;
};

}  // namespace reckon::plan
