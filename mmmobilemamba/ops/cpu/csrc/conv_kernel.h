// The kernels of conv.h. Included once per instruction set, inside its namespace, after simd.h.
//
// Only whole vectors are used: the last vector of channels ends at the last channel and overlaps the one before it.
// Arrays of sums stay in registers only if all indices are constants, so their loops are unrolled.

using Floats = Simd<float>::Vec;
constexpr int64_t kLanes = Simd<float>::lanes;
constexpr int kColumns = 2;                            // vectors of output channels per tile
constexpr int kRows = VECTOR_BYTES == 64 ? 12 : 6;     // pixels per tile; all sums stay in registers
constexpr int64_t kPanel = kColumns * kLanes;          // output channels per panel; the last includes the remainder

// SiLU of `count` vectors, in place. The array must have room for whole groups of kSilus.
constexpr int kSilus = 4;
__attribute__((noinline)) inline void silu(Floats *values, int64_t count) {
  for (int64_t i = 0; i < count; i += kSilus) {
    Floats group[kSilus];
    UNROLL for (int j = 0; j < kSilus; ++j) group[j] = values[i + j];
    silu(group);
    UNROLL for (int j = 0; j < kSilus; ++j) values[i + j] = group[j];
  }
}

// Adds the bias, applies the activation, adds the shortcut and stores the sums. Rows are pixels from `pixel` on;
// columns are vectors of channels from `channel` on, `gap` apart.
template <int rows, int columns>
INLINE void finish(const Conv &conv, Floats (&sums)[rows][columns], int64_t pixel, int64_t channel, int64_t gap,
                   float *out) {
  const int64_t pitch = conv.out_channels, at = pixel * pitch + channel;
  if (conv.bias)
    UNROLL for (int column = 0; column < columns; ++column) {
      const Floats bias = load((const float *)conv.bias + channel + column * gap);
      UNROLL for (int row = 0; row < rows; ++row) sums[row][column] += bias;
    }
  if (conv.activation == kActivationReLU)
    UNROLL for (int row = 0; row < rows; ++row)
      UNROLL for (int column = 0; column < columns; ++column)
        sums[row][column] = sums[row][column] < 0.0f ? Floats{} : sums[row][column];  // keeps NaN
  if (conv.activation == kActivationSiLU) {
    Floats values[(rows * columns + kSilus - 1) / kSilus * kSilus] = {};
    UNROLL for (int row = 0; row < rows; ++row)
      UNROLL for (int column = 0; column < columns; ++column) values[row * columns + column] = sums[row][column];
    silu(values, rows * columns);
    UNROLL for (int row = 0; row < rows; ++row)
      UNROLL for (int column = 0; column < columns; ++column) sums[row][column] = values[row * columns + column];
  }
  if (conv.shortcut)
    UNROLL for (int row = 0; row < rows; ++row)
      UNROLL for (int column = 0; column < columns; ++column)
        sums[row][column] += load((const float *)conv.shortcut + at + row * pitch + column * gap);
  UNROLL for (int row = 0; row < rows; ++row)
    UNROLL for (int column = 0; column < columns; ++column)
      store(out + at + row * pitch + column * gap, sums[row][column], kLanes);
}

// The inputs of adjacent output pixels: for the first one `lines` lines of `depth` elements, `pitch` apart; for each
// further one the same, `stride` elements on.
struct Source {
  const float *data;
  int64_t stride, lines, pitch, depth;
};

// Computes `rows` pixels from `pixel` on and `columns` vectors of channels from `channel` on, `gap` apart. Prefetches a
// column of weights from `ahead` on: most weights come from memory, and their rows are too far apart for hardware
// prefetchers.
template <int rows, int columns>
void dense_tile(const Conv &conv, const Source &source, int64_t pixel, int64_t channel, int64_t gap, const float *ahead,
                float *out) {
  const int64_t stride = source.stride, depth = source.depth, pitch = conv.out_channels;
  const float *a = source.data, *b = (const float *)conv.weight + channel;
  if (conv.shortcut)  // not in the caches, unlike the map, which all panels read
    UNROLL for (int row = 0; row < rows; ++row) {
      const float *line = (const float *)conv.shortcut + (pixel + row) * pitch + channel;
      UNROLL for (int column = 0; column < columns; ++column) __builtin_prefetch(line + column * gap);
      __builtin_prefetch(line + (columns - 1) * gap + kLanes - 1);  // a vector may span two cache lines
    }
  Floats sums[rows][columns] = {};
  for (int64_t line = 0; line < source.lines; ++line, a += source.pitch)
    for (int64_t k = 0; k < depth; ++k, b += pitch, ahead += pitch) {
      __builtin_prefetch(ahead, 0, 2);
      Floats weights[columns];
      UNROLL for (int column = 0; column < columns; ++column) weights[column] = load(b + column * gap);
      UNROLL for (int row = 0; row < rows; ++row) {
        const float value = a[row * stride + k];
        UNROLL for (int column = 0; column < columns; ++column) sums[row][column] += value * weights[column];
      }
    }
  finish(conv, sums, pixel, channel, gap, out);
}

