#include "planner/published_run.h"

#include <cmath>
#include <set>

namespace reckon::plan {

namespace {

// The fields of one object; an absent or null one leaves its member empty.
class Fields {
 public:
  explicit Fields(std::optional<hw::Value> object) : object_(std::move(object)) {
    if (object_) object_->expect_object("an object");
  }

  Fields part(const char* key) const { return Fields(printed(key)); }

  template <class Integer>
  void operator()(const char* key, std::optional<Integer>& out) const {
    const auto v = printed(key);
    if (!v) return;
    const bool whole =
        v->json().is_number() && std::rint(v->json().get<double>()) == v->json().get<double>();
    if (!whole || v->json().get<double>() < 0 || v->json().get<double>() > 1e9)
      v->fail("a whole number, 0 to 1e9, or null");
    out = static_cast<Integer>(v->json().get<double>());
  }
  void operator()(const char* key, std::optional<double>& out) const {
    if (const auto v = printed(key)) {
      if (!v->json().is_number() || !(v->json().get<double>() > 0))
        v->fail("a number above 0, or null");
      out = v->json().get<double>();
    }
  }
  void operator()(const char* key, std::optional<bool>& out) const {
    if (const auto v = printed(key)) {
      if (!v->json().is_boolean()) v->fail("true, false or null");
      out = v->json().get<bool>();
    }
  }
  void operator()(const char* key, std::string& out) const {
    if (const auto v = printed(key)) {
      if (!v->json().is_string()) v->fail("a text or null");
      out = v->json().get<std::string>();
    }
  }

 private:
  std::optional<hw::Value> printed(const char* key) const {
    if (!object_) return {};
    auto v = object_->find(key);
    if (v && v->json().is_null()) return {};
    return v;
  }

  std::optional<hw::Value> object_;
};

PublishedRun read_row(const hw::Value& value) {
  PublishedRun r;
  value.expect_object("a run");
  const Fields row{value};
  row("id", r.id);
  if (r.id.empty()) value.fail_got("the key \"id\" (what the row is called)", "a row without it");
  row("source", r.source);
  row("tier", r.tier);
  row("family", r.family);
  row("group", r.group);
  row("network", r.network);
  row("gpus", r.gpus);
  row("step_s", r.step_s);
  const Fields gpu = row.part("gpu");
  gpu("name", r.gpu);
  gpu("mem_gb", r.memory_gb);

  const Fields model = row.part("model");
  PublishedModel& m = r.model;
  model("name", m.name);
  model("mlp", m.mlp);
  model("attention", m.attention);
  model("layers", m.layers);
  model("hidden", m.hidden);
  model("heads", m.heads);
  model("kv_heads", m.kv_heads);
  model("head_dim", m.head_dim);
  model("ffn", m.ffn);
  model("seq_len", m.seq_len);
  model("vocab", m.vocab);
  model("experts", m.experts);
  model("topk", m.top_k);
  model("moe_ffn", m.moe_ffn);
  model("shared_expert_ffn", m.shared_ffn);
  model("dense_layers", m.dense_layers);
  model("moe_every", m.moe_every);
  model("mtp_layers", m.mtp_layers);
  model("tied_embeddings", m.tied_embeddings);
  const Fields mla = model.part("mla");
  mla("q_lora", m.q_lora);
  mla("kv_lora", m.kv_lora);
  mla("qk_nope", m.qk_nope);
  mla("qk_rope", m.qk_rope);
  mla("v", m.v_dim);

  const Fields plan = row.part("plan");
  PublishedPlan& p = r.plan;
  plan("tp", p.tp);
  plan("pp", p.pp);
  plan("vpp", p.vpp);
  plan("dp", p.dp);
  plan("cp", p.cp);
  plan("ep", p.ep);
  plan("etp", p.etp);
  plan("micro_batch", p.micro_batch);
  plan("global_batch", p.global_batch);
  plan("sequence_parallel", p.sequence_parallel);
  plan("schedule", p.schedule);
  plan("recompute", p.recompute);
  plan("recompute_modules", p.recompute_modules);
  plan("zero", p.zero);
  plan("precision", p.precision);
  plan("overlap", p.overlap);
  plan("dispatcher", p.dispatcher);
  plan("routing", p.routing);
  plan("other", p.other);
  return r;
}

}  // namespace

std::vector<PublishedRun> published_runs(const hw::Document& document) {
  const hw::Value file(document);
  file.expect_array("an array of runs");
  std::vector<PublishedRun> runs;
  std::set<std::string> ids;
  for (std::size_t i = 0; i < file.size(); ++i) {
    const hw::Value row = file.at(i);
    runs.push_back(read_row(row));
    if (!ids.insert(runs.back().id).second) row.find("id")->fail("an id that no other row has");
  }
  return runs;
}

}  // namespace reckon::plan
