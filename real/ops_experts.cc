// The router and routed experts with their exchanges. Shapes as in pass.h. Copies of tokens are
// sorted by expert at the sender; the routing weight of a copy travels with it and is applied
// behind the activation, so that results need not be kept for the backward pass.
#include <numeric>

#include "real/mlp_kind.h"
#include "real/ops.h"

namespace reckon::real {

// ---- router

namespace {

cpu::RouterShape router_shape(const plan::Moe& m, std::int64_t tokens) {
  return {.tokens = tokens,
          .experts = m.experts,
          .top_k = m.top_k,
          .groups = m.groups,
          .limited_groups = m.limited_groups,
          .sigmoid = m.score == plan::RouterScore::Sigmoid,
          .normalise = m.normalised_weights,
          .scale = static_cast<float>(m.route_scale)};
}

}  // namespace

void Ops::router_gemm(const Call& c) {
  LayerState& s = at(c);
  s.logits = make_floats(c, s_ * setting_.model.moe->experts);  // scores stay in fp32
  c.q.linear_forward({s_, setting_.model.moe->experts, h_}, c.q(s.n2), refs(c).router.w,
                     c.q(s.logits));
}

void Ops::router(const Call& c) {
  LayerState& s = at(c);
  const plan::Moe& moe = *setting_.model.moe;
  const std::int64_t experts = moe.experts;
  s.scores = make_floats(c, s_ * experts);
  s.chosen = make_ints(c, s_ * moe.top_k);
  s.weight = make_floats(c, s_ * moe.top_k);
  float* scores = floats(c.q(s.scores));
  std::int32_t* chosen = ints(c.q(s.chosen));
  c.q.router_forward(router_shape(moe, s_), c.q(s.logits), refs(c).router_bias, scores, chosen,
                     floats(c.q(s.weight)));
  s.logits = Tensor();
  if (!c.op.recompute) c.q.count_chosen(chosen, s_ * moe.top_k, experts, refs(c).load);
  s.balance = make_floats(c, 2 * batch_ * experts);
  c.q.balance_sums(balance_shape(), scores, chosen, floats(c.q(s.balance)));
}

BalanceShape Ops::balance_shape() const {
  const plan::Moe& moe = *setting_.model.moe;
  return {.tokens = s_,
          .experts = moe.experts,
          .top_k = moe.top_k,
          .sequences = batch_,
          .first_token = setting_.place.tp * s_,
          .sequence_tokens = seq_local_};
}

void Ops::router_balance(const Call& c) {
  LayerState& s = at(c);
  groups_.tp_cp->all_reduce(c.q, c.q(s.balance), static_cast<std::size_t>(s.balance.count()));
}

// The balance loss of a sequence of n tokens (V3 report, eq. 17-20):
//   alpha sum_e f_e P_e,  f_e = E / (k n) copies_e,  P_e = 1/n sum_t p_te
// counted once per sequence of the step, so d/dp_te = alpha f_e / (n sequences).
void Ops::router_backward(const Call& c) {
  LayerState& s = at(c);
  const plan::Moe& moe = *setting_.model.moe;
  const std::int64_t experts = moe.experts, k = moe.top_k;
  Tensor d_weight = make_floats(c, s_ * k), d_p;
  c.q.gather_rows(c.q(s.d_back_weight), ints(c.q(s.copy_of)), s_ * k, 1, c.q(d_weight));
  if (setting_.recipe.balance_loss > 0) {
    d_p = make_floats(c, s_ * experts);
    const double n = setting_.seq;
    const double factor =
        setting_.recipe.balance_loss * static_cast<double>(experts) /
        (static_cast<double>(k) * n * n * static_cast<double>(setting_.global_sequences));
    c.q.balance_gradient(balance_shape(), floats(c.q(s.balance)), factor, floats(c.q(d_p)));
  }
  s.logits = make_floats(c, s_ * experts);  // their gradient
  c.q.router_backward(router_shape(moe, s_),
                      {.scores = floats(c.q(s.scores)),
                       .chosen = ints(c.q(s.chosen)),
                       .weights = floats(c.q(s.weight)),
                       .dweights = floats(c.q(d_weight)),
                       .dp = d_p ? floats(c.q(d_p)) : nullptr},
                      c.q(s.logits));
  s.d_back_weight = s.copy_of = s.scores = s.chosen = s.weight = s.balance = Tensor();
}

void Ops::router_gemm_backward(const Call& c) {
  LayerState& s = at(c);
  c.q.linear_input_grad({s_, setting_.model.moe->experts, h_}, c.q(s.logits), refs(c).router.w,
                        c.q(s.d_n2), true);
  settle(c, s.d_n2);
}

void Ops::router_gemm_weights(const Call& c) {
  LayerState& s = at(c);
  c.q.linear_weight_grad({s_, setting_.model.moe->experts, h_}, c.q(s.logits), c.q(s.n2),
                         refs(c).router.g);
  s.logits = Tensor();
  if (s.mlp_weights || has_tp() || !refs(c).shared_up.g) s.n2 = Tensor();
}

// ---- copies of tokens, sorted by expert

void Ops::permute(const Call& c) {
  LayerState& s = at(c);
  const plan::Moe& moe = *setting_.model.moe;
  const std::int64_t k = moe.top_k, copies = s_ * k;
  const auto experts = static_cast<std::size_t>(moe.experts);
  s.token_of = make_ints(c, copies);
  s.copy_of = make_ints(c, copies);
  s.sent_weight = make_floats(c, copies);
  // How many copies of each expert this rank sends, until the exchange says what it receives: on
  // the host, or on a device that the host does not wait for here.
  s.received_per.assign(device_.remote() ? 0 : experts, 0);
  std::vector<std::int32_t> offsets(device_.remote() ? 0 : experts + 1);
  if (device_.remote()) {
    s.expert_counts = make_ints(c, moe.experts);
    s.expert_offsets = make_ints(c, moe.experts + 1);
  }
  c.q.sort_by_expert(
      ints(c.q(s.chosen)), floats(c.q(s.weight)), s_, k, moe.experts,
      {.counts = device_.remote() ? ints(c.q(s.expert_counts)) : s.received_per.data(),
       .offsets = device_.remote() ? ints(c.q(s.expert_offsets)) : offsets.data(),
       .token_of = ints(c.q(s.token_of)),
       .copy_of = ints(c.q(s.copy_of)),
       .weight = floats(c.q(s.sent_weight))});
  s.sent = make(c, copies * h_);
  c.q.gather_rows(c.q(s.n2), ints(c.q(s.token_of)), copies, h_, c.q(s.sent));
  if (unread(c)) s.token_of = Tensor();
}

void Ops::permute_backward(const Call& c) {
  LayerState& s = at(c);
  if (groups_.ep->size() == 1)
    s.d_back = std::move(local_experts() == 1 ? s.d_in_rows : s.d_left),
    s.d_back_weight = std::move(local_experts() == 1 ? s.d_row_weight : s.d_left_weight);
  const bool add = static_cast<bool>(s.d_n2);  // the shared experts' part
  if (!add) s.d_n2 = make(c, s_ * h_);
  c.q.combine_rows(c.q(s.d_back), ints(c.q(s.copy_of)), s_, setting_.model.moe->top_k, h_,
                   c.q(s.d_n2), add);
  settle(c, s.d_n2);
  s.d_back = Tensor();
}

Tensor Ops::exchanged(const Call& c, const Tensor& in, const std::vector<std::size_t>& send,
                      const std::vector<std::size_t>& receive, std::int64_t width) {
  const auto scaled = [width](std::vector<std::size_t> counts) {
    for (std::size_t& n : counts) n *= static_cast<std::size_t>(width);
    return counts;
  };
  const std::vector<std::size_t> incoming = scaled(receive);
  Tensor out = made(
      c,
      static_cast<std::int64_t>(std::accumulate(incoming.begin(), incoming.end(), std::size_t{0})),
      in.element());
  groups_.ep->all_to_all(c.q, {c.q(in), scaled(send), c.q(out), incoming});
  return out;
}

namespace {

// Sums of `n` neighbours.
std::vector<std::size_t> sums_of(const std::vector<std::int32_t>& x, std::size_t n) {
  std::vector<std::size_t> sums;
  for (auto i = x.begin(); i != x.end(); i += static_cast<std::ptrdiff_t>(n))
    sums.push_back(
        static_cast<std::size_t>(std::accumulate(i, i + static_cast<std::ptrdiff_t>(n), 0)));
  return sums;
}

}  // namespace

// The one place of a pass where the host waits for a device: what the ranks send each other is as
// much as the router says.
void Ops::dispatch(const Call& c) {
  LayerState& s = at(c);
  const auto per_member = static_cast<std::size_t>(local_experts());
  if (device_.remote()) {
    s.received_per.resize(static_cast<std::size_t>(setting_.model.moe->experts));
    c.q.download(c.q(s.expert_counts), s.received_per.data(), setting_.model.moe->experts);
  }
  s.send_counts = sums_of(s.received_per, per_member);
  std::vector<std::int32_t> received;
  groups_.ep->host().all_to_all_counts(s.received_per, per_member, received);
  s.received_per = std::move(received);
  s.receive_counts = sums_of(s.received_per, per_member);
  s.arrived = exchanged(c, s.sent, s.send_counts, s.receive_counts, h_);
  s.arrived_weight = exchanged(c, s.sent_weight, s.send_counts, s.receive_counts, 1);
  s.sent = s.sent_weight = Tensor();
  if (device_.remote()) dispatch_tables(c);
}

void Ops::dispatch_tables(const Call& c) {
  LayerState& s = at(c);
  const auto n = static_cast<std::int64_t>(s.received_per.size());
  const std::int64_t rows = s.arrived_weight.count();
  s.expert_counts = make_ints(c, n);
  c.q.upload(s.received_per.data(), c.q(s.expert_counts), n);
  s.expert_offsets = make_ints(c, local_experts() + 1);
  s.by_expert = make_ints(c, rows), s.by_member = make_ints(c, rows);
  c.q.regroup(ints(c.q(s.expert_counts)), groups_.ep->size(), local_experts(), rows,
              {.by_expert = ints(c.q(s.by_expert)),
               .by_member = ints(c.q(s.by_member)),
               .offsets = ints(c.q(s.expert_offsets))});
}

void Ops::dispatch_backward(const Call& c) {
  LayerState& s = at(c);
  if (local_experts() == 1)
    s.d_left = std::move(s.d_in_rows), s.d_left_weight = std::move(s.d_row_weight);
  s.d_back = exchanged(c, s.d_left, s.receive_counts, s.send_counts, h_);
  s.d_back_weight = exchanged(c, s.d_left_weight, s.receive_counts, s.send_counts, 1);
  s.d_left = s.d_left_weight = Tensor();
}

void Ops::combine(const Call& c) {
  LayerState& s = at(c);
  if (local_experts() == 1) s.left = std::move(s.e_out);
  s.returned = exchanged(c, s.left, s.receive_counts, s.send_counts, h_);
  s.left = Tensor();
  if (unread(c)) s.returned = Tensor();
}

void Ops::combine_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_arrived = exchanged(c, s.d_sent, s.send_counts, s.receive_counts, h_);
  s.d_sent = Tensor();
}

