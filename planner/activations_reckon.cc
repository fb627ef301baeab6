// The rows follow real/ops_*.cc op by op; tests/real/memory_test.cc holds them against the bytes
// that the trainer counts. S, T, h, C and R are those of real/pass.h.
//
// Routed rows R are those of the busiest rank, Stack::expert_imbalance times the mean. Only what
// experts receive, keep and return grows with them; with one rank per expert group R = C whatever
// the routing.
#include "planner/activations_reckon.h"

#include "sim/check.h"

namespace reckon::plan {

namespace {

using Role = TrainerTensor::Role;

Moment F(const char* label) {
  return {label, 'F'};
}
Moment B(const char* label) {
  return {label, 'B'};
}
Moment W(const char* label) {
  return {label, 'W'};
}

class Tensors {
 public:
  Tensors(const ModelShape& m, const Plan& p, const hw::Stack& stack, int seq) : m_(m), p_(p) {
    imbalance_ = p.ep > 1 ? stack.expert_imbalance : 1;
    batch_ = p.micro_batch;
    t_ = batch_ * seq / p.cp;
    s_ = t_ / p.tp;
    h_ = m.hidden;
    heads_ = static_cast<double>(m.heads) / p.tp;
    kv_heads_ = m.mla ? heads_ : static_cast<double>(m.kv_heads) / p.tp;
    qk_ = m.mla ? m.mla->qk_nope + m.mla->qk_rope : m.head_dim;
    v_ = m.mla ? m.mla->v : m.head_dim;
    stat_ = m.norm == Norm::LayerNorm ? 2 : 1;
    gates_ = is_gated(m.mlp) ? 2 : 1;
    tp_ = p.tp > 1;
    narrow_ = trainer_narrow_bytes(p, stack) / 4;
  }

  std::vector<TrainerTensor> take() { return std::move(out_); }

  void attention(bool mtp) {
    // An MTP layer's input is made by its projection.
    add({.name = "x",
         .elements = s_ * h_,
         .made = mtp ? F("mtp.projection") : Moment{},
         .last = B("attn.norm"),
         .role = Role::Input});
    add_wide({"n1 statistics", s_ * stat_, F("attn.norm"), B("attn.norm"), {}, kNorm});
    m_.mla ? latent() : grouped();
    if (p_.cp > 1) context();
    add({"o", t_ * heads_ * v_, F("attn.core"), W("attn.out")});
    add_wide({"log-sum-exp", t_ * heads_, F("attn.core"), B("attn.core"), {}, kCoreAttention});
    if (tp_) add({"y, whole", t_ * h_, F("attn.out"), F("attn.reduce")});
    add({"x_mid", s_ * h_, F(tp_ ? "attn.reduce" : "attn.out"), B("mlp.norm")});
    add_wide({"n2 statistics", s_ * stat_, F("mlp.norm"), B("mlp.norm"), {}, kNorm});

    const bool read_again = !tp_ || m_.linear_bias;
    add({.name = "d_mid",
         .elements = s_ * h_,
         .made = B("mlp.norm"),
         .last = B("attn.norm"),
         .last2 = read_again ? W("attn.out") : Moment{},
         .overwritten = true});
    if (tp_) add({"d_mid, whole", t_ * h_, B("attn.gather"), W("attn.out")});
    add({"d_o", t_ * heads_ * v_, B("attn.out"), B("attn.core")});
    if (mtp)
      add({.name = "d_x",
           .elements = s_ * h_,
           .made = B("attn.norm"),
           .last = W("mtp.projection")});
  }

  void dense() {
    const double f = static_cast<double>(m_.ffn) / p_.tp;
    add({"n2", s_ * h_, F("mlp.norm"), tp_ ? B("mlp.regather") : W("mlp.up"), {}, kNorm});
    if (tp_) {
      add({"n2, whole", t_ * h_, F("mlp.gather"), F("mlp.up")});
      add({"n2, whole again", t_ * h_, B("mlp.regather"), W("mlp.up")});
    }
    add({"up", t_ * gates_ * f, F("mlp.up"), B("mlp.activation"), {}, kMlp});
    add({"act", t_ * f, F("mlp.activation"), W("mlp.down"), {}, kActivation | kMlp});
    if (drops(kMlp) && !drops(kActivation))
      add({"act again", t_ * f, B("mlp.activation"), W("mlp.down")});
    if (tp_) add({"mlp_out, whole", t_ * h_, F("mlp.down"), F("mlp.reduce")});
    output(tp_ ? "mlp.reduce" : "mlp.down");

    output_grad(!tp_ || m_.linear_bias, "mlp.down");
    if (tp_) add({"d_out, whole", t_ * h_, B("mlp.gather"), W("mlp.down")});
    add({"d_act", t_ * f, B("mlp.down"), B("mlp.activation")});
    add({"d_up", t_ * gates_ * f, B("mlp.activation"), W("mlp.up")});
    reduced("d_n2", h_, "mlp.up", "mlp.reduce", B("mlp.norm"));
  }

