#include "choose.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "error.h"

using nlohmann::json;

namespace {

constexpr float TINY = std::numeric_limits<float>::min();  // the score of a candidate that has 0

using Box = std::array<float, 4>;

struct Candidate {
  Box box;
  float score;
  int label;
};

Box box_at(const Places& places, size_t place) {
  Box box;
  std::copy_n(places.boxes.begin() + 4 * place, 4, box.begin());
  return box;
}

// The best pairs of a place and a class of each level, as mmdet's BaseDenseHead chooses them.
std::vector<Candidate> best_pairs(const Places& places, const json& settings, size_t classes) {
  const int most = settings.at("nms_pre");
  const double threshold = settings.at("score_thr"), smallest = settings.at("min_bbox_size");
  std::vector<Candidate> found;
  size_t start = 0;
  for (const json& level : settings.at("levels")) {
    const size_t end = start + level.get<size_t>() * classes;
    std::vector<size_t> pairs;
    for (size_t pair = start; pair < end; ++pair)
      if (places.scores[pair] > float(threshold)) pairs.push_back(pair);
    std::stable_sort(pairs.begin(), pairs.end(),
                     [&](size_t a, size_t b) { return places.scores[a] > places.scores[b]; });
    // Below 0, it is the end of a slice in mmdet, so that the last ones are left out; 0 limits nothing here.
    if (most > 0) pairs.resize(std::min(pairs.size(), size_t(most)));
    if (most < 0) pairs.resize(pairs.size() - std::min(pairs.size(), size_t(-most)));
    for (const size_t pair : pairs) {
      const size_t place = pair / classes;
      const Box box = box_at(places, place);
      if (smallest >= 0 && !(box[2] - box[0] > float(smallest) && box[3] - box[1] > float(smallest))) continue;
      const float factor = places.factors.empty() ? 1 : places.factors[place];
      found.push_back({box, std::max(places.scores[pair] * factor, TINY), int(pair % classes)});
    }
    start = end;
  }
  return found;
}

// The best class of each place, as mmdet's YOLOXHead chooses it.
std::vector<Candidate> best_class(const Places& places, const json& settings, size_t classes) {
  const double threshold = settings.at("score_thr");
  std::vector<Candidate> found;
  for (size_t place = 0; place < places.boxes.size() / 4; ++place) {
    const float* scores = &places.scores[place * classes];
    const int label = int(std::max_element(scores, scores + classes) - scores);
    const float score = scores[label] * (places.factors.empty() ? 1 : places.factors[place]);
    if (score >= float(threshold)) found.push_back({box_at(places, place), std::max(score, TINY), label});
  }
  return found;
}

// Intersection over union of two boxes whose last corners are already moved by mmcv's offset.
float overlap(const Box& a, const Box& b) {
  const float width = std::max(std::min(a[2], b[2]) - std::max(a[0], b[0]), 0.0f);
  const float height = std::max(std::min(a[3], b[3]) - std::max(a[1], b[1]), 0.0f);
  const float common = width * height;
  return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common);
}

// Drop candidates, which are sorted, that overlap a better one, with the arithmetic of mmcv's batched_nms:
// https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/nms.py
std::vector<Candidate> suppress(const std::vector<Candidate>& sorted, const json& nms) {
  const double threshold = nms.at("iou_threshold"), least = nms.at("score_threshold");
  const float offset = nms.at("offset");
  const bool by_label = sorted.size() >= nms.at("split_thr").get<size_t>();
  // Boxes of different classes are moved apart.
  float step = 0;
  if (!nms.at("class_agnostic").get<bool>() && !sorted.empty()) {
    step = sorted[0].box[0];
    for (const Candidate& candidate : sorted)
      step = std::max(step, *std::max_element(candidate.box.begin(), candidate.box.end()));
    step += 1;
  }
  std::vector<Candidate> kept;
  std::vector<Box> moved;
  for (const Candidate& candidate : sorted) {
    if (!(candidate.score > float(least))) continue;
    Box box = candidate.box;
    for (float& side : box) side += float(candidate.label) * step;
    for (int i = 0; i < 2; ++i) box[i + 2] = std::max(box[i], box[i + 2] + offset);
    bool alone = true;
    for (size_t i = 0; i < kept.size() && alone; ++i)
      alone = (by_label && kept[i].label != candidate.label) || !(overlap(moved[i], box) > threshold);
    if (!alone) continue;
    kept.push_back(candidate);
    moved.push_back(box);
  }
  return kept;
}

}  // namespace

