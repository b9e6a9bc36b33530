// The part of ONNX Runtime's C interface that custom operators need, declared here because no package of pip has the
// header, and so that the library always has the operators. Names and positions are those of OrtApiBase, OrtApi and
// OrtCustomOp in onnxruntime_c_api.h of ONNX Runtime 1.17; later releases only append functions. Source:
// https://github.com/microsoft/onnxruntime, compared with the header by tests/test_ops/test_onnx_operators.py.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ort {

constexpr uint32_t kVersion = 17;  // the first with KernelContext_ParallelFor
constexpr int kFloat = 1;          // ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
constexpr int kFail = 1, kInvalidArgument = 2;  // of OrtErrorCode

// Types that only ONNX Runtime looks into.
struct Status;
struct Value;
struct ShapeInfo;       // OrtTensorTypeAndShapeInfo
struct SessionOptions;
struct Domain;          // OrtCustomOpDomain
struct KernelInfo;
struct KernelContext;

// Functions return null, or a status that the caller owns.
struct Api {
  Status *(*CreateStatus)(int code, const char *message);
  void *skipped1[25];
  Status *(*CreateCustomOpDomain)(const char *domain, Domain **out);
  Status *(*CustomOpDomain_Add)(Domain *domain, const struct CustomOp *op);
  Status *(*AddCustomOpDomain)(SessionOptions *options, Domain *domain);
  void *skipped2[22];
  Status *(*GetTensorMutableData)(Value *value, void **out);
  void *skipped3[9];
  Status *(*GetDimensionsCount)(const ShapeInfo *info, size_t *out);
  Status *(*GetDimensions)(const ShapeInfo *info, int64_t *out, size_t count);
  void *skipped4[2];
  Status *(*GetTensorTypeAndShape)(const Value *value, ShapeInfo **out);
  void *skipped5[19];
  Status *(*KernelInfoGetAttribute_float)(const KernelInfo *info, const char *name, float *out);
  void *skipped6[4];
  Status *(*KernelContext_GetInput)(const KernelContext *context, size_t index, const Value **out);
  Status *(*KernelContext_GetOutput)(KernelContext *context, size_t index, const int64_t *sizes, size_t count,
                                     Value **out);
  void *skipped7;
  void (*ReleaseStatus)(Status *status);
  void *skipped8[5];
  void (*ReleaseTensorTypeAndShapeInfo)(ShapeInfo *info);
  void *skipped9[174];
  Status *(*KernelContext_ParallelFor)(const KernelContext *context, void (*function)(void *, size_t), size_t total,
                                       size_t batches, void *data);
};

struct ApiBase {
  const Api *(*GetApi)(uint32_t version);  // null if this ONNX Runtime is older
  const char *(*GetVersionString)();
};

// Description of an operator, read up to the fields of `version`. Null where a default exists.
struct CustomOp {
  uint32_t version;
  void *(*CreateKernel)(const CustomOp *, const Api *, const KernelInfo *);
  const char *(*GetName)(const CustomOp *);
  const char *(*GetExecutionProviderType)(const CustomOp *);
  int (*GetInputType)(const CustomOp *, size_t);
  size_t (*GetInputTypeCount)(const CustomOp *);
  int (*GetOutputType)(const CustomOp *, size_t);
  size_t (*GetOutputTypeCount)(const CustomOp *);
  void (*KernelCompute)(void *, KernelContext *);
  void (*KernelDestroy)(void *);
  int (*GetInputCharacteristic)(const CustomOp *, size_t);
  int (*GetOutputCharacteristic)(const CustomOp *, size_t);
  int (*GetInputMemoryType)(const CustomOp *, size_t);
  int (*GetVariadicInputMinArity)(const CustomOp *);
  int (*GetVariadicInputHomogeneity)(const CustomOp *);
  int (*GetVariadicOutputMinArity)(const CustomOp *);
  int (*GetVariadicOutputHomogeneity)(const CustomOp *);
  Status *(*CreateKernelV2)(const CustomOp *, const Api *, const KernelInfo *, void **kernel);
  Status *(*KernelComputeV2)(void *kernel, KernelContext *);
  void *InferOutputShapeFn;
  int (*GetStartVersion)(const CustomOp *);
  int (*GetEndVersion)(const CustomOp *);
};

}  // namespace ort
