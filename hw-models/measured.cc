#include "hw-models/measured.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>

#include "sim/check.h"

namespace reckon::hw {

// ---- interpolation

double operand_bytes(const sim::MatMul& op) {
  const double m = static_cast<double>(op.m), n = static_cast<double>(op.n),
               k = static_cast<double>(op.k);
  const double weights = op.pass == sim::Pass::WeightGrad ? 2 : 1;
  return 4 * (m * k + m * n + weights * n * k);
}

namespace {

// Where x lies on an ascending axis: between points i and i + 1, at the fraction t on log scale;
// outside of the axis at its ends.
struct Place {
  std::size_t i = 0;
  double t = 0;
};

Place place(const std::vector<double>& axis, double x) {
  if (x <= axis.front() || axis.size() == 1) return {0, 0};
  if (x >= axis.back()) return {axis.size() - 2, 1};
  const auto after = std::upper_bound(axis.begin(), axis.end(), x);
  const auto i = static_cast<std::size_t>(after - axis.begin()) - 1;
  return {i, std::log(x / axis[i]) / std::log(axis[i + 1] / axis[i])};
}

// Multilinear in the logarithm of `value(index per axis)`.
template <std::size_t kAxes, class Value>
double interpolated(const std::array<Place, kAxes>& at, Value value) {
  double sum = 0;
  for (std::size_t corner = 0; corner < (1u << kAxes); ++corner) {
    double weight = 1;
    std::array<std::size_t, kAxes> index;
    for (std::size_t a = 0; a < kAxes; ++a) {
      const bool upper = (corner >> a) & 1;
      weight *= upper ? at[a].t : 1 - at[a].t;
      index[a] = at[a].i + (upper ? 1 : 0);
    }
    if (weight > 0) sum += weight * std::log(value(index));
  }
  return std::exp(sum);
}

double product_seconds(const MeasuredProduct& p, const sim::MatMul& op) {
  const double m = static_cast<double>(op.m), n = static_cast<double>(op.n),
               k = static_cast<double>(op.k);
  // Seconds per product of numbers: nearly the same at neighbouring points.
  const double rate = interpolated<3>(
      {place(p.m, m), place(p.n, n), place(p.k, k)}, [&](const std::array<std::size_t, 3>& i) {
        return p.seconds[(i[0] * p.n.size() + i[1]) * p.k.size() + i[2]] /
               (p.m[i[0]] * p.n[i[1]] * p.k[i[2]]);
      });
  return (rate * m * n * k + p.per_call.si + p.per_byte * operand_bytes(op)) *
         static_cast<double>(op.batch);
}

const MeasuredProduct* find_product(const MeasuredLevel& level, sim::Pass pass, sim::DType dtype) {
  // On a device without 16-bit units bf16 products are fp32 ones.
  const auto plain = [](sim::DType t) {
    return t == sim::DType::Tf32 || t == sim::DType::Bf16 ? sim::DType::Fp32 : t;
  };
  for (const MeasuredProduct& p : level.products)
    if (p.pass == pass && plain(p.dtype) == plain(dtype)) return &p;
  return nullptr;
}

}  // namespace

double read_curve(const MeasuredCurve& c, double bytes) {
  if (c.bytes.empty()) return 0;
  if (bytes > c.bytes.back()) return c.seconds.back() * bytes / c.bytes.back();
  const Place at = place(c.bytes, bytes);
  return interpolated<1>({at}, [&](const std::array<std::size_t, 1>& i) {
    return c.seconds[std::min(i[0], c.seconds.size() - 1)];
  });
}

const MeasuredLevel& MeasuredDevice::level(int ranks) const {
  const MeasuredLevel* best = &levels.front();
  for (const MeasuredLevel& l : levels)
    if (l.active <= ranks) best = &l;
  return *best;
}

MeasuredDevice levels_for(const MeasuredDevice& device, bool recompute) {
  MeasuredDevice d = device;
  std::erase_if(d.levels, [&](const MeasuredLevel& l) { return l.recompute != recompute; });
  if (d.levels.empty()) d.levels = device.levels;
  return d;
}

// ---- costs

namespace {

struct MeasuredCost {
  const MeasuredLevel& level;

  std::optional<sim::OpCost> compute(double seconds, double sm_share = 1) const {
    return sim::OpCost{.alone = Seconds(seconds) + level.gap, .sm_share = sm_share};
  }
  // Ranks exchange through memory, copied by their own cores.
  std::optional<sim::OpCost> exchange(double seconds) const { return compute(seconds); }
  std::optional<sim::OpCost> meeting(double seconds) const {
    auto c = compute(seconds);
    c->drift = level.drift;
    return c;
  }

