#include "real/params.h"

#include <cmath>
#include <functional>
#include <numeric>

#include "sim/check.h"

namespace reckon::real {

using plan::ChunkLayout;
using plan::ModelShape;
using plan::Plan;

std::int64_t Param::count() const {
  return std::accumulate(extent.begin(), extent.end(), std::int64_t{1}, std::multiplies<>());
}

Piece Param::piece(const std::string& prefix, std::int64_t first, std::int64_t n) const {
  return {.tensor = prefix + name,
          .shape = shape,
          .begin = begin,
          .extent = extent,
          .first = first,
          .count = n};
}

const Param& ParamTable::at(const std::string& name) const {
  for (const Param& p : params)
    if (p.name == name) return p;
  check(false, "an op's parameter is in the rank's table");
  return params.front();
}

bool ParamTable::has(const std::string& name) const {
  for (const Param& p : params)
    if (p.name == name) return true;
  return false;
}

std::string part_prefix(const ModelShape& model, const ChunkLayout& chunk, int part) {
  if (part < 0) return "";
  if (part >= chunk.layers) {
    // Modules of earlier chunks come first; the trainer keeps them all in one chunk.
    check(chunk.mtp == model.mtp_depth, "all MTP modules share a chunk");
    return "mtp." + std::to_string(part - chunk.layers) + ".";
  }
  return "layers." + std::to_string(chunk.first_layer + part) + ".";
}

namespace {

class Writer {
 public:
  Writer(const ModelShape& m, const Plan& p, const Place& at, ParamTable& out)
      : m_(m), p_(p), at_(at), out_(out) {}

  void layer(const std::string& prefix, bool moe) {
    prefix_ = prefix;
    norm("attn.norm", m_.hidden);
    m_.mla ? latent_attention() : attention();
    norm("mlp.norm", m_.hidden);
    moe ? mixture() : dense_mlp();
  }

  void mtp_projection(const std::string& prefix) {
    prefix_ = prefix;
    norm("mtp.hidden_norm", m_.hidden);
    norm("mtp.embedding_norm", m_.hidden);
    whole("mtp.projection", {m_.hidden, 2 * std::int64_t{m_.hidden}});
  }

  void embedding() {
    prefix_ = "";
    rows("embedding", m_.vocab, m_.hidden);
    if (m_.positions == plan::Positions::Learned)
      whole("embedding.positions", {m_.max_positions, m_.hidden});
  }

  void final_norm(const std::string& prefix) {
    prefix_ = prefix;
    norm("head.norm", m_.hidden);
  }

  void head() {
    prefix_ = "";
    if (!m_.tied_embeddings) rows("head", m_.vocab, m_.hidden);
  }

 private:
  void add(Param p) {
    p.name = prefix_ + p.name;
    std::int64_t& end = p.expert ? out_.experts : out_.dense;
    p.offset = end;
    end += p.count();
    out_.params.push_back(std::move(p));
  }
  // Held whole by every tensor-parallel rank.
  void whole(const char* name, std::vector<std::int64_t> shape, Start start = Start::Normal) {
    add({.name = name,
         .shape = shape,
         .begin = std::vector<std::int64_t>(shape.size(), 0),
         .extent = shape,
         .start = start,
         .replicated = p_.tp > 1});
  }
  void norm(const char* name, std::int64_t width) {
    whole(name, {width}, Start::Ones);
    if (m_.norm == plan::Norm::LayerNorm)
      whole((std::string(name) + ".bias").c_str(), {width}, Start::Zeros);
  }
  // Rows (outputs) or columns (inputs) split over tensor-parallel ranks.
  void rows(const char* name, std::int64_t n, std::int64_t k, bool bias = false) {
    const std::int64_t first = n * at_.tp / p_.tp, last = n * (at_.tp + 1) / p_.tp;
    add({.name = name, .shape = {n, k}, .begin = {first, 0}, .extent = {last - first, k}});
    if (bias)
      add({.name = std::string(name) + ".bias",
           .shape = {n},
           .begin = {first},
           .extent = {last - first},
           .start = Start::Zeros});
  }
  void columns(const char* name, std::int64_t n, std::int64_t k, bool bias = false) {
    const std::int64_t first = k * at_.tp / p_.tp, last = k * (at_.tp + 1) / p_.tp;
    add({.name = name, .shape = {n, k}, .begin = {0, first}, .extent = {n, last - first}});
    if (bias) whole((std::string(name) + ".bias").c_str(), {n}, Start::Zeros);
  }

  void attention() {
    const std::int64_t h = m_.hidden, d = m_.head_dim;
    const bool bias = m_.qkv_bias || m_.linear_bias;
    rows("attn.q", m_.heads * d, h, bias);
    rows("attn.k", m_.kv_heads * d, h, bias);
    rows("attn.v", m_.kv_heads * d, h, bias);
    if (m_.qk_norm) {
      norm("attn.q_norm", d);
      norm("attn.k_norm", d);
    }
    columns("attn.out", h, m_.heads * d, m_.linear_bias);
  }

