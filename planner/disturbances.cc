#include "planner/disturbances.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "hw-models/strict_json.h"
#include "planner/disturbance_fields.h"
#include "sim/check.h"
#include "sim/input_error.h"

namespace reckon::plan {

void finish(const hw::Value& v, JitterSpec& j) {
  if ((j.spread > 0) == !j.quantiles.empty())
    v.fail_got("one of the keys \"spread\" and \"quantiles\"", j.spread > 0 ? "both" : "neither");
  if (!std::is_sorted(j.quantiles.begin(), j.quantiles.end()))
    v.find("quantiles")->fail("factors from the least to the largest");
}

void finish(const hw::Value& v, ExpertLoadSpec& e) {
  struct Need {
    ExpertLoadSpec::Kind kind;
    const char* key;
  };
  for (const Need& n :
       {Need{ExpertLoadSpec::Kind::Dirichlet, "spread"},
        Need{ExpertLoadSpec::Kind::Zipf, "exponent"}, Need{ExpertLoadSpec::Kind::File, "file"}}) {
    const auto given = v.find(n.key);
    if (e.kind == n.kind && !given)
      v.fail_got(fmt::format("the key \"{}\" with kind \"{}\"", n.key, hw::spelling(n.kind)),
                 "an object without it");
    if (e.kind != n.kind && given)
      given->fail(fmt::format("nothing: \"{}\" is of kind \"{}\"", n.key, hw::spelling(n.kind)));
  }
}

void finish(const hw::Value& v, FlapSpec& f) {
  if (f.times > 1 && f.every < f.duration)
    v.find("every").value_or(v).fail_got("at least the duration, so that flaps don't overlap",
                                         v.find("every") ? "less" : "an object without \"every\"");
  if (f.start.si + f.times * f.every.si > 1e6)  // the calendar holds nine times as much
    v.find("every").value_or(v).fail("flaps within 1e6 seconds of the step's start");
}

namespace {

sim::Jitter jitter(const std::optional<JitterSpec>& spec) {
  return spec ? sim::Jitter{.spread = spec->spread, .quantiles = spec->quantiles} : sim::Jitter{};
}

std::vector<sim::SlowRank> slow(const std::vector<SlowSpec>& list, const Plan& plan,
                                const char* key) {
  std::vector<sim::SlowRank> out;
  for (const SlowSpec& s : list)
    for (int gpu : s.gpus) {
      if (gpu >= world_size(plan))
        throw InputError(fmt::format("/disturbances/{}: expected GPUs from 0 to {}, got {}", key,
                                     world_size(plan) - 1, gpu));
      out.push_back({rank_of_gpu(plan, gpu), s.speed});
    }
  return out;
}

std::vector<sim::Flap> flaps(const std::vector<FlapSpec>& list, const Plan& plan) {
  std::vector<sim::Flap> out;
  for (const FlapSpec& f : list)
    for (int gpu : f.gpus) {
      if (gpu >= world_size(plan))
        throw InputError(fmt::format("/disturbances/flaps: expected GPUs from 0 to {}, got {}",
                                     world_size(plan) - 1, gpu));
      for (int i = 0; i < f.times; ++i)
        out.push_back({.rank = rank_of_gpu(plan, gpu),
                       .start = sim::ticks(f.start + static_cast<double>(i) * f.every),
                       .duration = sim::ticks(f.duration),
                       .speed = f.speed});
    }
  // Overlapping flaps of one NIC would count twice.
  std::stable_sort(out.begin(), out.end(), [](const sim::Flap& a, const sim::Flap& b) {
    return a.rank != b.rank ? a.rank < b.rank : a.start < b.start;
  });
  for (std::size_t i = 1; i < out.size(); ++i)
    if (out[i].rank == out[i - 1].rank && out[i].start < out[i - 1].start + out[i - 1].duration)
      throw InputError(
          fmt::format("/disturbances/flaps: expected flaps of GPU {} that don't overlap",
                      gpu_of_rank(plan, out[i].rank)));
  return out;
}

// Loads of a file as parts by chunk, layer of the chunk, and rank of an expert-parallel group.
std::vector<std::vector<std::vector<double>>> read_loads(const std::string& path,
                                                         const ModelShape& model,
                                                         const Plan& plan) {
  const hw::Document document = hw::read_json_file(path);
  const hw::Value file(document);
  const auto layers = static_cast<std::size_t>(model.layers);
  const auto experts = static_cast<std::size_t>(model.moe->experts);
  file.expect_array("one array a layer");
  if (file.size() != layers)
    file.fail_got(fmt::format("{} arrays, one a layer (empty for a dense one)", layers),
                  fmt::format("{}", file.size()));
  const auto ranks = static_cast<std::size_t>(plan.ep);
  std::vector<std::vector<std::vector<double>>> out;
  for (const ChunkLayout& chunk : plan.layout) {
    auto& parts = out.emplace_back();
    for (int i = 0; i < chunk.layers; ++i) {
      const hw::Value layer = file.at(static_cast<std::size_t>(chunk.first_layer + i));
      layer.expect_array("the tokens of each expert");
      auto& loads = parts.emplace_back();
      if (!is_moe_layer(model, chunk.first_layer + i)) continue;
      if (layer.size() != experts)
        layer.fail_got(fmt::format("{} numbers, one an expert", experts),
                       fmt::format("{}", layer.size()));
      loads.assign(ranks, 0);
      double sum = 0;
      for (std::size_t e = 0; e < experts; ++e) {
        const double tokens = hw::read_number(layer.at(e), 0, 1e15);
        loads[e * ranks / experts] += tokens;
        sum += tokens;
      }
      if (sum <= 0) layer.fail("some tokens");
      for (double& l : loads) l *= static_cast<double>(ranks) / sum;
    }
  }
  return out;
}

sim::Load load(const Scenario& s, const Plan& plan, const std::string& folder) {
  const ExpertLoadSpec& spec = *s.disturbances->expert_load;
  if (!s.model.moe) throw InputError("/disturbances/expert_load: the model has no experts");
  sim::Load out{.spread = spec.spread,
                .exponent = spec.exponent,
                .items = std::max(1, s.model.moe->experts / plan.ep),
                .per_micro_batch = spec.per_micro_batch,
                .reference = plan.ep > 1 ? s.stack.expert_imbalance : 1};
  if (plan.ep == 1) return out;  // every rank has all experts: nothing to spread
  switch (spec.kind) {
    case ExpertLoadSpec::Kind::Dirichlet: out.kind = sim::Load::Kind::Dirichlet; break;
    case ExpertLoadSpec::Kind::Zipf: out.kind = sim::Load::Kind::Zipf; break;
    case ExpertLoadSpec::Kind::File:
      out.kind = sim::Load::Kind::Given;
      out.given = read_loads((std::filesystem::path(folder) / spec.file).string(), s.model, plan);
      break;
  }
  return out;
}

}  // namespace

sim::RankId rank_of_gpu(const Plan& plan, int gpu) {
  const int stage_ranks = plan.tp * plan.cp * plan.dp;
  const int stage = gpu / stage_ranks, index = gpu % stage_ranks;
  if (plan.schedule == ScheduleKind::DualPipe && stage >= plan.pp / 2)
    return {static_cast<std::uint32_t>(plan.pp - 1 - stage),
            static_cast<std::uint32_t>(stage_ranks + index)};
  return {static_cast<std::uint32_t>(stage), static_cast<std::uint32_t>(index)};
}

int gpu_of_rank(const Plan& plan, sim::RankId rank) {
  const int stage_ranks = plan.tp * plan.cp * plan.dp;
  const int role = static_cast<int>(rank.role), member = static_cast<int>(rank.member);
  const int stage = member >= stage_ranks ? plan.pp - 1 - role : role;
  return stage * stage_ranks + member % stage_ranks;
}

sim::Disturbances disturbances(const Scenario& s, const Plan& plan, const std::string& folder,
                               std::uint64_t seed) {
  sim::Disturbances d{.seed = seed};
  if (!s.disturbances) return d;
  d.device = jitter(s.disturbances->device);
  d.slot = jitter(s.disturbances->slot);
  d.devices = slow(s.disturbances->slow_gpus, plan, "slow_gpus");
  d.links = slow(s.disturbances->slow_links, plan, "slow_links");
  d.flaps = flaps(s.disturbances->flaps, plan);
  if (s.disturbances->expert_load) d.load = load(s, plan, folder);
  return d;
}

std::vector<NamedDisturbances> each_alone(const sim::Disturbances& all) {
  std::vector<NamedDisturbances> out;
  const auto add = [&](const char* name, auto member) {
    sim::Disturbances only{.seed = all.seed};
    only.*member = all.*member;
    out.push_back({name, std::move(only)});
  };
  if (all.device.any()) add("GPUs of unequal speed", &sim::Disturbances::device);
  if (all.slot.any()) add("passes of unequal length", &sim::Disturbances::slot);
  if (all.load.any()) add("uneven experts", &sim::Disturbances::load);
  if (!all.devices.empty()) add("slow GPUs", &sim::Disturbances::devices);
  if (!all.links.empty()) add("slow links", &sim::Disturbances::links);
  if (!all.flaps.empty()) add("links that flap", &sim::Disturbances::flaps);
  return out;
}

}  // namespace reckon::plan
