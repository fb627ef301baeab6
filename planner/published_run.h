// One published training run, as its source printed it. What was not printed is empty; run_case.h
// fills it from the defaults of the framework of that date.
//
// A file of runs is a JSON array of rows:
//   id, source, model {name, layers, hidden, heads, kv_heads, head_dim, ffn, mlp, vocab, seq_len,
//   experts, topk, moe_ffn, shared_expert_ffn, dense_layers, moe_every, attention, mla {q_lora,
//   kv_lora, qk_nope, qk_rope, v}, mtp_layers, tied_embeddings}, gpu {name, mem_gb}, network
//   (prose), gpus, plan {tp, pp, vpp, dp, cp, ep, etp, micro_batch, global_batch, and in words
//   schedule, recompute, recompute_modules, sequence_parallel, zero, precision, overlap,
//   dispatcher, routing, other}, step_s, tier, family, group.
// A key that is missing or null was not printed. Other keys are the collector's notes and are not
// read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hw-models/strict_json.h"

namespace reckon::plan {

struct PublishedModel {
  std::string name, mlp, attention;  // attention: in words, e.g. "GQA causal"
  std::optional<int> layers, hidden, heads, kv_heads, head_dim, ffn, seq_len;
  std::optional<std::int64_t> vocab;
  std::optional<int> experts, top_k, moe_ffn, shared_ffn, dense_layers, moe_every;
  std::optional<int> q_lora, kv_lora, qk_nope, qk_rope, v_dim;  // MLA
  std::optional<int> mtp_layers;
  std::optional<bool> tied_embeddings;
};

struct PublishedPlan {
  std::optional<int> tp, pp, vpp, dp, cp, ep, etp, micro_batch;
  std::optional<std::int64_t> global_batch;
  std::optional<bool> sequence_parallel;
  std::string schedule, recompute, recompute_modules, zero, precision, overlap, dispatcher, routing,
      other;  // in words; empty: not printed
};

struct PublishedRun {
  std::string id, source, tier, family, group, gpu, network;
  PublishedModel model;
  PublishedPlan plan;
  std::optional<int> gpus;
  std::optional<double> memory_gb;  // of one GPU
  std::optional<double> step_s;     // measured
};

// Errors: InputError for a value of the wrong type, a row without id, or an id given twice.
std::vector<PublishedRun> published_runs(const hw::Document& document);

}  // namespace reckon::plan
