// Dense (pointwise and spatial) and depthwise convolutions of feature maps, followed by an activation and a shortcut.
// Maps are (N, H, W, C), C contiguous.
#pragma once
#include "maps.h"

// The values are part of the interface, see `mmmobilemamba_layout_of`.
constexpr int64_t kActivationNone = 0, kActivationReLU = 1, kActivationSiLU = 2;

// activation(convolution + bias) + shortcut, in float, with padding kernel / 2.
struct Conv {
  Map map;                 // pointwise: pixels of all images evenly spaced; spatial: contiguous rows
  int64_t out_channels;    // at least the lanes of a vector
  int64_t kernel, stride;  // pointwise: 1 and 1; spatial: odd kernel, any stride; depthwise: 3, 5 or 7, and 1 or 2
  int64_t activation;      // one of the constants above
  const void *weight;      // pointwise: (C, O); spatial: (kernel, kernel, C, O); depthwise: (kernel, kernel, C)
  const void *bias;        // (O), or null
  const void *shortcut;    // shape of the output, (N, H', W', O), or null
};

constexpr int64_t kTilePixels = 192;  // pixels per task of a dense convolution
constexpr int64_t kFewRows = 4;       // least output rows per task of a spatial convolution, if the map has as many
constexpr int64_t kStrip = 16;        // output rows per task of a depthwise convolution