  std::optional<sim::OpCost> operator()(const sim::MatMul& op) const {
    const MeasuredProduct* p = find_product(level, op.pass, op.dtype);
    if (p == nullptr) return std::nullopt;
    return compute(product_seconds(*p, op));
  }
  std::optional<sim::OpCost> operator()(const sim::GroupedMatMul& op) const {
    const MeasuredProduct* p = find_product(level, op.pass, op.dtype);
    if (p == nullptr) return std::nullopt;
    const sim::MatMul one{.m = std::max<std::int64_t>(1, op.m / op.groups),
                          .n = op.n,
                          .k = op.k,
                          .pass = op.pass,
                          .dtype = op.dtype};
    return compute(static_cast<double>(op.groups) * product_seconds(*p, one));
  }
  std::optional<sim::OpCost> operator()(const sim::Attention& op) const {
    for (const MeasuredAttention& a : level.attention) {
      if (a.backward != op.backward) continue;
      const double width = static_cast<double>(op.qk_dim + op.v_dim);
      const double per_pair =
          interpolated<2>({place(a.seq, static_cast<double>(op.seq_q)), place(a.width, width)},
                          [&](const std::array<std::size_t, 2>& i) {
                            return a.seconds[i[0] * a.width.size() + i[1]];
                          });
      return compute(per_pair * sim::visible_pairs(op) * static_cast<double>(op.batch * op.heads) +
                     a.per_call.si);
    }
    return std::nullopt;
  }
  std::optional<sim::OpCost> operator()(const sim::MemoryBound& op) const {
    const MeasuredMemory* best = nullptr;
    for (const MeasuredMemory& m : level.memory)
      if (m.kind == op.kind && (best == nullptr || m.kernels == op.kernels)) best = &m;
    if (best == nullptr) return std::nullopt;
    return compute(read_curve(best->curve, op.traffic.si));
  }
  std::optional<sim::OpCost> collective(sim::CollectiveKind kind, int ranks, double bytes) const {
    if (ranks <= 1) return sim::OpCost{.kernels = 0};
    const MeasuredCollective* best = nullptr;
    for (const MeasuredCollective& c : level.collectives)
      if (c.kind == kind && (best == nullptr || c.ranks <= ranks)) best = &c;
    if (best == nullptr) return std::nullopt;
    return meeting(read_curve(best->curve, bytes));
  }
  std::optional<sim::OpCost> operator()(const sim::Collective& op) const {
    return collective(op.kind, op.group.size, op.bytes.si);
  }
  std::optional<sim::OpCost> operator()(const sim::TokenExchange& op) const {
    const double copies = op.off_node_copies + op.local_copies;
    const double ranks = op.group.size;
    // Copies that stay on the rank are moved too.
    return collective(
        sim::CollectiveKind::AllToAll, op.group.size,
        op.tokens * copies * ranks / std::max(1.0, ranks - 1) * op.bytes_per_token.si);
  }
  std::optional<sim::OpCost> operator()(const sim::Transfer& op) const {
    if (!level.transfer) return std::nullopt;
    return exchange(read_curve(*level.transfer, op.bytes.si));
  }
  std::optional<sim::OpCost> operator()(const sim::Barrier& op) const {
    return collective(sim::CollectiveKind::AllReduce, op.group.size, 4);
  }
};

}  // namespace

std::optional<sim::OpCost> measured_cost(const MeasuredLevel& level, const sim::Work& work) {
  return std::visit(MeasuredCost{level}, work);
}

}  // namespace reckon::hw

// Beside the enums, where tables of fields look for them.
namespace reckon::sim {

static const auto& spellings(Pass) {
  static constexpr hw::Spelling<Pass> t[] = {{Pass::Forward, "forward"},
                                             {Pass::InputGrad, "input-gradient"},
                                             {Pass::WeightGrad, "weight-gradient"}};
  return t;
}
static const auto& spellings(DType) {
  static constexpr hw::Spelling<DType> t[] = {
      {DType::Fp32, "fp32"}, {DType::Bf16, "bf16"}, {DType::Fp8Block, "fp8-block"}};
  return t;
}
static const auto& spellings(MemoryKind) {
  using enum MemoryKind;
  static constexpr hw::Spelling<MemoryKind> t[] = {
      {Elementwise, "elementwise"}, {Norm, "norm"},
      {Quantise, "quantise"},       {Transpose, "transpose"},
      {Permute, "permute"},         {Router, "router"},
      {Embedding, "embedding"},     {CrossEntropy, "cross-entropy"},
      {Optimizer, "optimizer"}};
  return t;
}
static const auto& spellings(CollectiveKind) {
  using enum CollectiveKind;
  static constexpr hw::Spelling<CollectiveKind> t[] = {{AllReduce, "all-reduce"},
                                                       {AllGather, "all-gather"},
                                                       {ReduceScatter, "reduce-scatter"},
                                                       {AllToAll, "all-to-all"}};
  return t;
}

}  // namespace reckon::sim

