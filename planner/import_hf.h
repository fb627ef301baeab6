// Hugging Face config.json -> ModelShape. Families: deepseek_v2, deepseek_v3, kimi_k2, mixtral,
// qwen2_moe, qwen3_moe, glm4_moe, gpt_oss, llama, gpt_neox, gpt2.
//
// A missing (or null) key means the default of the transformers class, as it does there. Keys that
// do not change the shape (token ids, dtypes, quantisation of the stored weights, scalings of RoPE
// other than YaRN) are ignored; keys that say the model is of another kind (sparse or linear
// attention, ...) are errors.
#pragma once

#include "hw-models/strict_json.h"
#include "planner/model.h"

namespace reckon::plan {

// `config`: the whole file, or the text_config of a multimodal wrapper, which is entered by itself.
// Errors: InputError.
ModelShape import_hf(const hw::Value& config);

}  // namespace reckon::plan
