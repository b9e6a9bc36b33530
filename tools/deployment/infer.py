"""Run an exported network on pictures: only its runtime, NumPy, Pillow and tqdm are needed.

    python tools/deployment/infer.py MODEL.onnx IMAGE_OR_FOLDER --out DIR
    mim run mmmobilemamba infer MODEL.onnx IMAGE_OR_FOLDER --out DIR

takes a file for any runtime and prepares pictures as the test pipeline of the network's config does.
DIR gets one drawn picture for each, NAME.png, and ``results.json`` with the numbers. To use it elsewhere,
copy ``infer.py``, ``runtimes.py`` and ``choose.py`` together, and all files of the network. In Python:

    network = Network('MODEL.onnx')
    batch, placement = network.prepare(PIL.Image.open('a.jpg'))
    found = network.found(network.run(batch), 0, placement)
"""

import argparse
import colorsys
import json
import os
import sys
import unicodedata
import warnings
from pathlib import Path
from typing import NamedTuple

try:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont, ImageOps
    from tqdm import tqdm
except ImportError as missing:
    raise SystemExit(
        f'infer.py: error: {missing}. It needs: python -m pip install numpy pillow tqdm'
    ) from None
try:
    import choose
    import runtimes
except ImportError as missing:
    raise SystemExit(f'infer.py: error: {missing}. Copy choose.py and runtimes.py beside it.') from None

FIELDS = ('task', 'mean', 'std', 'channels', 'pad_divisor', 'labels', 'resize', 'size', 'preprocessed')
SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
LOADERS = ('LoadImageFromFile', 'PillowLoadImageFromFile')
XMP = ('xmp', 'XML:com.adobe.xmp')  # keys of Pillow's
COLOR_TYPES = ('color', 'grayscale', 'unchanged', 'color_ignore_orientation', 'grayscale_ignore_orientation')
TRANSPARENT = (124, 117, 104)  # what mmcv's backend pillow puts behind gray pictures with transparency
LUMINANCE = (0.299, 0.587, 0.114)
BACKGROUND = 'background'  # this class keeps the picture's own colours
SHOWN_SIDE = 480  # px, to which smaller pictures are enlarged before anything is drawn
MASK_THRESHOLD = 0.5
ALWAYS = 'abcdefghijklmnopqrstuvwxyz0123456789.,:()'  # what a font must have besides the names of classes
NO_CHARACTER = '\uffff'  # never assigned, so a font draws what it draws for all that it lacks
SHARED = '/usr/local/share:/usr/share'  # where a Linux has its fonts
STYLES = ('bold', 'black', 'condensed', 'italic', 'light', 'medium', 'mono', 'oblique', 'serif', 'thin')


class NetworkError(RuntimeError):
    """A file or a picture cannot be used; the message says why and what to do."""


class Placement(NamedTuple):
    """Where a picture is in the network's input: ``x * scale - offset``, and how much of it is shown."""

    size: tuple  # width and height of the picture, px
    scale: tuple = (1.0, 1.0)
    offset: tuple = (0.0, 0.0)  # px of the input that are cropped at the left and the top
    shown: tuple = (0, 0)  # width and height in the input; the rest, right and below, is padding

    def map_back(self, classes):
        """Classes (H, W) of the input's pixels -> of the picture's, (height, width), by the nearest."""
        columns, rows = (
            np.clip(((np.arange(n) + 0.5) * scale - offset).astype(int), 0, shown - 1)
            for n, scale, offset, shown in zip(self.size, self.scale, self.offset, self.shown)
        )
        return classes[rows[:, None], columns]


