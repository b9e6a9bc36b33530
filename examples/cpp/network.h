// A network in the three files NAME.ncnn.param, NAME.ncnn.bin and NAME.ncnn.json of export.py.
#pragma once

#include <net.h>  // of ncnn

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "picture.h"

struct Output {
  std::vector<int> shape;
  std::vector<float> values;  // row by row
};

class Network {
 public:
  // Throws Error if a file is missing or none of export.py's, or asks for what this program does not follow.
  Network(const std::string& path, int threads);

  const std::string& task() const { return task_; }
  const std::string& file() const { return file_; }  // NAME.ncnn, without folders
  const nlohmann::json& about() const { return about_; }
  std::array<int, 2> size() const { return size_; }  // width and height of the input
  std::string name_of(int label) const;              // of a class; its number without names

  // The network's input for a picture as its loader reads it, after the steps of the test pipeline; the placement
  // says where in it the picture is.
  ncnn::Mat prepare(Picture picture, Placement& placement) const;

  // All outputs, by their names.
  std::map<std::string, Output> run(const ncnn::Mat& input) const;

 private:
  std::string file_, task_;
  nlohmann::json about_;
  std::array<int, 2> size_;
  std::vector<std::string> labels_, outputs_;
  std::vector<float> mean_, std_;
  ncnn::Net net_;
};
