// The scan, the gated norm and the wavelet filter as operators for ONNX Runtime, domain "mmmobilemamba", version 1, in
// float32. Inputs and outputs have the channels last. They run in the threads of the session.
#include <algorithm>
#include <forward_list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kernels.h"
#include "onnxruntime_abi.h"
#include "scratch.h"

namespace {

// Thrown within this file only; no exception passes through ONNX Runtime.
struct Failure {
  ort::Status *status;
};

void check(ort::Status *status) {
  if (status) throw Failure{status};
}

// Runs `body`, which throws if it fails.
template <typename Body>
ort::Status *caught(const ort::Api &api, const Body &body) {
  try {
    body();
    return nullptr;
  } catch (const Failure &failure) {
    return failure.status;
  } catch (const std::bad_alloc &) {
    return api.CreateStatus(ort::kFail, "no memory for an operator of mmmobilemamba; use smaller images or batches.");
  }
}

struct Tensor {
  const void *data;
  std::vector<int64_t> sizes;

  // Product of the sizes from axis `first` up to `end`, which counts from the last axis if it is not positive.
  int64_t count(int first, int end) const {
    int64_t product = 1;
    for (size_t axis = first; axis < sizes.size() + end; ++axis) product *= sizes[axis];
    return product;
  }
};

// One call of an operator.
struct Call {
  const ort::Api &api;
  ort::KernelContext *context;
  const char *name;
  float eps;
  int set, threads;

  Tensor input(size_t index) const {
    const ort::Value *value;
    check(api.KernelContext_GetInput(context, index, &value));
    ort::ShapeInfo *info;
    check(api.GetTensorTypeAndShape(value, &info));
    size_t count = 0;
    Tensor tensor;
    ort::Status *status = api.GetDimensionsCount(info, &count);
    if (!status) {
      tensor.sizes.resize(count);
      status = api.GetDimensions(info, tensor.sizes.data(), count);
    }
    api.ReleaseTensorTypeAndShapeInfo(info);
    check(status);
    void *data;
    check(api.GetTensorMutableData((ort::Value *)value, &data));  // the function for constants came later
    tensor.data = data;
    return tensor;
  }

  void *output(const std::vector<int64_t> &sizes) const {
    ort::Value *value;
    check(api.KernelContext_GetOutput(context, 0, sizes.data(), sizes.size(), &value));
    void *data;
    check(api.GetTensorMutableData(value, &data));
    return data;
  }

  void require(bool fits, const char *expected) const {
    if (fits) return;
    const std::string message = std::string("mmmobilemamba:") + name + " expects " + expected + ".";
    throw Failure{api.CreateStatus(ort::kInvalidArgument, message.c_str())};
  }
};

// The call that runs in this thread: functions of the type `Parallel` get no context.
thread_local const Call *running;

struct Task {
  void (*function)(void *);
  void *data;

