// Temporary memory of the kernels.
#pragma once
#include <cstdint>
#include <cstdlib>

#include <new>

namespace {

// Uninitialised memory, aligned for vectors.
template <typename T>
struct Scratch {
  void *memory;
  T *data;

  explicit Scratch(int64_t count) : memory(std::malloc(count * sizeof(T) + 64)) {
    if (!memory) throw std::bad_alloc();
    data = (T *)(((uintptr_t)memory + 63) / 64 * 64);
  }
  Scratch(const Scratch &) = delete;
  ~Scratch() { std::free(memory); }
};

}  // namespace
