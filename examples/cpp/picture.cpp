#include "picture.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string_view>

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#include <stb_image.h>

#include "error.h"

using nlohmann::json;

namespace {

using Bytes = std::vector<uint8_t>;

// What a file says of itself in front of its pixels.
struct Header {
  std::string format;     // JPEG or PNG
  std::string mode;       // as Pillow names it
  int orientation = 0;    // of EXIF, 1 to 8; 0 if there is none
  bool raw_exif = false;  // EXIF in a text of PNG
};

uint32_t big_endian(const uint8_t* p, int count) {
  uint32_t value = 0;
  for (int i = 0; i < count; ++i) value = value << 8 | p[i];
  return value;
}

bool has_at(const Bytes& data, size_t place, std::string_view text) {
  return place + text.size() <= data.size() && std::memcmp(data.data() + place, text.data(), text.size()) == 0;
}

bool contains(const Bytes& data, std::string_view text) {
  return std::search(data.begin(), data.end(), text.begin(), text.end()) != data.end();
}

// The orientation in EXIF data, which are a file of TIFF: the tag 0x0112 of the first directory; 0 without it.
int orientation_of(const uint8_t* tiff, size_t size) {
  if (size < 8 || (std::memcmp(tiff, "II*\0", 4) != 0 && std::memcmp(tiff, "MM\0*", 4) != 0)) return 0;
  const bool little = tiff[0] == 'I';
  auto number = [&](size_t place, int count) {
    if (!little) return big_endian(tiff + place, count);
    uint32_t value = 0;
    for (int i = count; i-- > 0;) value = value << 8 | tiff[place + i];
    return value;
  };
  const size_t directory = number(4, 4);
  if (directory > size - 2) return 0;
  const size_t entries = number(directory, 2);
  for (size_t i = 0; i < entries && directory + 2 + 12 * (i + 1) <= size; ++i) {
    const size_t entry = directory + 2 + 12 * i;
    if (number(entry, 2) != 0x0112) continue;
    const uint32_t type = number(entry + 2, 2);
    return type == 3 ? number(entry + 8, 2) : type == 4 ? number(entry + 8, 4) : 0;
  }
  return 0;
}

// The segments of a JPEG file up to its pixels; see https://www.w3.org/Graphics/JPEG/itu-t81.pdf, annex B.
Header read_jpeg(const Bytes& data, const std::string& path) {
  Header header{"JPEG", ""};
  bool has_exif = false;
  size_t place = 2;
  while (place + 4 <= data.size() && data[place] == 0xFF) {
    const int marker = data[place + 1];
    if (marker == 0xFF) {  // a fill byte
      ++place;
      continue;
    }
    const size_t length = big_endian(&data[place + 2], 2);
    if (length < 2 || place + 2 + length > data.size()) break;
    if (marker == 0xE1 && !has_exif && has_at(data, place + 4, std::string_view("Exif\0\0", 6)) && length >= 8) {
      header.orientation = orientation_of(&data[place + 10], length - 8);
      has_exif = true;
    }
    if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC && length >= 8)
      header.mode = data[place + 9] == 1 ? "L" : data[place + 9] == 3 ? "RGB" : "CMYK";
    place += 2 + length;
    if (marker == 0xDA) {
      static const uint8_t end[] = {0xFF, 0xD9};
      if (header.mode.empty() || std::search(data.begin() + place, data.end(), end, end + 2) == data.end()) break;
      return header;
    }
  }
  throw Error(path + " is damaged or incomplete. Give it whole.");
}

uint32_t crc32(const uint8_t* p, size_t count) {
  uint32_t crc = ~0u;
  for (size_t i = 0; i < count; ++i) {
    crc ^= p[i];
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
  }
  return ~crc;
}

// The chunks of a PNG file; see https://www.w3.org/TR/png-3/. stb_image leaves their checksums alone.
Header read_png(const Bytes& data, const std::string& path) {
  static const char* modes[] = {"L", "", "RGB", "P", "LA", "", "RGBA"};
  Header header{"PNG", ""};
  size_t place = 8;
  while (place + 12 <= data.size()) {
    const size_t length = big_endian(&data[place], 4);
    if (length > data.size() - place - 12) break;
    const std::string type(data.begin() + place + 4, data.begin() + place + 8);
    const uint8_t* content = &data[place + 8];
    if (std::isupper(static_cast<unsigned char>(type[0])) &&
        crc32(content - 4, length + 4) != big_endian(content + length, 4))
      break;
    if (type == "IHDR" && length == 13 && content[9] <= 6) {
      header.mode = modes[content[9]];
      if (header.mode == "L" && content[8] == 16) header.mode = "I;16";
      if (header.mode == "L" && content[8] == 1) header.mode = "1";
    }
    if (type == "eXIf") header.orientation = orientation_of(content, length);
    if (type == "tEXt" || type == "zTXt" || type == "iTXt")
      header.raw_exif |= has_at(data, place + 8, "Raw profile type exif");
    if (type == "IEND") {
      if (header.mode.empty()) break;
      return header;
    }
    place += 12 + length;
  }
  throw Error(path + " is damaged or incomplete. Give it whole.");
}