  void mixture() {
    const Moe& e = *m_.moe;
    const double copies = s_ * e.top_k, rows = copies * imbalance_;
    const double f = e.ffn, experts = e.experts;
    const bool shared = e.shared_ffn > 0, exchanged = p_.ep > 1, several = e.experts > p_.ep;
    add({.name = "n2",
         .elements = s_ * h_,
         .made = F("mlp.norm"),
         .last = W("router.gemm"),
         .last2 = shared && !tp_ ? W("shared.up") : Moment{},
         .dropped_by = kNorm});
    add_wide({"logits", s_ * experts, F("router.gemm"), F("router")});
    add_wide({"scores", s_ * experts, F("router"), B("router")});
    add_wide({"chosen and weights", 2 * copies, F("router"), B("router")});
    add_wide({"balance", 2 * batch_ * experts, F("router"), B("router")});
    add_wide({.name = "token_of",
              .elements = copies,
              .made = F("permute"),
              .last = B("unpermute"),
              .unread_again = true});
    add_wide({"copy_of", copies, F("permute"), B("router"), {}, kMoe});
    // Rows on their way to the experts; the last of the steps that there are makes `rows`.
    const char* from = "permute";
    const double row = h_ + 1 / narrow_;  // with its routing weight, of 32 bits
    if (exchanged) {
      add({"sent", copies * row, F(from), F("dispatch")});
      from = "dispatch";
    }
    if (several) {
      add({"arrived", rows * row, F(from), F("permute.local")});
      from = "permute.local";
    }
    add({"rows", rows * h_, F(from), W("experts.up"), {}, kMoe});
    add_wide({"row weights", rows, F(from), B("experts.activation"), {}, kMoe});
    add({"e_up", rows * gates_ * f, F("experts.up"), B("experts.activation"), {}, kMoe});
    add({"e_act", rows * f, F("experts.activation"), W("experts.down"), {}, kActivation | kMoe});
    // And back.
    const auto back = [&](const char* name, double n, const char* made, const char* read) {
      add({.name = name,
           .elements = n,
           .made = F(made),
           .last = F(read),
           .unread_again = read == kUnpermute});
    };
    back("e_out", rows * h_, "experts.down",
         several     ? "unpermute.local"
         : exchanged ? "combine"
                     : kUnpermute);
    if (several) back("left", rows * h_, "unpermute.local", exchanged ? "combine" : kUnpermute);
    if (exchanged) back("returned", copies * h_, "combine", kUnpermute);
    output("unpermute");

    output_grad(shared && !tp_, "shared.down");
    from = "unpermute";
    if (exchanged) {
      add({"d_sent", copies * h_, B(from), B("combine.grad")});
      from = "combine.grad";
    }
    if (several) {
      add({"d_arrived", rows * h_, B(from), B("permute.local")});
      from = "permute.local";
    }
    add({"d_rows", rows * h_, B(from), W("experts.down")});
    add({"d_e_act", rows * f, B("experts.down"), B("experts.activation")});
    add({"d_e_up", rows * gates_ * f, B("experts.activation"), W("experts.up")});
    const char* taken = several ? "unpermute.local" : exchanged ? "dispatch.grad" : nullptr;
    add({"d_in_rows", rows * h_, B("experts.up"), B(taken ? taken : "permute")});
    add_wide({"d_row weights", rows, B("experts.activation"), B(taken ? taken : "router")});
    if (several) {
      add({"d_left", rows * h_, B("unpermute.local"), B(exchanged ? "dispatch.grad" : "permute")});
      add_wide({"d_left weights", rows, B("unpermute.local"),
                B(exchanged ? "dispatch.grad" : "router")});
    }
    if (exchanged) {
      add({"d_back", copies * h_, B("dispatch.grad"), B("permute")});
      add_wide({"d_back weights", copies, B("dispatch.grad"), B("router")});
    }
    add_wide({"d_logits", s_ * experts, B("router"), W("router.gemm")});
    add_wide({"d_scores", copies + s_ * experts, B("router"), B("router")});
    if (shared)
      shared_experts(static_cast<double>(e.shared_ffn) / p_.tp);
    else
      add({"d_n2", s_ * h_, B("permute"), B("mlp.norm")});
  }

