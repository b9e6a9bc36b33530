// The kernels of scan.h. Included once per instruction set, inside its namespace, after simd.h.
//
// Vector lanes are channels; steps are sequential. The second direction reads the same rows backwards, so nothing is
// flipped. Step sizes are projected where they are used. Names are those of the reference (naive.py): delta,
// decay = exp(delta * A), h.

constexpr int kGroup = 8;   // steps whose delta and decay, which are independent, are computed together
constexpr int kChunk = 64;  // steps whose states backward stores at a time

// One direction of one image, for one vector of channels.
template <typename T>
struct Walk {
  using Vec = typename Simd<T>::Vec;
  const T *x_dbl;  // first step of this direction; the next step is `row_stride` elements on
  int64_t row_stride, rank, length;
  bool reverse;
  const T *weight;  // transposed, (R, kBlock), from this vector on
  Vec A, bias;

  int64_t position(int64_t step) const { return reverse ? length - 1 - step : step; }
  const T *row(int64_t step) const { return x_dbl + step * row_stride; }
  T B(int64_t step) const { return row(step)[rank]; }
  T C(int64_t step) const { return row(step)[rank + 1]; }
};

// For the steps of a group: step sizes before the softplus (v), exp(-abs(v)) (tail), delta and decay.
template <typename T>
struct Group {
  typename Simd<T>::Vec v[kGroup], tail[kGroup], delta[kGroup], decay[kGroup];
};

// Computes `size` steps, at most a group, from `first` on; smaller groups are filled up with copies of the last step.
template <typename T>
INLINE void discretise(const Walk<T> &walk, int64_t first, int64_t size, Group<T> &group) {
  using Vec = typename Simd<T>::Vec;
  const T *rows[kGroup];
  UNROLL for (int i = 0; i < kGroup; ++i) {
    rows[i] = walk.row(first + (i < size ? i : size - 1));
    group.v[i] = walk.bias;
  }
  for (int64_t r = 0; r < walk.rank; ++r) {
    const auto weight = load(walk.weight + r * kBlock);
    UNROLL for (int i = 0; i < kGroup; ++i) group.v[i] += weight * rows[i][r];
  }
  UNROLL for (int i = 0; i < kGroup; ++i) group.tail[i] = group.v[i] < 0 ? group.v[i] : -group.v[i];
  exp(group.tail);
  UNROLL for (int i = 0; i < kGroup; ++i) group.delta[i] = group.tail[i];
  log1p(group.delta);
  UNROLL for (int i = 0; i < kGroup; ++i) group.delta[i] += group.v[i] > 0 ? group.v[i] : Vec{};
  UNROLL for (int i = 0; i < kGroup; ++i) group.decay[i] = group.delta[i] * walk.A;
  exp(group.decay);
}

template <typename T>
struct Problem {
  int64_t batch, length, channels, rank, u_batch_stride, u_step_stride;
  const T *u, *x_dbl, *dt_weight, *A, *D, *dt_bias;

  explicit Problem(const ScanTensors &t)
      : batch(t.batch), length(t.length), channels(t.channels), rank(t.rank),
        u_batch_stride(t.u_batch_stride), u_step_stride(t.u_step_stride),
        u((const T *)t.u), x_dbl((const T *)t.x_dbl), dt_weight((const T *)t.dt_weight),
        A((const T *)t.A), D((const T *)t.D), dt_bias((const T *)t.dt_bias) {}

  int64_t block_channels(int64_t block) const {
    const int64_t left = channels - block * kBlock;
    return left < kBlock ? left : kBlock;
  }

  int64_t row_stride() const { return 2 * (rank + 2); }

  // Copies the weights of a direction for `count` channels from `first` on as (R, kBlock), zero-padded.
  void transpose_weight(int direction, int64_t first, int64_t count, T *out) const {
    const T *source = dt_weight + (direction * channels + first) * rank;
    for (int64_t r = 0; r < rank; ++r) {
      T *row = out + r * kBlock;
      if (count == kBlock) {
        UNROLL for (int64_t e = 0; e < kBlock; ++e) row[e] = source[e * rank + r];
      } else {
        for (int64_t e = 0; e < kBlock; ++e) row[e] = e < count ? source[e * rank + r] : T(0);
      }
    }
  }

