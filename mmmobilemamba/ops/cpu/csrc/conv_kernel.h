// The kernels of conv.h, for one instruction set: included once for each, inside its namespace, after simd.h.

using Floats = Simd<float>::Vec;
constexpr int64_t kLanes = Simd<float>::lanes;
constexpr int kColumns = 2;                            // vectors of output channels of a tile
constexpr int kRows = VECTOR_BYTES == 64 ? 12 : 6;     // pixels of a tile: all sums stay in registers
constexpr int64_t kPanel = kColumns * kLanes;          // output channels of a task

// What follows the sums of one pixel and vector of channels, `count` of them from `channel` on.
INLINE void finish(const Conv &conv, Floats sum, int64_t pixel, int64_t channel, int64_t count, float *out) {
  const int64_t at = pixel * conv.out_channels + channel;
  if (conv.bias) sum += load((const float *)conv.bias + channel, count);
  if (conv.activation == 1) sum = sum < 0.0f ? Floats{} : sum;  // which NaN passes
  if (conv.activation == 2) sum = sum / (1.0f + exp(-sum));
  if (conv.shortcut) sum += load((const float *)conv.shortcut + at, count);
  store(out + at, sum, count);
}

// `rows` pixels from `pixel` on, `columns` vectors of channels from `channel` on. `b` is (C, columns * lanes)
// with rows of `pitch` elements.
template <int rows, int columns>
void pointwise_tile(const Conv &conv, int64_t pixel, int64_t channel, const float *b, int64_t pitch, float *out) {
  const int64_t stride = conv.in.column_stride, depth = conv.in.channels;
  const float *a = (const float *)conv.in.data + pixel * stride;
  Floats sums[rows][columns] = {};
  for (int64_t k = 0; k < depth; ++k, b += pitch) {
    Floats weights[columns];
    for (int column = 0; column < columns; ++column) weights[column] = load(b + column * kLanes);
    for (int row = 0; row < rows; ++row) {
      const float value = a[row * stride + k];
      for (int column = 0; column < columns; ++column) sums[row][column] += value * weights[column];
    }
  }
  for (int row = 0; row < rows; ++row)
    for (int column = 0; column < columns; ++column) {
      const int64_t first = channel + column * kLanes;
      finish(conv, sums[row][column], pixel + row, first, conv.out_channels - first, out);
    }
}

using Tile = void (*)(const Conv &, int64_t, int64_t, const float *, int64_t, float *);
template <int columns>
Tile pointwise_tile_of(int64_t rows) {
  constexpr Tile tiles[] = {
      pointwise_tile<1, columns>, pointwise_tile<2, columns>, pointwise_tile<3, columns>,
      pointwise_tile<4, columns>, pointwise_tile<5, columns>, pointwise_tile<6, columns>,
#if VECTOR_BYTES == 64
      pointwise_tile<7, columns>, pointwise_tile<8, columns>, pointwise_tile<9, columns>,
      pointwise_tile<10, columns>, pointwise_tile<11, columns>, pointwise_tile<12, columns>,
#endif
  };
  return tiles[rows - 1];
}

// Some pixels, up to `end`, of one panel of output channels; tiles of about one size.
inline void pointwise(const Conv &conv, int64_t pixel, int64_t end, int64_t panel, void *out) {
  const int64_t channel = panel * kPanel, left = conv.out_channels - channel;
  const bool narrow = left <= kLanes;
  const float *b = (const float *)conv.weight + channel;
  int64_t pitch = conv.out_channels;
  const int64_t width = narrow ? kLanes : kPanel;
  Scratch<float> padded(left < width ? conv.in.channels * width : 0);
  if (left < width) {  // whole vectors would reach beyond the last weight
    for (int64_t k = 0; k < conv.in.channels; ++k)
      for (int64_t lane = 0; lane < width; ++lane)
        padded.data[k * width + lane] = lane < left ? b[k * pitch + lane] : 0.0f;
    b = padded.data;
    pitch = width;
  }
  for (int64_t tiles = (end - pixel + kRows - 1) / kRows; tiles; --tiles) {
    const int64_t rows = (end - pixel + tiles - 1) / tiles;
    const Tile tile = narrow ? pointwise_tile_of<1>(rows) : pointwise_tile_of<kColumns>(rows);
    tile(conv, pixel, channel, b, pitch, (float *)out);
    pixel += rows;
  }
}

constexpr int kAcross = 8;  // output pixels side by side that are summed at once

// Rows from `row` to `end` of one vector of channels of one image.
template <int kernel>
void depthwise_strip(const Conv &conv, int64_t image, int64_t row, int64_t end, int64_t channel, float *out) {
  const int64_t stride = conv.stride, half = kernel / 2;
  const int64_t height = (conv.in.height + stride - 1) / stride, width = (conv.in.width + stride - 1) / stride;
  const int64_t count = conv.in.channels - channel;
  // The rows that are needed, with zeros around, and on the right what a last tile reads in vain.
  const int64_t tiles = (width + kAcross - 1) / kAcross, pitch = (tiles * kAcross - 1) * stride + kernel;
  const int64_t rows = (end - row - 1) * stride + kernel, top = row * stride - half;
  Scratch<Floats> padded(rows * pitch);
  const float *in = (const float *)conv.in.data + image * conv.in.batch_stride + channel;
  for (int64_t y = 0; y < rows; ++y) {
    const bool inside = top + y >= 0 && top + y < conv.in.height;
    const float *line = in + (top + y) * conv.in.row_stride;
    for (int64_t x = 0; x < pitch; ++x) {
      const int64_t column = x - half;
      const bool known = inside && column >= 0 && column < conv.in.width;
      padded.data[y * pitch + x] = known ? load(line + column * conv.in.column_stride, count) : Floats{};
      if (known) __builtin_prefetch(line + column * conv.in.column_stride + kLanes);
    }
  }
  Floats weights[kernel * kernel];
  for (int tap = 0; tap < kernel * kernel; ++tap)
    weights[tap] = load((const float *)conv.weight + tap * conv.in.channels + channel, count);
  for (int64_t y = row; y < end; ++y)
    for (int64_t x = 0; x < width; x += kAcross) {
      const Floats *corner = padded.data + (y - row) * stride * pitch + x * stride;
      Floats sums[kAcross] = {};
      for (int down = 0; down < kernel; ++down)
        for (int across = 0; across < kernel; ++across)
          for (int i = 0; i < kAcross; ++i)
            sums[i] += weights[down * kernel + across] * corner[down * pitch + i * stride + across];
      const int64_t pixel = (image * height + y) * width + x;
      for (int i = 0; i < kAcross && x + i < width; ++i) finish(conv, sums[i], pixel + i, channel, count, out);
    }
}

// One strip of one vector of channels.
inline void depthwise(const Conv &conv, int64_t image, int64_t strip, int64_t vector, void *out) {
  const int64_t height = (conv.in.height + conv.stride - 1) / conv.stride, row = strip * kStrip;
  const int64_t end = row + kStrip < height ? row + kStrip : height;
  const auto kernel = conv.kernel == 3 ? depthwise_strip<3> : conv.kernel == 5 ? depthwise_strip<5> : depthwise_strip<7>;
  kernel(conv, image, row, end, vector * kLanes, (float *)out);
}
