// Haar transforms of feature maps, and gated layer norm. Maps are (N, H, W, C), C contiguous.
#pragma once
#include <cstdint>

// A map with contiguous channels. All other strides are arbitrary, in elements; H and W may be odd.
struct Map {
  int64_t batch, height, width, channels;
  int64_t batch_stride, row_stride, column_stride;
  const void *data;
};

// layer_norm(y) * silu(z).
struct Gate {
  int64_t pixels, channels;  // pixels of all images; E channels
  int64_t z_stride;          // between pixels of z, in elements
  const void *y;             // (pixels, E)
  const void *weight, *bias; // (E)
  const void *z;             // (pixels, E)
  double eps;
};

constexpr int64_t kPixels = 16;  // pixels per task of the gate
