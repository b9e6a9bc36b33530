#include "network.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>

#include "choose.h"
#include "error.h"

using nlohmann::json;

namespace {

std::string by(int height, int width) { return std::to_string(height) + " x " + std::to_string(width); }

// NAME.ncnn of it, or of one of its files.
std::string base_of(std::string path) {
  for (const std::string end : {".param", ".bin", ".json"})
    if (path.size() > end.size() && path.compare(path.size() - end.size(), end.size(), end) == 0)
      path.resize(path.size() - end.size());
  if (std::filesystem::path(path).extension() != ".ncnn")
    throw Error(path + " must end in .ncnn. Export the network with tools/deployment/export.py.");
  for (const char* end : {".param", ".bin", ".json"})
    if (!std::filesystem::is_regular_file(path + end))
      throw Error("There is no file " + path + end + ". A network has three: .param, .bin and .json.");
  return path;
}

}  // namespace

Network::Network(const std::string& path, int threads) {
  const std::string base = base_of(path);
  file_ = std::filesystem::path(base).filename().string();
  try {
    std::ifstream stream(base + ".json");
    about_ = json::parse(stream);
    about_.at("task").get_to(task_);
    about_.at("mean").get_to(mean_);
    about_.at("std").get_to(std_);
    about_.at("labels").get_to(labels_);
    about_.at("outputs").get_to(outputs_);
    size_ = {about_.at("size").at(1), about_.at("size").at(0)};
    for (const char* key : {"channels", "resize", "load", "preprocessed"}) about_.at(key);
    const json input = about_.at("input");
    if (input.at("layout") != "NCHW" || input.at("dtype") != "float32")
      throw Error(file_ + " takes " + input.dump() + "; this program gives NCHW of float32. Export it as NAME.ncnn.");
    if (task_ == "detection") check_candidates(about_.at("candidates"));
  } catch (const json::exception& error) {
    throw Error(base + ".json is not what tools/deployment/export.py writes: " + error.what() +
                ". Export the network again.");
  }
  const std::map<std::string, std::vector<std::string>> needed = {{"backbone", {}},
                                                                  {"classification", {"logits"}},
                                                                  {"segmentation", {"logits"}},
                                                                  {"detection", {"boxes", "scores"}}};
  if (!needed.count(task_))
    throw Error(file_ + " has the task " + task_ + "; it must be backbone, classification, detection or segmentation.");
  for (const std::string& name : needed.at(task_))
    if (std::find(outputs_.begin(), outputs_.end(), name) == outputs_.end())
      throw Error(file_ + " has no output " + name + ". Export it with tools/deployment/export.py as NAME.ncnn.");

  net_.opt.num_threads = threads;
  // Weights may be of float16, but what is computed stays in float32.
  net_.opt.use_fp16_packed = net_.opt.use_fp16_storage = net_.opt.use_fp16_arithmetic = false;
  net_.opt.use_bf16_storage = false;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> weights(std::fopen((base + ".bin").c_str(), "rb"), std::fclose);
  if (!weights || net_.load_param((base + ".param").c_str()) != 0 || net_.load_model(weights.get()) != 0)
    throw Error("ncnn cannot open " + base +
                ".param and .bin, or lacks a layer of it: see the line above. "
                "Export the network again, or build with an ncnn that has all layers.");
  if (std::fgetc(weights.get()) != EOF)
    throw Error(base + ".bin has more weights than the layers of " + file_ +
                ".param take. Take the three files of one export.");
}

std::string Network::name_of(int label) const {
  return label < int(labels_.size()) ? labels_[label] : std::to_string(label);
}

ncnn::Mat Network::prepare(Picture picture, Placement& placement) const {
  placement = Placement{{picture.width, picture.height}, {1, 1}, {0, 0}, {picture.width, picture.height}};
  for (const json& step : about_.at("resize")) {
    if (step.at("type") == "Pad" && task_ == "segmentation")
      throw Error(
          "Pad in the test pipeline of a segmentor is not supported, as mmseg stretches what is padded over the "
          "picture; set size_divisor in data_preprocessor.test_cfg instead.");
    apply_step(picture, placement, step);
  }
  const int channels = picture.channels;
  if (channels != int(mean_.size()) || mean_.size() != std_.size())
    throw Error(file_ + " takes images of " + std::to_string(mean_.size()) +
                " channels, and the config's loader makes " + std::to_string(channels) + " of this picture.");
  const auto [width, height] = size_;
  // A classifier pools over the padding, too, so it takes pictures of its own size alone.
  const bool exact = task_ == "classification" && (picture.width != width || picture.height != height);
  if (picture.width > width || picture.height > height || exact)
    throw Error(file_ + " takes images of " + by(height, width) + " px (height x width), but the picture is " +
                by(picture.height, picture.width) +
                " px after the test pipeline's resizing. Export the network with --size " +
                std::to_string(picture.height) + " " + std::to_string(picture.width) + ", or give it another picture.");

  const bool inside = about_.at("preprocessed");  // then the input is RGB, 0 to 255
  const bool swaps = about_.at("channels") == "BGR";
  const json found = about_.value("pad_value", json(0));
  const float padding = found.is_null() ? 0 : found.get<float>();
  ncnn::Mat input(width, height, channels);
  for (int c = 0; c < channels; ++c) {
    // Where channel c of the input is in the picture, of RGB or RGBA, and in the mean, of the network's order.
    const bool blue_first = channels == 4 || (swaps && !inside);
    const int from = channels >= 3 && blue_first && c < 3 ? 2 - c : c;
    const int own = inside && swaps ? channels - 1 - c : c;
    const float outside = inside ? mean_[own] + padding * std_[own] : padding;
    for (int y = 0; y < height; ++y) {
      float* to = input.channel(c).row(y);
      std::fill_n(to, width, outside);
      if (y >= picture.height) continue;
      const uint8_t* pixels = picture.row(y) + from;
      for (int x = 0; x < picture.width; ++x) {
        const float value = pixels[size_t(x) * channels];
        to[x] = inside ? value : (value - mean_[own]) / std_[own];
      }
    }
  }
  return input;
}

std::map<std::string, Output> Network::run(const ncnn::Mat& input) const {
  ncnn::Extractor extractor = net_.create_extractor();
  extractor.input("in0", input);
  std::map<std::string, Output> outputs;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    ncnn::Mat found;
    if (extractor.extract(("out" + std::to_string(i)).c_str(), found) != 0)
      throw Error(file_ + " has no output out" + std::to_string(i) + " for " + outputs_[i] +
                  ". Take the three files of one export.");
    Output output;
    if (found.dims == 4) output.shape = {found.c, found.d, found.h, found.w};
    if (found.dims == 3) output.shape = {found.c, found.h, found.w};
    if (found.dims == 2) output.shape = {found.h, found.w};
    if (found.dims == 1) output.shape = {found.w};
    const size_t each = size_t(found.w) * found.h * found.d;
    for (int c = 0; c < found.c; ++c) {  // between channels, there may be a gap
      const float* values = found.channel(c);
      output.values.insert(output.values.end(), values, values + each);
    }
    outputs[outputs_[i]] = std::move(output);
  }
  return outputs;
}