Header read_header(const Bytes& data, const std::string& path) {
  if (has_at(data, 0, "\xFF\xD8\xFF")) return read_jpeg(data, path);
  if (has_at(data, 0, "\x89PNG\r\n\x1A\n")) return read_png(data, path);
  throw Error(path + " is neither JPEG nor PNG, which are what this program reads. Convert it.");
}

// The pixels of a file, of as many channels as asked for; 16 bits become the higher 8.
Picture decode(const Bytes& data, int channels, const std::string& path) {
  Picture picture;
  int found;
  std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_memory(data.data(), int(data.size()), &picture.width, &picture.height, &found, channels),
      stbi_image_free);
  if (!pixels) throw Error(path + " cannot be read: " + stbi_failure_reason() + ". Convert it to another JPEG or PNG.");
  picture.channels = channels;
  picture.pixels.assign(pixels.get(), pixels.get() + size_t(picture.width) * picture.height * channels);
  return picture;
}

// Another picture of the same size, each pixel of which is made of one.
template <typename Function>
Picture map_pixels(const Picture& picture, int channels, Function function) {
  Picture result{picture.width, picture.height, channels, Bytes(size_t(picture.width) * picture.height * channels)};
  const size_t count = size_t(picture.width) * picture.height;
  for (size_t i = 0; i < count; ++i) function(&picture.pixels[i * picture.channels], &result.pixels[i * channels]);
  return result;
}

Picture to_rgb(const Picture& picture) {
  if (picture.channels == 3) return picture;
  const int step = picture.channels == 4 ? 1 : 0;
  return map_pixels(picture, 3, [&](const uint8_t* from, uint8_t* to) {
    for (int c = 0; c < 3; ++c) to[c] = from[c * step];
  });
}

// Gray with transparency on the ground that mmcv's backend pillow puts behind it.
Picture on_ground(const Picture& picture) {
  static const int ground[] = {124, 117, 104};
  return map_pixels(picture, 3, [](const uint8_t* from, uint8_t* to) {
    for (int c = 0; c < 3; ++c) {
      const int sum = ground[c] * (255 - from[1]) + from[0] * from[1] + 128;
      to[c] = uint8_t((sum + (sum >> 8)) >> 8);  // sum / 255, rounded
    }
  });
}

// Luminance of ITU-R 601-2, with Pillow's rounding.
Picture to_gray(const Picture& picture) {
  if (picture.channels == 1) return picture;
  return map_pixels(picture, 1, [](const uint8_t* from, uint8_t* to) {
    *to = uint8_t((from[0] * 19595 + from[1] * 38470 + from[2] * 7471 + 0x8000) >> 16);
  });
}

// A picture as its EXIF orientation says that it is to be seen.
Picture turned(const Picture& picture, int orientation) {
  if (orientation < 2 || orientation > 8) return picture;
  const int w = picture.width, h = picture.height, c = picture.channels;
  const bool swapped = orientation >= 5;
  Picture result{swapped ? h : w, swapped ? w : h, c, Bytes(picture.pixels.size())};
  for (int y = 0; y < result.height; ++y) {
    for (int x = 0; x < result.width; ++x) {
      int from_x = swapped ? y : x, from_y = swapped ? x : y;
      if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) from_x = w - 1 - from_x;
      if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) from_y = h - 1 - from_y;
      std::copy_n(picture.row(from_y) + size_t(from_x) * c, c, result.row(y) + size_t(x) * c);
    }
  }
  return result;
}

// Whether JSON has a value at a key that Python takes for true.
bool is_set(const json& values, const char* key) {
  const auto found = values.find(key);
  if (found == values.end() || found->is_null()) return false;
  if (found->is_boolean()) return found->get<bool>();
  if (found->is_number()) return found->get<double>() != 0;
  return !found->empty();
}

std::string text_of(const json& values, const char* key, const char* otherwise) {
  return is_set(values, key) ? values.at(key).get<std::string>() : otherwise;
}