  void latent_attention() {
    const plan::Mla& a = *m_.mla;
    const std::int64_t h = m_.hidden;
    if (a.q_lora > 0) {
      whole("attn.q_down", {a.q_lora, h});
      norm("attn.q_norm", a.q_lora);
    }
    whole("attn.kv_down", {a.kv_lora + a.qk_rope, h});
    norm("attn.kv_norm", a.kv_lora);
    rows("attn.q_up", std::int64_t{m_.heads} * (a.qk_nope + a.qk_rope),
         a.q_lora > 0 ? a.q_lora : h);
    rows("attn.kv_up", std::int64_t{m_.heads} * (a.qk_nope + a.v), a.kv_lora);
    columns("attn.out", h, std::int64_t{m_.heads} * a.v, m_.linear_bias);
  }

  void pair(const char* gate, const char* up, const char* down, std::int64_t width) {
    if (plan::is_gated(m_.mlp)) rows(gate, width, m_.hidden, m_.linear_bias);
    rows(up, width, m_.hidden, m_.linear_bias);
    columns(down, m_.hidden, width, m_.linear_bias);
  }
  void dense_mlp() { pair("mlp.gate", "mlp.up", "mlp.down", m_.ffn); }

  void mixture() {
    const plan::Moe& moe = *m_.moe;
    const std::int64_t h = m_.hidden, gates = plan::is_gated(m_.mlp) ? 2 : 1;
    whole("router", {moe.experts, h});
    const std::int64_t n = moe.experts / p_.ep, first = n * at_.ep;
    // Gate rows, then up rows, of each expert.
    add({.name = "experts.up",
         .shape = {moe.experts, gates * moe.ffn, h},
         .begin = {first, 0, 0},
         .extent = {n, gates * moe.ffn, h},
         .expert = true});
    add({.name = "experts.down",
         .shape = {moe.experts, h, moe.ffn},
         .begin = {first, 0, 0},
         .extent = {n, h, moe.ffn},
         .expert = true});
    if (moe.shared_ffn > 0) pair("shared.gate", "shared.up", "shared.down", moe.shared_ffn);
  }

  const ModelShape& m_;
  const Plan& p_;
  const Place& at_;
  ParamTable& out_;
  std::string prefix_;
};

// splitmix64 (Steele, Lea, Flood 2014): a bijection whose outputs pass for random bits.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Standard normal number of element `index`, by Box and Muller.
double normal(std::uint64_t key, std::uint64_t index) {
  const std::uint64_t bits = mix(key ^ mix(index));
  const double u = (static_cast<double>(bits >> 32) + 1) / 4294967297.0;  // in (0, 1)
  const double angle = static_cast<double>(bits & 0xffffffffu) * (6.283185307179586 / 4294967296.0);
  return std::sqrt(-2 * std::log(u)) * std::cos(angle);
}

}  // namespace

bool uses_embedding(const ModelShape& m, const ChunkLayout& c) {
  return c.embedding || c.mtp > 0 || (m.tied_embeddings && c.head);
}

ParamTable param_table(const ModelShape& m, const Plan& p, const Place& place,
                       const ChunkLayout& chunk, bool embedding) {
  ParamTable table;
  Writer w(m, p, place, table);
  if (embedding) w.embedding();
  for (int i = 0; i < chunk.layers; ++i)
    w.layer(part_prefix(m, chunk, i), is_moe_layer(m, chunk.first_layer + i));
  for (int d = 0; d < chunk.mtp; ++d) {
    const std::string prefix = part_prefix(m, chunk, chunk.layers + d);
    w.mtp_projection(prefix);
    w.layer(prefix, is_moe_layer(m, m.layers - 1));
    w.final_norm(prefix);
  }
  if (chunk.head) {
    w.final_norm("");
    w.head();
  }
  return table;
}

void initialise(const Param& p, std::uint64_t seed, double std, float* out) {
  const std::int64_t n = p.count();
  if (p.start != Start::Normal) {
    std::fill(out, out + n, p.start == Start::Ones ? 1.0f : 0.0f);
    return;
  }
  std::uint64_t key = mix(seed);
  for (char c : p.name) key = mix(key ^ static_cast<unsigned char>(c));
  // Rows of the last dimension, each contiguous in the whole tensor.
  const std::size_t dims = p.shape.size();
  const std::int64_t width = p.extent[dims - 1], rows = n / width;
  for (std::int64_t r = 0; r < rows; ++r) {
    std::int64_t rest = r, index = 0, stride = p.shape[dims - 1];
    for (std::size_t d = dims - 1; d-- > 0;) {
      index += (p.begin[d] + rest % p.extent[d]) * stride;
      rest /= p.extent[d];
      stride *= p.shape[d];
    }
    index += p.begin[dims - 1];
    for (std::int64_t c = 0; c < width; ++c)
      out[r * width + c] =
          static_cast<float>(std * normal(key, static_cast<std::uint64_t>(index + c)));
  }
}

}  // namespace reckon::real
