// Shapes of the model catalogue by what a framework says of them.
#pragma once

#include <optional>
#include <string>

#include "planner/model_fields.h"

namespace reckon::plan::launch {

struct SameModel {
  bool without_mtp = false;    // compare without MTP modules
  bool without_vocab = false;  // compare without the vocabulary, which a tokenizer decides
};

// The first catalogue entry of this shape (names and maximal positions aside), or "".
std::string catalogue_name(const ModelShape& model, const SameModel& same = {});

}  // namespace reckon::plan::launch