  void mtp() {
    embedding("embedded", B("mtp.norm"), Role::Own);
    add({"joined", 2 * s_ * h_, F("mtp.norm"), W("mtp.projection")});
    add_wide({"joined statistics", 2 * s_ * stat_, F("mtp.norm"), B("mtp.norm")});
    add({"norms to join", 2 * s_ * h_, F("mtp.norm"), F("mtp.norm")});
    add({.name = "d_joined",
         .elements = 2 * s_ * h_,
         .made = B("mtp.projection"),
         .last = B("mtp.norm"),
         .overwritten = true});
    add({"halves of d_joined", 2 * s_ * h_, B("mtp.norm"), B("mtp.norm")});
    embedding_grad("d_embedded", B("mtp.norm"), Role::Own);
  }

  // `made`: empty where it is received.
  void embedding(const char* name, Moment last, Role role) {
    if (tp_) add({"embedded, whole", t_ * h_, F("embedding"), F("embedding.reduce")});
    add({.name = name,
         .elements = s_ * h_,
         .made = F(tp_ ? "embedding.reduce" : "embedding"),
         .last = last,
         .role = role});
  }
  void embedding_grad(const char* name, Moment made, Role role) {
    add({.name = name,
         .elements = s_ * h_,
         .made = made,
         .last = W(tp_ ? "embedding.gather" : "embedding"),
         .role = role});
    if (tp_) add({"d_embedded, whole", t_ * h_, W("embedding.gather"), W("embedding")});
  }

  void ends(const ChunkLayout& chunk) {
    if (chunk.embedding) {
      embedding("input", {}, Role::Input);
      embedding_grad("d_input", {}, Role::InputGrad);
      if (m_.positions == Positions::Learned)
        add({"positions", t_ * h_, F("embedding.positions"), F("embedding.positions")});
    } else {
      add({.name = "input", .elements = s_ * h_, .made = {}, .last = {}, .role = Role::Input});
      add({.name = "d_input",
           .elements = s_ * h_,
           .made = {},
           .last = {},
           .role = Role::InputGrad});
    }
    if (chunk.head) head();
  }

  void head() {
    const double logits = t_ * static_cast<double>(m_.vocab) / p_.tp;
    add({"n", s_ * h_, F("head.norm"), tp_ ? F("head.gather") : W("head")});
    add_wide({"n statistics", s_ * stat_, F("head.norm"), B("head.norm")});
    if (tp_) add({"n, whole", t_ * h_, F("head.gather"), W("head")});
    add({"logits", logits, F("head"), W("head")});
    add_wide({"partial losses", 3 * t_, F("head.loss"), F(tp_ ? "head.loss.reduce" : "head.loss")});
    add_wide({"loss log-sum-exp", t_, F("head.loss"), B("head.loss")});
    reduced("d_n", h_, "head", "head.reduce", B("head.norm"));
  }

 private:
  static constexpr const char* kUnpermute = "unpermute";

  void add(TrainerTensor t) {
    t.elements *= narrow_;
    out_.push_back(t);
  }
  // Of 32 bits under every plan.
  void add_wide(const TrainerTensor& t) { out_.push_back(t); }

  bool drops(std::uint32_t module) const {
    return p_.recompute.mode == Recompute::Mode::Selective && (p_.recompute.modules & module) != 0;
  }

  void output(const char* made) {
    add({.name = "out", .elements = s_ * h_, .made = F(made), .last = {}, .role = Role::Output});
  }
  void output_grad(bool read_again, const char* down) {
    add({.name = "d_out",
         .elements = s_ * h_,
         .made = {},
         .last = B("mlp.norm"),
         .last2 = read_again ? W(down) : Moment{},
         .overwritten = true,
         .role = Role::OutputGrad});
  }
  // Made for all tokens by each tensor-parallel rank, then summed into a rank's share.
  void reduced(const char* name, double width, const char* made, const char* reduce, Moment last) {
    if (tp_) add({"sum to reduce", t_ * width, B(made), B(reduce)});
    add({.name = name, .elements = s_ * width, .made = B(tp_ ? reduce : made), .last = last});
  }

