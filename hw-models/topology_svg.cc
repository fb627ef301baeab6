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

std::string xml_text(const std::string& text) {
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

// What is drawn: boxes, and how many cables connect two of them.
struct Picture {
  std::vector<VertexKind> vertices;
  std::map<std::pair<std::uint32_t, std::uint32_t>, int> lines;
  int layers = 0;
};

// A GPU stands where its node does.
Picture picture_of_cables(const Topology& t) {
  Picture p{.vertices = t.vertices(), .layers = t.layers()};
  std::vector<std::uint32_t> node(p.vertices.size());
  for (const Cable& c : t.cables())
    if (p.vertices[c.to] == VertexKind::NvSwitch) node[c.from] = c.to;
  for (const Cable& c : t.cables()) {
    if (p.vertices[c.to] == VertexKind::NvSwitch) continue;
    ++p.lines[{p.vertices[c.from] == VertexKind::Gpu ? node[c.from] : c.from, c.to}];
  }
  return p;
}

// A platform file has no switches, only links and ways over them: each link is a box, as high as it
// is far from the ends of the ways it is on.
Picture picture_of_ways(const Topology& t) {
  constexpr int kMostTurns = 16;
  const auto gpus = static_cast<std::uint32_t>(t.gpus());
  Picture p{.vertices = t.vertices(), .layers = 1};
  const auto base = static_cast<std::uint32_t>(p.vertices.size());
  const std::size_t first = 2 * t.cables().size();
  std::vector<std::size_t> depth(t.link_rates().size() - first, 99);
  const auto per_node = gpus / static_cast<std::uint32_t>(t.count(VertexKind::NvSwitch));
  for (int turn = 1; turn <= kMostTurns; ++turn)
    for (std::uint32_t g = 0; g < gpus; ++g) {
      const auto to = static_cast<int>((g + static_cast<std::uint32_t>(turn) * per_node) % gpus);
      if (t.node_of(static_cast<int>(g)) == t.node_of(to)) continue;
      const auto way = t.route(static_cast<int>(g), to);
      auto at = gpus + static_cast<std::uint32_t>(t.node_of(static_cast<int>(g)));
      for (std::size_t i = 0; i < way.size(); ++i) {
        const std::size_t l = way[i] - first;
        depth[l] = std::min({depth[l], i, way.size() - 1 - i});
        const auto box = base + static_cast<std::uint32_t>(l);
        p.lines[std::minmax(at, box)] = 1;
        at = box;
      }
      p.lines[std::minmax(at, gpus + static_cast<std::uint32_t>(t.node_of(to)))] = 1;
    }
  for (std::size_t d : depth) {
    p.vertices.push_back(d == 1              ? VertexKind::Aggregation
                         : d == 0 || d == 99 ? VertexKind::Leaf
                                             : VertexKind::Spine);
    if (d != 99) p.layers = std::max(p.layers, 1 + static_cast<int>(std::min<std::size_t>(d, 2)));
  }
  return p;
}

}  // namespace

std::string svg(const Topology& t, const std::string& title) {
  const bool ways = t.shape().kind == TopologyShape::Kind::Platform;
  const Picture picture = ways ? picture_of_ways(t) : picture_of_cables(t);
  const auto& [vertices, lines, layers] = picture;
  const bool ring = t.shape().kind == TopologyShape::Kind::Dragonfly;
  const int rows = ring ? 2 : layers + 1;
  const double height = ring ? kWidth : rows * kLayer + 2 * kMargin;
  const int top = layers;
  const auto level = [&](VertexKind kind) {  // layers that the tree lacks close up
    const int r = row(kind);
    return kind == VertexKind::Spine ? top : r;
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
      kMargin, xml_text(caption)));
  add("</svg>");
  return fmt::to_string(out);
}

}  // namespace reckon::hw