  // The walk of `count` channels from `first` on; `weight` is their transposed weight.
  Walk<T> walk(int64_t image, int direction, int64_t first, int64_t count, const T *weight) const {
    Walk<T> walk;
    walk.x_dbl = x_dbl + image * length * row_stride() + direction * ((length - 1) * row_stride() + rank + 2);
    walk.row_stride = direction ? -row_stride() : row_stride();
    walk.rank = rank;
    walk.length = length;
    walk.reverse = direction == 1;
    walk.weight = weight;
    walk.A = load(A + direction * channels + first, count);
    walk.bias = load(dt_bias + direction * channels + first, count);
    return walk;
  }
};

// ------------------------------------------------------------------------------------------------ forward

// Scans `size` steps, at most a group, from `first` on, starting from the state `h`, which is updated.
template <typename T>
INLINE void forward_steps(const Walk<T> &walk, int64_t first, int64_t size, typename Simd<T>::Vec &h, const T *u,
                          int64_t u_stride, typename Simd<T>::Vec D, T *y, int64_t y_stride, int64_t lanes) {
  Group<T> group;
  discretise(walk, first, size, group);
  for (int i = 0; i < size; ++i) {
    const auto input = load(u + (first + i) * u_stride, lanes);
    T *out = y + (first + i) * y_stride;
    h = group.decay[i] * h + group.delta[i] * (input * walk.B(first + i));
    const auto before = walk.reverse ? load(out, lanes) : D * input;
    store(out, before + h * walk.C(first + i), lanes);
  }
}

// Scans one direction of one image, for a vector of `lanes` channels.
template <typename T>
INLINE void forward_walk(const Walk<T> &walk, const T *u, int64_t u_stride, typename Simd<T>::Vec D, T *y,
                         int64_t y_stride, int64_t lanes) {
  if (walk.reverse) {
    u += (walk.length - 1) * u_stride, y += (walk.length - 1) * y_stride;
    u_stride = -u_stride, y_stride = -y_stride;
  }
  typename Simd<T>::Vec h = {};
  int64_t first = 0;
  for (; first + kGroup <= walk.length; first += kGroup)
    forward_steps<T>(walk, first, kGroup, h, u, u_stride, D, y, y_stride, lanes);
  if (first < walk.length)
    forward_steps<T>(walk, first, walk.length - first, h, u, u_stride, D, y, y_stride, lanes);
}

// Scans one block of channels of the images from `image` to `end`.
template <typename T>
void forward(const ScanTensors &tensors, int64_t image, int64_t end, int64_t block, void *y) {
  const Problem<T> p(tensors);
  const int64_t first = block * kBlock, count = p.block_channels(block);
  constexpr int width = Simd<T>::lanes;
  Scratch<T> weight(2 * p.rank * kBlock);
  for (int direction = 0; direction < 2; ++direction)
    p.transpose_weight(direction, first, count, weight.data + direction * p.rank * kBlock);
  for (; image < end; ++image)
    for (int64_t e = 0; e < count; e += width) {
      const int64_t lanes = count - e < width ? count - e : width;
      const T *u = p.u + image * p.u_batch_stride + first + e;
      T *out = (T *)y + image * p.length * p.channels + first + e;
      const auto D = load(p.D + first + e, lanes) + load(p.D + p.channels + first + e, lanes);
      for (int direction = 0; direction < 2; ++direction) {
        const T *own = weight.data + direction * p.rank * kBlock + e;
        const Walk<T> walk = p.walk(image, direction, first + e, lanes, own);
        forward_walk(walk, u, p.u_step_stride, D, out, p.channels, lanes);
      }
    }
}

// ----------------------------------------------------------------------------------------------- backward

// Recomputed values of a chunk, for one vector of channels. `before[i]` is the state before step i.
template <typename T>
struct Chunk {
  typename Simd<T>::Vec delta[kChunk], decay[kChunk], slope[kChunk], before[kChunk + 1];
};

