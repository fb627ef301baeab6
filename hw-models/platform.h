// Networks as SimGrid's platform files (XML, version 4 and later) describe them: hosts, links, and
// the ways between hosts. Read for what a network of flows needs; whatever would change that and is
// not understood is refused by name, with its line.
//
// Understood: zones (AS) with routing "Full", "Floyd", "Dijkstra" and "None", nested; hosts,
// routers, links of policy SHARED and SPLITDUPLEX; routes and zone routes with the links that they
// list; clusters without a topology of their own, with or without a backbone. Speeds and properties
// of hosts are skipped. FATPIPE links may be part of a way if they are never the narrowest of it.
// Ways follow SimGrid's manual, https://simgrid.org/doc/latest/Platform_routing.html.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sim/units.h"

namespace reckon::hw {

class Platform {
 public:
  struct Link {  // one direction of it, where it has two
    std::string name;
    BytesPerSecond rate;
    Seconds latency;
    bool wide = false;  // FATPIPE: as fast for each flow, however many there are
  };

  const std::vector<std::string>& hosts() const { return hosts_; }  // in the order of the file
  const std::vector<Link>& links() const { return links_; }

  // Links from one host to another, by index; each once, wide ones left out. REQUIRES: from != to.
  // Errors: InputError if the file has no route between them, or one without links, or a wide link
  // is its narrowest.
  std::vector<std::uint32_t> way(std::uint32_t from, std::uint32_t to) const;

  struct Tree;  // zones and their routes

 private:
  friend Platform read_platform(const std::string& path);
  std::vector<std::string> hosts_;
  std::vector<Link> links_;
  std::shared_ptr<const Tree> tree_;
};

// Errors: InputError with the file and line.
Platform read_platform(const std::string& path);

}  // namespace reckon::hw
