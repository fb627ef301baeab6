// Bad input from a user: where, what was expected, what is nearest. Caught in main only, which then
// exits 2.
#pragma once

#include <stdexcept>
#include <string>

namespace reckon {

struct InputError : std::runtime_error {
  using std::runtime_error::runtime_error;  // the whole message, "file:line: /json/pointer:
                                            // expected ...; did you mean ...?"
};

}  // namespace reckon