// Fills `size` steps of a chunk, at most a group, from `first` on; the chunk starts at step `start`.
template <typename T>
INLINE void recompute_steps(const Walk<T> &walk, int64_t start, int64_t first, int64_t size, const T *u,
                            int64_t u_stride, int64_t lanes, Chunk<T> &chunk) {
  Group<T> group;
  discretise(walk, start + first, size, group);
  for (int i = 0; i < size; ++i) {
    const int64_t at = first + i;
    const auto inverse = T(1) / (group.tail[i] + T(1));
    const auto input = load(u + walk.position(start + at) * u_stride, lanes);
    chunk.slope[at] = group.v[i] < 0 ? group.tail[i] * inverse : inverse;  // derivative of the softplus
    chunk.delta[at] = group.delta[i];
    chunk.decay[at] = group.decay[i];
    chunk.before[at + 1] = group.decay[i] * chunk.before[at] + group.delta[i] * (input * walk.B(start + at));
  }
}

// Fills a chunk of `size` steps from `start` on, starting from `state`; returns the last state.
template <typename T>
INLINE typename Simd<T>::Vec recompute(const Walk<T> &walk, int64_t start, int64_t size, const T *u,
                                       int64_t u_stride, int64_t lanes, typename Simd<T>::Vec state,
                                       Chunk<T> &chunk) {
  chunk.before[0] = state;
  int64_t first = 0;
  for (; first + kGroup <= size; first += kGroup)
    recompute_steps<T>(walk, start, first, kGroup, u, u_stride, lanes, chunk);
  if (first < size) recompute_steps<T>(walk, start, first, size - first, u, u_stride, lanes, chunk);
  return chunk.before[size];
}

// Sums over the steps, for one vector of channels.
template <typename T>
struct Sums {
  typename Simd<T>::Vec A, D, bias;
};

// Gradients of one direction for a block of channels, image by image.
template <typename T>
struct Backward {
  using Vec = typename Simd<T>::Vec;
  static constexpr int width = Simd<T>::lanes;
  static constexpr int vectors = kBlock / width;

  const Problem<T> &p;
  const ScanGradients &g;
  int64_t block, first, count;  // channels
  int direction;
  const T *weight;  // (R, kBlock)
  const T *padded;  // (kBlock, padded_rank), zero-padded
  int64_t padded_rank;
  T *grad_weight;  // (R, kBlock), summed over all images
  T *tile;         // (kChunk, kBlock), gradients of the step sizes before the softplus
  T *carries;      // (chunks, kBlock)
  Sums<T> sums[vectors] = {};  // over all images
  // For the current image and this block:
  int64_t image = 0;
  const T *grad_y = nullptr, *u = nullptr;
  T *grad_u = nullptr, *grad_x_dbl = nullptr;
  Vec grad_h[vectors] = {};  // gradient of the state from later steps

  int64_t lanes(int vector) const {
    const int64_t left = count - vector * width;
    return left < 0 ? 0 : left < width ? left : width;
  }

  Walk<T> walk(int vector) const {
    return p.walk(image, direction, first + vector * width, lanes(vector), weight + vector * width);
  }

  void run(int64_t of_image, Chunk<T> &chunk) {
    image = of_image;
    grad_y = (const T *)g.y + image * p.length * p.channels + first;
    u = p.u + image * p.u_batch_stride + first;
    grad_u = (T *)g.u + image * p.length * p.channels + first;
    grad_x_dbl = (T *)g.x_dbl + (block * p.batch + image) * p.length * p.row_stride();
    const int64_t chunks = (p.length + kChunk - 1) / kChunk;
    for (int vector = 0; vector < vectors && lanes(vector) > 0; ++vector) {
      grad_h[vector] = Vec{};
      Vec state = {};
      for (int64_t c = 0; c < chunks; ++c) {
        store(carries + c * kBlock + vector * width, state, width);
        if (c + 1 < chunks)
          state = recompute(walk(vector), c * kChunk, kChunk, u + vector * width, p.u_step_stride,
                            lanes(vector), state, chunk);
      }
    }
    for (int64_t c = chunks - 1; c >= 0; --c) {
      const int64_t start = c * kChunk, size = p.length - start < kChunk ? p.length - start : kChunk;
      Vec grad_B[kChunk] = {}, grad_C[kChunk] = {};
      for (int vector = 0; vector < vectors; ++vector) {
        if (lanes(vector) > 0) {
          const Vec state = load(carries + c * kBlock + vector * width);
          recompute(walk(vector), start, size, u + vector * width, p.u_step_stride, lanes(vector), state, chunk);
          walk_back(vector, start, size, chunk, grad_B, grad_C);
        } else {
          for (int64_t i = 0; i < size; ++i) store(tile + i * kBlock + vector * width, Vec{}, width);
        }
      }
      add_grad_weight(start, size);
      int64_t i = 0;
      for (; i + kGroup <= size; i += kGroup) finish_rows<kGroup>(start, i, grad_B, grad_C);
      for (; i < size; ++i) finish_rows<1>(start, i, grad_B, grad_C);
    }
  }

