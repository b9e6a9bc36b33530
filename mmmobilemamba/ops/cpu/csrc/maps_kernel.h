// The kernels of maps.h. Included once per instruction set, inside its namespace, after simd.h.

// Computes one row of the sub-bands of one image, (ceil(W / 2), 4C). Odd sides are padded with zeros.
template <typename T>
void haar_forward(const Map &map, int64_t image, int64_t row, void *bands) {
  using Vec = typename Simd<T>::Vec;
  const int64_t C = map.channels, columns = (map.width + 1) / 2, rows = (map.height + 1) / 2;
  const T *top = (const T *)map.data + image * map.batch_stride + 2 * row * map.row_stride;
  const T *bottom = 2 * row + 1 < map.height ? top + map.row_stride : nullptr;
  T *out = (T *)bands + (image * rows + row) * columns * 4 * C;
  for (int64_t column = 0; column < columns; ++column, out += 4 * C) {
    const int64_t left = 2 * column * map.column_stride, right = left + map.column_stride;
    const bool whole = 2 * column + 1 < map.width;
    for (int64_t c = 0; c < C; c += Simd<T>::lanes) {
      const int64_t lanes = C - c;
      const Vec a = load(top + left + c, lanes);
      const Vec b = whole ? load(top + right + c, lanes) : Vec{};
      const Vec d = bottom ? load(bottom + left + c, lanes) : Vec{};
      const Vec e = bottom && whole ? load(bottom + right + c, lanes) : Vec{};
      const Vec sum_left = a + d, sum_right = b + e, step_left = a - d, step_right = b - e;
      store(out + c, sum_left + sum_right, lanes);
      store(out + C + c, step_left + step_right, lanes);
      store(out + 2 * C + c, sum_left - sum_right, lanes);
      store(out + 3 * C + c, step_left - step_right, lanes);
    }
  }
}

// Computes two rows of base + inverse transform of one image; base and output are (N, H, W, C).
template <typename T>
void haar_inverse(const Map &base, const void *bands, int64_t image, int64_t row, void *map) {
  using Vec = typename Simd<T>::Vec;
  const int64_t C = base.channels, columns = (base.width + 1) / 2, rows = (base.height + 1) / 2;
  const T *in = (const T *)bands + (image * rows + row) * columns * 4 * C;
  const T *old = (const T *)base.data + image * base.batch_stride + 2 * row * base.row_stride;
  T *out = (T *)map + (image * base.height + 2 * row) * base.width * C;
  for (int64_t column = 0; column < columns; ++column, in += 4 * C) {
    const bool whole = 2 * column + 1 < base.width, both = 2 * row + 1 < base.height;
    const T *old_left = old + 2 * column * base.column_stride;
    T *left = out + 2 * column * C;
    for (int64_t c = 0; c < C; c += Simd<T>::lanes) {
      const int64_t lanes = C - c;
      const Vec p = load(in + c, lanes), q = load(in + C + c, lanes);
      const Vec m = load(in + 2 * C + c, lanes), n = load(in + 3 * C + c, lanes);
      const Vec top = p + q, bottom = p - q, top_step = m + n, bottom_step = m - n;
      const auto put = [&](int64_t down, int64_t across, Vec value) {
        const Vec before = load(old_left + down * base.row_stride + across * base.column_stride + c, lanes);
        store(left + (down * base.width + across) * C + c, before + value, lanes);
      };
      put(0, 0, top + top_step);
      if (whole) put(0, 1, top - top_step);
      if (both) put(1, 0, bottom + bottom_step);
      if (both && whole) put(1, 1, bottom - bottom_step);
    }
  }
}

constexpr int kAtOnce = 2;  // independent vectors of channels, to hide the latency of additions

// Sum of the vectors `term(e)` over the channels of a pixel; lanes beyond the last channel are ignored.
template <typename T, typename Term>
INLINE T sum_channels(int64_t channels, const Term &term) {
  constexpr int width = Simd<T>::lanes;
  typename Simd<T>::Vec totals[kAtOnce] = {};
  int64_t e = 0;
  for (; e + kAtOnce * width <= channels; e += kAtOnce * width)
    UNROLL for (int i = 0; i < kAtOnce; ++i) totals[i] += term(e + i * width);
  for (; e < channels; e += width) {
    auto last = term(e);
    for (int64_t lane = channels - e; lane < width; ++lane) last[lane] = 0;
    totals[0] += last;
  }
  for (int i = 1; i < kAtOnce; ++i) totals[0] += totals[i];
  return sum<T>(totals[0]);
}

// Computes the pixels of one task.
template <typename T>
void norm_gate(const Gate &gate, int64_t task, void *out) {
  using Vec = typename Simd<T>::Vec;
  constexpr int width = Simd<T>::lanes;
  const int64_t E = gate.channels;
  const int64_t end = (task + 1) * kPixels < gate.pixels ? (task + 1) * kPixels : gate.pixels;
  const T *weight = (const T *)gate.weight, *bias = (const T *)gate.bias;
  for (int64_t pixel = task * kPixels; pixel < end; ++pixel) {
    const T *y = (const T *)gate.y + pixel * E;
    const T *z = (const T *)gate.z + pixel * gate.z_stride;
    const T mean = sum_channels<T>(E, [&](int64_t e) { return load(y + e, E - e); }) / T(E);
    const T squares = sum_channels<T>(E, [&](int64_t e) {
      const Vec deviation = load(y + e, E - e) - mean;
      return deviation * deviation;
    });
    const T scale = T(1) / (T)__builtin_sqrt(double(squares / T(E)) + gate.eps);
    const auto write = [&](int64_t e, Vec gate) {
      const Vec normed = (load(y + e, E - e) - mean) * scale * load(weight + e, E - e) + load(bias + e, E - e);
      store((T *)out + pixel * E + e, normed * gate, E - e);
    };
    int64_t e = 0;
    for (; e + kAtOnce * width <= E; e += kAtOnce * width) {
      Vec gates[kAtOnce];
      UNROLL for (int i = 0; i < kAtOnce; ++i) gates[i] = load(z + e + i * width);
      silu(gates);
      UNROLL for (int i = 0; i < kAtOnce; ++i) write(e + i * width, gates[i]);
    }
    for (; e < E; e += width) {
      Vec gates[1] = {load(z + e, E - e)};
      silu(gates);
      write(e, gates[0]);
    }
  }
}