Error unknown(const json& step) {
  return Error(
      "The step " + step.dump() +
      " is not supported; it must be Resize or ResizeEdge with scale, Pad of a constant, or CenterCrop without "
      "auto_pad. Export the network with such a test pipeline.");
}

// A number for both, or (width, height).
std::array<int, 2> pair_of(const json& value) {
  if (value.is_array()) return {value.at(0).get<int>(), value.at(1).get<int>()};
  return {value.get<int>(), value.get<int>()};
}

void crop(Picture& picture, Placement& placement, const json& step) {
  const auto sides = pair_of(step.at("crop_size"));
  const int left = std::max(0, int(std::nearbyint((picture.width - sides[0]) / 2.0)));  // half to even, as Python
  const int top = std::max(0, int(std::nearbyint((picture.height - sides[1]) / 2.0)));
  const int width = std::min(sides[0], picture.width - left), height = std::min(sides[1], picture.height - top);
  Picture result{width, height, picture.channels, Bytes(size_t(width) * height * picture.channels)};
  for (int y = 0; y < height; ++y)
    std::copy_n(picture.row(top + y) + size_t(left) * picture.channels, size_t(width) * picture.channels,
                result.row(y));
  picture = std::move(result);
  placement.offset = {placement.offset[0] + left, placement.offset[1] + top};
  placement.shown = {width, height};
}

void pad(Picture& picture, const json& step) {
  const bool pair = step.contains("size") && step["size"].is_array() && step["size"].size() == 2;
  const bool divisor = is_set(step, "size_divisor"), square = is_set(step, "pad_to_square");
  if (text_of(step, "padding_mode", "constant") != "constant" || !(pair || divisor || square)) throw unknown(step);
  int width = picture.width, height = picture.height;
  if (square) width = height = std::max(width, height);
  if (divisor) {
    const int by = step["size_divisor"].get<int>();
    if (by < 1) throw unknown(step);
    width = (width + by - 1) / by * by, height = (height + by - 1) / by * by;
  } else if (pair) {
    width = std::max(width, step["size"][0].get<int>()), height = std::max(height, step["size"][1].get<int>());
  }
  json value = step.value("pad_val", json(0));
  if (value.is_object()) value = value.value("img", json(0));
  if (value.is_array() && int(value.size()) != picture.channels) throw unknown(step);
  Bytes colour(picture.channels);
  for (int c = 0; c < picture.channels; ++c) {
    // That of a config is BGR.
    const double number = (value.is_array() ? value[picture.channels - 1 - c] : value).get<double>();
    if (!(number >= 0 && number <= 255)) throw unknown(step);
    colour[c] = uint8_t(std::nearbyint(number));
  }
  Picture result{width, height, picture.channels, {}};
  result.pixels.reserve(size_t(width) * height * picture.channels);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const bool inside = y < picture.height && x < picture.width;
      const uint8_t* from = inside ? picture.row(y) + size_t(x) * picture.channels : colour.data();
      result.pixels.insert(result.pixels.end(), from, from + picture.channels);
    }
  }
  picture = std::move(result);
}

// Width and height after the step Resize or ResizeEdge.
std::array<int, 2> resized_size(int width, int height, const json& step) {
  const std::string type = step.at("type");
  if ((type != "Resize" && type != "ResizeEdge") || !is_set(step, "scale")) throw unknown(step);
  if (type == "ResizeEdge") {
    const int side = step["scale"].get<int>();
    const std::string edge = text_of(step, "edge", "short");
    if (edge == "width" || (edge == "short" && width < height) || (edge == "long" && width > height))
      return {side, std::max(int(double(side) * height / width), 1)};
    return {std::max(int(double(side) * width / height), 1), side};
  }
  const auto scale = pair_of(step["scale"]);
  if (!is_set(step, "keep_ratio")) return scale;
  const double factor = std::min(double(std::max(scale[0], scale[1])) / std::max(width, height),
                                 double(std::min(scale[0], scale[1])) / std::min(width, height));
  return {std::max(int(width * factor + 0.5), 1), std::max(int(height * factor + 0.5), 1)};
}

