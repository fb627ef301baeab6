// The arguments of Megatron-LM's pretrain_gpt.py that decide how a model is trained, and the one
// table that names them: an argument's flag on the command line and its key in a Megatron-Bridge
// recipe stand beside the member. Command lines are written and read from it, and Bridge overrides
// too, so that the four can't drift.
//
// Flags: NVIDIA/Megatron-LM, megatron/training/arguments.py and the dataclasses that it reads
// (releases core_v0.16.0 to main d98e8a64). Keys: NVIDIA-NeMo/Megatron-Bridge 067f987d.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace reckon::plan::launch {

// One stage of --pipeline-model-parallel-layout. Stage i runs on pipeline rank i mod pp.
struct PipelineStage {
  int layers = 0, mtp = 0;
  bool embedding = false, loss = false;
  bool operator==(const PipelineStage&) const = default;
};

struct MegatronArgs {
  // Sizes of parallel groups.
  int tp = 1, pp = 1, cp = 1, ep = 1;
  std::optional<int> etp;            // default: tp
  std::optional<int> weight_shards;  // ranks that share the weights, at least tp
  bool sequence_parallel = false;
  std::vector<PipelineStage> layout;
  std::optional<int> virtual_stages, layers_per_virtual_stage, first_stage_layers,
      last_stage_layers;
  bool account_for_embedding = false, account_for_loss = false;
  std::optional<int> microbatch_group;
  bool overlap_p2p = true;
  std::vector<std::string> cp_comm_type;
  std::vector<int> hierarchical_cp;

  int micro_batch = 1, global_batch = 1;
  std::optional<std::int64_t> train_iters, train_samples;

  // The model.
  int layers = 0, hidden = 0, heads = 0, seq = 0, max_positions = 0;
  std::optional<int> ffn, query_groups, kv_channels, vocab, vocab_multiple;
  bool grouped_queries = false, untie_embeddings = false, swiglu = false, squared_relu = false,
       qk_layernorm = false, qkv_bias = false, linear_bias = true;
  std::string normalization = "LayerNorm", positions = "learned_absolute";
  std::optional<std::string> window, window_freq;
  bool mla = false;
  std::optional<int> q_lora, kv_lora, qk_head_dim, qk_pos_dim, v_head_dim;

  std::optional<int> experts, moe_ffn, top_k, shared_ffn, groups, group_topk, dispatcher_sms,
      deepep_sms, hybridep_sms;
  std::optional<std::string> moe_layer_freq, score, load_balancing, dispatcher, flex_backend,
      router_dtype;
  std::optional<double> routed_scaling, aux_loss, capacity_factor, bias_rate;
  bool shared_gate = false, shared_overlap = false, expert_bias_routing = false,
       grouped_gemm = false, permute_fusion = false, router_fusion = false, pre_softmax = false,
       padding = false;
  std::optional<int> mtp;

  // Recomputation.
  bool recompute_activations = false;  // the same as selective
  std::optional<std::string> recompute, recompute_method;
  std::optional<int> recompute_layers;
  std::vector<std::string> recompute_modules;

  // Data parallelism and the optimizer.
  bool distributed_optimizer = false, megatron_fsdp = false, torch_fsdp2 = false,
       overlap_grad_reduce = false, overlap_param_gather = false,
       param_gather_with_optimizer = false, precision_aware = false, cpu_offload = false,
       grad_reduce_in_bf16 = false;
  std::optional<int> optimizer_instances;
  std::optional<std::string> sharding, main_grads, main_params, exp_avg, exp_avg_sq;

  // Numbers and kernels.
  bool bf16 = false, fp16 = false, fp8_param_gather = false, first_last_bf16 = false,
       reuse_grad_buf = false, cross_entropy_fusion = false;
  std::optional<std::string> fp8_format, fp8_recipe, fp4_format, cross_entropy_impl,
      transformer_impl, attention_backend, cuda_graph_impl;
  std::vector<std::string> cuda_graph_scope, cuda_graph_modules;

