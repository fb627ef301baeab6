// The fields of failures in JSON. See hw-models/json_fields.h.
#pragma once

#include <map>

#include "hw-models/json_fields.h"
#include "planner/failure_spec.h"

namespace reckon::plan {

template <class V>
void fields(V& v, FailureClass& c) {
  v("name", c.name, {.doc = "shown in reports", .required = true});
  v("per_gpu_day", c.per_gpu_day,
    {.doc = "interruptions per GPU and day", .required = true, .max = 1});
  v("host_lost", c.host_lost, {.doc = "the job needs another host", .required = true});
}

template <class V>
void fields(V& v, FailureSpec& f) {
  v("classes", f.classes, {.doc = "what interrupts a job, and how often", .required = true});
  v("detect", f.detect, {.doc = "until the job is known to be dead", .required = true, .max = 1e6});
  v("restart", f.restart,
    {.doc = "until it trains again, without loading the checkpoint", .required = true, .max = 1e6});
  v("repair", f.repair, {.doc = "until a lost host is back", .required = true, .max = 1e7});
  v("spare_hosts", f.spare_hosts,
    {.doc = "that wait, beside the cluster's own", .required = true, .max = 1e6});
  v("storage", f.storage,
    {.doc = "of all hosts together, for checkpoints", .required = true, .min = 1e3});
  v("stall", f.stall,
    {.doc = "part of a checkpoint's writing that training waits for", .required = true, .max = 1});
  v("interval", f.interval, {.doc = "between checkpoints; the best", .min = 1, .max = 1e7});
  v("percentile", f.percentile,
    {.doc = "of the campaign's length, that the budget has to cover; 90", .min = 1, .max = 99});
  v.notes("sources", "where each figure is from");
}
void finish(const hw::Value& v, FailureSpec& f);  // at least one class

}  // namespace reckon::plan

namespace reckon::hw {

template <>
struct Catalogue<plan::FailureSpec> {
  static constexpr bool exists = true;
  static constexpr const char* what = "a set of failures";
  static const std::map<std::string, plan::FailureSpec>& entries();
};

}  // namespace reckon::hw