  static void run(void *self, size_t) { ((Task *)self)->function(((Task *)self)->data); }
};

void in_session(void (*function)(void *), void *data, unsigned threads, unsigned) {
  Task task{function, data};
  ort::Status *status = running->api.KernelContext_ParallelFor(running->context, Task::run, threads, threads, &task);
  if (status) running->api.ReleaseStatus(status);
  function(data);  // what is left, nothing in general
}

// Calls a kernel with the arguments that all have last.
template <typename Kernel, typename... Arguments>
void run(const Call &call, const Kernel &kernel, Arguments... arguments) {
  running = &call;
  if (kernel(arguments..., 0, call.set, call.threads, in_session)) throw std::bad_alloc();
}

// u (N, ..., E), x_dbl (N, ..., 2 * (R + 2)), dt_weight (2, E, R), A, D and dt_bias (2, E) -> (N, ..., E).
void selective_scan(const Call &call) {
  const Tensor u = call.input(0), x_dbl = call.input(1), weight = call.input(2);
  const Tensor A = call.input(3), D = call.input(4), bias = call.input(5);
  const char *expected =
      "u (N, ..., E), x_dbl (N, ..., 2 * (R + 2)), dt_weight (2, E, R), and A, D and dt_bias (2, E)";
  call.require(u.sizes.size() >= 2 && weight.sizes.size() == 3, expected);
  const int64_t length = u.count(1, -1), channels = u.sizes.back(), rank = weight.sizes[2];
  call.require(x_dbl.count(0, 0) == u.count(0, -1) * 2 * (rank + 2) && weight.count(0, 0) == 2 * channels * rank &&
                   A.count(0, 0) == 2 * channels && D.count(0, 0) == 2 * channels && bias.count(0, 0) == 2 * channels,
               expected);
  void *y = call.output(u.sizes);
  if (!u.count(0, 0)) return;
  const ScanTensors tensors{u.sizes[0], length, channels,    rank,   length * channels, channels,
                            u.data,     x_dbl.data, weight.data, A.data, D.data,            bias.data};
  run(call, mmmobilemamba_scan_forward, &tensors, y);
}

// y (..., E), weight and bias (E), z as y -> layer_norm(y) * silu(z).
void gated_norm(const Call &call) {
  const Tensor y = call.input(0), weight = call.input(1), bias = call.input(2), z = call.input(3);
  const char *expected = "y (..., E), weight and bias (E), and z as y";
  call.require(!y.sizes.empty(), expected);
  const int64_t channels = y.sizes.back();
  call.require(weight.count(0, 0) == channels && bias.count(0, 0) == channels && z.sizes == y.sizes, expected);
  void *out = call.output(y.sizes);
  if (!y.count(0, 0)) return;
  const Gate gate{y.count(0, -1), channels, channels, y.data, weight.data, bias.data, z.data, call.eps};
  run(call, mmmobilemamba_norm_gate, &gate, out);
}

Map dense_map(int64_t batch, int64_t height, int64_t width, int64_t channels, const void *data) {
  return {batch, height, width, channels, height * width * channels, width * channels, channels, data};
}

// x (N, H, W, C), weight (k, k, 4C), base as x -> base + the inverse of the filtered transform of x.
void haar_filter(const Call &call) {
  const Tensor x = call.input(0), weight = call.input(1), base = call.input(2);
  const char *expected = "x (N, H, W, C) with C of 4 or more, weight (k, k, 4C) with k of 3, 5 or 7, and base as x";
  call.require(x.sizes.size() == 4 && weight.sizes.size() == 3 && base.sizes == x.sizes, expected);
  const int64_t batch = x.sizes[0], bands = 4 * x.sizes[3], kernel = weight.sizes[0];
  call.require(bands >= 16 && (kernel == 3 || kernel == 5 || kernel == 7) &&
                   weight.sizes == std::vector<int64_t>{kernel, kernel, bands},
               expected);
  void *out = call.output(x.sizes);
  if (!x.count(0, 0)) return;
  const int64_t height = (x.sizes[1] + 1) / 2, width = (x.sizes[2] + 1) / 2, count = batch * height * width * bands;
  const Scratch<float> transformed(count), filtered(count);
  const Map image = dense_map(batch, x.sizes[1], x.sizes[2], x.sizes[3], x.data);
  run(call, mmmobilemamba_haar_forward, &image, (void *)transformed.data);
  const Conv conv{dense_map(batch, height, width, bands, transformed.data), bands, kernel, 1, kActivationNone,
                  weight.data, nullptr, nullptr};
  run(call, mmmobilemamba_depthwise, &conv, (void *)filtered.data);
  Map sum = image;
  sum.data = base.data;
  run(call, mmmobilemamba_haar_inverse, &sum, (const void *)filtered.data, out);
}

struct Operator : ort::CustomOp {
  const ort::Api *api;
  const char *name;
  size_t inputs;
  bool has_eps;
  void (*compute)(const Call &);
};

struct Kernel {
  const Operator *op;
  float eps;
  int set, threads;
};

ort::Status *create(const ort::CustomOp *self, const ort::Api *api, const ort::KernelInfo *info, void **kernel) {
  return caught(*api, [&] {
    const Operator &op = *(const Operator *)self;
    float eps = 0;
    if (op.has_eps) check(api->KernelInfoGetAttribute_float(info, "eps", &eps));
    // The number of threads of the session cannot be asked for; it only decides how work is split.
    const int threads = (int)std::max(1u, std::thread::hardware_concurrency());
    *kernel = new Kernel{&op, eps, mmmobilemamba_instruction_set(), threads};
  });
}

ort::Status *compute(void *self, ort::KernelContext *context) {
  const Kernel &kernel = *(Kernel *)self;
  const Call call{*kernel.op->api, context, kernel.op->name, kernel.eps, kernel.set, kernel.threads};
  return caught(call.api, [&] { kernel.op->compute(call); });
}

Operator describe(const ort::Api *api, const char *name, size_t inputs, bool has_eps, void (*function)(const Call &)) {
  Operator op{};
  op.version = ort::kVersion;
  op.GetName = [](const ort::CustomOp *self) { return ((const Operator *)self)->name; };
  op.GetExecutionProviderType = [](const ort::CustomOp *) -> const char * { return nullptr; };  // the CPU
  op.GetInputType = op.GetOutputType = [](const ort::CustomOp *, size_t) { return ort::kFloat; };
  op.GetInputTypeCount = [](const ort::CustomOp *self) { return ((const Operator *)self)->inputs; };
  op.GetOutputTypeCount = [](const ort::CustomOp *) { return (size_t)1; };
  op.GetInputCharacteristic = op.GetOutputCharacteristic = [](const ort::CustomOp *, size_t) { return 0; };  // required
  op.GetInputMemoryType = [](const ort::CustomOp *, size_t) { return 0; };                                   // default
  op.GetStartVersion = op.GetEndVersion = [](const ort::CustomOp *) { return 1; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = [](void *kernel) { delete (Kernel *)kernel; };
  // No InferOutputShapeFn: it would give all sizes without a name the same one, and ONNX Runtime then reuses memory of
  // other shapes.
  op.api = api;
  op.name = name;
  op.inputs = inputs;
  op.has_eps = has_eps;
  op.compute = function;
  return op;
}

// The operators and their domain, in one ONNX Runtime, as long as the library is loaded. Sessions may outlive the
// destructors that run at exit, so there is none here.
struct Registry {
  const ort::Api *api;
  Operator operators[3];
  ort::Domain *domain;

  explicit Registry(const ort::Api *api)
      : api(api),
        operators{describe(api, "SelectiveScan", 6, false, selective_scan),
                  describe(api, "NormGate", 4, true, gated_norm),
                  describe(api, "HaarFilter", 3, false, haar_filter)} {
    check(api->CreateCustomOpDomain("mmmobilemamba", &domain));
    for (const Operator &op : operators) check(api->CustomOpDomain_Add(domain, &op));
  }
};

// A process may contain several ONNX Runtimes, whose functions only take objects of their own.
const Registry &registry_of(const ort::Api *api) {
  static std::mutex mutex;
  static std::forward_list<Registry> &registries = *new std::forward_list<Registry>;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Registry &registry : registries)
    if (registry.api == api) return registry;
  return registries.emplace_front(api);
}

}  // namespace

// The function that ONNX Runtime calls in a library of custom operators.
extern "C" __attribute__((visibility("default")))
ort::Status *RegisterCustomOps(ort::SessionOptions *options, const ort::ApiBase *base) {
  const ort::Api *api = base->GetApi(ort::kVersion);
  if (!api) {
    const std::string message = std::string("the operators of mmmobilemamba need ONNX Runtime 1.") +
                                std::to_string(ort::kVersion) + " or newer, and this is " + base->GetVersionString();
    return base->GetApi(1)->CreateStatus(ort::kFail, message.c_str());
  }
  return caught(*api, [&] {
    check(api->AddCustomOpDomain(options, registry_of(api).domain));
  });
}
