// Vectors and the functions of them. Included once for each instruction set, inside its namespace, with
// VECTOR_BYTES defined.

template <typename T>
struct Simd;

template <>
struct Simd<float> {
  typedef float Vec __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t Int __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr int lanes = VECTOR_BYTES / sizeof(float);
};

template <>
struct Simd<double> {
  typedef double Vec __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr int lanes = VECTOR_BYTES / sizeof(double);
};

#ifndef INLINE
#define INLINE static inline __attribute__((always_inline))
#endif

template <typename T>
INLINE typename Simd<T>::Vec load(const T *source) {
  typename Simd<T>::Vec vector;
  __builtin_memcpy(&vector, source, sizeof vector);
  return vector;
}

// The first `count` lanes, the others zero.
template <typename T>
INLINE typename Simd<T>::Vec load(const T *source, int64_t count) {
  if (count >= Simd<T>::lanes) return load(source);
  typename Simd<T>::Vec vector = {};
  for (int64_t lane = 0; lane < count; ++lane) vector[lane] = source[lane];
  return vector;
}

template <typename T>
INLINE void store(T *target, typename Simd<T>::Vec vector, int64_t count) {
  if (count >= Simd<T>::lanes) {
    __builtin_memcpy(target, &vector, sizeof vector);
    return;
  }
  for (int64_t lane = 0; lane < count; ++lane) target[lane] = vector[lane];
}

template <typename T>
INLINE T sum(typename Simd<T>::Vec vector) {
  T total = 0;
  for (int lane = 0; lane < Simd<T>::lanes; ++lane) total += vector[lane];
  return total;
}

// exp(x) for x from -87 to 88; what lies outside is taken as the nearer of them. Relative error 1e-7.
INLINE Simd<float>::Vec exp(Simd<float>::Vec x) {
  using Vec = Simd<float>::Vec;
  using Int = Simd<float>::Int;
  x = x < -87.0f ? Vec{} - 87.0f : x;
  x = x > 88.0f ? Vec{} + 88.0f : x;
  // Adding 1.5 * 2^23 rounds to a whole number, which then is in the lowest bits.
  const Vec shifted = x * 1.44269504088896341f + 12582912.0f;
  const Vec whole = shifted - 12582912.0f;
  const Vec r = (x - whole * 0.693145751953125f) - whole * 1.42860682030941723e-6f;
  Vec p = r * 0.00139013098f + 0.00836320006f;
  p = p * r + 0.0416668541f;
  p = p * r + 0.16666577f;
  p = p * r + 0.499999996f;
  p = p * (r * r) + r + 1.0f;
  const Int power = ((Int)shifted << 23) + 0x3f800000;
  return p * (Vec)power;
}

// log(1 + x) for x from 0 to 1. Relative error 1e-7.
INLINE Simd<float>::Vec log1p(Simd<float>::Vec x) {
  Simd<float>::Vec p = x * 0.00523269003f + -0.0295052199f;
  p = p * x + 0.0782259175f;
  p = p * x + -0.136632425f;
  p = p * x + 0.19106005f;
  p = p * x + -0.248429817f;
  p = p * x + 0.333190967f;
  p = p * x + -0.499994931f;
  p = p * x + 0.99999997f;
  return p * x;
}

INLINE Simd<double>::Vec exp(Simd<double>::Vec x) {
  for (int lane = 0; lane < Simd<double>::lanes; ++lane) x[lane] = __builtin_exp(x[lane]);
  return x;
}

INLINE Simd<double>::Vec log1p(Simd<double>::Vec x) {
  for (int lane = 0; lane < Simd<double>::lanes; ++lane) x[lane] = __builtin_log1p(x[lane]);
  return x;
}
