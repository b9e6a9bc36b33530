// Dense (pointwise and spatial) and depthwise convolutions of feature maps, with an activation and a shortcut after
// them. Maps are (N, H, W, C), C contiguous.
#pragma once
#include "maps.h"

// These numbers are part of the interface, see `layout_of`.
constexpr int64_t kActivationNone = 0, kActivationReLU = 1, kActivationSiLU = 2;

// activation(convolution + bias) + shortcut, in float. The padding is half the kernel.
struct Conv {
  Map map;                 // pointwise: one stride leads through the pixels of all images; spatial: contiguous rows
  int64_t out_channels;    // as many as a vector has, at least
  int64_t kernel, stride;  // pointwise: 1 and 1; spatial: an odd one and any; depthwise: 3, 5 or 7, and 1 or 2
  int64_t activation;      // one of those above
  const void *weight;      // pointwise: (C, O); spatial: (kernel, kernel, C, O); depthwise: (kernel, kernel, C)
  const void *bias;        // (O), or null
  const void *shortcut;    // like the output, (N, H', W', O), or null
};

constexpr int64_t kTilePixels = 192;  // pixels of a task of a dense convolution
constexpr int64_t kFewRows = 4;       // output rows of a task of the spatial one, at least, if there are
constexpr int64_t kStrip = 16;        // output rows of a task of the depthwise one
