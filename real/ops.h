// The ops of the trainer: what each op of a Program does to the tensors of its pass. Found by the
// op's label; the phase says which of its three actions. There is one action per op of the list
// that planner/layer_ops.h writes for Stack::reckon_ops, and no order of ops here: that is the
// Program's.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "planner/model.h"
#include "planner/plan.h"
#include "real/communicator.h"
#include "real/device.h"
#include "real/pass.h"
#include "real/weights.h"
#include "sim/program.h"

namespace reckon::real {

// The communication groups of a rank; a group of one where the plan has none.
struct Groups {
  std::unique_ptr<TensorGroup> tp, cp, tp_cp, ep, dp_cp, edp, stage, world;
  std::unique_ptr<TensorGroup> tp_data;  // the tensor-parallel ranks again, for the data thread
  std::unique_ptr<TensorGroup>
      copies;  // of the embedding on several stages; null: this rank has none
};

// What stays the same for all passes of a rank.
struct Setting {
  const plan::ModelShape& model;
  const plan::Plan& plan;
  const Recipe& recipe;
  Place place;
  int seq = 0;                     // tokens of a sequence
  std::int64_t global_tokens = 0;  // of a step: losses are means over them
  std::int64_t global_sequences = 0;
};

class Ops {
 public:
  Ops(const Setting& setting, Weights& weights, Groups& groups, Meter& meter, Device& device);

  struct Call {
    Queue& q;  // of the op's stream
    const sim::Op& op;
    const sim::Work& work;
    const plan::ChunkLayout& layout;
    ChunkWeights& chunk;
    Pass& pass;
  };
  using Action = void (Ops::*)(const Call&);
  // The action of an op. Throws std::invalid_argument naming an op that the trainer does not have.
  static Action action(const sim::Op& op, const sim::Work& work);

  void run(Action what, const Call& call) { (this->*what)(call); }

  // After a part's forward ops: frees what recomputation makes again. All else is freed by the op
  // that reads it last.
  void after_forward(Pass& pass, const plan::ChunkLayout& layout, int part);

  // How activations are stored.
  Element element() const { return element_; }
  std::int64_t split_rows() const { return s_; }
  // The gradient behind a chunk's last layer is whole: hands it to that layer.
  static void end_of_hidden(Pass& pass, const plan::ChunkLayout& layout);
  // Ids per sequence in Pass::tokens.
  std::int64_t token_stride() const { return setting_.seq + 1 + setting_.model.mtp_depth; }

  // Sums of a step on this rank, over tokens: of next tokens, and of MTP's.
  struct Losses {
    double next = 0, mtp = 0;
  };
  void clear_losses();
  Losses losses();  // the host waits for them

 private:
  struct Entry {
    const char* label;
    Action forward, backward, weights;
  };
  static const Entry kEntries[];

