// The fields of disturbances in JSON. See hw-models/json_fields.h.
#pragma once

#include "hw-models/json_fields.h"
#include "planner/disturbance_spec.h"

namespace reckon::plan {

inline const auto& spellings(ExpertLoadSpec::Kind) {
  using enum ExpertLoadSpec::Kind;
  static constexpr hw::Spelling<ExpertLoadSpec::Kind> t[] = {
      {Dirichlet, "dirichlet"}, {Zipf, "zipf"}, {File, "file"}};
  return t;
}

template <class V>
void fields(V& v, JitterSpec& j) {
  v("spread", j.spread,
    {.doc = "standard deviation of a normal distribution around 1", .min = 1e-6, .max = 1});
  v("quantiles", j.quantiles,
    {.doc = "factors on times instead, evenly spaced from the least to the largest",
     .min = 0.1,
     .max = 100});
}
void finish(const hw::Value& v, JitterSpec& j);

template <class V>
void fields(V& v, ExpertLoadSpec& e) {
  v("kind", e.kind, {.doc = "how tokens spread over the ranks of a group", .required = true});
  v("spread", e.spread,
    {.doc = "of dirichlet: standard deviation of a rank's tokens over their mean",
     .min = 1e-6,
     .max = 3});
  v("exponent", e.exponent,
    {.doc = "of zipf: the j-th most popular expert gets 1 / j^exponent", .min = 1e-6, .max = 4});
  v("file", e.file,
    {.doc = "of file: a JSON array of layers, each an array of the experts' tokens; beside the "
            "scenario"});
  v("per_micro_batch", e.per_micro_batch,
    {.doc = "drawn anew for each micro-batch; false: once for each layer"});
}
void finish(const hw::Value& v, ExpertLoadSpec& e);

template <class V>
void fields(V& v, SlowSpec& s) {
  v("gpus", s.gpus, {.doc = "numbers of GPUs, from 0", .required = true, .max = 1e6});
  v("speed", s.speed, {.doc = "relative to the others", .required = true, .min = 0.01, .max = 1});
}

template <class V>
void fields(V& v, DeadLinkSpec& d) {
  v("from", d.from,
    {.doc = "an end of the cable: \"gpu17\" (its NIC), \"leaf3\", \"spine0\", or a name of the "
            "topology's links",
     .required = true});
  v("to", d.to, {.doc = "the other end", .required = true});
  v("count", d.count, {.doc = "of the cables between the two; all", .min = 1, .max = 10000});
}

template <class V>
void fields(V& v, FlapSpec& f) {
  v("gpus", f.gpus,
    {.doc = "numbers of GPUs whose NIC flaps, from 0", .required = true, .max = 1e6});
  v("start", f.start, {.doc = "from the start of the step", .required = true, .max = 1e5});
  v("duration", f.duration, {.doc = "of one flap", .required = true, .max = 1e5});
  v("speed", f.speed, {.doc = "meanwhile, relative to the others; 0: the link is down", .max = 1});
  v("times", f.times, {.doc = "how often; 1", .min = 1, .max = 10000});
  v("every", f.every, {.doc = "from the start of one flap to the next", .max = 1e5});
}
void finish(const hw::Value& v, FlapSpec& f);

template <class V>
void fields(V& v, DisturbanceSpec& d) {
  v("device", d.device, {.doc = "of a GPU's compute time, once for the whole step"});
  v("slot", d.slot, {.doc = "of a GPU's compute time, drawn for each pass"});
  v("expert_load", d.expert_load, {.doc = "uneven experts; absent: as the stack says"});
  v("slow_gpus", d.slow_gpus, {.doc = "whose compute is slower"});
  v("slow_links", d.slow_links, {.doc = "GPUs whose NIC is slower"});
  v("flaps", d.flaps, {.doc = "NICs that go down, or slow, for a while"});
  v("dead_links", d.dead_links,
    {.doc = "cables of the fabric's topology that carry nothing, for `simulate --fidelity flow`"});
}

}  // namespace reckon::plan