void Ops::unpermute(const Call& c) {
  LayerState& s = at(c);
  if (groups_.ep->size() == 1)
    s.returned = local_experts() == 1 ? std::move(s.e_out) : std::move(s.left);
  s.moe_out = make(c, s_ * h_);
  c.q.combine_rows(c.q(s.returned), ints(c.q(s.copy_of)), s_, setting_.model.moe->top_k, h_,
                   c.q(s.moe_out), false);
  s.returned = Tensor();
}

void Ops::unpermute_backward(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t copies = s.token_of.count();
  s.d_sent = make(c, copies * h_);
  c.q.gather_rows(c.q(s.d_out), ints(c.q(s.token_of)), copies, h_, c.q(s.d_sent));
  s.token_of = Tensor();
}

Tensor Ops::regrouped(const Call& c, const Tensor& in, std::int64_t width, bool to_experts) const {
  const LayerState& s = at(c);
  // One member's rows are in order of experts as they are; the copy is what the CPU measures.
  if (device_.remote() && experts_are_local()) return in;
  Tensor out = made(c, in.count(), in.element());
  if (device_.remote()) {
    c.q.gather_rows(c.q(in), ints(c.q(to_experts ? s.by_expert : s.by_member)), in.count() / width,
                    width, c.q(out));
    return out;
  }
  const auto experts = static_cast<std::size_t>(local_experts());
  const std::size_t members = s.received_per.size() / experts;
  // Where each (member, expert) run starts, in order of members.
  std::vector<std::int64_t> start(s.received_per.size() + 1, 0);
  for (std::size_t i = 0; i < s.received_per.size(); ++i)
    start[i + 1] = start[i] + s.received_per[i];
  std::int64_t row = 0;  // in order of experts
  for (std::size_t e = 0; e < experts; ++e)
    for (std::size_t member = 0; member < members; ++member) {
      const std::size_t run = member * experts + e;
      const std::int64_t by_member = start[run] * width, by_expert = row * width;
      c.q.copy(c.q(in) + (to_experts ? by_member : by_expert),
               c.q(out) + (to_experts ? by_expert : by_member), s.received_per[run] * width);
      row += s.received_per[run];
    }
  return out;
}

