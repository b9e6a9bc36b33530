// The bidirectional selective scan with state size 1.
#pragma once
#include <cstdint>

// All tensors have one type, float or double, and are contiguous unless strides are given. N images, L steps,
// E channels, R the rank of the step size.
struct ScanTensors {
  int64_t batch, length, channels, rank;
  int64_t u_batch_stride, u_step_stride;  // of u, in elements; its channels are contiguous
  const void *u;          // (N, L, E)
  const void *x_dbl;      // (N, L, 2, R + 2): step size, B and C of each direction
  const void *dt_weight;  // (2, E, R)
  const void *A;          // (2, E)
  const void *D;          // (2, E)
  const void *dt_bias;    // (2, E)
};

// Gradients, each with the shape of its tensor. Tasks write partial sums: of x_dbl, (blocks, N, L, 2, R + 2); of the
// four after it, (groups of images, *shape).
struct ScanGradients {
  const void *y;  // input
  void *u, *x_dbl, *dt_weight, *A, *D, *dt_bias;
};

constexpr int64_t kBlock = 32;        // channels per task
constexpr int64_t kSummedTasks = 64;  // least tasks of backward, if the batch allows; enough for about 16 threads
