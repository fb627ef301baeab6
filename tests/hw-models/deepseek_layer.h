// One DeepSeek-V3 MoE layer as its own trainer launches it, forward and backward: every kernel of
// the compute streams in the public DualPipe trace (deepseek-ai/profile-data, train.json; H800,
// EP64, 4096 tokens), neighbours of one kind in one op. Bytes are what each op reads and
// writes.
//
//   T tokens, h hidden, H heads of dn + dr for q and k and dv for v, Q and L ranks of the latents,
//   f width of an expert, E experts, El of them local with R rows in all, U distinct tokens
//   received, q bytes of an fp8 value with its scale.
//
// Two ops have no bytes that explain them and are given as equivalent traffic: expert.map (4-block
// kernels that build the row mapping, 17 kB per received token) and router.choose (radix selects
// over the T x E scores, 60 passes; 22 backwards).
#pragma once

#include <string>
#include <vector>

#include "sim/work.h"

namespace reckon::test {

struct TracedOp {
  const char* phase;  // as the trainer annotates its blocks
  const char* label;
  const char* category;  // as in the summary of the trace below
  sim::Work work;
};

// Exclusive time of 4 layers forward and backward, ms, and the part of it during which a dispatch
// or combine held 20 of the 132 SMs.
struct TracedCategory {
  const char* name;
  double ms, shared;
};
inline constexpr TracedCategory kTracedCategories[] = {{"attention forward", 4.948, 0.92},
                                                       {"attention backward", 17.017, 0.91},
                                                       {"dense forward", 8.281, 0.67},
                                                       {"dense recompute", 2.471, 0.39},
                                                       {"dense input grad", 8.086, 0.40},
                                                       {"dense weight grad", 11.759, 0.23},
                                                       {"grouped forward", 11.591, 0.80},
                                                       {"grouped input grad", 11.335, 0.54},
                                                       {"grouped weight grad", 15.735, 0.73},
                                                       {"quantise", 15.064, 0.59},
                                                       {"norm", 3.448, 0.32},
                                                       {"elementwise", 7.591, 0.59},
                                                       {"permute", 5.067, 0.68},
                                                       {"router", 1.893, 0.20}};

inline std::vector<TracedOp> deepseek_layer() {
  using sim::DType, sim::MemoryKind, sim::Pass;
  constexpr std::int64_t T = 4096, h = 7168, H = 128, dn = 128, dr = 64, dv = 128, Q = 1536,
                         L = 512, f = 2048, E = 256, El = 4, R = 32768, U = 30686;
  constexpr double q = 1 + 4. / 128;
  std::vector<TracedOp> ops;
  const char* phase = "";

  const auto pass_name = [](Pass pass) {
    return pass == Pass::Forward ? 0 : pass == Pass::InputGrad ? 1 : 2;
  };
  const auto dense = [&](const char* label, Pass pass, std::int64_t n, std::int64_t k,
                         bool recompute = false) {
    constexpr const char* names[] = {"dense forward", "dense input grad", "dense weight grad"};
    ops.push_back({phase, label, recompute ? "dense recompute" : names[pass_name(pass)],
                   sim::MatMul{.m = T, .n = n, .k = k, .pass = pass, .dtype = DType::Fp8Block}});
  };
  const auto grouped = [&](const char* label, Pass pass, std::int64_t n, std::int64_t k) {
    constexpr const char* names[] = {"grouped forward", "grouped input grad",
                                     "grouped weight grad"};
    ops.push_back(
        {phase, label, names[pass_name(pass)],
         sim::GroupedMatMul{
             .groups = El, .m = R, .n = n, .k = k, .pass = pass, .dtype = DType::Fp8Block}});
  };
  const auto router = [&](const char* label, Pass pass, std::int64_t n, std::int64_t k) {
    ops.push_back({phase, label, "router", sim::MatMul{.m = T, .n = n, .k = k, .pass = pass}});
  };
  const auto attention = [&](const char* label, bool backward) {
    ops.push_back({phase, label, backward ? "attention backward" : "attention forward",
                   sim::Attention{.heads = H,
                                  .kv_heads = H,
                                  .seq_q = T,
                                  .seq_k = T,
                                  .qk_dim = dn + dr,
                                  .v_dim = dv,
                                  .backward = backward}});
  };
  const auto memory = [&](const char* label, MemoryKind kind, int kernels, double bytes) {
    const char* name = kind == MemoryKind::Norm          ? "norm"
                       : kind == MemoryKind::Quantise    ? "quantise"
                       : kind == MemoryKind::Elementwise ? "elementwise"
                       : kind == MemoryKind::Permute     ? "permute"
                                                         : "router";
    ops.push_back({phase, label, name,
                   sim::MemoryBound{.kind = kind, .traffic = Bytes(bytes), .kernels = kernels}});
  };

  phase = "attn(F)";
  memory("attn.norm", MemoryKind::Norm, 1, 8 * T * h);
  memory("attn.quantise_x", MemoryKind::Quantise, 4, 2 * (2 + q) * T * h);
  dense("attn.q_a", Pass::Forward, Q, h);
  dense("attn.kv_a", Pass::Forward, L + dr, h);
  memory("attn.latent_norm", MemoryKind::Norm, 2, 4 * T * (Q + L));
  memory("attn.latent_copies", MemoryKind::Elementwise, 5, 4 * T * (L + dr) + 4 * T * dr);
  memory("attn.quantise_latent", MemoryKind::Quantise, 4, (2 + q) * T * (Q + L));
  dense("attn.q_b", Pass::Forward, H * (dn + dr), Q);
  dense("attn.kv_b", Pass::Forward, H * (dn + dv), L);
  memory("attn.assemble_k", MemoryKind::Elementwise, 2, 4 * T * H * dn + 2 * T * H * dr);
  memory("attn.rope", MemoryKind::Elementwise, 1, 4 * T * H * dr);
  attention("attn.core", false);
  memory("attn.pack_out", MemoryKind::Quantise, 1, (2 + 1.5) * T * H * dv);
  memory("attn.quantise_out", MemoryKind::Quantise, 2, (2 + q) * T * H * dv);
  dense("attn.o", Pass::Forward, h, H * dv);
  memory("attn.scale", MemoryKind::Elementwise, 1, 4 * T * h);
  memory("mlp.norm", MemoryKind::Norm, 1, 8 * T * h);
  router("router.gemm", Pass::Forward, E, h);
  memory("router.choose", MemoryKind::Router, 38, 60 * 4 * T * E);
  memory("mlp.quantise_x", MemoryKind::Quantise, 1, (2 + q) * T * h);
  phase = "mlp(F)";
  dense("shared.w13", Pass::Forward, 2 * f, h);
  memory("expert.map", MemoryKind::Permute, 2, 17000 * U);
  memory("expert.expand", MemoryKind::Permute, 1, 2 * q * R * h);
  memory("expert.weights_t", MemoryKind::Quantise, 2, 2 * El * 3 * f * h);
  memory("expert.scales_t", MemoryKind::Quantise, 4,
         2 * R * (h + f) / 128 * 4 + 2 * T * (h + f) / 128 * 4);
  grouped("expert.w13", Pass::Forward, 2 * f, h);
  memory("expert.swiglu", MemoryKind::Elementwise, 2, (4 + q) * R * f);
  grouped("expert.w2", Pass::Forward, h, f);
  memory("expert.reduce", MemoryKind::Permute, 1, 2 * R * h + 2 * U * h);
  memory("shared.swiglu", MemoryKind::Elementwise, 1, (4 + q) * T * f);
  dense("shared.w2", Pass::Forward, h, f);
  memory("expert.save_h", MemoryKind::Quantise, 1, (2 + q) * R * 2 * f);
  memory("shared.save_h", MemoryKind::Quantise, 1, (2 + q) * T * 2 * f);
  phase = "mlp(B)";
  memory("shared.load_h", MemoryKind::Quantise, 1, (2 + q) * T * 2 * f);
  memory("shared.w2_t", MemoryKind::Quantise, 2, 2 * h * f);
  dense("shared.w2", Pass::InputGrad, h, f);
  memory("shared.dy_t", MemoryKind::Quantise, 1, 2 * T * h);
  memory("shared.swiglu", MemoryKind::Elementwise, 2, (4 + 1) * T * f + (4 + 2 + 4) * T * f);
  memory("expert.load_h", MemoryKind::Quantise, 1, (2 + q) * R * 2 * f);
  memory("expert.expand_dy", MemoryKind::Permute, 1, 2 * q * R * h);
  memory("expert.scales_t", MemoryKind::Quantise, 2, 2 * R * (h + 2 * f) / 128 * 4);
  grouped("expert.w2", Pass::InputGrad, h, f);
  memory("expert.swiglu", MemoryKind::Elementwise, 3, (4 + 2 + 4 + 2) * R * f + 2 * 2 * R * f / 2);
  memory("expert.a_t", MemoryKind::Quantise, 1, 3 * R * f);
  memory("mlp.norm", MemoryKind::Norm, 1, 4 * T * h);
  memory("mlp.quantise_x", MemoryKind::Quantise, 1, (2 + q) * T * h);
  memory("expert.quantise_dh", MemoryKind::Quantise, 1, (2 + q) * R * 2 * f);
  grouped("expert.w13", Pass::InputGrad, 2 * f, h);
  memory("expert.reduce_dx", MemoryKind::Permute, 1, 2 * R * h + 2 * U * h);
  memory("expert.dh_t", MemoryKind::Quantise, 1, 3 * R * 2 * f);
  memory("mlp.dequantise_x", MemoryKind::Quantise, 1, (2 + q) * T * h);
  memory("shared.w13_t", MemoryKind::Quantise, 1, 2 * 2 * f * h);
  memory("shared.quantise_dh", MemoryKind::Quantise, 2, (2 + q) * T * 2 * f);
  dense("shared.w13", Pass::InputGrad, 2 * f, h);
  memory("shared.dh_t", MemoryKind::Quantise, 1, 3 * T * 2 * f);
  memory("mlp.x_t", MemoryKind::Quantise, 1, 3 * T * h);
  phase = "mlp(W)";
  dense("shared.w2", Pass::WeightGrad, h, f);
  memory("expert.gather_dy_t", MemoryKind::Quantise, 1, (q + 1) * R * h);
  grouped("expert.w2", Pass::WeightGrad, h, f);
  memory("expert.gather_x_t", MemoryKind::Quantise, 1, (q + 1) * R * h);
  grouped("expert.w13", Pass::WeightGrad, 2 * f, h);
  dense("shared.w13", Pass::WeightGrad, 2 * f, h);
  phase = "attn(B)";
  memory("router.backward", MemoryKind::Router, 25, 22 * 4 * T * E);
  router("router.gemm", Pass::InputGrad, E, h);
  router("router.gemm", Pass::WeightGrad, E, h);
  memory("mlp.add_dx", MemoryKind::Elementwise, 1, 6 * T * h);
  memory("mlp.norm", MemoryKind::Norm, 2, 8 * T * h);
  memory("attn.scale", MemoryKind::Elementwise, 2, 4 * T * h);
  memory("attn.unpack_out", MemoryKind::Quantise, 1, (1.5 + 2) * T * H * dv);
  memory("attn.quantise_dy", MemoryKind::Quantise, 2, (2 + q) * T * h);
  memory("attn.o_t", MemoryKind::Quantise, 1, 2 * h * H * dv);
  dense("attn.o", Pass::InputGrad, h, H * dv);
  memory("attn.o_operands_t", MemoryKind::Quantise, 2, 3 * T * H * dv + 3 * T * h);
  memory("attn.latent_norm", MemoryKind::Norm, 2, 4 * T * (Q + L));
  memory("attn.latent_copies", MemoryKind::Elementwise, 2, 4 * T * (L + dr));
  memory("attn.quantise_latent", MemoryKind::Quantise, 4, (2 + q) * T * (Q + L));
  dense("attn.q_b", Pass::Forward, H * (dn + dr), Q, true);
  dense("attn.kv_b", Pass::Forward, H * (dn + dv), L, true);
  memory("attn.assemble_k", MemoryKind::Elementwise, 2, 4 * T * H * dn + 2 * T * H * dr);
  memory("attn.rope", MemoryKind::Elementwise, 1, 4 * T * H * dr);
  attention("attn.core", true);
  memory("attn.rope_grad", MemoryKind::Elementwise, 1, 4 * T * H * dr);
  memory("attn.q_b_t", MemoryKind::Quantise, 1, 2 * Q * H * (dn + dr));
  memory("attn.quantise_dq", MemoryKind::Quantise, 2, (2 + q) * T * H * (dn + dr));
  dense("attn.q_b", Pass::InputGrad, H * (dn + dr), Q);
  memory("attn.split_dkv", MemoryKind::Elementwise, 4, 2 * T * H * dr + 4 * T * H * (dn + dv));
  memory("attn.kv_b_t", MemoryKind::Quantise, 1, 2 * L * H * (dn + dv));
  memory("attn.quantise_dkv", MemoryKind::Quantise, 2, (2 + q) * T * H * (dn + dv));
  dense("attn.kv_b", Pass::InputGrad, H * (dn + dv), L);
  memory("attn.b_operands_t", MemoryKind::Quantise, 4,
         3 * T * H * (dn + dv) + 3 * T * L + 3 * T * H * (dn + dr) + 3 * T * Q);
  memory("attn.latent_norm_grad", MemoryKind::Norm, 4, 8 * T * (Q + L));
  memory("attn.assemble_dkv_a", MemoryKind::Elementwise, 7, 5 * 4 * T * (L + dr));
  memory("attn.norm", MemoryKind::Norm, 1, 4 * T * h);
  memory("attn.quantise_dlatent", MemoryKind::Quantise, 4, (2 + q) * T * (Q + L + dr));
  memory("attn.a_t", MemoryKind::Quantise, 2, 2 * h * (Q + L + dr));
  dense("attn.kv_a", Pass::InputGrad, L + dr, h);
  memory("attn.a_operands_t", MemoryKind::Quantise, 4, 2 * 3 * T * h + 3 * T * (Q + L + dr));
  dense("attn.q_a", Pass::InputGrad, Q, h);
  memory("attn.add_dx", MemoryKind::Elementwise, 1, 6 * T * h);
  memory("attn.norm_grad", MemoryKind::Norm, 3, 8 * T * h);
  phase = "attn(W)";
  dense("attn.o", Pass::WeightGrad, h, H * dv);
  dense("attn.kv_b", Pass::WeightGrad, H * (dn + dv), L);
  dense("attn.q_b", Pass::WeightGrad, H * (dn + dr), Q);
  dense("attn.kv_a", Pass::WeightGrad, L + dr, h);
  dense("attn.q_a", Pass::WeightGrad, Q, h);
  return ops;
}

}  // namespace reckon::test