void resize(Picture& picture, Placement& placement, const json& step) {
  const auto size = resized_size(picture.width, picture.height, step);
  if (size[0] < 1 || size[1] < 1) throw unknown(step);
  const std::string backend = text_of(step, "backend", "cv2");
  std::string interpolation = text_of(step, "interpolation", "bilinear");
  for (int i = 0; i < 2; ++i) {
    const double factor = double(size[i]) / (i == 0 ? picture.width : picture.height);
    placement.scale[i] *= factor, placement.offset[i] *= factor;
  }
  placement.shown = size;
  if (backend == "cv2" && interpolation == "bilinear") {
    picture = resize_like_opencv(picture, size[0], size[1]);
    return;
  }
  std::transform(interpolation.begin(), interpolation.end(), interpolation.begin(),
                 [](unsigned char letter) { return char(std::tolower(letter)); });
  if (backend != "pillow" || (interpolation != "bilinear" && interpolation != "bicubic") || picture.channels == 4)
    throw Error("Resizing " + std::to_string(picture.channels) + " channels with backend " + backend +
                " and interpolation " + interpolation +
                " is not supported; it must be cv2 with bilinear, or pillow with "
                "bilinear or bicubic, which is for 1 or 3 channels. Export the network with such a test pipeline.");
  picture = resize_like_pillow(picture, size[0], size[1], interpolation);
}

// Which pixels along a side a new one is made of, and their weights in units of 2^-22.
struct Weights {
  int first;
  std::vector<int> values;
};

constexpr int PRECISION = 22;

double cubic(double x) {  // of Keys, with a = -0.5; https://doi.org/10.1109/TASSP.1981.1163711
  x = std::abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return ((-0.5 * x + 2.5) * x - 4) * x + 2;
  return 0;
}

// The kernel is stretched over as many pixels as go into one, which is what antialiases.
std::vector<Weights> weights_for(int from, int to, const std::string& interpolation) {
  const bool bicubic = interpolation == "bicubic";
  const double scale = double(from) / to, stretch = std::max(scale, 1.0), reach = (bicubic ? 2 : 1) * stretch;
  std::vector<Weights> result;
  for (int i = 0; i < to; ++i) {
    const double centre = (i + 0.5) * scale;
    const int first = std::max(int(centre - reach + 0.5), 0), last = std::min(int(centre + reach + 0.5), from);
    std::vector<double> shares;
    double sum = 0;
    for (int x = first; x < last; ++x) {
      const double distance = (x - centre + 0.5) * (1 / stretch);
      shares.push_back(bicubic ? cubic(distance) : std::max(1 - std::abs(distance), 0.0));
      sum += shares.back();
    }
    Weights weights{first, {}};
    for (const double share : shares) {
      const double exact = (sum != 0 ? share / sum : share) * (1 << PRECISION);
      weights.values.push_back(int(exact < 0 ? exact - 0.5 : exact + 0.5));
    }
    result.push_back(std::move(weights));
  }
  return result;
}

// One pixel: the weighted sum of some that are `step` bytes apart.
uint8_t weighted(const uint8_t* from, size_t step, const std::vector<int>& weights) {
  int64_t sum = 1 << (PRECISION - 1);
  for (const int weight : weights) {
    sum += int64_t(*from) * weight;
    from += step;
  }
  return uint8_t(std::clamp<int64_t>(sum >> PRECISION, 0, 255));
}

}  // namespace

