#include "hw-models/topology_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <numbers>

namespace reckon::hw {

namespace {

constexpr double kWidth = 1600, kLayer = 220, kMargin = 40;
constexpr std::size_t kMostLines = 20000;

struct Point {
  double x = 0, y = 0;
};

int row(VertexKind kind) {
  switch (kind) {
    case VertexKind::Gpu:
    case VertexKind::NvSwitch: return 0;
    case VertexKind::Leaf:
    case VertexKind::Router: return 1;
    case VertexKind::Aggregation: return 2;
    case VertexKind::Spine: return 3;
  }
  return 0;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '&')
      out += "&amp;";
    else
      out += c;
  }
  return out;
}

}  // namespace

std::string svg(const Topology& t, const std::string& title) {
  const auto& vertices = t.vertices();
  const bool ring = t.shape().kind == TopologyShape::Kind::Dragonfly;
  const int rows = ring ? 2 : t.layers() + 1;
  const double height = ring ? kWidth : rows * kLayer + 2 * kMargin;
  const auto level = [&](VertexKind kind) {  // layers that the tree lacks close up
    const int r = row(kind);
    return kind == VertexKind::Spine ? t.layers() : r;
  };

  std::map<int, int> in_row, placed;
  for (VertexKind kind : vertices)
    if (kind != VertexKind::Gpu) ++in_row[level(kind)];
  std::vector<Point> at(vertices.size());
  for (std::size_t v = 0; v < vertices.size(); ++v) {
    if (vertices[v] == VertexKind::Gpu) continue;
    const int r = level(vertices[v]), i = placed[r]++;
    const double part = (i + 0.5) / in_row[r];
    if (ring) {
      const double radius = vertices[v] == VertexKind::Router ? 0.36 * kWidth : 0.46 * kWidth;
      const double angle = 2 * std::numbers::pi * part;
      at[v] = {kWidth / 2 + radius * std::sin(angle), kWidth / 2 - radius * std::cos(angle)};
    } else {
      at[v] = {kMargin + part * (kWidth - 2 * kMargin), height - kMargin - (r + 0.3) * kLayer};
    }
  }

  // Cables between two ends; a GPU stands where its node does.
  std::vector<std::uint32_t> node(vertices.size());
  for (const Cable& c : t.cables())
    if (vertices[c.to] == VertexKind::NvSwitch) node[c.from] = c.to;
  std::map<std::pair<std::uint32_t, std::uint32_t>, int> lines;
  for (const Cable& c : t.cables()) {
    if (vertices[c.to] == VertexKind::NvSwitch) continue;
    ++lines[{vertices[c.from] == VertexKind::Gpu ? node[c.from] : c.from, c.to}];
  }

  fmt::memory_buffer out;
  const auto add = [&](const std::string& text) {
    fmt::format_to(std::back_inserter(out), "{}\n", text);
  };
  add(fmt::format(R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {:.0f} {:.0f}">)", kWidth,
                  height));
  add(R"(<rect width="100%" height="100%" fill="white"/>)");
  std::size_t drawn = 0;
  for (const auto& [ends, cables] : lines) {
    if (++drawn > kMostLines) break;
    const Point a = at[ends.first], b = at[ends.second];
    add(fmt::format(
        R"(<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="#4a6fa5" stroke-opacity="0.35" stroke-width="{:.1f}"/>)",
        a.x, a.y, b.x, b.y, 0.5 * std::sqrt(cables)));
  }
  for (std::size_t v = 0; v < vertices.size(); ++v) {
    if (vertices[v] == VertexKind::Gpu) continue;
    const bool is_node = vertices[v] == VertexKind::NvSwitch;
    const double spacing = (kWidth - 2 * kMargin) / in_row[level(vertices[v])];
    const double size = std::clamp(0.7 * spacing, 1.5, 16.0);
    add(fmt::format(R"(<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}"/>)",
                    at[v].x - size / 2, at[v].y - size / 2, size, size,
                    is_node ? "#2d6a4f" : "#b5651d"));
  }
  std::string caption = title;
  if (lines.size() > kMostLines)
    caption += fmt::format("; {} of {} connections drawn", kMostLines, lines.size());
  add(fmt::format(
      R"(<text x="{:.0f}" y="24" font-family="sans-serif" font-size="18" fill="#222">{}</text>)",
      kMargin, escaped(caption)));
  add("</svg>");
  return fmt::to_string(out);
}

}  // namespace reckon::hw