class Preparation:
    """From pictures to a network's input.

    Args:
        about (dict): What the network's file says of itself, or will.
        name (str): Of the file, for messages.
    """

    def __init__(self, about, name):
        self.about, self.name = about, name

    def read(self, picture):
        """A picture (PIL.Image) as the config's loader reads it, in the geometry that the network sees.

        The mode is RGB, L (gray) or RGBA; what is read already stays as it is.
        """
        return read_picture(picture, self.about.get('load', {'type': 'LoadImageFromFile'}))

    def prepare(self, picture):
        """A picture (PIL.Image) as a batch of one, and its :class:`Placement` in it.

        The batch is float32 (1, C, H, W), or if normalisation is inside the network uint8 (1, H, W, C),
        unless the ``input`` that the file names is another.
        """
        picture = self.read(picture)
        placement = Placement(picture.size, shown=picture.size)
        pixels = np.asarray(picture)
        for settings in self.about['resize']:
            if settings['type'] == 'Pad' and self.about['task'] == 'segmentation':
                raise NetworkError(
                    'Pad in the test pipeline of a segmentor is not supported, as mmseg stretches what is '
                    'padded over the picture; set size_divisor in data_preprocessor.test_cfg instead.'
                )
            pixels, placement = apply_step(pixels, placement, settings)
        pixels = self.in_order(pixels)
        height, width = self.padded_size(*pixels.shape[:2])
        mean, std = (np.array(self.about[key], np.float32) for key in ('mean', 'std'))
        padding = self.about.get('pad_value', 0)
        step = -1 if self.about['channels'] == 'BGR' else 1
        layout, dtype = self.input
        if self.about['preprocessed']:
            padding = (mean + padding * std)[::step]  # which is the padding after normalisation
            if dtype == 'uint8':
                padding = np.clip(np.rint(padding), 0, 255)
        else:
            pixels = (pixels[..., ::step] - mean) / std
        image = np.empty((1, height, width, len(mean)), dtype)
        image[:] = padding
        image[0, : pixels.shape[0], : pixels.shape[1]] = pixels
        return (image if layout == 'NHWC' else np.ascontiguousarray(image.transpose(0, 3, 1, 2))), placement

    @property
    def input(self):
        """Layout and dtype of a batch: ``'NCHW'`` or ``'NHWC'``, and ``'float32'`` or ``'uint8'``."""
        kind = self.about.get('input')
        if kind is None:
            return ('NHWC', 'uint8') if self.about['preprocessed'] else ('NCHW', 'float32')
        return kind['layout'], kind['dtype']

    def in_order(self, pixels):
        """Pixels (H, W) or (H, W, 3 or 4), as Pillow orders them, as (H, W, C) for the network."""
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.shape[2] != len(self.about['mean']):
            raise NetworkError(
                f"{self.name} takes images of {len(self.about['mean'])} channels, and the config's loader "
                f'makes {pixels.shape[2]} of this picture.'
            )
        return pixels[..., [2, 1, 0, 3]] if pixels.shape[2] == 4 else pixels

    def padded_size(self, height, width):
        """Height and width of the network's input for an image of ``height`` by ``width`` px."""
        if self.about['size'] is None:
            divisor = max(self.about['pad_divisor'], 1)
            least = self.about.get('pad_size') or (0, 0)
            sides = (max(side, low) for side, low in zip((height, width), least))
            return tuple(-(-side // divisor) * divisor for side in sides)
        size = tuple(self.about['size'])
        # A classifier pools over the padding, too, so it takes pictures of its own size alone.
        exact = self.about['task'] == 'classification'
        if height > size[0] or width > size[1] or (exact and (height, width) != size):
            raise NetworkError(
                f'{self.name} takes images of {size[0]} x {size[1]} px (height x width), but the '
                f"picture is {height} x {width} px after the test pipeline's resizing. Export the network "
                f'with --size {height} {width}, or for all sizes as .onnx with --dynamic, or give it another '
                f'picture.'
            )
        return size


class Network(Preparation):
    """A network in the file at ``path``, on so many ``threads`` of the CPU (default: one a core)."""

    def __init__(self, path, threads=None):
        try:
            self.session = runtimes.open_file(path, threads)
        except runtimes.RuntimeFileError as error:
            raise NetworkError(str(error)) from error
        self.path, about = self.session.path, self.session.about
        check_about(self.session)
        if about['task'] not in DRAW:
            raise NetworkError(f'{self.path} has the task {about["task"]}; it must be {" or ".join(DRAW)}.')
        if 'load' not in about:
            warnings.warn(
                f"{self.path.name} does not say how pictures are read: OpenCV's way counts, turning photos "
                f'by their EXIF data. Recipes for classification read otherwise. Export the network again.',
                stacklevel=2,
            )
        super().__init__(about, self.path.name)
        self.task, self.labels = about['task'], about['labels']
        self.fonts = [None]  # files for the names in pictures; None is the font inside Pillow, of ASCII alone

    def name_of(self, label):
        """Name of a class, or its number if the file has no names."""
        return self.labels[label] if label < len(self.labels) else str(label)

    def run(self, batch):
        """Outputs (dict[str, ndarray]) for a batch, see :meth:`prepare`; the first axis is the image."""
        try:
            return choose.choose(self.session.run(batch), self.about)
        except (runtimes.RuntimeFileError, ValueError) as error:
            raise NetworkError(str(error)) from error

    def found(self, outputs, index, placement, score_threshold=0.3, topk=5):
        """What was found in image ``index`` of a batch, in px of its picture of height H and width W (dict).

        classification: scores and labels (topk,), the best first. Detection: boxes (M, 4), x1 y1 x2 y2, with
        their scores and labels (M,), the best first, and with a mask head masks, bool (M, H, W).
        Segmentation: classes (H, W). Backbone: maps, a dict of (C, h, w).
        """
        outputs = {name: values[index] for name, values in outputs.items()}
        if self.task == 'backbone':
            return dict(maps=outputs)
        if self.task == 'classification':
            return best_classes(outputs, topk)
        if self.task == 'segmentation':
            return dict(classes=placement.map_back(outputs['classes']))
        return objects(outputs, placement, score_threshold)


def check_about(session):
    """Make sure that a file (runtimes.Session) says all that has to be known about it."""
    about, path = session.about, session.path
    fields = list(FIELDS)
    if path.suffix == '.onnx':
        where = f'The metadata {runtimes.KEY} of {path}'
    else:
        where, fields = f'{path.name}.json, which belongs beside {path},', [*FIELDS, 'outputs', 'input']
        if about.get('task') == 'detection':
            fields.append('candidates')
    missing = ', '.join(field for field in fields if field not in about)
    if missing:
        raise NetworkError(
            f'{where} lacks {missing}. Export the network with tools/deployment/export.py, which writes it.'
        )
    if fields[-1] == 'candidates' and about['candidates'].get('kind') not in choose.KINDS:
        raise NetworkError(
            f'{where} has candidates of the kind {about["candidates"].get("kind")!r}; infer.py knows '
            f'{", ".join(choose.KINDS)}: take the infer.py, runtimes.py and choose.py of the export.'
        )


def upright(picture):
    """A picture as mmcv's loader reads it unless told otherwise: turned by its EXIF data, 8 bits, RGB."""
    return read_picture(picture, {'type': 'LoadImageFromFile'})


def read_picture(picture, load):
    """A picture (PIL.Image) as a loader of mmcv reads it, of mode RGB, L or RGBA.

    What OpenCV makes of gray and CMYK pictures differs by up to 2 of 255.

    Args:
        picture (PIL.Image): As opened; what this function has made of one stays as it is.
        load (dict): The step of the config's test pipeline.
    """
    if load is None or load.get('type') not in LOADERS:
        raise NetworkError(
            f"The config's test pipeline reads pictures with {load and load.get('type')}, which this program "
            f'cannot follow; it knows {" and ".join(LOADERS)}.'
        )
    own = load['type'] == 'PillowLoadImageFromFile'  # of mmmobilemamba
    backend = 'pillow' if own else load.get('imdecode_backend') or 'cv2'
    color = load.get('color_type', 'color')
    for name, value, known in (
        ('imdecode_backend', backend, ('cv2', 'pillow', 'turbojpeg')),
        ('color_type', color, COLOR_TYPES),
        ('to_float32', bool(load.get('to_float32')), (False,)),
    ):
        if value not in known:
            raise NetworkError(
                f"The config's {load['type']} has {name}={value!r}, which this program cannot follow; it "
                f'knows {", ".join(map(str, known))}.'
            )
    if backend == 'turbojpeg' and picture.format not in ('JPEG', 'MPO', None):
        raise NetworkError(f"The config's loader, turbojpeg, reads JPEG alone, and this is {picture.format}.")
    check_mode(picture, backend, color, own)
    if color in ('color', 'grayscale') and backend != 'turbojpeg':
        if backend == 'cv2':  # which reads the orientation in EXIF data alone, and Pillow that in XMP as well
            picture.info = {key: value for key, value in picture.info.items() if key not in XMP}
        picture = ImageOps.exif_transpose(picture)
    if color == 'unchanged':
        return picture
    if picture.mode.startswith('I'):  # 16 bits, of which the higher 8 are taken
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode == 'LA' and backend == 'pillow':  # as mmcv lays it on a ground
        transparent, picture = picture.convert('RGBA'), Image.new('RGB', picture.size, TRANSPARENT)
        picture.paste(transparent, mask=transparent.getchannel('A'))
    picture = picture if picture.mode == 'L' and color.startswith('gray') else picture.convert('RGB')
    return picture.convert('L') if color.startswith('gray') else picture


def check_mode(picture, backend, color, own):
    """Refuse a picture of a mode of Pillow's that a loader reads otherwise, or not at all."""
    name, mode = picture.format or 'picture', picture.mode
    deep = mode.startswith('I;16') or (mode == 'I' and name in ('PNG', 'PPM'))  # of 16 bits
    if deep and backend == 'pillow' and not own:
        reason = 'mmcv reads it with Pillow, which makes all above 255 white'
    elif mode in ('I', 'F') and not deep:
        reason = 'its values have no range'
    elif color == 'unchanged' and mode not in ('L', 'RGB', 'RGBA'):
        reason = "the config's loader leaves it unchanged, and this program takes 8 bits of gray, RGB or RGBA"
    elif backend == 'cv2' and (mode == 'LAB' or (mode == 'RGBA' and name == 'TIFF')):
        reason = 'OpenCV makes other colours of it'
    else:
        return
    raise NetworkError(
        f'A {name} of mode {mode} cannot be read as in the training: {reason}. Convert it to 8 bits.'
    )


def apply_step(pixels, placement, step):
    """One step of a test pipeline, for uint8 (H, W, ...) -> uint8 (H', W', ...), and its placement."""
    height, width = pixels.shape[:2]
    if step['type'] == 'CenterCrop' and not step.get('auto_pad'):
        sides = np.broadcast_to(step['crop_size'], 2).tolist()  # width, height
        left, top = (max(0, round((a - b) / 2)) for a, b in zip((width, height), sides))
        pixels = pixels[top : top + sides[1], left : left + sides[0]]
        offset = placement.offset[0] + left, placement.offset[1] + top
        return pixels, placement._replace(offset=offset, shown=pixels.shape[1::-1])
    if step['type'] == 'Pad':
        return pad(pixels, step), placement
    size = resized_size(width, height, step)
    pixels = resize(pixels, *size, step.get('backend', 'cv2'), step.get('interpolation', 'bilinear'))
    factors = size[0] / width, size[1] / height
    scale, offset = ((p[0] * factors[0], p[1] * factors[1]) for p in (placement.scale, placement.offset))
    return pixels, placement._replace(scale=scale, offset=offset, shown=size)


def pad(pixels, step):
    """The step Pad: a constant at the right and below, uint8 (H, W, ...) -> uint8 (H', W', ...)."""
    height, width = pixels.shape[:2]
    size, divisor = step.get('size'), step.get('size_divisor')
    pair = isinstance(size, (list, tuple)) and len(size) == 2
    if step.get('padding_mode', 'constant') != 'constant' or not (
        pair or divisor or step.get('pad_to_square')
    ):
        raise unknown(step)
    if step.get('pad_to_square'):
        height = width = max(height, width)
    if divisor:
        height, width = (-(-side // divisor) * divisor for side in (height, width))
    elif pair:
        height, width = max(height, size[1]), max(width, size[0])
    value = step.get('pad_val', 0)
    value = np.array(value.get('img', 0) if isinstance(value, dict) else value)
    value = value[::-1] if value.ndim else value  # of BGR in the config
    padded = np.zeros((height, width, *pixels.shape[2:]), np.uint8) + np.rint(value).astype(np.uint8)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return padded


def unknown(step):
    """What says that a step is not known (NetworkError)."""
    return NetworkError(
        f'The step {step} is not supported; it must be Resize or ResizeEdge with scale, Pad of a constant, '
        f'or CenterCrop without auto_pad. Export the network with such a test pipeline.'
    )


def resized_size(width, height, step):
    """Width and height after the step Resize or ResizeEdge."""
    if step['type'] not in ('Resize', 'ResizeEdge') or step.get('scale') is None:
        raise unknown(step)
    if step['type'] == 'ResizeEdge':
        scale, edge = step['scale'], step.get('edge', 'short')
        if edge == 'width' or (edge == 'short' and width < height) or (edge == 'long' and width > height):
            return scale, max(int(scale * height / width), 1)
        return max(int(scale * width / height), 1), scale
    scale = np.broadcast_to(step['scale'], 2).tolist()
    if not step.get('keep_ratio', False):
        return tuple(scale)
    factor = min(max(scale) / max(width, height), min(scale) / min(width, height))
    return max(int(width * factor + 0.5), 1), max(int(height * factor + 0.5), 1)


def resize(pixels, width, height, backend='cv2', interpolation='bilinear'):
    """uint8 (H, W, 3) -> uint8 (height, width, 3), as OpenCV or Pillow does it (they differ in shrinking)."""
    if backend == 'pillow' and interpolation.upper() in Image.Resampling.__members__:
        method = Image.Resampling[interpolation.upper()]
        return np.asarray(Image.fromarray(pixels).resize((width, height), method))
    if backend != 'cv2' or interpolation != 'bilinear':
        raise NetworkError(
            f'Resizing with backend {backend} and interpolation {interpolation} is not supported; it must be '
            f'cv2 with bilinear, or pillow with {", ".join(Image.Resampling.__members__).lower()}.'
        )
    rows, columns = (
        (np.arange(new) + 0.5) * (old / new) - 0.5 for new, old in zip((height, width), pixels.shape)
    )
    return (sample(pixels, rows, columns) + 0.5).astype(np.uint8)


def sample(values, rows, columns):
    """Bilinear values, float32 (R, C, ...), of ``values`` (H, W, ...) at places (R,) and (C,) between pixels.

    Pixel 0 is at 0; beyond the outermost pixels, these go on.
    """
    for axis, places in enumerate((rows, columns)):
        places = np.clip(places, 0, values.shape[axis] - 1)
        low = places.astype(int)
        high = np.minimum(low + 1, values.shape[axis] - 1)
        share = (places - low).astype(np.float32)
        share = share.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        values = np.take(values, low, axis) * (1 - share) + np.take(values, high, axis) * share
    return values


def paste(mask, box, size):
    """A mask of 0..1, (h, w), in a box, x1 y1 x2 y2 in px -> bool (H, W) of a picture of ``size`` (W, H)."""
    pasted = np.zeros(size[::-1], bool)
    padded, places, slices = np.pad(mask, 1), [], []  # zeros around it, as in mmdet
    for axis, (low, high, side) in enumerate(zip(box[1::-1], box[:1:-1], size[::-1])):
        first, last = (int(np.clip(np.ceil(edge - 0.5), 0, side)) for edge in (low, high))
        centres = np.arange(first, last) + 0.5  # of the pixels in the box
        places.append((centres - low) / max(high - low, 1e-6) * mask.shape[axis] + 0.5)
        slices.append(slice(first, last))
    pasted[tuple(slices)] = sample(padded, *places) >= MASK_THRESHOLD
    return pasted


def objects(outputs, placement, score_threshold):
    """What a detector found in an image, see :meth:`Network.found`."""
    boxes, scores = outputs['boxes'], outputs['scores']
    boxes = (boxes + np.tile(placement.offset, 2)) / np.tile(placement.scale, 2)
    clipped = np.clip(boxes, 0, np.tile(placement.size, 2))
    inside = (clipped[:, 2:] > clipped[:, :2]).all(1)  # a box may be in the padding
    kept = np.flatnonzero((scores > 0) & (scores >= score_threshold) & inside)
    found = dict(boxes=clipped[kept], scores=scores[kept], labels=outputs['labels'][kept])
    if 'masks' in outputs:
        found['masks'] = np.zeros((len(kept), *placement.size[::-1]), bool)
        for target, index in zip(found['masks'], kept):
            target[:] = paste(outputs['masks'][index], boxes[index], placement.size)
    return found


def best_classes(outputs, topk):
    """The best classes, see :meth:`Network.found`; of the logits if more are wanted than the file names."""
    scores, labels = outputs['scores'], outputs['labels']
    if topk > len(scores):
        scores, labels = choose.ranked(outputs['logits'])
    return dict(scores=scores[:topk], labels=labels[:topk])


def summary(network, found):
    """What was found, for JSON (dict)."""
    if 'maps' in found:
        return dict(maps={name: list(values.shape) for name, values in found['maps'].items()})
    if 'classes' in found:
        labels, counts = np.unique(found['classes'], return_counts=True)
        order = np.argsort(-counts, kind='stable')
        numbers = dict(label=labels[order].tolist(), share=(counts[order] / counts.sum()).tolist())
    else:
        numbers = dict(label=found['labels'].tolist(), score=found['scores'].tolist())
        if 'boxes' in found:
            numbers['box'] = found['boxes'].round(3).tolist()
        if 'masks' in found:
            numbers['mask_area'] = found['masks'].sum((1, 2)).tolist()
    numbers = dict(name=[network.name_of(label) for label in numbers['label']], **numbers)
    entries = [dict(zip(numbers, values)) for values in zip(*numbers.values())]
    return {'objects' if 'boxes' in found else 'classes': entries}


def color_of(label):
    """The colour of a class, RGB: steps of the golden section round the circle of hues."""
    rgb = colorsys.hsv_to_rgb(label * 0.618 % 1, 0.85, 1 - label % 2 * 0.2)
    return tuple(round(255 * channel) for channel in rgb)


def one_line(name):
    """A name as it is drawn: composed characters (NFC), and no line breaks."""
    return ' '.join(unicodedata.normalize('NFC', name).split())


class NameFont:
    """Font files (list; None is the font inside Pillow) as one: each character by the first that has it."""

    def __init__(self, files, size=15):
        self.fonts, self.size = [open_font(file, size) for file in files], size
        self.ascent = max(font.getmetrics()[0] for font in self.fonts)

    def getlength(self, text):
        """Width of a line in px."""
        return sum(font.getlength(run) for font, run in self.runs(text))

    def write(self, canvas, place, text, fill):
        """Write a line with its upper left corner at ``place`` (x, y)."""
        left, top = place
        for font, run in self.runs(text):
            canvas.text((left, top + self.ascent), run, fill=fill, font=font, anchor='ls')
            left += font.getlength(run)

    def runs(self, text):
        """Parts of a text, each with its font (list)."""
        runs = []
        for char in text:
            if runs and (is_invisible(char) or unicodedata.category(char).startswith('M')):
                font = runs[-1][0]  # a mark belongs to the letter before it
            else:
                having = (font for font in self.fonts if not missing_characters(font, char))
                font = next(having, self.fonts[0])
            if runs and runs[-1][0] is font:
                runs[-1] = font, runs[-1][1] + char
            else:
                runs.append((font, char))
        return runs


def font_for(image, files):
    """A font that can be read on an image of this size."""
    return NameFont(files, max(15, max(image.size) // 50))


def open_font(file, size=15):
    """The font of a file, or the one inside Pillow if that is None, at a size in px."""
    return ImageFont.load_default(size=size) if file is None else ImageFont.truetype(str(file), size)


def is_invisible(char):
    """Whether a character has no glyph of its own: spaces, controls, and what selects variants."""
    return char.isspace() or unicodedata.category(char) in ('Cc', 'Cf') or '\ufe00' <= char <= '\ufe0f'


def missing_characters(font, text):
    """The characters of ``text`` that a font draws as it draws any that it lacks, each once."""
    masks = {char: font.getmask(char) for char in NO_CHARACTER + text if not is_invisible(char)}
    glyphs = {char: (mask.size, bytes(mask)) for char, mask in masks.items()}
    return ''.join(char for char in glyphs if char in text and glyphs[char] == glyphs[NO_CHARACTER])


def system_fonts():
    """Font files of the system, the upright sans serif ones first (list[Path])."""
    environ, home = os.environ, Path(os.path.expanduser('~'))
    folders = [Path(folder, 'fonts') for folder in (environ.get('XDG_DATA_DIRS') or SHARED).split(':')]
    folders += [Path(environ.get('XDG_DATA_HOME') or home / '.local/share', 'fonts'), home / '.fonts']
    folders += [Path('/Library/Fonts'), Path('/System/Library/Fonts'), home / 'Library/Fonts']
    if 'WINDIR' in environ:
        folders += [Path(environ['WINDIR'], 'Fonts'), home / 'AppData/Local/Microsoft/Windows/Fonts']
    files = {file for folder in folders for file in folder.rglob('*.[to]t[fc]')}
    return sorted(files, key=lambda file: (any(style in file.stem.lower() for style in STYLES), file))


def find_fonts(text):
    """The first font that has all characters of ``text``, or else a few that have as many as there are."""
    lacks, chosen, left = {}, [], set(text)
    for file in system_fonts():
        try:
            lacks[file] = set(missing_characters(open_font(file), text))
        except OSError:  # of bitmaps, as those of emoji
            continue
        if not lacks[file]:
            return [file]
    while lacks and left:
        best = min(lacks, key=lambda file: len(left & lacks[file]))
        if left <= lacks[best]:
            break
        chosen.append(best)
        left &= lacks[best]
    return chosen


def choose_fonts(names, file=None):
    """Font files for names, see :class:`NameFont`, and a warning if they lack characters, or None.

    A ``file`` that is given is taken and no other looked for. Otherwise fonts of the system go before that of
    Pillow if names are not of ASCII alone.
    """
    names = [one_line(name) for name in names]
    text = ALWAYS + ''.join(names)
    files = [None] if file is None else [file, None]
    lacking = text
    try:
        for each in files:
            lacking = missing_characters(open_font(each), lacking)
    except OSError as error:
        raise NetworkError(f'--font {file} is no TrueType or OpenType font: {error}') from error
    if lacking and file is None:
        files = [*find_fonts(ALWAYS + lacking[:50]), None]  # a font has a script, or has it not
        for each in files:
            lacking = missing_characters(open_font(each), lacking)
    if not lacking:
        return files, None
    example = next(name for name in names if set(name) & set(lacking))
    return files, (
        f'no font for {" ".join(lacking[:10])}, as in the name {example!r}: empty boxes are drawn instead. '
        f'Name a font that has them with --font FILE.'
    )


def enlarge(picture):
    """A picture, a whole number of times as large if it is small (PIL.Image), and that number."""
    scale = max(1, round(SHOWN_SIDE / max(picture.size)))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC), scale


def tint(image, mask, color):
    """Lay ``color`` half transparently over ``mask``, bool (h, w), which is enlarged to the image."""
    stencil = Image.fromarray(mask.astype(np.uint8) * 128).resize(image.size, Image.Resampling.NEAREST)
    image.paste(color, (0, 0, *image.size), stencil)


def with_strip(image, entries, fonts):
    """An image above a strip of entries, (color or None, text), in as many columns as fit."""
    entries = [(color, one_line(text)) for color, text in entries]
    font = font_for(image, fonts)
    row = round(1.5 * font.size)
    cell = round(max(font.getlength(text) for _, text in entries)) + 2 * row
    width = max(image.width, cell)
    columns = width // cell
    height = image.height + row * -(-len(entries) // columns)
    sheet = Image.new('RGB', (width, height), 'white')
    sheet.paste(image)
    canvas = ImageDraw.Draw(sheet)
    for index, (color, text) in enumerate(entries):
        left, top = index % columns * cell, image.height + index // columns * row
        square = (left + row // 4, top + row // 4, left + row - row // 4, top + row - row // 4)
        canvas.rectangle(square, fill=color, outline=color or 'grey')
        font.write(canvas, (left + row, top + row // 6), text, 'black')
    return sheet


def draw_objects(picture, network, found):
    """A picture with boxes, names, scores and masks, the best on top."""
    image, scale = enlarge(picture)
    for mask, label in zip(found.get('masks', ()), found['labels']):
        tint(image, mask, color_of(label))
    canvas, font = ImageDraw.Draw(image), font_for(image, network.fonts)
    line = max(2, font.size // 8)
    for box, score, label in reversed(list(zip(found['boxes'], found['scores'], found['labels']))):
        color, text = color_of(label), one_line(f'{network.name_of(label)} {score:.2f}')
        canvas.rectangle([side * scale for side in box], outline=color, width=line)
        length, height = font.getlength(text), 1.25 * font.size
        left = max(min(box[0] * scale, image.width - length), 0)
        top = max(box[1] * scale - height, 0)
        canvas.rectangle((left, top, left + length, top + height), fill=color)
        font.write(canvas, (left, top), text, 'black' if np.dot(color, LUMINANCE) > 110 else 'white')
    return image


def draw_classes(picture, network, found):
    """A picture tinted by the class of each pixel, above a legend of the classes present and their shares."""
    image, _ = enlarge(picture)
    legend = []
    for entry in summary(network, found)['classes']:
        color = None if entry['name'] == BACKGROUND else color_of(entry['label'])
        if color is not None:
            tint(image, found['classes'] == entry['label'], color)
        legend.append((color, f'{entry["name"]} {entry["share"]:.1%}'))
    return with_strip(image, legend, network.fonts)


def draw_caption(picture, network, found):
    """A picture above its best class and score, or above the shapes of a backbone's maps."""
    if 'maps' in found:
        shapes = summary(network, found)['maps'].items()
        entries = [(None, f'{name} {" x ".join(map(str, shape))}') for name, shape in shapes]
    else:
        label, score = found['labels'][0], found['scores'][0]
        entries = [(color_of(label), f'{network.name_of(label)} {score:.2f}')]
    return with_strip(enlarge(picture)[0], entries, network.fonts)


DRAW = dict(
    backbone=draw_caption, classification=draw_caption, detection=draw_objects, segmentation=draw_classes
)


def parse_args(argv):
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('model', type=Path, help='exported file, of any runtime')
    parser.add_argument('pictures', type=Path, help='a picture, or a folder of them')
    parser.add_argument('--out', type=Path, required=True, help='folder to write into, made if missing')
    parser.add_argument('--score-threshold', type=float, default=0.3, help='least score of objects (0.3)')
    parser.add_argument('--topk', type=int, default=5, help='classes that a classifier names (5)')
    parser.add_argument('--font', type=Path, help='font file (TrueType, OpenType) for names of classes')
    parser.add_argument('--threads', type=int, help='threads of the CPU (one a core)')
    args = parser.parse_args(argv)
    if not 0 <= args.score_threshold <= 1:
        parser.error(f'--score-threshold must be from 0 to 1, not {args.score_threshold}')
    if args.topk < 1 or (args.threads is not None and args.threads < 1):
        parser.error('--topk and --threads must be 1 or more')
    if args.out.exists() and not args.out.is_dir():
        parser.error(f'--out must be a folder, but {args.out} is a file')
    return args


def list_pictures(path, out):
    """Pictures (list[Path]) at ``path``, a file or a folder, which must not be where the results go."""
    if not path.exists():
        raise NetworkError(f'There is no picture or folder {path}.')
    paths = [path]
    if path.is_dir():
        paths = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not paths:
            raise NetworkError(f'The folder {path} has no pictures; they must end in {", ".join(SUFFIXES)}.')
    if paths[0].parent.resolve() == out.resolve():
        raise NetworkError(f'--out {out} is where the pictures are, and may overwrite them; name another.')
    return paths


def infer(network, path, target, args):
    """Draw what is found in the picture at ``path`` into ``target``; the numbers, for JSON."""
    try:
        with Image.open(path) as file:
            picture = network.read(file)
            picture.load()
    except NetworkError:
        raise
    except Exception as error:  # of many kinds, by the format
        raise NetworkError(f'It cannot be read: {error}') from error
    batch, placement = network.prepare(picture)
    found = network.found(network.run(batch), 0, placement, args.score_threshold, args.topk)
    DRAW[network.task](picture.convert('RGB'), network, found).save(target)
    about = dict(file=path.name, drawn=target.name, width=picture.width, height=picture.height)
    return dict(about, **summary(network, found))


def main(argv=None):
    args = parse_args(argv)
    try:
        paths = list_pictures(args.pictures, args.out)
        network = Network(args.model, args.threads)
        network.fonts, warning = choose_fonts(network.labels, args.font)
        args.out.mkdir(parents=True, exist_ok=True)
    except (NetworkError, OSError) as error:
        sys.exit(f'infer.py: error: {error}')
    if warning:
        print(f'infer.py: warning: {warning}', file=sys.stderr)
    alike = len({path.stem.lower() for path in paths}) < len(paths)  # such as a.jpg and a.png
    results, skipped = [], []
    for path in tqdm(paths, unit='picture', disable=not args.pictures.is_dir()):
        target = args.out / f'{path.name if alike else path.stem}.png'
        try:
            results.append(infer(network, path, target, args))
        except NetworkError as error:
            tqdm.write(f'{path} was skipped. {error}', file=sys.stderr)
            skipped.append(path.name)
    content = dict(model=args.model.name, task=network.task, pictures=results, skipped=skipped)
    (args.out / 'results.json').write_text(json.dumps(content, indent=1) + '\n')
    print(f'{args.out}: results.json and {len(results)} of {len(paths)} pictures')
    if skipped:
        sys.exit(1)


if __name__ == '__main__':
    main()