std::vector<Class> best_classes(const std::vector<float>& logits, int count) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  std::vector<Class> classes;
  double sum = 0;
  for (size_t label = 0; label < logits.size(); ++label) {
    classes.push_back({int(label), std::exp(logits[label] - highest)});
    sum += classes.back().score;
  }
  for (Class& each : classes) each.score /= sum;
  std::stable_sort(classes.begin(), classes.end(), [](const Class& a, const Class& b) { return a.score > b.score; });
  classes.resize(std::min(classes.size(), size_t(count)));
  return classes;
}

std::vector<Class> class_shares(const std::vector<float>& logits, int height, int width, const Placement& placement) {
  const size_t area = size_t(height) * width, count = logits.size() / area;
  // The nearest pixel of the input for each pixel of the picture.
  std::array<std::vector<int>, 2> nearest;
  for (int axis = 0; axis < 2; ++axis)
    for (int i = 0; i < placement.size[axis]; ++i) {
      const int place = int((i + 0.5) * placement.scale[axis] - placement.offset[axis]);
      nearest[axis].push_back(std::clamp(place, 0, placement.shown[axis] - 1));
    }
  std::vector<size_t> pixels(count);
  std::vector<int> best(area, -1);
  for (const int y : nearest[1])
    for (const int x : nearest[0]) {
      const size_t place = size_t(y) * width + x;
      if (best[place] < 0) {
        best[place] = 0;
        for (size_t label = 1; label < count; ++label)
          if (logits[label * area + place] > logits[best[place] * area + place]) best[place] = int(label);
      }
      ++pixels[best[place]];
    }
  std::vector<Class> classes;
  for (size_t label = 0; label < count; ++label)
    if (pixels[label] > 0)
      classes.push_back({int(label), double(pixels[label]) / placement.size[0] / placement.size[1]});
  std::stable_sort(classes.begin(), classes.end(), [](const Class& a, const Class& b) { return a.score > b.score; });
  return classes;
}

void check_candidates(const json& candidates) {
  const std::string kind = candidates.at("kind");
  if (kind != "pairs" && kind != "best_class")
    throw Error(
        "The detector chooses among " + kind +
        ", which this program does not follow; it follows pairs and best_class. Use tools/deployment/infer.py.");
  if (candidates.at("votes").get<bool>())
    throw Error(
        "The detector's boxes vote (with_score_voting), which this program does not follow. Use "
        "tools/deployment/infer.py, or set with_score_voting=False.");
  const json& nms = candidates.at("nms");
  if (nms.is_null()) return;
  for (const auto& [name, value] : nms.items())
    if (name != "iou_threshold" && name != "class_agnostic" && name != "offset" && name != "score_threshold" &&
        name != "max_num" && name != "split_thr")
      throw Error(
          "The detector's nms has " + name + "=" + value.dump() +
          ", which this program does not know. Use tools/deployment/infer.py of the same version as export.py.");
}

std::vector<Object> choose_objects(const Places& places, const json& candidates, const Placement& placement,
                                   double score_threshold) {
  const size_t count = places.boxes.size() / 4, classes = count ? places.scores.size() / count : 0;
  const auto levels = candidates.at("levels").get<std::vector<size_t>>();
  if (classes == 0 || places.boxes.size() != 4 * count || places.scores.size() != classes * count ||
      (!places.factors.empty() && places.factors.size() != count) ||
      std::accumulate(levels.begin(), levels.end(), size_t(0)) != count)
    throw Error("The network has " + std::to_string(count) +
                " boxes, and its scores, factors or levels are not as many. "
                "Take the three files of one export.");
  const bool pairs = candidates.at("kind") == "pairs";
  auto found = pairs ? best_pairs(places, candidates, classes) : best_class(places, candidates, classes);
  std::stable_sort(found.begin(), found.end(),
                   [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
  int most = pairs ? candidates.at("max_per_img").get<int>() : -1;  // YOLOX gives all that are left
  const json& nms = candidates.at("nms");
  if (!nms.is_null()) {
    const int own = nms.at("max_num");
    if (own > 0 && (most <= 0 || own < most)) most = own;
    found = suppress(found, nms);
  }
  if (most > 0) found.resize(std::min(found.size(), size_t(most)));

  std::vector<Object> objects;
  for (const Candidate& candidate : found) {
    if (candidate.score < score_threshold) continue;
    Object object{candidate.label, candidate.score, {}};
    for (int i = 0; i < 4; ++i) {
      const double place = (candidate.box[i] + placement.offset[i % 2]) / placement.scale[i % 2];
      object.box[i] = std::clamp(place, 0.0, double(placement.size[i % 2]));
    }
    // A box may be in the padding.
    if (object.box[2] > object.box[0] && object.box[3] > object.box[1]) objects.push_back(object);
  }
  return objects;
}
