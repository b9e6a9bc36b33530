// Pictures: reading them as the loader of a config does, and the steps of a test pipeline.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

struct Picture {
  int width = 0, height = 0;    // px
  int channels = 0;             // 1: gray, 3: RGB, 4: RGBA
  std::vector<uint8_t> pixels;  // (height, width, channels)

  const uint8_t* row(int y) const { return pixels.data() + size_t(y) * width * channels; }
  uint8_t* row(int y) { return pixels.data() + size_t(y) * width * channels; }
};

// Where a picture is in the network's input: x * scale - offset, and how much of it is shown. Pairs are (x, y).
struct Placement {
  std::array<int, 2> size;  // of the picture, px
  std::array<double, 2> scale = {1, 1};
  std::array<double, 2> offset = {0, 0};  // px of the input that are cropped at the left and the top
  std::array<int, 2> shown;               // in the input; the rest, right and below, is padding
};

// Read a JPEG or PNG file as `load`, the loading step of a config's test pipeline, does.
//
// Throws Error if the file cannot be read, or not as in the training.
Picture read_picture(const std::string& path, const nlohmann::json& load);

// Apply one step of a test pipeline: Resize, ResizeEdge, CenterCrop or Pad.
//
// Throws Error if the step, or one of its settings, is not known.
void apply_step(Picture& picture, Placement& placement, const nlohmann::json& step);

// Resize with OpenCV's bilinear interpolation, as cv2.resize does to 1 of 255.
Picture resize_like_opencv(const Picture& picture, int width, int height);

// Resize as Pillow does, to the last bit: with "bilinear" or "bicubic", antialiased where it shrinks.
Picture resize_like_pillow(const Picture& picture, int width, int height, const std::string& interpolation);