  void grouped() {
    const double q = t_ * heads_ * qk_, kv = t_ * kv_heads_ * qk_;
    add({"n1", s_ * h_, F("attn.norm"), tp_ ? B("attn.regather") : W("attn.qkv"), {}, kNorm});
    if (tp_) {
      add({"n1, whole", t_ * h_, F("attn.gather"), F("attn.qkv")});
      add({"n1, whole again", t_ * h_, B("attn.regather"), W("attn.qkv")});
    }
    if (m_.qk_norm) {
      add({"q, k before norms", q + kv, F("attn.qkv"), B("attn.qk_norm")});
      add_wide({"q, k statistics", t_ * (heads_ + kv_heads_) * stat_, F("attn.qk_norm"),
                B("attn.qk_norm")});
      add({"d_q before norm", q, B("attn.qk_norm"), B("attn.qk_norm")});
    }
    add({"q, k", q + kv, F(m_.qk_norm ? "attn.qk_norm" : "attn.qkv"), B("attn.core")});
    add({"v", kv, F("attn.qkv"), B("attn.core")});
    add({"d_q", q, B("attn.core"), W("attn.qkv")});
    add({"d_k, d_v", 2 * kv, B(p_.cp > 1 ? "attn.context.reduce" : "attn.core"), W("attn.qkv")});
    reduced("d_n1", h_, "attn.qkv", "attn.reduce", B("attn.norm"));
  }

  void latent() {
    const Mla& a = *m_.mla;
    const double q = t_ * heads_ * qk_, v = t_ * heads_ * v_;
    const bool compressed = a.q_lora > 0;
    add({"n1", s_ * h_, F("attn.norm"), W(compressed ? "attn.q_down" : "attn.kv_down"), {}, kNorm});
    if (compressed) {
      add({"q_low", s_ * a.q_lora, F("attn.q_down"), B("attn.q_norm")});
      add_wide({"q_low statistics", s_ * stat_, F("attn.q_norm"), B("attn.q_norm")});
      up_input("q_lat", a.q_lora, "attn.q_norm", "attn.q_up");
      reduced("d_q_lat", a.q_lora, "attn.q_up", "attn.reduce", B("attn.q_norm"));
      add({"d_q_low", s_ * a.q_lora, B("attn.q_norm"), W("attn.q_down")});
    }
    add({"kv_low", s_ * a.kv_lora, F("attn.kv_down"), B("attn.kv_norm")});
    add_wide({"kv_low statistics", s_ * stat_, F("attn.kv_norm"), B("attn.kv_norm")});
    up_input("kv_lat", a.kv_lora, "attn.kv_norm", "attn.kv_up");
    rotary_key(a.qk_rope);
    add({"q", q, F("attn.q_up"), B("attn.core"), {}, kMlaUp});
    add({"kv", t_ * heads_ * (a.qk_nope + a.v), F("attn.kv_up"), F("attn.assemble")});
    add({"k, v", q + v, F("attn.assemble"), B("attn.core"), {}, kMlaUp});

    add({"d_q", q, B("attn.core"), W("attn.q_up")});
    add({"d_k, d_v", q + v, B(p_.cp > 1 ? "attn.context.reduce" : "attn.core"),
         B("attn.assemble")});
    add({"d_kv", t_ * heads_ * (a.qk_nope + a.v), B("attn.assemble"), W("attn.kv_up")});
    reduced("d_k_rot", a.qk_rope, "attn.assemble", "attn.reduce", W("attn.kv_down"));
    reduced("d_kv_lat", a.kv_lora, "attn.kv_up", "attn.reduce", B("attn.kv_norm"));
    add({"d_kv_low", s_ * a.kv_lora, B("attn.kv_norm"), W("attn.kv_down")});
    add({"d_n1", s_ * h_, B(compressed ? "attn.kv_down" : "attn.q_up"), B("attn.norm")});
  }

  // The input of an up-projection, gathered where tensor-parallel ranks share it.
  void up_input(const char* name, double width, const char* norm, const char* up) {
    add({name, s_ * width, F(norm), tp_ ? B("attn.regather") : W(up), {}, kMlaUp});
    if (!tp_) return;
    add({"latents, whole", t_ * width, F("attn.gather"), F(up)});
    add({"latents, whole again", t_ * width, B("attn.regather"), W(up)});
  }

