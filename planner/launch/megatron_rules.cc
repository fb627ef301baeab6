// One row per check, with its place on main (d98e8a64, 2026-08-22). Three releases back differ in
// what the rows say of `release`. Not here: checks of data, inference, reinforcement learning, and
// of what no plan says.
#include "planner/launch/megatron_rules.h"

#include <fmt/format.h>

#include <algorithm>

namespace reckon::plan::launch {

namespace {

struct Case {
  const MegatronArgs& a;
  const MegatronWorld& w;

  int etp() const { return a.etp.value_or(a.tp); }
  bool moe() const { return a.experts.has_value(); }
  int mtp() const { return a.mtp.value_or(0); }
  bool fp8() const { return a.fp8_format.has_value(); }
  bool fsdp() const { return a.megatron_fsdp || a.torch_fsdp2; }
  bool recipe(const char* name) const { return a.fp8_recipe.value_or("delayed") == name; }
  bool full() const { return a.recompute == "full"; }
  bool selective() const { return a.recompute == "selective"; }
  const char* dispatcher() const { return a.dispatcher ? a.dispatcher->c_str() : "allgather"; }
  bool dispatches_by(const char* name) const { return std::string_view(dispatcher()) == name; }
  // Megatron-LM drops sequence parallelism without tensor parallelism.
  bool sequence_parallel() const { return a.sequence_parallel && a.tp > 1; }
  std::int64_t model_ranks() const { return std::int64_t{a.tp} * a.pp * a.cp; }
  // Ranks over which samples are spread, those that rematerialise weights of others included.
  std::int64_t sample_ranks() const { return w.processes / model_ranks(); }
  std::int64_t micro_batches() const { return a.global_batch / (a.micro_batch * sample_ranks()); }
  bool uses_first_last() const {
    return a.first_stage_layers.has_value() || a.last_stage_layers.has_value();
  }
  bool accounts() const { return a.account_for_embedding || a.account_for_loss; }
  int counted_layers() const {
    return a.layers + (a.account_for_embedding ? 1 : 0) + (a.account_for_loss ? 1 : 0);
  }
  // Chunks per rank; 1: no virtual stages.
  int vpp() const {
    if (!a.layout.empty()) return static_cast<int>(a.layout.size()) / a.pp;
    if (a.virtual_stages) return *a.virtual_stages;
    if (a.layers_per_virtual_stage)
      return counted_layers() / a.pp / std::max(1, *a.layers_per_virtual_stage);
    return 1;
  }
  bool recomputes(const char* module) const {
    return selective() && std::find(a.recompute_modules.begin(), a.recompute_modules.end(),
                                    module) != a.recompute_modules.end();
  }
  int layout_sum(int PipelineStage::*part) const {
    int sum = 0;
    for (const PipelineStage& s : a.layout) sum += s.*part;
    return sum;
  }
};

struct RuleRow : MegatronRule {
  bool (*broken)(const Case&);
  std::string (*figures)(const Case&) = nullptr;
};

bool unknown_module(const std::string& name) {
  static constexpr const char* known[] = {
      "core_attn",      "layernorm",   "moe_act", "mla_up_proj",  "mlp", "moe",
      "shared_experts", "gdp_in_proj", "gdp_qkv", "gdn_norm_out", "mhc"};
  return std::find(std::begin(known), std::end(known), name) == std::end(known);
}

// Layers of the stages between a given first and last one.
int middle_layers(const Case& c) {
  return c.a.layers - c.a.first_stage_layers.value_or(0) - c.a.last_stage_layers.value_or(0);
}
int middle_stages(const Case& c) {
  return c.a.pp - (c.a.first_stage_layers ? 1 : 0) - (c.a.last_stage_layers ? 1 : 0);
}

const RuleRow kRows[] = {
    // ---- parallel sizes
    {{"M:37", "tensor_parallel_num_weight_shards must be divisible by tensor_model_parallel_size"},
     [](const Case& c) { return c.a.weight_shards && *c.a.weight_shards % c.a.tp != 0; },
     [](const Case& c) { return fmt::format("{} by {}", *c.a.weight_shards, c.a.tp); }},
    {{"A:432", "world size is not divisible by tp x pp x cp"},
     [](const Case& c) {
       return c.w.processes % c.model_ranks() != 0 ||
              (c.a.weight_shards && c.sample_ranks() % (*c.a.weight_shards / c.a.tp) != 0);
     },
     [](const Case& c) {
       return fmt::format("world {}, tp {} x pp {} x cp {}", c.w.processes, c.a.tp, c.a.pp, c.a.cp);
     }},
    {{"A:584", "hierarchical-context-parallel-sizes must be set when a2a+p2p is used"},
     [](const Case& c) {
       return std::find(c.a.cp_comm_type.begin(), c.a.cp_comm_type.end(), "a2a+p2p") !=
                  c.a.cp_comm_type.end() &&
              c.a.hierarchical_cp.empty();
     }},
    // ---- batch
    {{"A:715", "global batch size must be divisible by micro batch size x data parallel size"},
     [](const Case& c) { return c.a.global_batch % (c.a.micro_batch * c.sample_ranks()) != 0; },
     [](const Case& c) {
       return fmt::format("global batch {}, micro batch {} x dp {}", c.a.global_batch,
                          c.a.micro_batch, c.sample_ranks());
     }},
    {{"A:883", "multi-token prediction is not supported with learned absolute positions"},
     [](const Case& c) {
       return c.mtp() > 0 && c.a.positions != "rope" && c.a.positions != "yarn" &&
              c.a.positions != "none";
     }},
    // ---- pipeline
    {{"A:928", "more than one of the arguments that set virtual stages"},
     [](const Case& c) {
       return (c.a.layers_per_virtual_stage ? 1 : 0) + (c.a.virtual_stages ? 1 : 0) +
                  (c.a.layout.empty() ? 0 : 1) >
              1;
     }},
    {{"A:945", "the stages of the pipeline layout must be divisible by pp"},
     [](const Case& c) { return static_cast<int>(c.a.layout.size()) % c.a.pp != 0; },
     [](const Case& c) { return fmt::format("{} stages, pp {}", c.a.layout.size(), c.a.pp); }},
    {{"A:997", "number of layers should be divisible by pp"},
     [](const Case& c) {
       return c.a.layout.empty() && !c.uses_first_last() && c.counted_layers() % c.a.pp != 0;
     },
     [](const Case& c) { return fmt::format("{} layers, pp {}", c.counted_layers(), c.a.pp); }},
    {{"A:1006", "interleaving without p2p overlap needs pp greater than 2"},
     [](const Case& c) { return c.vpp() > 1 && !c.a.overlap_p2p && c.a.pp <= 2; }},
    // ---- data parallelism
    {{"A:1026", "overlap-param-gather only with the distributed optimizer or Megatron-FSDP"},
     [](const Case& c) {
       return c.a.overlap_param_gather && !c.a.distributed_optimizer && !c.a.megatron_fsdp;
     }},
    {{"A:1028", "overlap-param-gather needs overlap-grad-reduce"},
     [](const Case& c) { return c.a.overlap_param_gather && !c.a.overlap_grad_reduce; }},
    {{"A:1034", "use-torch-fsdp2 is not supported with pipeline parallelism"},
     [](const Case& c) { return c.a.torch_fsdp2 && c.a.pp > 1; }},
    {{"A:1036", "use-torch-fsdp2 is not supported with expert parallelism"},
     [](const Case& c) { return c.a.torch_fsdp2 && c.a.ep > 1; }},
    {{"A:1038", "use-torch-fsdp2 is not supported with the distributed optimizer"},
     [](const Case& c) { return c.a.torch_fsdp2 && c.a.distributed_optimizer; }},
    {{"A:1044", "use-torch-fsdp2 needs untied embeddings"},
     [](const Case& c) { return c.a.torch_fsdp2 && !c.a.untie_embeddings; }},
    {{"A:1048", "torch FSDP2 needs CUDA_DEVICE_MAX_CONNECTIONS other than 1"},
     [](const Case& c) { return c.a.torch_fsdp2 && c.w.max_connections == 1; }},
    {{"A:1067", "overlap-param-gather-with-optimizer-step only with the distributed optimizer"},
     [](const Case& c) { return c.a.param_gather_with_optimizer && !c.a.distributed_optimizer; }},
    {{"A:1072", "overlap-param-gather-with-optimizer-step needs virtual stages"},
     [](const Case& c) { return c.a.param_gather_with_optimizer && c.vpp() <= 1; }},
    {{"A:1096", "fp8-param-gather only with the distributed optimizer or FSDP"},
     [](const Case& c) { return c.a.fp8_param_gather && !c.a.distributed_optimizer && !c.fsdp(); }},
    {{"A:1101", "fp4-format and fp8-format cannot be used simultaneously"},
     [](const Case& c) { return c.a.fp4_format && c.fp8(); }},
    {{"A:1166", "Megatron-FSDP needs CUDA_DEVICE_MAX_CONNECTIONS other than 1"},
     [](const Case& c) { return c.a.megatron_fsdp && c.w.max_connections == 1; }},
    {{"A:1169", "Megatron-FSDP requires the fsdp_dtensor checkpoint format"},
     [](const Case& c) {
       return c.a.megatron_fsdp && c.a.checkpoint_format.value_or("torch_dist") != "fsdp_dtensor";
     }},
    // ---- the run
    {{"A:1279", "iterations and samples cannot both be given"},
     [](const Case& c) { return c.a.train_iters && c.a.train_samples; }},
    {{"A:1336", "seq-length should be a multiple of 2 x cp"},
     [](const Case& c) { return c.a.cp > 1 && c.a.seq % (2 * c.a.cp) != 0; },
     [](const Case& c) { return fmt::format("seq-length {}, cp {}", c.a.seq, c.a.cp); }},
    {{"A:1354", "max-position-embeddings must be at least seq-length"},
     [](const Case& c) { return c.a.max_positions < c.a.seq; },
     [](const Case& c) { return fmt::format("{} < {}", c.a.max_positions, c.a.seq); }},
    {{"A:1362", "save needs save-interval"},
     [](const Case& c) { return c.a.save && !c.a.save_interval; }},
    // ---- overlap
    {{"A:1442", "tensor parallel overlap needs sequence parallelism"},
     [](const Case& c) { return c.a.tp_comm_overlap && !c.sequence_parallel(); }},
    {{"A:1477", "tensor or context parallelism needs CUDA_DEVICE_MAX_CONNECTIONS=1"},
     [](const Case& c) {
       // With FSDP or the overlap of expert communication it is only a warning.
       return (c.a.tp > 1 || c.a.cp > 1) && c.w.compute_capability < 10 && !c.fsdp() &&
              !c.a.ep_overlap && c.w.max_connections != 1;
     }},
    {{"A:1657", "number of experts should be a multiple of ep"},
     [](const Case& c) { return c.moe() && *c.a.experts % c.a.ep != 0; },
     [](const Case& c) { return fmt::format("{} experts, ep {}", *c.a.experts, c.a.ep); }},
    {{"A:1679", "a single data source must be provided"},
     [](const Case& c) { return c.a.mock_data && !c.a.data_path.empty(); }},
    {{"A:1698", "Transformer Engine's cross entropy fusion is disabled (since 0.19)"},
     [](const Case& c) {
       return c.a.cross_entropy_fusion && c.a.cross_entropy_impl == "te" &&
              c.w.release >= MegatronRelease::V0_19;
     }},
    {{"A:1889", "optimizer-cpu-offload with fp8-param-gather needs the delayed recipe"},
     [](const Case& c) { return c.a.cpu_offload && c.a.fp8_param_gather && !c.recipe("delayed"); }},
    {{"A:1974", "group query attention is mutually exclusive with multi latent attention"},
     [](const Case& c) { return c.a.grouped_queries && c.a.mla; }},
    // ---- TransformerConfig
    {{"T:1447", "num_attention_heads must be a multiple of tp"},
     [](const Case& c) { return c.a.heads % c.a.tp != 0; },
     [](const Case& c) { return fmt::format("{} heads, tp {}", c.a.heads, c.a.tp); }},
    {{"T:1462", "num_query_groups must divide or be divided by tp"},
     [](const Case& c) {
       return c.a.grouped_queries && c.a.query_groups && *c.a.query_groups % c.a.tp != 0 &&
              c.a.tp % *c.a.query_groups != 0;
     }},
    {{"T:1530", "delayed scaling does not support first / last layers in bf16"},
     [](const Case& c) { return c.fp8() && c.recipe("delayed") && c.a.first_last_bf16; }},
    {{"T:1914", "full recomputation needs recompute_method block or uniform"},
     [](const Case& c) { return c.full() && !c.a.recompute_method; }},
    {{"T:1929", "selective recomputation excludes recompute_num_layers"},
     [](const Case& c) { return c.selective() && c.a.recompute_layers; }},
    {{"T:1959", "invalid choices for recompute_modules"},
     [](const Case& c) {
       return std::any_of(c.a.recompute_modules.begin(), c.a.recompute_modules.end(),
                          unknown_module);
     },
     [](const Case& c) {
       return *std::find_if(c.a.recompute_modules.begin(), c.a.recompute_modules.end(),
                            unknown_module);
     }},
    {{"T:2003", "delayed scaling does not support moe_act and layernorm recomputation"},
     [](const Case& c) {
       return c.fp8() && c.recipe("delayed") &&
              (c.recomputes("moe_act") || c.recomputes("layernorm"));
     }},
    {{"T:2235", "first / last stage layers cannot be set with account_for_*"},
     [](const Case& c) { return c.a.layout.empty() && c.uses_first_last() && c.accounts(); }},
    {{"T:2252", "a pipeline layout cannot be set with other layout arguments"},
     [](const Case& c) { return !c.a.layout.empty() && (c.uses_first_last() || c.accounts()); }},
    {{"pipeline_layer_layout.py:107", "the layout's decoder layers must match num_layers"},
     [](const Case& c) {
       return !c.a.layout.empty() && c.layout_sum(&PipelineStage::layers) != c.a.layers;
     },
     [](const Case& c) {
       return fmt::format("{} of {}", c.layout_sum(&PipelineStage::layers), c.a.layers);
     }},
    {{"pipeline_layer_layout.py:113", "the layout's MTP layers must match mtp_num_layers"},
     [](const Case& c) {
       return !c.a.layout.empty() && c.layout_sum(&PipelineStage::mtp) != c.mtp();
     },
     [](const Case& c) {
       return fmt::format("{} of {}", c.layout_sum(&PipelineStage::mtp), c.mtp());
     }},
    {{"T:2304", "first / last stage layers must be positive and divisible by the virtual stages"},
     [](const Case& c) {
       const auto wrong = [&](const std::optional<int>& n) {
         return n && (*n < 1 || *n % std::max(1, c.vpp()) != 0);
       };
       return wrong(c.a.first_stage_layers) || wrong(c.a.last_stage_layers);
     }},
    {{"T:2349", "the layers between first and last stage must be divisible by the stages between"},
     [](const Case& c) {
       if (!c.uses_first_last()) return false;
       const int stages = middle_stages(c), n = middle_layers(c);
       return n < 0 || (stages > 0 ? n % stages != 0 : n != 0);
     }},
    {{"T:2361", "layers per stage must be divisible by the virtual stages"},
     [](const Case& c) {
       if (!c.a.layout.empty() || c.vpp() <= 1) return false;
       const int stages = c.uses_first_last() ? middle_stages(c) : c.a.pp;
       const int n = c.uses_first_last() ? middle_layers(c) : c.counted_layers();
       return stages > 0 && n / stages % c.vpp() != 0;
     }},
    {{"T:2614", "bias in mixtures is only supported when ETP is 1"},
     [](const Case& c) { return c.moe() && c.a.linear_bias && c.etp() > 1; }},
    {{"T:2621", "expert bias for aux-loss-free routing needs sigmoid or sqrtsoftplus scores"},
     [](const Case& c) {
       return c.moe() && c.a.expert_bias_routing && c.a.score.value_or("softmax") == "softmax";
     }},
    {{"T:2651", "moe_router_padding_for_quantization needs fp8 or fp4"},
     [](const Case& c) { return c.moe() && c.a.padding && !c.fp8() && !c.a.fp4_format; }},
    {{"T:2656", "the allgather dispatcher does not support moe_router_padding_for_quantization"},
     [](const Case& c) { return c.moe() && c.a.padding && c.dispatches_by("allgather"); }},
    {{"T:2669", "moe-router-pre-softmax is needed when topk is 1"},
     [](const Case& c) {
       return c.moe() && c.a.top_k.value_or(2) == 1 && c.a.score.value_or("softmax") == "softmax" &&
              !c.a.pre_softmax;
     }},
    {{"T:2678", "group limited routing needs moe_router_num_groups"},
     [](const Case& c) { return c.moe() && c.a.group_topk && !c.a.groups; }},
    {{"T:2682", "the experts should be divisible by moe_router_num_groups"},
     [](const Case& c) {
       return c.moe() && c.a.group_topk && c.a.groups && *c.a.experts % *c.a.groups != 0;
     },
     [](const Case& c) { return fmt::format("{} by {}", *c.a.experts, *c.a.groups); }},
    {{"T:2686", "moe_router_group_topk should be smaller than moe_router_num_groups"},
     [](const Case& c) {
       return c.moe() && c.a.group_topk && c.a.groups && *c.a.group_topk > *c.a.groups;
     },
     [](const Case& c) { return fmt::format("{}, {} groups", *c.a.group_topk, *c.a.groups); }},
    {{"T:2857", "full recomputation only with a full iteration CUDA graph"},
     [](const Case& c) {
       return c.full() && c.a.cuda_graph_impl && *c.a.cuda_graph_impl != "none" &&
              *c.a.cuda_graph_impl != "full_iteration";
     }},
    // ---- 1F1B overlap of expert communication
    {{"T:3008", "EP overlap needs virtual stages when pp is larger than 1"},
     [](const Case& c) { return c.a.ep_overlap && c.a.pp > 1 && c.vpp() <= 1; }},
    {{"T:3013", "EP overlap needs ep larger than 1"},
     [](const Case& c) { return c.a.ep_overlap && c.a.ep <= 1; }},
    {{"T:3016", "EP overlap needs the alltoall or the flex dispatcher"},
     [](const Case& c) {
       return c.a.ep_overlap && !c.dispatches_by("alltoall") && !c.dispatches_by("flex");
     }},
    {{"T:3022", "EP overlap excludes full recomputation (except on dev)"},
     [](const Case& c) {
       return c.a.ep_overlap && c.full() && c.w.release != MegatronRelease::Dev;
     }},
    {{"T:3024", "EP overlap excludes a recompute method and a number of layers"},
     [](const Case& c) {
       return c.a.ep_overlap && !c.full() && (c.a.recompute_method || c.a.recompute_layers);
     }},
    {{"T:3031", "EP overlap excludes moe in recompute_modules"},
     [](const Case& c) { return c.a.ep_overlap && c.recomputes("moe"); }},
    {{"T:3035", "EP overlap needs bf16 or fp16"},
     [](const Case& c) { return c.a.ep_overlap && !c.a.bf16 && !c.a.fp16; }},
    {{"T:3039", "EP overlap excludes moe_shared_expert_overlap"},
     [](const Case& c) { return c.a.ep_overlap && c.a.shared_overlap; }},
    {{"T:3042", "EP overlap supports at most one MTP layer"},
     [](const Case& c) { return c.a.ep_overlap && c.mtp() > 1; }},
    {{"T:3075", "delay_wgrad_compute needs EP overlap"},
     [](const Case& c) { return c.a.delay_wgrad && !c.a.ep_overlap; }},
    // ---- groups, optimizer, layers, schedule
    {{"parallel_state.py:808", "dp x cp must be divisible by num_distributed_optimizer_instances"},
     [](const Case& c) {
       const int n = c.a.optimizer_instances.value_or(1);
       return n < 1 || c.sample_ranks() * c.a.cp % n != 0 || (n > 1 && c.a.weight_shards);
     }},
    {{"parallel_state.py:881", "world size is not divisible by etp x ep x pp"},
     [](const Case& c) {
       return c.moe() && c.w.processes % (std::int64_t{c.etp()} * c.a.ep * c.a.pp) != 0;
     },
     [](const Case& c) {
       return fmt::format("world {}, etp {} x ep {} x pp {}", c.w.processes, c.etp(), c.a.ep,
                          c.a.pp);
     }},
    {{"optimizer_config.py:476",
      "exp_avg_dtype other than fp32 needs the precision-aware optimizer"},
     [](const Case& c) {
       const auto other = [](const std::optional<std::string>& t) { return t && *t != "fp32"; };
       return !c.a.precision_aware && (other(c.a.exp_avg) || other(c.a.exp_avg_sq));
     }},
    {{"training.py:1032", "invalid length of moe_layer_pattern"},
     [](const Case& c) {
       if (!c.moe() || !c.a.moe_layer_freq) return false;
       const auto pattern = read_pattern(*c.a.moe_layer_freq, c.a.layers);
       return !pattern || static_cast<int>(pattern->size()) != c.a.layers;
     },
     [](const Case& c) { return fmt::format("{} of {} layers", *c.a.moe_layer_freq, c.a.layers); }},
    {{"moe_layer.py:636", "a mixture with tensor parallelism needs sequence parallelism"},
     [](const Case& c) { return c.moe() && c.a.tp > 1 && !c.a.sequence_parallel; }},
    {{"token_dispatcher.py:1836", "the flex dispatcher needs etp x ep larger than 1"},
     [](const Case& c) { return c.moe() && c.dispatches_by("flex") && c.etp() * c.a.ep <= 1; }},
    {{"multi_token_prediction.py:1625", "MTP with uniform recomputation needs one layer per unit"},
     [](const Case& c) {
       return c.mtp() > 0 && c.full() && c.a.recompute_method == "uniform" &&
              c.a.recompute_layers.value_or(1) != 1;
     }},
    {{"schedules.py:1160", "the micro-batch group of virtual stages should range from pp to M"},
     [](const Case& c) {
       const int group = c.a.microbatch_group.value_or(c.a.pp);
       return c.a.pp > 1 && c.vpp() > 1 && (group < c.a.pp || group > c.micro_batches());
     },
     [](const Case& c) { return fmt::format("pp {}, M {}", c.a.pp, c.micro_batches()); }},
    {{"schedules.py:1173", "the last group of micro-batches must be empty or at least pp"},
     [](const Case& c) {
       const auto left = c.micro_batches() % c.a.microbatch_group.value_or(c.a.pp);
       return c.a.pp > 1 && c.vpp() > 1 && left > 0 && left < c.a.pp;
     },
     [](const Case& c) {
       return fmt::format("M {}, group {}", c.micro_batches(),
                          c.a.microbatch_group.value_or(c.a.pp));
     }},
};

}  // namespace

const MegatronRule* broken_rule(const MegatronArgs& args, const MegatronWorld& world,
                                std::string* detail) {
  const Case c{args, world};
  for (const RuleRow& row : kRows)
    if (row.broken(c)) {
      if (detail != nullptr) *detail = row.figures != nullptr ? row.figures(c) : std::string();
      return &row;
    }
  return nullptr;
}

std::optional<Refusal> megatron_refusal(const MegatronArgs& args, const MegatronWorld& world) {
  Refusal refusal;
  const MegatronRule* rule = broken_rule(args, world, &refusal.detail);
  if (rule == nullptr) return std::nullopt;
  refusal.why = rule->why;
  refusal.where = rule->where;
  return refusal;
}

MegatronSizes megatron_sizes(const MegatronArgs& args, const MegatronWorld& world) {
  const Case c{args, world};
  MegatronSizes s;
  s.dp = static_cast<int>(c.sample_ranks() / (args.weight_shards.value_or(args.tp) / args.tp));
  if (c.moe())
    s.expert_dp = static_cast<int>(world.processes / (std::int64_t{c.etp()} * args.ep * args.pp));
  s.micro_batches = static_cast<int>(c.micro_batches());
  if (c.vpp() > 1) s.vpp = c.vpp();
  return s;
}

}  // namespace reckon::plan::launch
