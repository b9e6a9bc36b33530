// Run a network of export.py on a picture: mobilemamba NETWORK.ncnn PICTURE
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "choose.h"
#include "error.h"
#include "network.h"
#include "picture.h"

using nlohmann::ordered_json;

namespace {

const char USAGE[] =
    "usage: mobilemamba NETWORK.ncnn PICTURE [--topk 5] [--score-threshold 0.3] [--threads 1] [--json]\n"
    "\n"
    "NETWORK.ncnn is of tools/deployment/export.py, PICTURE of JPEG or PNG. Each line is, between tabs,\n"
    "  a class and its probability (classification),\n"
    "  a class, its score, and left, top, right and bottom in px of the picture (detection),\n"
    "  a class and its share of the picture (segmentation), or\n"
    "  a map and its shape (backbone).\n";

struct Arguments {
  std::string network, picture;
  int topk = 5, threads = 1;
  double score_threshold = 0.3;
  bool as_json = false;
};

double number_of(const std::string& option, const char* text) {
  char* end = nullptr;
  const double value = text == nullptr ? NAN : std::strtod(text, &end);
  if (text == nullptr || end == text || *end != '\0')
    throw Error(option + " takes a number, not " + (text == nullptr ? "nothing" : text) + ".");
  return value;
}

int count_of(const std::string& option, const char* text) {
  const double value = number_of(option, text);
  if (!(value >= 1 && value <= 1e6 && value == std::floor(value)))
    throw Error(option + " must be a whole number of 1 or more, not " + text + ".");
  return int(value);
}

Arguments read_arguments(int argc, char** argv) {
  Arguments arguments;
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--json") {
      arguments.as_json = true;
    } else if (word == "--topk") {
      arguments.topk = count_of(word, argv[++i]);
    } else if (word == "--threads") {
      arguments.threads = count_of(word, argv[++i]);
    } else if (word == "--score-threshold") {
      arguments.score_threshold = number_of(word, argv[++i]);
      if (!(arguments.score_threshold >= 0 && arguments.score_threshold <= 1))
        throw Error(word + " must be from 0 to 1, not " + argv[i] + ".");
    } else if (word.rfind("--", 0) == 0) {
      throw Error("There is no option " + word + "; see mobilemamba --help.");
    } else {
      files.push_back(word);
    }
  }
  if (files.size() != 2) throw Error("It takes a network and a picture; see mobilemamba --help.");
  arguments.network = files[0], arguments.picture = files[1];
  return arguments;
}

// What was found, with the names of tools/deployment/infer.py's results.json.
ordered_json find(const Network& network, const Arguments& arguments, Picture picture) {
  Placement placement;
  const auto outputs = network.run(network.prepare(std::move(picture), placement));
  if (network.task() == "backbone") {
    ordered_json maps = ordered_json::object();
    for (const auto& name : network.about().at("outputs")) maps[name.get<std::string>()] = outputs.at(name).shape;
    return {{"maps", maps}};
  }
  ordered_json entries = ordered_json::array();
  if (network.task() == "detection") {
    const auto factors = outputs.find("factors");
    const Places places{outputs.at("boxes").values, outputs.at("scores").values,
                        factors == outputs.end() ? std::vector<float>() : factors->second.values};
    for (const Object& object :
         choose_objects(places, network.about().at("candidates"), placement, arguments.score_threshold)) {
      ordered_json box;
      for (const double side : object.box) box.push_back(std::nearbyint(side * 1000) / 1000);
      entries.push_back({{"name", network.name_of(object.label)},
                         {"label", object.label},
                         {"score", double(object.score)},
                         {"box", box}});
    }
    return {{"objects", entries}};
  }
  const Output& logits = outputs.at("logits");
  const bool maps = network.task() == "segmentation";
  const auto [width, height] = network.size();
  if (logits.values.empty() ||
      (maps && (logits.shape.size() != 3 || logits.shape[1] != height || logits.shape[2] != width)))
    throw Error(network.file() + " gives logits of another size than its input. Take the three files of one export.");
  const auto classes =
      maps ? class_shares(logits.values, height, width, placement) : best_classes(logits.values, arguments.topk);
  for (const Class& each : classes)
    entries.push_back(
        {{"name", network.name_of(each.label)}, {"label", each.label}, {maps ? "share" : "score", each.score}});
  return {{"classes", entries}};
}

void print_lines(const ordered_json& found) {
  if (found.contains("maps"))
    for (const auto& [name, shape] : found["maps"].items()) std::printf("%s\t%s\n", name.c_str(), shape.dump().c_str());
  for (const char* kind : {"classes", "objects"}) {
    if (!found.contains(kind)) continue;
    for (const auto& entry : found[kind]) {
      std::printf("%s\t%.4f", entry["name"].get_ref<const std::string&>().c_str(),
                  entry[entry.contains("share") ? "share" : "score"].get<double>());
      if (entry.contains("box"))
        for (const auto& side : entry["box"]) std::printf("\t%.1f", side.get<double>());
      std::printf("\n");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i)
    if (std::string(argv[i]) == "--help") return std::fputs(USAGE, stdout) < 0;
  try {
    const Arguments arguments = read_arguments(argc, argv);
    const Network network(arguments.network, arguments.threads);
    Picture picture = read_picture(arguments.picture, network.about().at("load"));
    ordered_json entry = {{"file", std::filesystem::path(arguments.picture).filename().string()},
                          {"width", picture.width},
                          {"height", picture.height}};
    const ordered_json found = find(network, arguments, std::move(picture));
    if (!arguments.as_json) {
      print_lines(found);
      return 0;
    }
    entry.update(found);
    const ordered_json content = {{"model", network.file()},
                                  {"task", network.task()},
                                  {"pictures", ordered_json::array({entry})},
                                  {"skipped", ordered_json::array()}};
    std::puts(content.dump(1, ' ', false, ordered_json::error_handler_t::replace).c_str());
    return 0;
  } catch (const nlohmann::json::exception& error) {
    std::fprintf(stderr, "mobilemamba: error: the metadata of %s are damaged: %s. Export the network again.\n", argv[1],
                 error.what());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mobilemamba: error: %s\n", error.what());
  }
  return 1;
}
