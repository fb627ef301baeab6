// The fields of a scenario in JSON. See hw-models/json_fields.h.
#pragma once

#include "hw-models/hardware_fields.h"
#include "planner/codesign_fields.h"
#include "planner/disturbance_fields.h"
#include "planner/failure_fields.h"
#include "planner/model_fields.h"
#include "planner/plan_fields.h"
#include "planner/scenario.h"
#include "planner/training_fields.h"

namespace reckon::plan {

template <class V>
void fields(V& v, PhaseOfCampaign& p) {
  v("name", p.name, {.doc = "shown in reports", .required = true});
  v("seq", p.seq, {.doc = "tokens per sequence", .min = 1, .max = 1e8});
  v("global_batch", p.global_batch,
    {.doc = "sequences per step, at the end of the ramp", .min = 1, .max = 1e8});
  v("tokens", p.tokens, {.doc = "of the phase", .min = 1, .unit = &hw::token_units()});
  v("steps", p.steps, {.doc = "of the phase", .min = 1, .max = 1e9});
  v("batch_ramp_from", p.batch_ramp_from,
    {.doc = "sequences per step at the start", .min = 1, .max = 1e8});
  v("batch_ramp_tokens", p.batch_ramp_tokens,
    {.doc = "tokens over which the batch grows linearly", .min = 1, .unit = &hw::token_units()});
  v("gpu_hours", p.gpu_hours,
    {.doc = "given, not predicted", .min = 1e-9, .unit = &hw::gpu_hour_units()});
  v("plan", p.plan, {.doc = "published or proposed for this phase"});
}
void finish(const hw::Value& v, PhaseOfCampaign& p);

template <class V>
void fields(V& v, SearchSpace& s) {
  constexpr double kMaxDegree = 1e6;
  v("tp", s.tp, {.doc = "values to try; absent: every legal one", .min = 1, .max = kMaxDegree});
  v("pp", s.pp, {.doc = "values to try", .min = 1, .max = kMaxDegree});
  v("vpp", s.vpp, {.doc = "values to try", .min = 1, .max = kMaxDegree});
  v("cp", s.cp, {.doc = "values to try", .min = 1, .max = kMaxDegree});
  v("ep", s.ep, {.doc = "values to try", .min = 1, .max = kMaxDegree});
  v("etp", s.etp, {.doc = "values to try", .min = 1, .max = kMaxDegree});
  v("micro_batch", s.micro_batch, {.doc = "values to try", .min = 1, .max = kMaxDegree});
  v("schedule", s.schedule, {.doc = "values to try"});
  v("precision", s.precision, {.doc = "values to try"});
  v("recompute", s.recompute, {.doc = "values to try"});
  v("zero", s.zero, {.doc = "values to try"});
  v("expert_overlap", s.expert_overlap, {.doc = "values to try"});
  v("target", s.target, {.doc = "only plans that this framework accepts; any"});
  v("framework_version", s.framework_version, {.doc = "of the target, e.g. \"0.19.0\""});
}
// An empty list would allow nothing; a version belongs to a target.
void finish(const hw::Value& v, SearchSpace& s);

template <class V>
void fields(V& v, Constraints& c) {
  v("memory_margin", c.memory_margin, {.doc = "kept free on every GPU; 0", .max = 1e12});
  v("max_tp", c.max_tp, {.doc = "e.g. the NVLink domain; no limit", .min = 1, .max = 1e6});
}

template <class V>
void fields(V& v, Budget& b) {
  v("gpu_hours", b.gpu_hours, {.doc = "no limit", .min = 1e-9, .unit = &hw::gpu_hour_units()});
  v("days", b.days, {.doc = "wall clock; no limit", .min = 1e-9, .unit = &hw::day_units()});
  v("money", b.money, {.doc = "in the cluster's currency; no limit", .min = 1e-9, .max = 1e15});
}

// A model by catalogue name, in full, by base with changes, or {"hf_config": path, changes...}.
struct ModelPart {
  ModelShape& model;
};
void read_custom(const hw::Value& v, ModelPart& out, const hw::Rule& rule);
hw::ordered_json write_custom(const ModelPart& part);

template <class V>
void fields(V& v, Scenario& s) {
  v.ignored("$schema", "for editors");
  v("name", s.name, {.doc = "shown in reports", .required = true});
  v("description", s.description, {.doc = "the question, and the sources of its figures"});
  v("model", ModelPart{s.model}, {.doc = "what is trained", .required = true});
  v("cluster", s.cluster, {.doc = "on which machines", .required = true});
  v("stack", s.stack, {.doc = "with which software", .required = true});
  v("campaign", s.campaign, {.doc = "phases of the training run", .required = true});
  v("search", s.search, {.doc = "which plans to try; every legal one"});
  v("constraints", s.constraints, {.doc = "on every plan"});
  v("budget", s.budget, {.doc = "of the whole campaign"});
  v("plan", s.plan, {.doc = "published or proposed; `simulate` runs it"});
  v("failures", s.failures,
    {.doc = "what interrupts the campaign, and checkpoints; enters its bill"});
  v("disturbances", s.disturbances,
    {.doc = "what goes wrong on single GPUs, for `simulate --fidelity cluster`"});
  v("training", s.training, {.doc = "data, recipe and checkpoints of `train`"});
  // Checked here, and read again by `codesign` alone (codesign.h).
  std::optional<CodesignSpec> codesign;
  v("codesign", codesign, {.doc = "of the model and the machines, what `codesign` varies"});
}
void finish(const hw::Value& v, Scenario& s);  // completes the plans

}  // namespace reckon::plan
