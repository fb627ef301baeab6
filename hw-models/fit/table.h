// Measured tables as files: CSV (plain or gzip) and JSON.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace reckon::fit {

// Errors of both: InputError if the file can't be read.
using CsvRow = std::map<std::string, std::string>;      // by column name
std::vector<CsvRow> read_csv(const std::string& path);  // .gz is decompressed
nlohmann::json read_json(const std::string& path);

// Rows are left out of a fit by a hash of what they are, so that a run leaves out the same ones
// each time and a longer table keeps the choice for the rows it had.
bool left_out(const std::string& key, unsigned one_in);

}  // namespace reckon::fit
