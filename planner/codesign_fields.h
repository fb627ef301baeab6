// The fields of a co-design in JSON. See hw-models/json_fields.h.
#pragma once

#include "hw-models/hardware_fields.h"
#include "planner/codesign_spec.h"
#include "planner/model_fields.h"

namespace reckon::plan {

inline const auto& spellings(ShapeDimension) {
  using enum ShapeDimension;
  static constexpr hw::Spelling<ShapeDimension> t[] = {{Layers, "layers"},
                                                       {Hidden, "hidden"},
                                                       {Heads, "heads"},
                                                       {KvHeads, "kv_heads"},
                                                       {Ffn, "ffn"},
                                                       {Experts, "experts"},
                                                       {TopK, "top_k"},
                                                       {ExpertFfn, "expert_ffn"},
                                                       {SharedFfn, "shared_ffn"},
                                                       {Groups, "groups"},
                                                       {LimitedGroups, "limited_groups"},
                                                       {MtpDepth, "mtp_depth"}};
  return t;
}

template <class V>
void fields(V& v, ShapeSpace& s) {
  constexpr double kMaxExperts = 100000;
  v("layers", s.layers,
    {.doc = "values to try; absent: the model's own", .min = 1, .max = kMaxLayers});
  v("hidden", s.hidden, {.doc = "values to try", .min = 1, .max = kMaxWidth});
  v("heads", s.heads, {.doc = "values to try", .min = 1, .max = kMaxHeads});
  v("kv_heads", s.kv_heads, {.doc = "values to try", .min = 1, .max = kMaxHeads});
  v("ffn", s.ffn, {.doc = "of dense layers, values to try", .min = 1, .max = 1e7});
  v("experts", s.experts, {.doc = "values to try", .min = 1, .max = kMaxExperts});
  v("top_k", s.top_k, {.doc = "values to try", .min = 1, .max = kMaxExperts});
  v("expert_ffn", s.expert_ffn,
    {.doc = "hidden width of one routed expert, values to try", .min = 1, .max = kMaxWidth});
  v("shared_ffn", s.shared_ffn,
    {.doc = "hidden width of all shared experts, values to try; 0: none", .max = kMaxWidth});
  v("groups", s.groups, {.doc = "of experts, values to try", .min = 1, .max = 10000});
  v("limited_groups", s.limited_groups,
    {.doc = "groups that a token may use, values to try", .min = 1, .max = 10000});
  v("mtp_depth", s.mtp_depth, {.doc = "multi-token-prediction modules to try", .max = 100});
}

template <class V>
void fields(V& v, HardwareSpace& h) {
  v("gpus", h.gpus, {.doc = "in the whole cluster, values to try", .min = 1, .max = 1e6});
  v("gpu", h.gpu, {.doc = "devices of the catalogue to try"});
  v("nic", h.nic, {.doc = "per GPU and direction, values to try", .min = 1e3});
  v("nvlink", h.nvlink, {.doc = "per GPU and direction, values to try", .min = 1e3});
}
void finish(const hw::Value& v, HardwareSpace& h);  // devices that exist

template <class V>
void fields(V& v, ParameterTarget& t) {
  v("parameters", t.parameters, {.doc = "to have", .required = true, .min = 1e3, .max = 1e15});
  v("within", t.within, {.doc = "parts of them, either way; 0.02", .min = 0, .max = 0.5});
}

template <class V>
void fields(V& v, CodesignSpec& c) {
  v("shape", c.shape, {.doc = "of the model, what varies", .required = true});
  v("hardware", c.hardware, {.doc = "what varies of the cluster; nothing"});
  v("total", c.total, {.doc = "parameters of the model, MTP modules not counted; any number"});
  v("activated", c.activated, {.doc = "parameters that a token passes through; any number"});
  v("nearest", c.nearest,
    {.doc = "of shapes that differ in this alone, only the nearest to the targets; all"});
}
void finish(const hw::Value& v, CodesignSpec& c);  // lists hold values; nearest needs both

}  // namespace reckon::plan