using Tile = void (*)(const Conv &, const Source &, int64_t, int64_t, int64_t, const float *, float *);
template <int columns>
Tile dense_tile_of(int64_t rows) {
  constexpr Tile tiles[] = {
      dense_tile<1, columns>, dense_tile<2, columns>, dense_tile<3, columns>,
      dense_tile<4, columns>, dense_tile<5, columns>, dense_tile<6, columns>,
#if VECTOR_BYTES == 64
      dense_tile<7, columns>, dense_tile<8, columns>, dense_tile<9, columns>,
      dense_tile<10, columns>, dense_tile<11, columns>, dense_tile<12, columns>,
#endif
  };
  return tiles[rows - 1];
}

// Computes adjacent pixels from `first` to `end` for one panel of output channels, in tiles of similar size. The last
// panel includes the remaining channels. The weights of panel `next` are prefetched.
inline void dense_panel(const Conv &conv, const Source &source, int64_t first, int64_t end, int64_t panel,
                        int64_t panels, int64_t next, void *out) {
  const int64_t channel_end = panel + 1 < panels ? (panel + 1) * kPanel : conv.out_channels;
  const float *ahead = (const float *)conv.weight + next * kPanel;
  int64_t width;
  for (int64_t channel = panel * kPanel; channel < channel_end; channel += width) {
    const int64_t left = channel_end - channel;
    const bool narrow = left <= kLanes;
    width = narrow ? kLanes : left < kPanel ? left : kPanel;
    if (left < width) channel = channel_end - width;
    int64_t pixel = first, line = 0;
    Source rest = source;
    for (int64_t tiles = (end - pixel + kRows - 1) / kRows; tiles; --tiles) {
      const int64_t rows = (end - pixel + tiles - 1) / tiles;
      const Tile tile = narrow ? dense_tile_of<1>(rows) : dense_tile_of<kColumns>(rows);
      tile(conv, rest, pixel, channel, width - kLanes, ahead + line, (float *)out);
      pixel += rows;
      rest.data += rows * rest.stride;
      line = line + kLanes < kPanel ? line + kLanes : kPanel - 1;  // the last may be in another cache line
    }
  }
}

// Computes pixels from `first` to `end` of one panel.
inline void pointwise(const Conv &conv, int64_t first, int64_t end, int64_t panel, int64_t panels, int64_t next,
                      void *out) {
  const int64_t stride = conv.map.column_stride;
  const Source source{(const float *)conv.map.data + first * stride, stride, 1, 0, conv.map.channels};
  dense_panel(conv, source, first, end, panel, panels, next, out);
}

// Computes rows from `row` to `end` of one image, from a zero-padded copy of their input.
inline void spatial(const Conv &conv, int64_t image, int64_t row, int64_t end, int64_t panels, void *out) {
  const Map &in = conv.map;
  const int64_t stride = conv.stride, kernel = conv.kernel, half = kernel / 2, top = row * stride - half;
  const int64_t height = (in.height + stride - 1) / stride, columns = (in.width + stride - 1) / stride;
  const int64_t lines = (end - row - 1) * stride + kernel, width = (columns - 1) * stride + kernel;
  const int64_t pitch = width * in.channels, left = half * in.channels;
  const int64_t there = (in.width < width - half ? in.width : width - half) * in.channels;
  Scratch<float> padded(lines * pitch);
  __builtin_memset(padded.data, 0, lines * pitch * sizeof(float));
  for (int64_t y = top < 0 ? 0 : top; y < top + lines && y < in.height; ++y)
    __builtin_memcpy(padded.data + (y - top) * pitch + left,
                     (const float *)in.data + image * in.batch_stride + y * in.row_stride, there * sizeof(float));
  for (int64_t panel = 0; panel < panels; ++panel)
    for (int64_t y = row; y < end; ++y) {
      const float *corner = padded.data + (y - row) * stride * pitch;
      const Source source{corner, stride * in.channels, kernel, pitch, kernel * in.channels};
      const int64_t pixel = (image * height + y) * columns;
      dense_panel(conv, source, pixel, pixel + columns, panel, panels, (panel + 1) % panels, out);
    }
}

constexpr int kAcross = 8;  // most adjacent output pixels per tile

// Input rows of a range of channels, as pointers to their pixels; the padding left and right points to zeros.
struct Strip {
  int64_t top, rows, pitch;  // first row, number of rows, pointers per row
  int64_t channel, width;    // first channel, number of channels
  const float *const *pixels;
};

