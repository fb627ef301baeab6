// Whole files in and out.
#pragma once

#include <string>

namespace reckon::plan {

// Errors: InputError if the file can't be read.
std::string read_file(const std::string& path);

// All of `text` or nothing: written to a temporary file beside `path`, synced, then renamed over
// it. A target that is not a regular file (/dev/stdout, a pipe) is written in place. Errors:
// InputError if any of it fails; `path` is then as it was.
void write_file(const std::string& path, const std::string& text);

// For long work before a write_file(path, ...): throws now what that would throw of a folder that
// is missing or may not be written, and leaves everything as it is.
void check_writable(const std::string& path);

}  // namespace reckon::plan
