// Vectors and functions of them. Included once per instruction set, inside its namespace, with VECTOR_BYTES defined.

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
#define UNROLL _Pragma("GCC unroll 16")
#endif

template <typename T>
INLINE typename Simd<T>::Vec load(const T *source) {
  typename Simd<T>::Vec vector;
  __builtin_memcpy(&vector, source, sizeof vector);
  return vector;
}

// Loads the first `count` lanes and sets the others to zero.
template <typename T>
INLINE typename Simd<T>::Vec load(const T *source, int64_t count) {
  if (count >= Simd<T>::lanes) return load(source);
  typename Simd<T>::Vec vector = {};
  for (int64_t lane = 0; lane < count; ++lane) vector[lane] = source[lane];
  return vector;
}

template <typename T, int lanes>
struct Lanes {
  typedef T Vec __attribute__((vector_size(lanes * sizeof(T))));
};

// Stores the first `count` lanes.
template <typename T, int lanes = Simd<T>::lanes>
INLINE void store(T *target, typename Lanes<T, lanes>::Vec vector, int64_t count) {
  if (count >= lanes) {
    __builtin_memcpy(target, &vector, sizeof vector);
  } else if constexpr (lanes == 2) {
    if (count > 0) target[0] = vector[0];
  } else {
    typename Lanes<T, lanes / 2>::Vec halves[2];
    __builtin_memcpy(halves, &vector, sizeof vector);
    store<T, lanes / 2>(target, halves[0], count);
    if (count > lanes / 2) store<T, lanes / 2>(target + lanes / 2, halves[1], count - lanes / 2);
  }
}

// Sum of all lanes, by halves; the compiler would sum an array of lanes in memory.
template <typename T, int lanes = Simd<T>::lanes>
INLINE T sum(typename Lanes<T, lanes>::Vec vector) {
  if constexpr (lanes == 2) {
    return vector[0] + vector[1];
  } else if constexpr (lanes == 4) {
    return (vector[0] + vector[2]) + (vector[1] + vector[3]);
  } else {
    typename Lanes<T, lanes / 2>::Vec halves[2];
    __builtin_memcpy(halves, &vector, sizeof vector);
    return sum<T, lanes / 2>(halves[0] + halves[1]);
  }
}

// These functions interleave the steps of several vectors, as each step depends on the one before.

// exp(x), with x clamped to [-87, 88]. Relative error 1e-7.
template <int count>
INLINE void exp(Simd<float>::Vec (&x)[count]) {
  using Vec = Simd<float>::Vec;
  using Int = Simd<float>::Int;
  Vec shifted[count], p[count];
  UNROLL for (int i = 0; i < count; ++i) x[i] = x[i] < -87.0f ? Vec{} - 87.0f : x[i];
  UNROLL for (int i = 0; i < count; ++i) x[i] = x[i] > 88.0f ? Vec{} + 88.0f : x[i];
  // Adding 1.5 * 2^23 rounds to an integer, which is then in the lowest bits.
  UNROLL for (int i = 0; i < count; ++i) shifted[i] = x[i] * 1.44269504088896341f + 12582912.0f;
  UNROLL for (int i = 0; i < count; ++i) p[i] = shifted[i] - 12582912.0f;
  UNROLL for (int i = 0; i < count; ++i) x[i] = x[i] - p[i] * 0.693145751953125f;
  UNROLL for (int i = 0; i < count; ++i) x[i] = x[i] - p[i] * 1.42860682030941723e-6f;
  UNROLL for (int i = 0; i < count; ++i) p[i] = x[i] * 0.00139013098f + 0.00836320006f;
  UNROLL for (int i = 0; i < count; ++i) p[i] = p[i] * x[i] + 0.0416668541f;
  UNROLL for (int i = 0; i < count; ++i) p[i] = p[i] * x[i] + 0.16666577f;
  UNROLL for (int i = 0; i < count; ++i) p[i] = p[i] * x[i] + 0.499999996f;
  UNROLL for (int i = 0; i < count; ++i) p[i] = p[i] * (x[i] * x[i]) + x[i] + 1.0f;
  UNROLL for (int i = 0; i < count; ++i) x[i] = p[i] * (Vec)(((Int)shifted[i] << 23) + 0x3f800000);
}

// log(1 + x) for x in [0, 1]. Relative error 1e-7.
template <int count>
INLINE void log1p(Simd<float>::Vec (&x)[count]) {
  Simd<float>::Vec p[count];
  UNROLL for (int i = 0; i < count; ++i) p[i] = x[i] * 0.00523269003f + -0.0295052199f;
  UNROLL for (int i = 0; i < count; ++i) p[i] = p[i] * x[i] + 0.0782259175f;
  UNROLL for (int i = 0; i < count; ++i) p[i] = p[i] * x[i] + -0.136632425f;
  UNROLL for (int i = 0; i < count; ++i) p[i] = p[i] * x[i] + 0.19106005f;
  UNROLL for (int i = 0; i < count; ++i) p[i] = p[i] * x[i] + -0.248429817f;
  UNROLL for (int i = 0; i < count; ++i) p[i] = p[i] * x[i] + 0.333190967f;
  UNROLL for (int i = 0; i < count; ++i) p[i] = p[i] * x[i] + -0.499994931f;
  UNROLL for (int i = 0; i < count; ++i) x[i] = (p[i] * x[i] + 0.99999997f) * x[i];
}

template <int count>
INLINE void exp(Simd<double>::Vec (&x)[count]) {
  UNROLL for (int i = 0; i < count; ++i)
    for (int lane = 0; lane < Simd<double>::lanes; ++lane) x[i][lane] = __builtin_exp(x[i][lane]);
}

template <int count>
INLINE void log1p(Simd<double>::Vec (&x)[count]) {
  UNROLL for (int i = 0; i < count; ++i)
    for (int lane = 0; lane < Simd<double>::lanes; ++lane) x[i][lane] = __builtin_log1p(x[i][lane]);
}

// x / (1 + exp(-x)).
template <typename Vec, int count>
INLINE void silu(Vec (&x)[count]) {
  Vec power[count];
  UNROLL for (int i = 0; i < count; ++i) power[i] = -x[i];
  exp(power);
  UNROLL for (int i = 0; i < count; ++i) x[i] = x[i] / (power[i] + 1);
}