  // attention (ops_attention.cc)
  void attn_norm(const Call&);
  void attn_norm_backward(const Call&);
  void attn_gather(const Call&);
  void attn_gather_backward(const Call&);
  void attn_regather(const Call&);
  void attn_qkv(const Call&);
  void attn_qkv_backward(const Call&);
  void attn_qkv_weights(const Call&);
  void attn_qk_norm(const Call&);
  void attn_qk_norm_backward(const Call&);
  void attn_q_down(const Call&);
  void attn_q_down_backward(const Call&);
  void attn_q_down_weights(const Call&);
  void attn_kv_down(const Call&);
  void attn_kv_down_backward(const Call&);
  void attn_kv_down_weights(const Call&);
  void attn_q_norm(const Call&);
  void attn_q_norm_backward(const Call&);
  void attn_kv_norm(const Call&);
  void attn_kv_norm_backward(const Call&);
  void attn_q_up(const Call&);
  void attn_q_up_backward(const Call&);
  void attn_q_up_weights(const Call&);
  void attn_kv_up(const Call&);
  void attn_kv_up_backward(const Call&);
  void attn_kv_up_weights(const Call&);
  void attn_rope(const Call&);
  void attn_rope_backward(const Call&);
  void attn_assemble(const Call&);
  void attn_assemble_backward(const Call&);
  void attn_context_gather(const Call&);
  void attn_context_reduce(const Call&);
  void attn_core(const Call&);
  void attn_core_backward(const Call&);
  void attn_out(const Call&);
  void attn_out_backward(const Call&);
  void attn_out_weights(const Call&);
  void attn_reduce(const Call&);
  void attn_reduce_backward(const Call&);
  void attn_residual(const Call&);
  // MLPs and experts (ops_mlp.cc)
  void mlp_norm(const Call&);
  void mlp_norm_backward(const Call&);
  void mlp_gather(const Call&);
  void mlp_gather_backward(const Call&);
  void mlp_regather(const Call&);
  void mlp_up(const Call&);
  void mlp_up_backward(const Call&);
  void mlp_up_weights(const Call&);
  void mlp_activation(const Call&);
  void mlp_activation_backward(const Call&);
  void mlp_down(const Call&);
  void mlp_down_backward(const Call&);
  void mlp_down_weights(const Call&);
  void mlp_reduce(const Call&);
  void mlp_reduce_backward(const Call&);
  void mlp_residual(const Call&);
  void shared_up(const Call&);
  void shared_up_backward(const Call&);
  void shared_up_weights(const Call&);
  void shared_activation(const Call&);
  void shared_activation_backward(const Call&);
  void shared_down(const Call&);
  void shared_down_backward(const Call&);
  void shared_down_weights(const Call&);
  void shared_reduce(const Call&);
  void shared_reduce_backward(const Call&);
  void router_gemm(const Call&);
  void router_gemm_backward(const Call&);
  void router_gemm_weights(const Call&);
  void router(const Call&);
  void router_backward(const Call&);
  void router_balance(const Call&);
  void permute(const Call&);
  void permute_backward(const Call&);
  void dispatch(const Call&);
  void dispatch_backward(const Call&);  // "dispatch.grad"
  void permute_local(const Call&);
  void permute_local_backward(const Call&);
  void experts_up(const Call&);
  void experts_up_backward(const Call&);
  void experts_up_weights(const Call&);
  void experts_activation(const Call&);
  void experts_activation_backward(const Call&);
  void experts_down(const Call&);
  void experts_down_backward(const Call&);
  void experts_down_weights(const Call&);
  void unpermute_local(const Call&);
  void unpermute_local_backward(const Call&);
  void combine(const Call&);
  void combine_backward(const Call&);  // "combine.grad"
  void unpermute(const Call&);
  void unpermute_backward(const Call&);
  // ends (ops_ends.cc)
  void embedding(const Call&);
  void embedding_weights(const Call&);
  void embedding_positions(const Call&);
  void embedding_reduce(const Call&);
  void embedding_gather(const Call&);
  void head_norm(const Call&);
  void head_norm_backward(const Call&);
  void head_gather(const Call&);
  void head(const Call&);
  void head_backward(const Call&);
  void head_weights(const Call&);
  void head_loss(const Call&);
  void head_loss_backward(const Call&);
  void head_loss_reduce(const Call&);
  void head_reduce_backward(const Call&);
  void mtp_norm(const Call&);
  void mtp_norm_backward(const Call&);
  void mtp_projection(const Call&);
  void mtp_projection_backward(const Call&);
  void mtp_projection_weights(const Call&);

  // The state of the op's part, and its weights.
  LayerState& at(const Call& c) const;
  const LayerRefs& refs(const Call& c) const;
  HeadState& head_at(const Call& c) const;
  bool is_moe(const Call& c) const;
  bool has_tp() const { return setting_.plan.tp > 1; }
  bool drops(std::uint32_t module) const;  // a plan::RecomputeModule, selectively
  // The call repeats a part of the forward pass whose result was consumed the first time.
  bool unread(const Call& c) const;
  // Latent vectors gathered for the repeated up-projections serve their weight gradients too.
  bool serves_weights(const Call& c) const;
  void down_weights_done(LayerState& s);
  cpu::Numbers numbers(const Call& c) const;
  void finish_loss(const Call& c, const Tensor& partials);
  std::int64_t local_experts() const;
  bool experts_are_local() const { return setting_.plan.ep == 1; }
  // Rows of each local expert; `counts` holds them where the host knows them.
  GroupedRows expert_rows(const Call& c, std::vector<std::int32_t>& counts) const;
  void dispatch_tables(const Call& c);
  BalanceShape balance_shape() const;

