// Chrome trace export: sort the events by track and time, print each as one complete event.
#include "sim/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <tuple>
#include <utility>
#include <vector>

#include "sim/check.h"

namespace reckon::sim {
namespace {

constexpr int kPassTrack = 0;  // tracks 1 to kStreams are the streams

int track(Stream stream) {
  return 1 + static_cast<int>(stream);
}

// JSON strings may not hold quotes, backslashes or control characters as they are (RFC 8259).
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\')
      out += {'\\', c};
    else if (static_cast<unsigned char>(c) < 0x20)
      out += fmt::format("\\u{:04x}", static_cast<int>(c));
    else
      out += c;
  }
  return out + '"';
}

std::string microseconds(SimTime t) {
  return fmt::format("{}.{:06}", t.ps / 1'000'000, t.ps % 1'000'000);
}

// One slot of one role, as the span of its compute ops.
struct ComputeSpan {
  std::uint32_t role = 0, slot = 0;
  SimTime start, end;
  std::vector<std::string> halves;  // what it works for, e.g. "F c0 m3" and "B c1 m0", once each
};

// REQUIRES: events sorted by role, slot, start.
std::vector<ComputeSpan> slot_spans(const std::vector<Event>& events) {
  std::vector<ComputeSpan> out;
  for (const Event& e : events) {
    if (!is_compute(e.stream)) continue;
    if (out.empty() || out.back().role != e.role || out.back().slot != e.slot)
      out.push_back({.role = e.role, .slot = e.slot, .start = e.start, .end = e.end});
    ComputeSpan& pass = out.back();
    pass.start = std::min(pass.start, e.start);
    pass.end = std::max(pass.end, e.end);
    std::string half = e.phase == Phase::Optimizer
                           ? std::string(name(e.phase))
                           : fmt::format("{} c{} m{}", name(e.phase), e.chunk, e.micro_batch);
    if (std::find(pass.halves.begin(), pass.halves.end(), half) == pass.halves.end())
      pass.halves.push_back(std::move(half));
  }
  return out;
}

}  // namespace

const char* name(Stream stream) {
  switch (stream) {
    case Stream::Compute: return "compute";
    case Stream::Compute2: return "compute 2";
    case Stream::Expert: return "expert";
    case Stream::Model: return "model";
    case Stream::Data: return "data";
    case Stream::Pipe: return "pipe";
  }
  check_failed("every stream has a name");
}

const char* name(Phase phase) {
  switch (phase) {
    case Phase::F: return "F";
    case Phase::B: return "B";
    case Phase::W: return "W";
    case Phase::BW: return "BW";
    case Phase::FB: return "FB";
    case Phase::Optimizer: return "optimizer";
  }
  check_failed("every phase has a name");
}

std::string chrome_trace(const Timeline& timeline) {
  std::vector<Event> events = timeline.events;
  for (const Event& e : events) {
    check(e.role < timeline.roles.size(), "an event's role has a name");
    check(e.label < timeline.labels.size(), "an event's label has a name");
    check(e.start.ps >= 0 && e.start <= e.end, "an event starts at or after 0 and ends after it");
  }
  std::sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
    return std::tie(a.role, a.slot, a.start, a.stream, a.op) <
           std::tie(b.role, b.slot, b.start, b.stream, b.op);
  });

  fmt::memory_buffer out;
  const auto line = [&](const char* separator, const std::string& text) {
    fmt::format_to(std::back_inserter(out), "{}\n{}", separator, text);
  };
  const char* separator = "";
  fmt::format_to(std::back_inserter(out), "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[");

  // Names and order of the tracks that hold something.
  std::vector<std::array<bool, 1 + kStreams>> used(timeline.roles.size());
  for (const Event& e : events) {
    used[e.role][track(e.stream)] = true;
    if (is_compute(e.stream)) used[e.role][kPassTrack] = true;
  }
  for (std::size_t role = 0; role < used.size(); ++role) {
    line(separator,
         fmt::format(R"({{"ph":"M","name":"process_name","pid":{},"args":{{"name":{}}}}})", role,
                     quoted(timeline.roles[role])));
    separator = ",";
    line(separator,
         fmt::format(
             R"({{"ph":"M","name":"process_sort_index","pid":{},"args":{{"sort_index":{}}}}})",
             role, role));
    for (int t = 0; t <= kStreams; ++t)
      if (used[role][t])
        line(separator,
             fmt::format(
                 R"({{"ph":"M","name":"thread_name","pid":{},"tid":{},"args":{{"name":"{}"}}}})",
                 role, t, t == kPassTrack ? "passes" : name(static_cast<Stream>(t - 1))));
  }

  for (const ComputeSpan& p : slot_spans(events))
    line(separator,
         fmt::format(
             R"({{"ph":"X","name":{},"pid":{},"tid":{},"ts":{},"dur":{},"args":{{"slot":{}}}}})",
             quoted(fmt::format("{}", fmt::join(p.halves, " | "))), p.role, kPassTrack,
             microseconds(p.start), microseconds(p.end - p.start), p.slot));
  for (const Event& e : events)
    line(
        separator,
        fmt::format(
            R"({{"ph":"X","name":{},"cat":"{}","pid":{},"tid":{},"ts":{},"dur":{},"args":{{"slot":{},"op":{},"chunk":{},"micro_batch":{},"recompute":{}}}}})",
            quoted(timeline.labels[e.label]), name(e.phase), e.role, track(e.stream),
            microseconds(e.start), microseconds(e.end - e.start), e.slot, e.op, e.chunk,
            e.micro_batch, e.recompute));
  fmt::format_to(std::back_inserter(out), "\n]}}\n");
  return fmt::to_string(out);
}

}  // namespace reckon::sim
