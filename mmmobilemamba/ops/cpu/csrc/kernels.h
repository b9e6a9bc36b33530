// The kernels as C functions, without headers of Python or PyTorch, so one build works with every version of both.
// They return 0, or 1 if memory ran out. `set` is an instruction set up to that of `mmmobilemamba_instruction_set`.
#pragma once
#include "conv.h"
#include "maps.h"
#include "scan.h"

// All other names are hidden, by a flag in recipe.py: another library of the process may have the same ones.
#pragma GCC visibility push(default)
extern "C" {

// Runs a function in a number of threads and waits for them: GOMP_parallel of GNU's, LLVM's and Intel's OpenMP, or a
// function with its signature. Without one, the kernels start threads of their own.
typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);

// The best instruction set of this machine: 0 plain, 1 AVX2, 2 AVX-512.
int mmmobilemamba_instruction_set();

// The size of a struct ("Conv"), the offset of a field ("Conv.stride") or the number of an activation ("activation
// relu"), for callers to check their mirror of the structs; -1 for other names.
int64_t mmmobilemamba_layout_of(const char *name);

// Writes y (N, L, E).
int mmmobilemamba_scan_forward(const ScanTensors *tensors, void *y, int is_double, int set, int threads,
                               Parallel parallel);

// Writes all of `gradients` except y. The partial sums do not depend on the number of threads.
int mmmobilemamba_scan_backward(const ScanTensors *tensors, const ScanGradients *gradients, int is_double, int set,
                                int threads, Parallel parallel);

// Writes bands (N, ceil(H / 2), ceil(W / 2), 4C).
int mmmobilemamba_haar_forward(const Map *map, void *bands, int is_double, int set, int threads, Parallel parallel);

// Writes map (N, H, W, C), of the size of `base`; bands are as above.
int mmmobilemamba_haar_inverse(const Map *base, const void *bands, void *map, int is_double, int set, int threads,
                               Parallel parallel);

// Writes out (pixels, E).
int mmmobilemamba_norm_gate(const Gate *gate, void *out, int is_double, int set, int threads, Parallel parallel);

// Writes out (N, H, W, O).
int mmmobilemamba_pointwise(const Conv *conv, void *out, int, int set, int threads, Parallel parallel);

// Writes out (N, ceil(H / stride), ceil(W / stride), O); N is at least 1.
int mmmobilemamba_spatial(const Conv *conv, void *out, int, int set, int threads, Parallel parallel);

// Writes out (N, ceil(H / stride), ceil(W / stride), C); N is at least 1.
int mmmobilemamba_depthwise(const Conv *conv, void *out, int, int set, int threads, Parallel parallel);
}
#pragma GCC visibility pop