  // Tensors that the op makes: activations, and what is of 32 bits under every plan.
  Tensor make(const Call& c, std::int64_t n) const { return made(c, n, element_); }
  Tensor make_floats(const Call& c, std::int64_t n) const { return made(c, n, Element::Fp32); }
  Tensor make_ints(const Call& c, std::int64_t n) const { return made(c, n, Element::Int32); }
  Tensor made(const Call& c, std::int64_t n, Element e) const {
    return Tensor(meter_, n, {.element = e, .queue = c.q.index()});
  }
  Tensor copied(const Call& c, const Tensor& t) const;
  // Ids `shift` places behind each of the rank's tokens.
  struct Ids {
    std::int32_t* at = nullptr;
    Tensor tensor;                   // on a remote device
    std::vector<std::int32_t> host;  // else
  };
  Ids ids_at(const Call& c, std::int64_t shift) const;

  // y[m, n] = x w^T and its gradients, rounded as the op's numbers ask.
  Tensor product(const Call& c, const Tensor& x, Ref w, std::int64_t m, std::int64_t n,
                 std::int64_t k);
  void product_grad(const Call& c, const Tensor& dy, Ref w, std::int64_t m, std::int64_t n,
                    std::int64_t k, Tensor& dx);  // adds where dx exists
  void weight_grad(const Call& c, const Tensor& dy, const Tensor& x, Ref w, std::int64_t m,
                   std::int64_t n, std::int64_t k);
  void norm(const Call& c, const Tensor& x, Ref w, Ref bias, std::int64_t rows, std::int64_t width,
            Tensor& y, Tensor& stat);
  // Gradient of the norm's input, on top of `skip` where given, which it takes over.
  Tensor norm_grad(const Call& c, const Tensor& dy, const Tensor& x, Ref w, Ref bias,
                   const Tensor& stat, std::int64_t rows, std::int64_t width, Tensor skip);
  Tensor gathered(const Call& c, TensorGroup& group, const Tensor& part, std::int64_t n) const;
  Tensor scattered(const Call& c, TensorGroup& group, const Tensor& whole, std::int64_t n) const;
  // Rows sent to and received from the members of the expert group.
  Tensor exchanged(const Call& c, const Tensor& in, const std::vector<std::size_t>& send,
                   const std::vector<std::size_t>& receive, std::int64_t width);
  void settle(const Call& c, Tensor& t) const;  // onto the bf16 grid where the plan says so
  // Whole context from this rank's slices and back. [batch, seq, width]
  Tensor whole_context(const Call& c, const Tensor& slice, std::int64_t width) const;
  Tensor context_slice(const Call& c, const Tensor& whole, std::int64_t width) const;
  // Regroups rows between "by member, then expert" and "by expert, then member".
  Tensor regrouped(const Call& c, const Tensor& in, std::int64_t width, bool to_experts) const;

  Setting setting_;
  Weights& weights_;
  Groups& groups_;
  Meter& meter_;
  Device& device_;
  std::int64_t batch_, t_, s_, h_, seq_local_;  // sequences, tokens, split tokens, hidden
  std::int64_t heads_, kv_heads_, qk_dim_, v_dim_;
  bool bf16_;
  Element element_;
  std::unique_ptr<RopeOnDevice> rope_;
  // Where the kernels read them: of this rank's tokens, [seq_local] in a sequence and [T].
  Standing<std::int32_t> positions_, token_positions_;
  Standing<double> losses_;  // next tokens', MTP's, those that another rank counts
};

}  // namespace reckon::real