// Computes `across` pixels of row `y` from column `x` on; the first has index `pixel` in the output.
template <int kernel, int stride, int across>
void depthwise_tile(const Conv &conv, const Strip &strip, int64_t y, int64_t x, int64_t pixel, float *out) {
  const int64_t top = y * stride - kernel / 2, channels = conv.map.channels;
  const int64_t first = top < 0 ? -top : 0, end = top + kernel < conv.map.height ? kernel : conv.map.height - top;
  const float *const *corner = strip.pixels + (top - strip.top) * strip.pitch + x * stride;
  for (int64_t vector = 0; vector < strip.width; vector += kLanes) {
    const int64_t at = vector + kLanes < strip.width ? vector : strip.width - kLanes;
    // Prefetch the input that the next output row needs in addition.
    for (int64_t row = top + kernel; row < top + kernel + stride && row < strip.top + strip.rows; ++row)
      for (int i = 0; i < across * stride; ++i)
        __builtin_prefetch(corner[(row - top) * strip.pitch + kernel / 2 + i] + at);
    const float *weight = (const float *)conv.weight + first * kernel * channels + strip.channel + at;
    Floats sums[across][1] = {};
    for (int64_t down = first; down < end; ++down)
      UNROLL for (int tap = 0; tap < kernel; ++tap, weight += channels) {
        const Floats value = load(weight);
        UNROLL for (int i = 0; i < across; ++i)
          sums[i][0] += value * load(corner[down * strip.pitch + i * stride + tap] + at);
      }
    finish(conv, sums, pixel, strip.channel + at, 0, out);
  }
}

using DepthwiseTile = void (*)(const Conv &, const Strip &, int64_t, int64_t, int64_t, float *);
template <int kernel, int stride>
DepthwiseTile depthwise_tile_of(int64_t across) {
  constexpr DepthwiseTile tiles[] = {
      depthwise_tile<kernel, stride, 1>, depthwise_tile<kernel, stride, 2>, depthwise_tile<kernel, stride, 3>,
      depthwise_tile<kernel, stride, 4>, depthwise_tile<kernel, stride, 5>, depthwise_tile<kernel, stride, 6>,
      depthwise_tile<kernel, stride, 7>, depthwise_tile<kernel, stride, 8>,
  };
  return tiles[across - 1];
}

// Computes rows from `row` to `end` of one image for `width` channels from `channel` on.
template <int kernel, int stride>
void depthwise_strip(const Conv &conv, int64_t image, int64_t row, int64_t end, int64_t channel, int64_t width,
                     float *out) {
  const Map &in = conv.map;
  const int64_t height = (in.height + stride - 1) / stride, columns = (in.width + stride - 1) / stride;
  const int64_t half = kernel / 2, top = row * stride < half ? 0 : row * stride - half;
  const int64_t below = (end - 1) * stride + half + 1, bottom = below < in.height ? below : in.height;
  const int64_t pitch = columns * stride + kernel - 1;
  Scratch<float> zeros(width);
  for (int64_t i = 0; i < width; ++i) zeros.data[i] = 0.0f;
  Scratch<const float *> pixels((bottom - top) * pitch);
  const float *start = (const float *)in.data + image * in.batch_stride + channel, **next = pixels.data;
  for (int64_t y = top; y < bottom; ++y)
    for (int64_t x = -half; x < pitch - half; ++x) {
      const bool inside = x >= 0 && x < in.width;
      *next++ = inside ? start + y * in.row_stride + x * in.column_stride : zeros.data;
    }
  const Strip strip{top, bottom - top, pitch, channel, width, pixels.data};
  for (int64_t y = row; y < end; ++y) {
    int64_t x = 0;
    for (int64_t tiles = (columns + kAcross - 1) / kAcross; tiles; --tiles) {
      const int64_t across = (columns - x + tiles - 1) / tiles;
      depthwise_tile_of<kernel, stride>(across)(conv, strip, y, x, (image * height + y) * columns + x, out);
      x += across;
    }
  }
}

// Computes one strip of one panel of channels; `panels` is at most the number of whole vectors of channels.
inline void depthwise(const Conv &conv, int64_t image, int64_t strip, int64_t panel, int64_t panels, void *out) {
  const int64_t height = (conv.map.height + conv.stride - 1) / conv.stride, row = strip * kStrip;
  const int64_t end = row + kStrip < height ? row + kStrip : height, vectors = conv.map.channels / kLanes;
  const int64_t channel = vectors * panel / panels * kLanes;
  const int64_t channel_end = panel + 1 < panels ? vectors * (panel + 1) / panels * kLanes : conv.map.channels;
  using Kernel = void (*)(const Conv &, int64_t, int64_t, int64_t, int64_t, int64_t, float *);
  constexpr Kernel kernels[][2] = {{depthwise_strip<3, 1>, depthwise_strip<3, 2>},
                                   {depthwise_strip<5, 1>, depthwise_strip<5, 2>},
                                   {depthwise_strip<7, 1>, depthwise_strip<7, 2>}};
  kernels[conv.kernel / 2 - 1][conv.stride - 1](conv, image, row, end, channel, channel_end - channel, (float *)out);
}