Picture read_picture(const std::string& path, const json& load) {
  const std::string type = load.is_object() ? text_of(load, "type", "null") : "null";
  const bool own = type == "PillowLoadImageFromFile";  // of mmmobilemamba
  if (!own && type != "LoadImageFromFile")
    throw Error("The config's test pipeline reads pictures with " + type +
                ", which this program cannot follow; it knows LoadImageFromFile and PillowLoadImageFromFile.");
  const std::string backend = own ? "pillow" : text_of(load, "imdecode_backend", "cv2");
  const std::string color = text_of(load, "color_type", "color");
  auto refuse_unless = [&](bool known, const std::string& what, const char* all) {
    if (!known)
      throw Error("The config's " + type + " has " + what + ", which this program cannot follow; it knows " + all +
                  ".");
  };
  refuse_unless(backend == "cv2" || backend == "pillow" || backend == "turbojpeg", "imdecode_backend=" + backend,
                "cv2, pillow, turbojpeg");
  const bool gray = color.rfind("grayscale", 0) == 0;
  const bool turns = color == "color" || color == "grayscale";
  refuse_unless(
      turns || color == "unchanged" || color == "color_ignore_orientation" || color == "grayscale_ignore_orientation",
      "color_type=" + color, "color, grayscale, unchanged, color_ignore_orientation, grayscale_ignore_orientation");
  refuse_unless(!is_set(load, "to_float32"), "to_float32=true", "false");

  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error("There is no picture " + path + ", or it cannot be opened.");
  const Bytes data((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const Header header = read_header(data, path);
  const std::string& mode = header.mode;

  auto refuse_if = [&](bool refused, const std::string& reason) {
    if (refused)
      throw Error("A " + header.format + " of mode " + mode + " cannot be read as in the training: " + reason +
                  ". Convert it to 8 bits of gray or RGB, upright.");
  };
  refuse_if(backend == "turbojpeg" && header.format != "JPEG", "the config's loader, turbojpeg, reads JPEG alone");
  refuse_if(mode == "CMYK", "decoders make other colours of it");
  refuse_if(mode == "I;16" && backend == "pillow" && !own,
            "mmcv reads it with Pillow, which makes all above 255 white");
  refuse_if(color == "unchanged" && mode != "L" && mode != "RGB" && mode != "RGBA",
            "the config's loader leaves it unchanged, and this program takes 8 bits of gray, RGB or RGBA");
  const bool upright = turns && backend != "turbojpeg";
  refuse_if(upright && header.orientation == 0 &&
                (header.raw_exif || (backend == "pillow" && contains(data, "tiff:Orientation"))),
            "it is turned by something else than EXIF");

  const bool transparent = mode == "LA" && backend == "pillow";
  const bool has_colour = mode == "RGB" || mode == "RGBA" || mode == "P";
  const int channels = mode == "RGBA" ? 4 : has_colour ? 3 : transparent ? 2 : 1;
  Picture picture = decode(data, channels, path);
  if (upright) picture = turned(picture, header.orientation);
  if (color == "unchanged") return picture;
  if (transparent) picture = on_ground(picture);
  return gray ? to_gray(picture.channels == 1 ? picture : to_rgb(picture)) : to_rgb(picture);
}

void apply_step(Picture& picture, Placement& placement, const json& step) {
  const std::string type = step.at("type");
  if (type == "CenterCrop" && !is_set(step, "auto_pad"))
    crop(picture, placement, step);
  else if (type == "Pad")
    pad(picture, step);
  else
    resize(picture, placement, step);
}

Picture resize_like_opencv(const Picture& picture, int width, int height) {
  struct Between {  // two pixels along a side, and the share of the second
    int low, high;
    float share;
  };
  auto places = [](int from, int to) {
    std::vector<Between> result;
    for (int i = 0; i < to; ++i) {
      const double place = std::clamp((i + 0.5) * (double(from) / to) - 0.5, 0.0, from - 1.0);
      const int low = int(place);
      result.push_back({low, std::min(low + 1, from - 1), float(place - low)});
    }
    return result;
  };
  const int c = picture.channels;
  const auto columns = places(picture.width, width), rows = places(picture.height, height);
  Picture result{width, height, c, Bytes(size_t(width) * height * c)};
  std::vector<float> line(size_t(picture.width) * c);
  for (int y = 0; y < height; ++y) {
    const Between& row = rows[y];
    const uint8_t *low = picture.row(row.low), *high = picture.row(row.high);
    for (size_t i = 0; i < line.size(); ++i) line[i] = low[i] * (1 - row.share) + high[i] * row.share;
    uint8_t* to = result.row(y);
    for (const Between& column : columns)
      for (int i = 0; i < c; ++i)
        *to++ = uint8_t(line[size_t(column.low) * c + i] * (1 - column.share) +
                        line[size_t(column.high) * c + i] * column.share + 0.5f);
  }
  return result;
}

Picture with_width(const Picture& picture, int width, const std::string& interpolation) {
  const int c = picture.channels;
  const auto columns = weights_for(picture.width, width, interpolation);
  Picture result{width, picture.height, c, Bytes(size_t(width) * picture.height * c)};
  for (int y = 0; y < picture.height; ++y)
    for (int x = 0; x < width; ++x)
      for (int i = 0; i < c; ++i)
        result.row(y)[size_t(x) * c + i] =
            weighted(picture.row(y) + size_t(columns[x].first) * c + i, c, columns[x].values);
  return result;
}

Picture with_height(const Picture& picture, int height, const std::string& interpolation) {
  const size_t line = size_t(picture.width) * picture.channels;
  const auto rows = weights_for(picture.height, height, interpolation);
  Picture result{picture.width, height, picture.channels, Bytes(line * height)};
  for (int y = 0; y < height; ++y)
    for (size_t i = 0; i < line; ++i)
      result.row(y)[i] = weighted(picture.row(rows[y].first) + i, line, rows[y].values);
  return result;
}

// Pixels are rounded between the two passes, so their order matters. It is that of Pillow 13, by observation.
Picture resize_like_pillow(const Picture& picture, int width, int height, const std::string& interpolation) {
  const int lost_rows = picture.height - height, lost_columns = picture.width - width;
  if (lost_rows > 0 && lost_rows > 2 * lost_columns)
    return with_width(with_height(picture, height, interpolation), width, interpolation);
  return with_height(with_width(picture, width, interpolation), height, interpolation);
}
