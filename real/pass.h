// What one micro-batch's pass through one chunk keeps between ops. Shapes: T tokens of the rank's
// context slice, S = T / tp of its sequence-parallel share, h hidden, H heads and G key-value heads
// of the rank, E experts of the model, R token copies that the rank's experts receive, C copies
// that its own tokens send (S top_k). `all`: gathered over tensor-parallel ranks, [T, .]. Each
// tensor goes with the op that reads it last; planner/activations_reckon.cc has the table.
#pragma once

#include <vector>

#include "real/storage.h"

namespace reckon::real {

struct LayerState {
  // Attention, forward.
  Tensor x;                                        // [S, h] the layer's input
  Tensor n1, n1_stat, n1_all;                      // its norm
  Tensor q_raw, k_raw, q_raw_stat, k_raw_stat;     // before norms on heads (qk_norm)
  Tensor q_low, q_low_stat, q_lat, q_lat_all;      // MLA: [S, q_lora] before and after its norm
  Tensor kv_low, kv_low_stat, kv_lat, kv_lat_all;  // [S, kv_lora]
  Tensor k_rot, k_rot_all, k_turned;               // [S, qk_rope]; rotated [T, qk_rope]
  Tensor kv;                                       // [T, H (qk_nope + v)]
  Tensor q, k, v;                                  // [T, H d], [T, G d], [T, G d]
  Tensor k_all, v_all;                             // [batch, seq, G d] of the whole context
  Tensor o, lse;                                   // [T, H v], [batch, H, T / batch]
  Tensor y;                                        // attention's contribution, until the residual
  Tensor x_mid;                                    // [S, h] behind the attention
  Tensor n2, n2_stat, n2_all;
  // Dense MLP.
  Tensor up, act, mlp_out;  // [T, 2 f] or [T, f], [T, f], [T or S, h]
  // Mixture.
  Tensor logits, scores, chosen, weight;  // [S, E], [S, E], [S, k], [S, k]
  Tensor balance;                         // [batch, 2 E] token counts and sums of normalised scores
  Tensor token_of;                        // [C] the token of each sorted copy
  Tensor copy_of;                         // [S, k] where each copy sits
  Tensor sent, sent_weight;               // [C, h], [C] sorted by expert
  // On a remote device: copies of each expert of the model [E], where each local expert's rows
  // begin, and where rows stand by expert and by member; see Queue::regroup.
  Tensor expert_counts, expert_offsets, by_expert, by_member;
  std::vector<std::size_t> send_counts, receive_counts;  // copies per member of the expert group
  std::vector<std::int32_t> received_per;                // [member, local expert]
  Tensor arrived, arrived_weight;                        // [R, h], [R] by member, then expert
  Tensor rows, row_weight;                               // [R, h], [R] by expert, then member
  Tensor e_up, e_act, e_out;                             // [R, 2 F], [R, F] weighted, [R, h]
  Tensor left;                                           // [R, h] results by member, then expert
  Tensor returned;                                       // [C, h]
  Tensor moe_out;                                        // [S, h]
  Tensor s_up, s_act, s_out;                             // shared experts
  Tensor out;                                            // [S, h] the layer's output

  // Gradients.
  Tensor d_out, d_out_all;   // of the output
  Tensor d_act, d_up;        // dense or shared are told apart by name below
  Tensor d_s_act, d_s_up;    // shared experts
  Tensor d_sent;             // [C, h] of the returned copies
  Tensor d_arrived, d_rows;  // [R, h]
  Tensor d_e_act, d_e_up;    // [R, F], [R, 2 F]
  Tensor d_in_rows, d_left;  // [R, h] of the experts' inputs
  Tensor d_row_weight, d_left_weight;
  Tensor d_back, d_back_weight;  // [C, h], [C] at the sender
  Tensor d_n2;                   // [S, h], or [T, h] until reduced
  Tensor d_mid, d_mid_all;       // of x_mid
  Tensor d_o;
  Tensor d_q, d_k, d_v, d_k_all, d_v_all;
  Tensor d_kv, d_k_rot;  // MLA
  Tensor d_q_lat, d_kv_lat, d_q_low, d_kv_low;
  Tensor d_n1;
  Tensor d_x;  // of the input

  // MTP.
  Tensor embedded;                              // [S, h]
  Tensor joined, joined_stat_h, joined_stat_e;  // [S, 2 h] normed hidden and embedding
  Tensor d_joined, d_embedded;

  bool mlp_weights = false;  // weight gradients of the dense or shared MLP are done
};

// The head: once per chunk that has one, and once per MTP module.
struct HeadState {
  Tensor n, n_stat, n_all;  // final norm
  Tensor logits;            // [T, vocab / tp]; the backward pass writes their gradient over them
  Tensor partial, lse;      // see kernels.h
  Tensor d_n;
};

struct Pass {
  std::vector<LayerState> parts;  // by sim::Op::part
  std::vector<HeadState> heads;   // 0: the chunk's own, then MTP modules
  Tensor input;                   // [S, h] received, or embedded
  Tensor d_input;                 // gradient to send, or of the embedding
  Tensor d_hidden;                // of the last layer's output: received, or from head and MTP
  Tensor tokens;                  // [batch, seq + extra] ids
};

}  // namespace reckon::real