  void walk_back(int vector, int64_t start, int64_t size, const Chunk<T> &chunk, Vec *grad_B, Vec *grad_C) {
    const Walk<T> walk = this->walk(vector);
    const int64_t lanes = this->lanes(vector), offset = vector * width;
    const int64_t channel = first + offset;
    const Vec D = load(p.D + channel, lanes) + load(p.D + p.channels + channel, lanes);
    Sums<T> s = {};
    Vec later = grad_h[vector];
    for (int64_t i = size - 1; i >= 0; --i) {
      const int64_t t = walk.position(start + i);
      const Vec gy = load(grad_y + t * p.channels + offset, lanes);
      const Vec input = load(u + t * p.u_step_stride + offset, lanes);
      const Vec delta = chunk.delta[i], decayed = chunk.decay[i] * chunk.before[i];
      const T B = walk.B(start + i);
      const Vec wanted = later + gy * walk.C(start + i);
      const Vec into = wanted * delta;
      grad_C[i] += gy * chunk.before[i + 1];
      grad_B[i] += into * input;
      T *out = grad_u + t * p.channels + offset;
      const Vec other = walk.reverse ? load(out, lanes) : gy * D;
      store(out, other + into * B, lanes);
      const Vec grad_v = wanted * (input * B + walk.A * decayed) * chunk.slope[i];
      store(tile + i * kBlock + offset, grad_v, width);
      s.A += into * decayed;
      if (!walk.reverse) s.D += gy * input;
      s.bias += grad_v;
      later = chunk.decay[i] * wanted;
    }
    grad_h[vector] = later;
    sums[vector].A += s.A, sums[vector].D += s.D, sums[vector].bias += s.bias;
  }

  const T *row(int64_t step) const {
    const int64_t t = direction ? p.length - 1 - step : step;
    return p.x_dbl + (image * p.length + t) * p.row_stride() + direction * (p.rank + 2);
  }

  // Adds the contribution of the tile of `size` steps from `start` on to the gradient of the weights.
  void add_grad_weight(int64_t start, int64_t size) {
    constexpr int at_once = 8;
    int64_t r = 0;
    for (; r + at_once <= p.rank; r += at_once) add_ranks<at_once>(start, size, r);
    for (; r < p.rank; ++r) add_ranks<1>(start, size, r);
  }

  // The same for `ranks` ranks (a constant) from `r` on.
  template <int ranks>
  void add_ranks(int64_t start, int64_t size, int64_t r) {
    for (int j = 0; j < kBlock; j += width) {
      Vec total[ranks] = {};
      for (int64_t i = 0; i < size; ++i) {
        const Vec grad_v = load(tile + i * kBlock + j);
        const T *own = row(start + i) + r;
        UNROLL for (int q = 0; q < ranks; ++q) total[q] += grad_v * own[q];
      }
      UNROLL for (int q = 0; q < ranks; ++q) {
        T *sum = grad_weight + (r + q) * kBlock + j;
        store(sum, load(sum) + total[q], width);
      }
    }
  }

  // Writes the rows of grad_x_dbl for `steps` steps (a constant) from `i` on.
  template <int steps>
  void finish_rows(int64_t start, int64_t i, const Vec *grad_B, const Vec *grad_C) {
    constexpr int few = 2;  // this few remaining ranks do not fill a vector; for them, lanes are channels
    int64_t r = 0;
    for (; r + few < p.rank; r += width) {  // lanes are ranks
      Vec total[steps] = {};
      for (int e = 0; e < kBlock; ++e) {
        const Vec own = load(padded + e * padded_rank + r);
        UNROLL for (int q = 0; q < steps; ++q) total[q] += own * tile[(i + q) * kBlock + e];
      }
      UNROLL for (int q = 0; q < steps; ++q) store(grad_row(start + i + q) + r, total[q], p.rank - r);
    }
    for (int q = 0; q < steps; ++q) {
      T *out = grad_row(start + i + q);
      for (int64_t rest = r; rest < p.rank; ++rest) {
        Vec total = {};
        const T *grad_v = tile + (i + q) * kBlock, *own = weight + rest * kBlock;
        for (int j = 0; j < kBlock; j += width) total += load(grad_v + j) * load(own + j);
        out[rest] = sum<T>(total);
      }
      out[p.rank] = sum<T>(grad_B[i + q]);
      out[p.rank + 1] = sum<T>(grad_C[i + q]);
    }
  }

