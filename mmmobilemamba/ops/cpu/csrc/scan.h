// The bidirectional selective scan with state size 1.
#pragma once
#include <cstdint>

// All tensors are of one type, float or double. N images, L steps, E channels, R the rank of the step size.
// Unless strides are given, they are contiguous.
struct ScanTensors {
  int64_t batch, length, channels, rank;
  int64_t u_batch_stride, u_step_stride;  // of u, in elements; its channels are contiguous
  const void *u;          // (N, L, E)
  const void *x_dbl;      // (N, L, 2, R + 2): step size, B and C of either direction
  const void *dt_weight;  // (2, E, R)
  const void *A;          // (2, E)
  const void *D;          // (2, E)
  const void *dt_bias;    // (2, E)
};

// Of a call, each of the shape of its tensor. A task writes parts: of x_dbl, (blocks, N, L, 2, R + 2); of the four after
// it, (groups of images, *shape).
struct ScanGradients {
  const void *y;  // given
  void *u, *x_dbl, *dt_weight, *A, *D, *dt_bias;
};

constexpr int64_t kBlock = 32;        // channels of a task
constexpr int64_t kSummedTasks = 64;  // of backward, at least, if there are images enough; suits some 16 threads