namespace reckon::hw {

// ---- file

constexpr Rule kAxis{.doc = "ascending numbers", .required = true, .min = 1e-12, .max = 1e15};

template <class V>
static void fields(V& v, MeasuredCurve& c) {
  v("bytes", c.bytes, kAxis);
  v("seconds", c.seconds, kAxis);
}
template <class V>
static void fields(V& v, MeasuredProduct& p) {
  v("pass", p.pass, {.doc = "which product of the linear map", .required = true});
  v("per_call", p.per_call, {.doc = "once per product", .required = true, .max = 1});
  v("per_byte", p.per_byte, {.doc = "seconds per byte of operands", .required = true, .max = 1e-6});
  v("dtype", p.dtype, {.doc = "of the operands", .required = true});
  v("m", p.m, kAxis);
  v("n", p.n, kAxis);
  v("k", p.k, kAxis);
  v("seconds", p.seconds, kAxis);
}
template <class V>
static void fields(V& v, MeasuredAttention& a) {
  v("backward", a.backward, {.doc = "of the pass", .required = true});
  v("per_call", a.per_call, {.doc = "once per op", .required = true, .max = 1});
  v("seq", a.seq, kAxis);
  v("width", a.width, kAxis);
  v("seconds", a.seconds,
    {.doc = "per visible pair and head", .required = true, .min = 1e-15, .max = 1});
}
template <class V>
static void fields(V& v, MeasuredMemory& m) {
  v("kind", m.kind, {.doc = "of kernel", .required = true});
  v("kernels", m.kernels, {.doc = "launches that an op stands for", .required = true, .min = 1});
  v("curve", m.curve, {.doc = "time over traffic", .required = true});
}
template <class V>
static void fields(V& v, MeasuredCollective& c) {
  v("kind", c.kind, {.doc = "of collective", .required = true});
  v("ranks", c.ranks, {.doc = "in the group", .required = true, .min = 2, .max = 100000});
  v("curve", c.curve, {.doc = "time over bytes", .required = true});
}
template <class V>
static void fields(V& v, MeasuredLevel& l) {
  v("active", l.active, {.doc = "ranks at work at once", .required = true, .min = 1, .max = 1e5});
  v("gap", l.gap, {.doc = "between two ops of a stream", .required = true, .max = 1});
  v("per_step", l.per_step, {.doc = "of a step, beside its ops", .required = true, .max = 60});
  v("recompute", l.recompute, {.doc = "of steps that repeat every layer's forward pass; false"});
  v("reference", l.reference,
    {.doc = "of a fixed piece of work at the time, to know the machine's speed by; none",
     .max = 60});
  v("drift", l.drift,
    {.doc = "wait for other ranks, per root of the time since they met",
     .required = true,
     .max = 1});
  v("products", l.products, {.doc = "matrix products", .required = true});
  v("attention", l.attention, {.doc = "attention", .required = true});
  v("memory", l.memory, {.doc = "memory-bound kernels", .required = true});
  v("collectives", l.collectives, {.doc = "collectives"});
  v("transfer", l.transfer, {.doc = "point to point"});
}
template <class V>
static void fields(V& v, MeasuredDevice& d) {
  v("machine", d.machine, {.doc = "what was measured", .required = true});
  v("date", d.date, {.doc = "when", .required = true});
  v("command", d.command, {.doc = "how", .required = true});
  v("levels", d.levels, {.doc = "by ranks at work at once", .required = true});
}

static void expect_table(const Value& v, const char* key, std::size_t size,
                         std::initializer_list<const std::vector<double>*> axes) {
  for (const auto* axis : axes)
    if (axis->empty() || !std::is_sorted(axis->begin(), axis->end()))
      v.fail("axes of ascending numbers");
  std::size_t want = 1;
  for (const auto* axis : axes) want *= axis->size();
  if (size != want)
    v.fail_got(std::string("\"") + key +
                   "\" with one number per point of the axes: " + std::to_string(want),
               std::to_string(size) + " numbers");
}

static void finish(const Value& v, MeasuredCurve& c) {
  expect_table(v, "seconds", c.seconds.size(), {&c.bytes});
}
static void finish(const Value& v, MeasuredProduct& p) {
  expect_table(v, "seconds", p.seconds.size(), {&p.m, &p.n, &p.k});
}
static void finish(const Value& v, MeasuredAttention& a) {
  expect_table(v, "seconds", a.seconds.size(), {&a.seq, &a.width});
}
static void finish(const Value& v, MeasuredDevice& d) {
  if (d.levels.empty()) v.fail("at least one level");
}

MeasuredDevice read_measured(const std::string& file) {
  const Document document = read_json_file(file);
  MeasuredDevice d;
  read_value(Value(document), d, {});
  return d;
}

ordered_json to_json(const MeasuredDevice& device) {
  return to_json_value(device, Rule{});
}

}  // namespace reckon::hw
