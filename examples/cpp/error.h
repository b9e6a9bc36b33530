// What a user is told instead of an answer.
#pragma once

#include <stdexcept>

// A file or a picture cannot be used. The message says why, what is allowed, and what to do.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
