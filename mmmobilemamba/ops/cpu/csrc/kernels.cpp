// Implements kernels.h: choice of the instruction set, and threads.
#include "kernels.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <new>
#include <thread>
#include <vector>

#include "scratch.h"

// The kernels are compiled once per instruction set. The pragmas come after the standard headers, so they do not
// change the functions of the standard library.
#define VECTOR_BYTES 16
namespace plain {
#include "simd.h"
#include "conv_kernel.h"
#include "maps_kernel.h"
#include "scan_kernel.h"
}
#undef VECTOR_BYTES

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define VECTOR_BYTES 32
namespace avx2 {
#include "simd.h"
#include "conv_kernel.h"
#include "maps_kernel.h"
#include "scan_kernel.h"
}
#undef VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx2,fma,prefer-vector-width=512")
#endif
#define VECTOR_BYTES 64
namespace avx512 {
#include "simd.h"
#include "conv_kernel.h"
#include "maps_kernel.h"
#include "scan_kernel.h"
}
#undef VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

namespace {

// Kernels of one type and instruction set.
struct Kernels {
  void (*forward)(const ScanTensors &, int64_t, int64_t, int64_t, void *);
  void (*backward)(const ScanTensors &, const ScanGradients &, int64_t, int64_t, int64_t, int64_t);
  void (*add_parts)(const void *, int64_t, int64_t, int64_t, int64_t, void *);
  void (*haar_forward)(const Map &, int64_t, int64_t, void *);
  void (*haar_inverse)(const Map &, const void *, int64_t, int64_t, void *);
  void (*norm_gate)(const Gate &, int64_t, void *);
};

#define OF_TYPE(set, T) \
  {set::forward<T>,      set::backward<T>,     set::add_parts<T>, \
   set::haar_forward<T>, set::haar_inverse<T>, set::norm_gate<T>}
#define KERNELS(set) OF_TYPE(set, float), OF_TYPE(set, double)
constexpr Kernels kKernels[] = {
    KERNELS(plain),
#if defined(__x86_64__)
    KERNELS(avx2),
    KERNELS(avx512),
#endif
};

// Convolutions of one instruction set, in float.
struct Convs {
  int64_t lanes, panel;
  void (*pointwise)(const Conv &, int64_t, int64_t, int64_t, int64_t, int64_t, void *);
  void (*spatial)(const Conv &, int64_t, int64_t, int64_t, int64_t, void *);
  void (*depthwise)(const Conv &, int64_t, int64_t, int64_t, int64_t, void *);
};

#define CONVS(set) {set::kLanes, set::kPanel, set::pointwise, set::spatial, set::depthwise}
constexpr Convs kConvs[] = {
    CONVS(plain),
#if defined(__x86_64__)
    CONVS(avx2),
    CONVS(avx512),
#endif
};

const Kernels &kernels(int set, int is_double) { return kKernels[2 * set + is_double]; }

// Runs `work(image, block)` for all blocks of all images.
template <typename Work>
struct Job {
  const Work &work;
  int64_t blocks, count;
  std::atomic<int64_t> next{0};
  std::atomic<bool> out_of_memory{false};