  void rotary_key(double width) {
    if (tp_) {
      add({"k_rot", s_ * width, F("attn.kv_down"), B("attn.regather")});
      add({"k_rot, whole", t_ * width, F("attn.gather"), F("attn.assemble")});
      add({"k_rot, whole again", t_ * width, B("attn.regather"),
           drops(kMlaUp) ? F("attn.assemble") : B("attn.regather")});
    } else if (drops(kMlaUp)) {
      add({"k_rot", s_ * width, F("attn.kv_down"), B("attn.assemble")});
      add({"k_turned", t_ * width, F("attn.rope"), F("attn.assemble")});
    } else {
      add({"k_rot", s_ * width, F("attn.kv_down"), F("attn.assemble")});
    }
  }

  // Keys and values of the whole context. One of the two is put in order at a time.
  void context() {
    const double k = t_ * kv_heads_ * qk_, v = t_ * kv_heads_ * v_, n = p_.cp;
    add({"k, v, whole", n * (k + v), F("attn.context.gather"), F("attn.core")});
    add({"v by rank", n * v, F("attn.context.gather"), F("attn.context.gather")});
    add({"k, v, whole again", n * (k + v), B("attn.context.regather"), B("attn.core")});
    add({"v by rank again", n * v, B("attn.context.regather"), B("attn.context.regather")});
    add({"d_k, d_v, whole", n * (k + v), B("attn.core"), B("attn.context.reduce")});
    add({"d_k by rank", n * k - v, B("attn.context.reduce"), B("attn.context.reduce")});
  }

  void shared_experts(double f) {
    if (tp_) {
      add({"n2, whole", t_ * h_, F("shared.gather"), F("shared.up")});
      add({"n2, whole again", t_ * h_, B("shared.regather"), W("shared.up")});
      add({"s_out, whole", t_ * h_, F("shared.down"), F("shared.reduce")});
      add({"d_out, whole", t_ * h_, B("shared.gather"), W("shared.down")});
    }
    add({"s_up", t_ * gates_ * f, F("shared.up"), B("shared.activation"), {}, kMoe});
    add({"s_act", t_ * f, F("shared.activation"), W("shared.down"), {}, kActivation | kMoe});
    if (drops(kActivation) && !drops(kMoe))
      add({"s_act again", t_ * f, B("shared.activation"), W("shared.down")});
    add({.name = "s_out",
         .elements = s_ * h_,
         .made = F(tp_ ? "shared.reduce" : "shared.down"),
         .last = F("mlp.residual"),
         .unread_again = true});
    add({"d_s_act", t_ * f, B("shared.down"), B("shared.activation")});
    add({"d_s_up", t_ * gates_ * f, B("shared.activation"), W("shared.up")});
    reduced("d_n2", h_, "shared.up", "shared.reduce", B("mlp.norm"));
  }

  const ModelShape& m_;
  const Plan& p_;
  double imbalance_, batch_, t_, s_, h_, heads_, kv_heads_, qk_, v_, stat_, gates_;
  double narrow_;  // of four bytes, what an activation takes
  bool tp_;
  std::vector<TrainerTensor> out_;
};

}  // namespace

double trainer_narrow_bytes(const Plan& p, const hw::Stack& stack) {
  return p.precision == Precision::Fp32 ? 4 : stack.logit_bytes.si;
}

std::vector<TrainerTensor> trainer_layer(const ModelShape& m, const Plan& p, const hw::Stack& stack,
                                         int seq, bool moe) {
  check(!moe || m.moe.has_value(), "a mixture layer needs Moe");
  Tensors t(m, p, stack, seq);
  t.attention(false);
  moe ? t.mixture() : t.dense();
  return t.take();
}

std::vector<TrainerTensor> trainer_mtp(const ModelShape& m, const Plan& p, const hw::Stack& stack,
                                       int seq) {
  Tensors t(m, p, stack, seq);
  t.attention(true);
  is_moe_layer(m, m.layers - 1) ? t.mixture() : t.dense();
  t.mtp();
  t.head();
  return t.take();
}

std::vector<TrainerTensor> trainer_ends(const ModelShape& m, const Plan& p, const hw::Stack& stack,
                                        int seq, const ChunkLayout& chunk) {
  Tensors t(m, p, stack, seq);
  t.ends(chunk);
  return t.take();
}

}  // namespace reckon::plan
