// What a network finds, of its outputs: the choices that its file leaves open.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "picture.h"

struct Class {
  int label;
  double score;  // probability of a classifier; of a segmentor, the share of the pixels
};

struct Object {
  int label;
  float score;
  std::array<double, 4> box;  // left, top, right, bottom, px of the picture
};

// The `count` best classes of a classifier's logits, or all, the best first.
std::vector<Class> best_classes(const std::vector<float>& logits, int count);

// The share of each class of a segmentor's logits (classes, height, width) in the picture, the largest first.
std::vector<Class> class_shares(const std::vector<float>& logits, int height, int width, const Placement& placement);

// What a detector of one stage says of its B places, for the pixels of its input.
struct Places {
  std::vector<float> boxes;    // (B, 4): left, top, right, bottom
  std::vector<float> scores;   // (B, C)
  std::vector<float> factors;  // (B), by which scores are multiplied once the best are chosen; or empty
};

// Make sure that `candidates`, of the metadata, is a way of choosing that this program follows.
//
// Throws Error if it is not.
void check_candidates(const nlohmann::json& candidates);

// The objects with at least a score, the best first, suppressed as mmcv's batched_nms does.
std::vector<Object> choose_objects(const Places& places, const nlohmann::json& candidates, const Placement& placement,
                                   double score_threshold);