  static void run(void *self) {
    Job &job = *(Job *)self;
    try {
      for (int64_t i = job.next++; i < job.count; i = job.next++) job.work(i / job.blocks, i % job.blocks);
    } catch (const std::bad_alloc &) {
      job.out_of_memory = true;
    }
  }
};

template <typename Work>
int run(int64_t images, int64_t blocks, int threads, Parallel parallel, const Work &work) {
  Job<Work> job{work, blocks, images * blocks};
  if (threads > job.count) threads = (int)job.count;
  if (threads <= 1) {
    job.run(&job);
  } else if (parallel) {
    parallel(Job<Work>::run, &job, (unsigned)threads, 0);
  } else {
    std::vector<std::thread> team;
    try {
      for (int i = 1; i < threads; ++i) team.emplace_back(Job<Work>::run, &job);
    } catch (...) {
      // The system allows no more threads: continue with those already started.
    }
    job.run(&job);
    for (auto &thread : team) thread.join();
  }
  return job.out_of_memory ? 1 : 0;
}

int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

int64_t count_panels(const Conv &conv, const Convs &kernels) {
  return conv.out_channels < kernels.panel ? 1 : conv.out_channels / kernels.panel;
}

// Runs `work(group, image, end, block)` for all blocks of all groups; images `image` to `end` form the group. Weights
// are transposed once per group.
template <typename Work>
int run_scan(const ScanTensors &tensors, int64_t groups, int threads, Parallel parallel, const Work &work) {
  const int64_t images = tensors.batch;
  return run(groups, parts(tensors.channels, kBlock), threads, parallel, [&](int64_t group, int64_t block) {
    work(group, images * group / groups, images * (group + 1) / groups, block);
  });
}

// Number of groups of images that gives at least `tasks` tasks, limited by the number of images.
int64_t count_groups(const ScanTensors &tensors, int64_t tasks) {
  const int64_t blocks = parts(tensors.channels, kBlock);
  return blocks ? std::min(parts(tasks, blocks), tensors.batch) : 0;
}

// A gradient that tasks write as `count` partial sums of `size` elements.
struct Summed {
  void *ScanGradients::*gradient;
  int64_t count, size;
};

// A size, offset or constant that callers have to mirror.
struct Entry {
  const char *name;
  int64_t value;
};

#define SIZE(S) {#S, sizeof(S)}
#define FIELD(S, field) {#S "." #field, offsetof(S, field)}
constexpr Entry kLayout[] = {
    {"activation None", kActivationNone}, {"activation relu", kActivationReLU}, {"activation silu", kActivationSiLU},
    SIZE(Map), FIELD(Map, batch), FIELD(Map, height), FIELD(Map, width), FIELD(Map, channels),
    FIELD(Map, batch_stride), FIELD(Map, row_stride), FIELD(Map, column_stride), FIELD(Map, data),
    SIZE(Gate), FIELD(Gate, pixels), FIELD(Gate, channels), FIELD(Gate, z_stride), FIELD(Gate, y),
    FIELD(Gate, weight), FIELD(Gate, bias), FIELD(Gate, z), FIELD(Gate, eps),
    SIZE(Conv), FIELD(Conv, map), FIELD(Conv, out_channels), FIELD(Conv, kernel), FIELD(Conv, stride),
    FIELD(Conv, activation), FIELD(Conv, weight), FIELD(Conv, bias), FIELD(Conv, shortcut),
    SIZE(ScanTensors), FIELD(ScanTensors, batch), FIELD(ScanTensors, length), FIELD(ScanTensors, channels),
    FIELD(ScanTensors, rank), FIELD(ScanTensors, u_batch_stride), FIELD(ScanTensors, u_step_stride),
    FIELD(ScanTensors, u), FIELD(ScanTensors, x_dbl), FIELD(ScanTensors, dt_weight), FIELD(ScanTensors, A),
    FIELD(ScanTensors, D), FIELD(ScanTensors, dt_bias),
    SIZE(ScanGradients), FIELD(ScanGradients, y), FIELD(ScanGradients, u), FIELD(ScanGradients, x_dbl),
    FIELD(ScanGradients, dt_weight), FIELD(ScanGradients, A), FIELD(ScanGradients, D),
    FIELD(ScanGradients, dt_bias),
};
#undef SIZE
#undef FIELD

}  // namespace

extern "C" {

// Hash of the sources, by which a library of other sources is recognised.
extern __attribute__((visibility("default"))) const char mmmobilemamba_fingerprint[];  // hidden, it would be dropped
const char mmmobilemamba_fingerprint[] = FINGERPRINT;

int64_t mmmobilemamba_layout_of(const char *name) {
  for (const Entry &entry : kLayout)
    if (!std::strcmp(entry.name, name)) return entry.value;
  return -1;
}

int mmmobilemamba_instruction_set() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}

int mmmobilemamba_scan_forward(const ScanTensors *tensors, void *y, int is_double, int set, int threads,
                               Parallel parallel) {
  const auto kernel = kernels(set, is_double).forward;
  const int64_t groups = count_groups(*tensors, 4 * threads);
  return run_scan(*tensors, groups, threads, parallel, [&](int64_t, int64_t image, int64_t end, int64_t block) {
    kernel(*tensors, image, end, block, y);
  });
}

