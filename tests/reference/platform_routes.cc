#include "tests/reference/platform_routes.h"

#ifdef RECKON_SIMGRID
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <simgrid/s4u.hpp>
#include <sstream>

namespace reckon::reference {

namespace {

std::string all_routes(const std::string& path) {
  std::vector<std::string> words = {"reckon", "--log=root.threshold:error"};
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  int argc = static_cast<int>(argv.size());
  simgrid::s4u::Engine engine(&argc, argv.data());
  engine.load_platform(path);
  engine.seal_platform();  // ways of Floyd zones are found here
  std::string out;
  for (auto* from : engine.get_all_hosts())
    for (auto* to : engine.get_all_hosts()) {
      if (from == to) continue;
      std::vector<simgrid::s4u::Link*> links;
      double latency = 0;
      from->route_to(to, links, &latency);
      out += from->get_name() + " " + to->get_name();
      for (auto* l : links) out += " " + l->get_name();
      out += "\n";
    }
  return out;
}

}  // namespace

// In a child process, as SimGrid allows one engine a process.
PlatformRoutes platform_routes(const std::string& path) {
  int ends[2];
  if (::pipe(ends) != 0) std::abort();
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string text = all_routes(path);
    std::FILE* out = ::fdopen(ends[1], "wb");
    std::fwrite(text.data(), 1, text.size(), out);
    std::_Exit(std::fclose(out));
  }
  ::close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(n));
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  PlatformRoutes routes;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string from, to, link;
    words >> from >> to;
    auto& list = routes[{from, to}];
    while (words >> link) list.push_back(link);
  }
  return routes;
}

}  // namespace reckon::reference

#else

namespace reckon::reference {

PlatformRoutes platform_routes(const std::string&) {
  return {};
}

}  // namespace reckon::reference

#endif