  // Communication under compute.
  bool tp_comm_overlap = false, ep_overlap = false, delay_wgrad = false;

  // The run.
  bool mock_data = false;
  std::vector<std::string> data_path;
  std::optional<std::string> save, checkpoint_format, tokenizer, lr_decay_style;
  std::optional<int> save_interval;
  std::optional<double> attention_dropout, hidden_dropout, lr, min_lr, weight_decay, clip_grad;
};

// The table. v(flag, key, member): written when the member is set; a plain number or text is always
// written, a switch when it is on. v.off(...): a switch that turns the member off. key "": Bridge
// sets it through its model or recipe.
template <class V>
void fields(V& v, MegatronArgs& a) {
  v("--tensor-model-parallel-size", "model.tensor_model_parallel_size", a.tp);
  v("--pipeline-model-parallel-size", "model.pipeline_model_parallel_size", a.pp);
  v("--context-parallel-size", "model.context_parallel_size", a.cp);
  v("--expert-model-parallel-size", "model.expert_model_parallel_size", a.ep);
  v("--expert-tensor-parallel-size", "model.expert_tensor_parallel_size", a.etp);
  v("--tensor-parallel-num-weight-shards", "", a.weight_shards);
  v("--sequence-parallel", "model.sequence_parallel", a.sequence_parallel);
  v("--pipeline-model-parallel-layout", "model.pipeline_model_parallel_layout", a.layout);
  v("--num-virtual-stages-per-pipeline-rank", "model.virtual_pipeline_model_parallel_size",
    a.virtual_stages);
  v("--num-layers-per-virtual-pipeline-stage", "", a.layers_per_virtual_stage);
  v("--decoder-first-pipeline-num-layers", "model.num_layers_in_first_pipeline_stage",
    a.first_stage_layers);
  v("--decoder-last-pipeline-num-layers", "model.num_layers_in_last_pipeline_stage",
    a.last_stage_layers);
  v("--account-for-embedding-in-pipeline-split", "model.account_for_embedding_in_pipeline_split",
    a.account_for_embedding);
  v("--account-for-loss-in-pipeline-split", "model.account_for_loss_in_pipeline_split",
    a.account_for_loss);
  v("--microbatch-group-size-per-virtual-pipeline-stage",
    "model.microbatch_group_size_per_vp_stage", a.microbatch_group);
  v.off("--no-overlap-p2p-communication", "comm_overlap.overlap_p2p_comm", a.overlap_p2p);
  v("--cp-comm-type", "model.cp_comm_type", a.cp_comm_type);
  v("--hierarchical-context-parallel-sizes", "model.hierarchical_context_parallel_sizes",
    a.hierarchical_cp);

  v("--micro-batch-size", "train.micro_batch_size", a.micro_batch);
  v("--global-batch-size", "train.global_batch_size", a.global_batch);
  v("--train-iters", "train.train_iters", a.train_iters);
  v("--train-samples", "train.train_samples", a.train_samples);

  v("--num-layers", "", a.layers);
  v("--hidden-size", "", a.hidden);
  v("--ffn-hidden-size", "", a.ffn);
  v("--num-attention-heads", "", a.heads);
  v("--group-query-attention", "", a.grouped_queries);
  v("--num-query-groups", "", a.query_groups);
  v("--kv-channels", "", a.kv_channels);
  v("--seq-length", "dataset.seq_length", a.seq);
  v("--max-position-embeddings", "", a.max_positions);
  v("--vocab-size", "", a.vocab);
  v("--make-vocab-size-divisible-by", "", a.vocab_multiple);
  v("--untie-embeddings-and-output-weights", "", a.untie_embeddings);
  v("--swiglu", "", a.swiglu);
  v("--squared-relu", "", a.squared_relu);
  v("--normalization", "", a.normalization);
  v("--qk-layernorm", "", a.qk_layernorm);
  v("--add-qkv-bias", "", a.qkv_bias);
  v.off("--disable-bias-linear", "", a.linear_bias);
  v("--position-embedding-type", "", a.positions);
  v("--window-size", "", a.window);
  v("--window-attn-skip-freq", "", a.window_freq);
  v("--multi-latent-attention", "", a.mla);
  v("--q-lora-rank", "", a.q_lora);
  v("--kv-lora-rank", "", a.kv_lora);
  v("--qk-head-dim", "", a.qk_head_dim);
  v("--qk-pos-emb-head-dim", "", a.qk_pos_dim);
  v("--v-head-dim", "", a.v_head_dim);

  v("--num-experts", "", a.experts);
  v("--moe-layer-freq", "", a.moe_layer_freq);
  v("--moe-ffn-hidden-size", "", a.moe_ffn);
  v("--moe-router-topk", "", a.top_k);
  v("--moe-shared-expert-intermediate-size", "", a.shared_ffn);
  v("--moe-shared-expert-gate", "", a.shared_gate);
  v("--moe-shared-expert-overlap", "model.moe_shared_expert_overlap", a.shared_overlap);
  v("--moe-router-score-function", "", a.score);
  v("--moe-router-enable-expert-bias", "", a.expert_bias_routing);
  v("--moe-router-bias-update-rate", "", a.bias_rate);
  v("--moe-router-num-groups", "", a.groups);
  v("--moe-router-group-topk", "", a.group_topk);
  v("--moe-router-topk-scaling-factor", "", a.routed_scaling);
  v("--moe-router-load-balancing-type", "", a.load_balancing);
  v("--moe-aux-loss-coeff", "", a.aux_loss);
  v("--moe-router-dtype", "", a.router_dtype);
  v("--moe-router-pre-softmax", "", a.pre_softmax);
  v("--moe-grouped-gemm", "", a.grouped_gemm);
  v("--moe-permute-fusion", "model.moe_permute_fusion", a.permute_fusion);
  v("--moe-router-fusion", "model.moe_router_fusion", a.router_fusion);
  v("--moe-router-padding-for-quantization", "model.moe_router_padding_for_quantization",
    a.padding);
  v("--moe-token-dispatcher-type", "model.moe_token_dispatcher_type", a.dispatcher);
  v("--moe-flex-dispatcher-backend", "model.moe_flex_dispatcher_backend", a.flex_backend);
  v("--moe-flex-dispatcher-num-sms", "model.moe_flex_dispatcher_num_sms", a.dispatcher_sms);
  v("--moe-deepep-num-sms", "", a.deepep_sms);
  v("--moe-hybridep-num-sms", "", a.hybridep_sms);
  v("--moe-expert-capacity-factor", "", a.capacity_factor);
  v("--mtp-num-layers", "model.mtp_num_layers", a.mtp);

  v("--recompute-activations", "", a.recompute_activations);
  v("--recompute-granularity", "model.recompute_granularity", a.recompute);
  v("--recompute-method", "model.recompute_method", a.recompute_method);
  v("--recompute-num-layers", "model.recompute_num_layers", a.recompute_layers);
  v("--recompute-modules", "model.recompute_modules", a.recompute_modules);

  v("--use-distributed-optimizer", "ddp.use_distributed_optimizer", a.distributed_optimizer);
  v("--num-distributed-optimizer-instances", "ddp.num_distributed_optimizer_instances",
    a.optimizer_instances);
  v("--use-megatron-fsdp", "ddp.use_megatron_fsdp", a.megatron_fsdp);
  v("--data-parallel-sharding-strategy", "ddp.data_parallel_sharding_strategy", a.sharding);
  v("--use-torch-fsdp2", "dist.use_torch_fsdp2", a.torch_fsdp2);
  v("--overlap-grad-reduce", "ddp.overlap_grad_reduce", a.overlap_grad_reduce);
  v("--overlap-param-gather", "ddp.overlap_param_gather", a.overlap_param_gather);
  v("--overlap-param-gather-with-optimizer-step",
    "comm_overlap.overlap_param_gather_with_optimizer_step", a.param_gather_with_optimizer);
  v("--grad-reduce-in-bf16", "", a.grad_reduce_in_bf16);
  v("--use-precision-aware-optimizer", "optimizer.use_precision_aware_optimizer",
    a.precision_aware);
  v("--main-grads-dtype", "", a.main_grads);
  v("--main-params-dtype", "", a.main_params);
  v("--exp-avg-dtype", "", a.exp_avg);
  v("--exp-avg-sq-dtype", "", a.exp_avg_sq);
  v("--optimizer-cpu-offload", "optimizer.optimizer_cpu_offload", a.cpu_offload);

  v("--bf16", "mixed_precision.bf16", a.bf16);
  v("--fp16", "mixed_precision.fp16", a.fp16);
  v("--fp8-format", "mixed_precision.fp8", a.fp8_format);
  v("--fp8-recipe", "mixed_precision.fp8_recipe", a.fp8_recipe);
  v("--fp8-param-gather", "mixed_precision.fp8_param_gather", a.fp8_param_gather);
  v("--first-last-layers-bf16", "mixed_precision.first_last_layers_bf16", a.first_last_bf16);
  v("--reuse-grad-buf-for-mxfp8-param-ag", "mixed_precision.reuse_grad_buf_for_mxfp8_param_ag",
    a.reuse_grad_buf);
  v("--fp4-format", "mixed_precision.fp4", a.fp4_format);
  v("--cross-entropy-loss-fusion", "model.cross_entropy_loss_fusion", a.cross_entropy_fusion);
  v("--cross-entropy-fusion-impl", "model.cross_entropy_fusion_impl", a.cross_entropy_impl);
  v("--transformer-impl", "", a.transformer_impl);
  v("--attention-backend", "", a.attention_backend);
  v("--cuda-graph-impl", "model.cuda_graph_impl", a.cuda_graph_impl);
  v("--cuda-graph-scope", "", a.cuda_graph_scope);
  v("--cuda-graph-modules", "", a.cuda_graph_modules);

  v("--tp-comm-overlap", "comm_overlap.tp_comm_overlap", a.tp_comm_overlap);
  v("--overlap-moe-expert-parallel-comm", "comm_overlap.overlap_moe_expert_parallel_comm",
    a.ep_overlap);
  v("--delay-wgrad-compute", "comm_overlap.delay_wgrad_compute", a.delay_wgrad);

  v("--mock-data", "", a.mock_data);
  v("--data-path", "", a.data_path);
  v("--tokenizer-type", "", a.tokenizer);
  v("--save", "checkpoint.save", a.save);
  v("--save-interval", "checkpoint.save_interval", a.save_interval);
  v("--ckpt-format", "checkpoint.ckpt_format", a.checkpoint_format);
  v("--attention-dropout", "", a.attention_dropout);
  v("--hidden-dropout", "", a.hidden_dropout);
  v("--lr", "", a.lr);
  v("--min-lr", "", a.min_lr);
  v("--lr-decay-style", "", a.lr_decay_style);
  v("--weight-decay", "", a.weight_decay);
  v("--clip-grad", "", a.clip_grad);
}

// "Et|(tt|)*30mL" and back. E embedding, t layer, m multi-token-prediction module, L loss, "|" ends
// a stage, (x)*n repeats. Errors: std::nullopt for anything else.
std::optional<std::vector<PipelineStage>> read_layout(const std::string& text);
std::string layout_text(const std::vector<PipelineStage>& stages);

// "([0]*3+[1]*58)", "2" (every second), as Megatron-LM evaluates them. nullopt: not such a pattern.
std::optional<std::vector<bool>> read_pattern(const std::string& text, int layers);
std::string pattern_text(const std::vector<bool>& pattern);

}  // namespace reckon::plan::launch
