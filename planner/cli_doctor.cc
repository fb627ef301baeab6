// `reckon doctor`: what this machine has. Programs are asked for their version, libraries are read
// from their headers; nothing is changed.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <sstream>
#include <thread>

#include "planner/cli.h"
#include "planner/table.h"
#include "real/devices.h"

#ifdef __clang__
#define RECKON_COMPILER "clang " __clang_version__
#else
#define RECKON_COMPILER "gcc " __VERSION__
#endif

namespace reckon::plan {
namespace {

struct Finding {
  std::string name;
  bool found = false;
  std::string version;  // or what the thing says of itself
  std::string path;
  std::string needed_for;
};

// First hit on PATH, then in `more`.
std::optional<std::string> program(const std::string& name,
                                   const std::vector<std::string>& more = {}) {
  std::vector<std::string> folders;
  if (const char* path = std::getenv("PATH")) {
    std::istringstream in(path);
    for (std::string folder; std::getline(in, folder, ':');)
      if (!folder.empty()) folders.push_back(folder);
  }
  folders.insert(folders.end(), more.begin(), more.end());
  for (const std::string& folder : folders) {
    const std::string full = folder + "/" + name;
    if (::access(full.c_str(), X_OK) == 0) return full;
  }
  return std::nullopt;
}

// Standard output of a program; empty if it fails. `arguments` are our own constants.
std::string output_of(const std::string& path, const std::string& arguments) {
  std::string quoted = "'";
  for (char c : path) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  const std::string command = quoted + "' " + arguments + " 2>/dev/null </dev/null";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return {};
  std::string out;
  std::array<char, 4096> buffer;
  while (const std::size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe))
    out.append(buffer.data(), n);
  return ::pclose(pipe) == 0 ? out : std::string();
}

std::string file_text(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

// First capture of `pattern`, or "".
std::string capture(const std::string& text, const std::string& pattern) {
  std::smatch m;
  return std::regex_search(text, m, std::regex(pattern)) ? m[1].str() : std::string();
}

Finding ask(const std::string& name, const std::string& needed_for,
            const std::vector<std::string>& folders = {},
            const std::string& version_pattern = R"((\d+\.\d+(?:\.\d+)*))") {
  Finding f{.name = name, .needed_for = needed_for};
  if (const auto path = program(name, folders)) {
    f.found = true;
    f.path = *path;
    f.version = capture(output_of(*path, "--version"), version_pattern);
  }
  return f;
}

// A library, by the version macros of a header.
Finding header(const std::string& name, const std::string& needed_for,
               const std::vector<std::string>& paths, const std::vector<std::string>& macros) {
  Finding f{.name = name, .needed_for = needed_for};
  for (const std::string& path : paths) {
    const std::string text = file_text(path);
    if (text.empty()) continue;
    f.found = true;
    f.path = path;
    for (const std::string& macro : macros) {
      const std::string value = capture(text, "#define\\s+" + macro + "\\s+\\(?(\\d+)");
      if (!value.empty()) f.version += (f.version.empty() ? "" : ".") + value;
    }
    break;
  }
  return f;
}

// Boost's version is one macro, "1_74".
Finding boost() {
  Finding f{.name = "Boost", .needed_for = "networks of clusters as graphs"};
  for (const char* path :
       {"/usr/include/boost/version.hpp", "/usr/local/include/boost/version.hpp"}) {
    const std::string text = file_text(path);
    if (text.empty()) continue;
    f.found = true;
    f.path = path;
    f.version = capture(text, R"re(#define\s+BOOST_LIB_VERSION\s+"([\d_]+)")re");
    std::replace(f.version.begin(), f.version.end(), '_', '.');
    break;
  }
  return f;
}

// pugixml's is one number, 1130 for 1.13.
Finding pugixml() {
  Finding f =
      header("pugixml", "SimGrid's platform files",
             {"/usr/include/pugixml.hpp", "/usr/local/include/pugixml.hpp"}, {"PUGIXML_VERSION"});
  if (f.version.size() == 4) f.version = f.version.substr(0, 1) + "." + f.version.substr(1, 2);
  return f;
}

std::vector<Finding> findings() {
  const std::vector<std::string> cuda = {"/usr/local/cuda/bin", "/usr/lib/cuda/bin"};
  const std::string multiarch = "/usr/include/x86_64-linux-gnu/";
  std::vector<Finding> f;
  f.push_back(ask("g++", "building reckon (12 or newer)"));
  f.push_back(ask("clang++", "building reckon, instead of g++"));
  f.push_back(ask("cmake", "building reckon (3.25 or newer)"));
  f.push_back(ask("ninja", "building reckon"));
  f.push_back(ask("nvcc", "running plans on this machine's GPUs", cuda, R"(release (\d+\.\d+))"));
  f.push_back(
      header("NCCL", "running plans on several GPUs",
             {"/usr/include/nccl.h", multiarch + "nccl.h", "/usr/local/cuda/include/nccl.h"},
             {"NCCL_MAJOR", "NCCL_MINOR", "NCCL_PATCH"}));
  f.push_back(ask("mpirun", "running plans on several hosts"));
  f.push_back(header("oneDNN", "the trainer's matrix products",
                     {"/usr/include/oneapi/dnnl/dnnl_version.h", "/usr/include/dnnl_version.h"},
                     {"DNNL_VERSION_MAJOR", "DNNL_VERSION_MINOR", "DNNL_VERSION_PATCH"}));
  f.push_back(header("xxHash", "checksums of checkpoints, token data and cached results",
                     {"/usr/include/xxhash.h", "/usr/local/include/xxhash.h"},
                     {"XXH_VERSION_MAJOR", "XXH_VERSION_MINOR", "XXH_VERSION_RELEASE"}));
  f.push_back(boost());
  f.push_back(pugixml());
  f.push_back(header("SimGrid", "checking the network model flow by flow",
                     {"/usr/include/simgrid/version.h", "/usr/local/include/simgrid/version.h"},
                     {"SIMGRID_VERSION_MAJOR", "SIMGRID_VERSION_MINOR", "SIMGRID_VERSION_PATCH"}));
  return f;
}

// What this build can do with GPUs, one row a line.
std::vector<std::pair<std::string, std::string>> cuda_rows(const real::CudaBuild& cuda) {
  std::vector<std::pair<std::string, std::string>> rows;
  if (!cuda.built) return {{"cuda", "not built in (needs nvcc): --device cuda is refused"}};
  rows.push_back({"cuda", fmt::format("built with toolkit {}, driver runs CUDA {}, {}",
                                      cuda.toolkit, cuda.driver.empty() ? "none" : cuda.driver,
                                      cuda.nccl.empty() ? "without NCCL" : "NCCL " + cuda.nccl)});
  for (std::size_t i = 0; i < cuda.devices.size(); ++i)
    rows.push_back({fmt::format("cuda:{}", i), cuda.devices[i]});
  if (cuda.devices.empty()) rows.push_back({"cuda:0", "none: " + cuda.why_none});
  return rows;
}

struct Gpu {
  std::string name, memory, driver;
};

std::vector<Gpu> gpus() {
  std::vector<Gpu> out;
  const auto smi = program("nvidia-smi");
  if (!smi) return out;
  std::istringstream lines(
      output_of(*smi, "--query-gpu=name,memory.total,driver_version --format=csv,noheader"));
  for (std::string line; std::getline(lines, line);) {
    std::smatch m;
    if (std::regex_match(line, m, std::regex(R"((.*?), *(.*?), *(.*))")))
      out.push_back({m[1], m[2], m[3]});
  }
  return out;
}

double memory_gib(const char* line) {
  const std::string kib =
      capture(file_text("/proc/meminfo"), std::string(line) + R"(:\s+(\d+) kB)");
  return kib.empty() ? 0 : std::stod(kib) / (1024. * 1024.);
}

std::string or_unknown(const std::string& text) {
  return text.empty() ? "unknown" : text;
}

}  // namespace

int doctor_command(const CommonOptions& common) {
  const std::string system =
      or_unknown(capture(file_text("/etc/os-release"), "PRETTY_NAME=\"([^\"]*)\""));
  const std::string cpu =
      or_unknown(capture(file_text("/proc/cpuinfo"), R"(model name\s*: ([^\n]*))"));
  const unsigned cores = std::thread::hardware_concurrency();
  const double total = memory_gib("MemTotal"), available = memory_gib("MemAvailable");
  const std::vector<Gpu> devices = gpus();
  const std::vector<Finding> tools = findings();

  if (common.json) {
    nlohmann::ordered_json out = {{"reckon", RECKON_VERSION},
                                  {"built_with", RECKON_COMPILER},
                                  {"system", system},
                                  {"cpu", cpu},
                                  {"cores", cores},
                                  {"memory_GiB", total},
                                  {"memory_available_GiB", available}};
    out["gpus"] = nlohmann::ordered_json::array();
    for (const Gpu& g : devices)
      out["gpus"].push_back({{"name", g.name}, {"memory", g.memory}, {"driver", g.driver}});
    const real::CudaBuild cuda = real::cuda_build();
    out["cuda"] = {{"built", cuda.built}, {"toolkit", cuda.toolkit}, {"driver", cuda.driver},
                   {"nccl", cuda.nccl},   {"devices", cuda.devices}, {"why_none", cuda.why_none}};
    out["tools"] = nlohmann::ordered_json::array();
    for (const Finding& f : tools)
      out["tools"].push_back({{"name", f.name},
                              {"found", f.found},
                              {"version", f.version},
                              {"path", f.path},
                              {"needed_for", f.needed_for}});
    fmt::print("{}\n", out.dump(2));
    return kDone;
  }

  fmt::print("reckon {}, built with {}\n\nThis machine\n", RECKON_VERSION, RECKON_COMPILER);
  Table machine{.columns = {{"", Align::Left}, {"", Align::Left}}, .header = false};
  machine.rows = {{"system", system},
                  {"cpu", fmt::format("{}, {} cores", cpu, cores)},
                  {"memory", fmt::format("{:.1f} GiB, {:.1f} GiB available", total, available)}};
  for (const Gpu& g : devices)
    machine.rows.push_back({"gpu", fmt::format("{}, {}, driver {}", g.name, g.memory, g.driver)});
  if (devices.empty()) machine.rows.push_back({"gpu", "none found (nvidia-smi)"});
  for (const auto& [name, what] : cuda_rows(real::cuda_build()))
    machine.rows.push_back({name, what});
  fmt::print("{}\nSoftware\n", text(machine));
  Table software{.columns = {{"", Align::Left},
                             {"version", Align::Left},
                             {"needed for", Align::Left},
                             {"where", Align::Left}}};
  for (const Finding& f : tools)
    software.rows.push_back(
        {f.name, f.found ? or_unknown(f.version) : "missing", f.needed_for, f.path});
  fmt::print("{}\n", text(software));
  fmt::print("{}",
             wrapped("Predicting, planning and training on CPUs need none of nvcc, NCCL, MPI or "
                     "SimGrid.",
                     0));
  return kDone;
}

}  // namespace reckon::plan
