// The fits that make catalog/kernels.json and catalog/network.json: each returns rows of a file and
// of the printed table.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hw-models/fit/least_squares.h"

namespace reckon::fit {

// Errors on one table, of the rows that the fit did not see.
struct TableError {
  std::string fit, source;
  std::size_t fitted_rows = 0;  // 0: the table only checks
  Errors left_out;
};

struct FitResult {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  std::vector<TableError> tables;
  int constants = 0;
};

FitResult fit_gemm(const std::string& folder);
FitResult fit_attention(const std::string& folder);
FitResult fit_memory(const std::string& folder);
FitResult fit_network(const std::string& folder);  // `rows`: an object, all of network.json

}  // namespace reckon::fit