void Ops::permute_local(const Call& c) {
  LayerState& s = at(c);
  if (groups_.ep->size() == 1)
    s.arrived = std::move(s.sent), s.arrived_weight = std::move(s.sent_weight);
  s.rows = regrouped(c, s.arrived, h_, true);
  s.row_weight = regrouped(c, s.arrived_weight, 1, true);
  s.arrived = s.arrived_weight = Tensor();
}

void Ops::permute_local_backward(const Call& c) {
  LayerState& s = at(c);
  if (groups_.ep->size() == 1) s.d_arrived = std::move(s.d_sent);
  s.d_rows = regrouped(c, s.d_arrived, h_, true);
  s.d_arrived = Tensor();
}

void Ops::unpermute_local(const Call& c) {
  LayerState& s = at(c);
  s.left = regrouped(c, s.e_out, h_, false);
  s.e_out = Tensor();
  if (groups_.ep->size() == 1 && unread(c)) s.left = Tensor();
}

void Ops::unpermute_local_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_left = regrouped(c, s.d_in_rows, h_, false);
  s.d_left_weight = regrouped(c, s.d_row_weight, 1, false);
  s.d_in_rows = s.d_row_weight = Tensor();
}

// ---- experts

std::int64_t Ops::local_experts() const {
  return setting_.model.moe->experts / setting_.plan.ep;
}

