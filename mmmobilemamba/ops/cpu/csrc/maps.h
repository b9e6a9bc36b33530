// Haar transforms of feature maps, and layer norm with a gate. Maps are (N, H, W, C), C contiguous.
#pragma once
#include <cstdint>

// A map of any strides, in elements, but with contiguous channels; its sides may be odd.
struct Map {
  int64_t batch, height, width, channels;
  int64_t batch_stride, row_stride, column_stride;
  const void *data;
};

// Layer norm of `y`, times SiLU of `z`.
struct Gate {
  int64_t pixels, channels;  // pixels of all images
  int64_t z_stride;          // between the pixels of z, in elements
  const void *y;             // (pixels, E)
  const void *weight, *bias; // (E)
  const void *z;             // (pixels, E)
  double eps;
};

constexpr int64_t kPixels = 16;  // pixels of a task of the gate