  // Writes the sums over the steps and images of a group.
  void write_sums(int64_t group) const {
    const int64_t at = (group * 2 + direction) * p.channels + first;
    T *weights = (T *)g.dt_weight + at * p.rank;
    for (int64_t e = 0; e < count; ++e)
      for (int64_t r = 0; r < p.rank; ++r) weights[e * p.rank + r] = grad_weight[r * kBlock + e];
    for (int vector = 0; vector < vectors && lanes(vector) > 0; ++vector) {
      const int64_t offset = at + vector * width;
      store((T *)g.A + offset, sums[vector].A, lanes(vector));
      store((T *)g.dt_bias + offset, sums[vector].bias, lanes(vector));
      if (direction == 1) continue;  // both directions have the same gradient of D
      store((T *)g.D + offset, sums[vector].D, lanes(vector));
      store((T *)g.D + offset + p.channels, sums[vector].D, lanes(vector));
    }
  }

  T *grad_row(int64_t step) const { return grad_x_dbl + (row(step) - p.x_dbl) - image * p.length * p.row_stride(); }
};

// Backward of one block of channels of a group, the images from `image` to `end`. Of `g`, writes u, and partial sums of
// the others.
template <typename T>
void backward(const ScanTensors &tensors, const ScanGradients &g, int64_t group, int64_t image, int64_t end,
              int64_t block) {
  const Problem<T> p(tensors);
  const int64_t first = block * kBlock, count = p.block_channels(block);
  const int64_t chunks = (p.length + kChunk - 1) / kChunk;
  const int64_t padded_rank = (p.rank + Simd<T>::lanes - 1) / Simd<T>::lanes * Simd<T>::lanes;
  const int64_t of_weight = p.rank * kBlock, of_padded = padded_rank * kBlock;
  Scratch<T> scratch(4 * of_weight + 2 * of_padded + (kChunk + chunks) * kBlock);
  T *weights = scratch.data, *grad_weights = weights + 2 * of_weight, *padded = grad_weights + 2 * of_weight;
  T *tile = padded + 2 * of_padded, *carries = tile + kChunk * kBlock;
  for (int direction = 0; direction < 2; ++direction) {
    T *weight = weights + direction * of_weight, *row = padded + direction * of_padded;
    p.transpose_weight(direction, first, count, weight);
    for (int64_t e = 0; e < kBlock; ++e, row += padded_rank)
      for (int64_t r = 0; r < padded_rank; ++r) row[r] = r < p.rank ? weight[r * kBlock + e] : T(0);
  }
  for (int64_t i = 0; i < 2 * of_weight; ++i) grad_weights[i] = 0;
  const auto of_direction = [&](int k) {
    const T *weight = weights + k * of_weight, *row = padded + k * of_padded;
    T *grad_weight = grad_weights + k * of_weight;
    return Backward<T>{p, g, block, first, count, k, weight, row, padded_rank, grad_weight, tile, carries};
  };
  Backward<T> directions[] = {of_direction(0), of_direction(1)};
  Chunk<T> chunk;
  for (; image < end; ++image)
    for (auto &direction : directions) direction.run(image, chunk);
  for (const auto &direction : directions) direction.write_sums(group);
}

// Sums elements `first` to `end` of `count` partial sums of `size` elements each.
template <typename T>
void add_parts(const void *parts, int64_t count, int64_t size, int64_t first, int64_t end, void *sums) {
  T *out = (T *)sums;
  for (int64_t i = first; i < end; ++i) out[i] = 0;
  for (int64_t part = 0; part < count; ++part) {
    const T *own = (const T *)parts + part * size;
    for (int64_t i = first; i < end; ++i) out[i] += own[i];
  }
}