int mmmobilemamba_scan_backward(const ScanTensors *tensors, const ScanGradients *gradients, int is_double, int set,
                                int threads, Parallel parallel) try {
  const auto &kernel = kernels(set, is_double);
  const int64_t blocks = parts(tensors->channels, kBlock), groups = count_groups(*tensors, kSummedTasks);
  const int64_t x_dbl = tensors->batch * tensors->length * 2 * (tensors->rank + 2), channels = 2 * tensors->channels;
  const Summed all[] = {{&ScanGradients::x_dbl, blocks, x_dbl},
                        {&ScanGradients::dt_weight, groups, channels * tensors->rank},
                        {&ScanGradients::A, groups, channels},
                        {&ScanGradients::D, groups, channels},
                        {&ScanGradients::dt_bias, groups, channels}};
  int64_t bytes = 0, element = is_double ? sizeof(double) : sizeof(float);
  for (const auto &one : all) bytes += one.count * one.size * element;
  const Scratch<char> memory(bytes);
  ScanGradients part = *gradients;
  char *next = memory.data;
  for (const auto &one : all) {
    part.*one.gradient = next;
    next += one.count * one.size * element;
  }
  const auto walk = [&](int64_t group, int64_t image, int64_t end, int64_t block) {
    kernel.backward(*tensors, part, group, image, end, block);
  };
  if (run_scan(*tensors, groups, threads, parallel, walk)) return 1;
  // As many threads as before: OpenMP ends the surplus threads of a smaller team and restarts them for the next one.
  const int64_t pieces = std::max<int64_t>(1, std::min<int64_t>(threads, groups * blocks));
  return run(std::size(all), pieces, (int)pieces, parallel, [&](int64_t index, int64_t piece) {
    const Summed &one = all[index];
    const int64_t first = one.size * piece / pieces, end = one.size * (piece + 1) / pieces;
    kernel.add_parts(part.*one.gradient, one.count, one.size, first, end, gradients->*one.gradient);
  });
} catch (const std::bad_alloc &) {
  return 1;
}

int mmmobilemamba_haar_forward(const Map *map, void *bands, int is_double, int set, int threads, Parallel parallel) {
  const auto kernel = kernels(set, is_double).haar_forward;
  return run(map->batch, (map->height + 1) / 2, threads, parallel,
             [&](int64_t image, int64_t row) { kernel(*map, image, row, bands); });
}

int mmmobilemamba_haar_inverse(const Map *base, const void *bands, void *map, int is_double, int set, int threads,
                               Parallel parallel) {
  const auto kernel = kernels(set, is_double).haar_inverse;
  return run(base->batch, (base->height + 1) / 2, threads, parallel,
             [&](int64_t image, int64_t row) { kernel(*base, bands, image, row, map); });
}

int mmmobilemamba_norm_gate(const Gate *gate, void *out, int is_double, int set, int threads, Parallel parallel) {
  const auto kernel = kernels(set, is_double).norm_gate;
  return run(1, parts(gate->pixels, kPixels), threads, parallel,
             [&](int64_t, int64_t task) { kernel(*gate, task, out); });
}

int mmmobilemamba_pointwise(const Conv *conv, void *out, int, int set, int threads, Parallel parallel) {
  const Convs &kernels = kConvs[set];
  const int64_t pixels = conv->map.batch * conv->map.height * conv->map.width;
  const int64_t panels = count_panels(*conv, kernels);
  return run(parts(pixels, kTilePixels), panels, threads, parallel, [&](int64_t block, int64_t panel) {
    const int64_t first = block * kTilePixels, end = first + kTilePixels;
    const int64_t next = (panel + threads) % panels;  // most likely the next panel of this thread
    kernels.pointwise(*conv, first, end < pixels ? end : pixels, panel, panels, next, out);
  });
}

// Tasks have enough rows to reuse the weights.
int mmmobilemamba_spatial(const Conv *conv, void *out, int, int set, int threads, Parallel parallel) {
  const Convs &kernels = kConvs[set];
  const int64_t height = parts(conv->map.height, conv->stride), width = parts(conv->map.width, conv->stride);
  const int64_t rows = width * kFewRows < kTilePixels ? kTilePixels / width : kFewRows;
  const int64_t enough = parts(height, rows), wanted = parts(threads, conv->map.batch);
  const int64_t strips = enough > wanted ? enough : wanted < height ? wanted : height;
  const int64_t panels = count_panels(*conv, kernels);
  return run(conv->map.batch, strips, threads, parallel, [&](int64_t image, int64_t strip) {
    kernels.spatial(*conv, image, height * strip / strips, height * (strip + 1) / strips, panels, out);
  });
}

// Channels are split only if there are too few strips, as a task with all channels reads memory in order.
int mmmobilemamba_depthwise(const Conv *conv, void *out, int, int set, int threads, Parallel parallel) {
  const Convs &kernels = kConvs[set];
  const int64_t strips = parts(parts(conv->map.height, conv->stride), kStrip);
  const int64_t wanted = parts(2 * threads, conv->map.batch * strips), most = conv->map.channels / kernels.lanes;
  const int64_t panels = wanted < most ? wanted : most;
  return run(conv->map.batch * strips, panels, threads, parallel, [&](int64_t strip, int64_t panel) {
    kernels.depthwise(*conv, strip / strips, strip % strips, panel, panels, out);
  });
}
}