GroupedRows Ops::expert_rows(const Call& c, std::vector<std::int32_t>& counts) const {
  const LayerState& s = at(c);
  if (device_.remote() && experts_are_local())
    return {.groups = local_experts(),
            .rows = s_ * setting_.model.moe->top_k,
            .offsets = ints(c.q(s.expert_offsets))};
  const auto experts = static_cast<std::size_t>(local_experts());
  counts.assign(experts, 0);
  for (std::size_t i = 0; i < s.received_per.size(); ++i) counts[i % experts] += s.received_per[i];
  if (device_.remote())
    return {.groups = local_experts(),
            .rows = s.by_expert.count(),
            .counts = &counts,
            .offsets = ints(c.q(s.expert_offsets))};
  return {.groups = local_experts(), .counts = &counts};
}

void Ops::experts_up(const Call& c) {
  LayerState& s = at(c);
  if (local_experts() == 1) {
    const bool alone = groups_.ep->size() == 1;
    s.rows = std::move(alone ? s.sent : s.arrived);
    s.row_weight = std::move(alone ? s.sent_weight : s.arrived_weight);
  }
  const std::int64_t n = gates(setting_.model) * setting_.model.moe->ffn;
  s.e_up = make(c, s.rows.count() / h_ * n);
  std::vector<std::int32_t> counts;
  c.q.grouped_forward({n, h_, numbers(c)}, expert_rows(c, counts), c.q(s.rows),
                      refs(c).experts_up.w, c.q(s.e_up));
  settle(c, s.e_up);
}

