// Runs of tiny models for tests: what a job's ranks, as threads, end with.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "real/trainer.h"

namespace reckon::real {

struct Outcome {
  std::vector<double> losses;                         // per step, MTP's behind it
  std::map<std::string, std::vector<float>> tensors;  // whole-model weights and optimizer states
};

// `steps` of the job on as many local ranks as its plan needs, each with what `equip` gives it.
using Equip = std::function<std::unique_ptr<Equipment>(Transport&)>;
Outcome trained(const Job& job, int steps, const Equip& equip = cpu_equipment);

// Losses, weights and optimizer states are the same bits.
bool identical(const Outcome& a, const Outcome& b);
// Largest difference of a loss or of a weight, relative to the loss or to the largest weight of its
// tensor. Biases of keys are left out: a softmax does not see what is added to all its scores, so
// their gradients are rounding errors alone.
double difference(const Outcome& a, const Outcome& b);

// DeepSeek-shaped: MLA, dense first layer, shared and routed experts in groups, one MTP module.
plan::ModelShape tiny_deepseek();
// GQA with norms on heads and softmax routing, no MTP.
plan::ModelShape tiny_mixture();
// Dense with LayerNorm, learned positions, GELU and biases, tied embedding.
plan::ModelShape tiny_gpt();

// On reckon-cpu, 32 tokens a sequence, 8 sequences a step, fp32.
Job tiny_job(const plan::ModelShape& model, plan::Plan plan);

}  // namespace reckon::real
