"""Prepare pictures as input of an exported network, like the test pipeline of its config.

Part of ``infer.py``, which runs without the rest of the repository. Needs only NumPy and Pillow.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
LOADERS = ('LoadImageFromFile', 'PillowLoadImageFromFile')
XMP = ('xmp', 'XML:com.adobe.xmp')  # keys in Pillow's info
COLOR_TYPES = ('color', 'grayscale', 'unchanged', 'color_ignore_orientation', 'grayscale_ignore_orientation')
TRANSPARENT = (124, 117, 104)  # background that mmcv's pillow backend uses for gray pictures with alpha


class NetworkError(RuntimeError):
    """A file or a picture cannot be used; the message says why and what to do."""


class Placement(NamedTuple):
    """Position of a picture in the network's input, ``x * scale - offset``, and its visible size."""

    size: tuple  # width and height of the picture, px
    scale: tuple = (1.0, 1.0)
    offset: tuple = (0.0, 0.0)  # px of the input cropped at the left and top
    shown: tuple = (0, 0)  # width and height in the input; the rest, at the right and bottom, is padding

    def map_back(self, classes):
        """Resample classes (H, W) of the input to the picture, (height, width), by nearest neighbour."""
        columns, rows = (
            np.clip(((np.arange(n) + 0.5) * scale - offset).astype(int), 0, shown - 1)
            for n, scale, offset, shown in zip(self.size, self.scale, self.offset, self.shown)
        )
        return classes[rows[:, None], columns]


class Preparation:
    """Converts pictures to a network's input.

    Args:
        about (dict): Metadata of the network's file.
        name (str): Name of the file, for messages.
    """

    def __init__(self, about, name):
        self.about, self.name = about, name

    def read(self, picture):
        """Convert a picture (PIL.Image) as the config's loader reads it, with the same orientation.

        The mode is RGB, L (gray) or RGBA. A picture that was converted before stays unchanged.
        """
        return read_picture(picture, self.about.get('load', {'type': 'LoadImageFromFile'}))

    def prepare(self, picture):
        """Convert a picture (PIL.Image) to a batch of one; also returns its :class:`Placement`.

        The batch is float32 (1, C, H, W), or uint8 (1, H, W, C) if the network normalises, unless ``input``
        in the metadata says otherwise.
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
            padding = (mean + padding * std)[::step]  # equals the padding after normalisation
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
        """Reorder pixels (H, W) or (H, W, 3 or 4) from Pillow's channel order to the network's, (H, W, C)."""
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
        # A classifier would pool over the padding, so its images must have the exact size.
        exact = self.about['task'] == 'classification'
        if height > size[0] or width > size[1] or (exact and (height, width) != size):
            raise NetworkError(
                f'{self.name} takes images of {size[0]} x {size[1]} px (height x width), but the '
                f"picture is {height} x {width} px after the test pipeline's resizing. Export the network "
                f'with --size {height} {width}, or for all sizes as .onnx with --dynamic, or give it another '
                f'picture.'
            )
        return size


def upright(picture):
    """Convert a picture as mmcv's loader does by default: rotated by its EXIF data, 8 bits, RGB."""
    return read_picture(picture, {'type': 'LoadImageFromFile'})


def read_picture(picture, load):
    """Convert a picture (PIL.Image) as a loader of mmcv reads it, to mode RGB, L or RGBA.

    OpenCV's results for gray and CMYK pictures differ by up to 2 of 255.

    Args:
        picture (PIL.Image): As opened; a result of this function stays unchanged.
        load (dict): The loading step of the config's test pipeline.
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
        if backend == 'cv2':  # reads the orientation from EXIF only; Pillow also reads XMP
            picture.info = {key: value for key, value in picture.info.items() if key not in XMP}
        picture = ImageOps.exif_transpose(picture)
    if color == 'unchanged':
        return picture
    if picture.mode.startswith('I'):  # 16 bits: keep the upper 8
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode == 'LA' and backend == 'pillow':  # mmcv blends it with a background
        transparent, picture = picture.convert('RGBA'), Image.new('RGB', picture.size, TRANSPARENT)
        picture.paste(transparent, mask=transparent.getchannel('A'))
    picture = picture if picture.mode == 'L' and color.startswith('gray') else picture.convert('RGB')
    return picture.convert('L') if color.startswith('gray') else picture


def check_mode(picture, backend, color, own):
    """Refuse a picture whose Pillow mode a loader reads differently, or not at all."""
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
    """Apply a step of a test pipeline, uint8 (H, W, ...) -> uint8 (H', W', ...), and update the placement."""
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
    """Apply the step Pad: a constant at the right and bottom, uint8 (H, W, ...) -> uint8 (H', W', ...)."""
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
    value = value[::-1] if value.ndim else value  # the config has BGR
    padded = np.zeros((height, width, *pixels.shape[2:]), np.uint8) + np.rint(value).astype(np.uint8)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return padded


def unknown(step):
    """The error for an unsupported step (NetworkError)."""
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
    """uint8 (H, W, 3) -> uint8 (height, width, 3), like OpenCV or Pillow (they differ when downsampling)."""
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
    """Sample ``values`` (H, W, ...) bilinearly at positions (R,) and (C,); returns float32 (R, C, ...).

    The centre of pixel 0 is at 0. Positions outside are clamped to the border.
    """
    for axis, places in enumerate((rows, columns)):
        places = np.clip(places, 0, values.shape[axis] - 1)
        low = places.astype(int)
        high = np.minimum(low + 1, values.shape[axis] - 1)
        share = (places - low).astype(np.float32)
        share = share.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        values = np.take(values, low, axis) * (1 - share) + np.take(values, high, axis) * share
    return values