void Ops::experts_up_backward(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t n = gates(setting_.model) * setting_.model.moe->ffn;
  s.d_in_rows = make(c, s.d_e_up.count() / n * h_);
  std::vector<std::int32_t> counts;
  c.q.grouped_input_grad({n, h_, numbers(c)}, expert_rows(c, counts), c.q(s.d_e_up),
                         refs(c).experts_up.w, c.q(s.d_in_rows));
  settle(c, s.d_in_rows);
}

void Ops::experts_up_weights(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t n = gates(setting_.model) * setting_.model.moe->ffn;
  std::vector<std::int32_t> counts;
  c.q.grouped_weight_grad({n, h_, numbers(c)}, expert_rows(c, counts), c.q(s.d_e_up), c.q(s.rows),
                          refs(c).experts_up.g);
  s.d_e_up = s.rows = Tensor();
}

void Ops::experts_activation(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t width = setting_.model.moe->ffn, rows = s.row_weight.count();
  s.e_act = make(c, rows * width);
  c.q.weighted_activation_forward(activation_of(setting_.model.mlp), c.q(s.e_up),
                                  floats(c.q(s.row_weight)), c.q(s.e_act), rows, width);
  settle(c, s.e_act);
}

// y = weight act(x): d weight = dot(dy, act(x)), d x = act'(x) weight dy.
void Ops::experts_activation_backward(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t width = setting_.model.moe->ffn, rows = s.row_weight.count();
  const bool again = !s.e_act;  // dropped: made again for the weight gradient
  if (again) s.e_act = make(c, rows * width);
  s.d_row_weight = make_floats(c, rows);
  s.d_e_up = make(c, s.e_up.count());
  c.q.weighted_activation_backward(activation_of(setting_.model.mlp), c.q(s.e_up),
                                   floats(c.q(s.row_weight)),
                                   {.dy = c.q(s.d_e_act),
                                    .dx = c.q(s.d_e_up),
                                    .y = again ? c.q(s.e_act) : View(),
                                    .dweight = floats(c.q(s.d_row_weight))},
                                   rows, width);
  settle(c, s.d_e_up);
  if (again) settle(c, s.e_act);
  s.d_e_act = s.e_up = s.row_weight = Tensor();
}

void Ops::experts_down(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t width = setting_.model.moe->ffn;
  s.e_out = make(c, s.row_weight.count() * h_);
  std::vector<std::int32_t> counts;
  c.q.grouped_forward({h_, width, numbers(c)}, expert_rows(c, counts), c.q(s.e_act),
                      refs(c).experts_down.w, c.q(s.e_out));
  settle(c, s.e_out);
  if (local_experts() == 1 && groups_.ep->size() == 1 && unread(c)) s.e_out = Tensor();
}

void Ops::experts_down_backward(const Call& c) {
  LayerState& s = at(c);
  if (local_experts() == 1) s.d_rows = std::move(groups_.ep->size() == 1 ? s.d_sent : s.d_arrived);
  const std::int64_t width = setting_.model.moe->ffn;
  s.d_e_act = make(c, s.row_weight.count() * width);
  std::vector<std::int32_t> counts;
  c.q.grouped_input_grad({h_, width, numbers(c)}, expert_rows(c, counts), c.q(s.d_rows),
                         refs(c).experts_down.w, c.q(s.d_e_act));
  settle(c, s.d_e_act);
}

void Ops::experts_down_weights(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t width = setting_.model.moe->ffn;
  std::vector<std::int32_t> counts;
  c.q.grouped_weight_grad({h_, width, numbers(c)}, expert_rows(c, counts), c.q(s.d_rows),
                          c.q(s.e_act), refs(c).experts_down.g);
  s.d_rows = s.e_act = Tensor();
}

}  // namespace reckon::real
