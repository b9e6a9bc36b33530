"""Draw the results of an exported network, with class names in any script.

Part of ``infer.py``, which runs without the rest of the repository. Needs only NumPy and Pillow.
"""

import colorsys
import os
import unicodedata
from pathlib import Path

import numpy as np
from pictures import NetworkError
from PIL import Image, ImageDraw, ImageFont

LUMINANCE = (0.299, 0.587, 0.114)
BACKGROUND = 'background'  # this class is not tinted
SHOWN_SIDE = 480  # px; smaller pictures are enlarged to this before drawing
ALWAYS = 'abcdefghijklmnopqrstuvwxyz0123456789.,:()'  # a font must have these besides the class names
NO_CHARACTER = '\uffff'  # never assigned, so every font draws its glyph for missing characters
SHARED = '/usr/local/share:/usr/share'  # font folders on Linux
STYLES = ('bold', 'black', 'condensed', 'italic', 'light', 'medium', 'mono', 'oblique', 'serif', 'thin')


def color_of(label):
    """RGB colour of a class: hues in steps of the golden ratio."""
    rgb = colorsys.hsv_to_rgb(label * 0.618 % 1, 0.85, 1 - label % 2 * 0.2)
    return tuple(round(255 * channel) for channel in rgb)


def one_line(name):
    """Normalise a name for drawing: composed characters (NFC), no line breaks."""
    return ' '.join(unicodedata.normalize('NFC', name).split())


class NameFont:
    """Font files (list; None is Pillow's built-in font) as one; the first with a character draws it."""

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
        """Split a text into parts with the same font (list)."""
        runs = []
        for char in text:
            if runs and (is_invisible(char) or unicodedata.category(char).startswith('M')):
                font = runs[-1][0]  # a combining mark uses the font of its letter
            else:
                having = (font for font in self.fonts if not missing_characters(font, char))
                font = next(having, self.fonts[0])
            if runs and runs[-1][0] is font:
                runs[-1] = font, runs[-1][1] + char
            else:
                runs.append((font, char))
        return runs


def font_for(image, files):
    """A font that is legible on an image of this size."""
    return NameFont(files, max(15, max(image.size) // 50))


def open_font(file, size=15):
    """The font of a file, or Pillow's built-in one for None, at a size in px."""
    return ImageFont.load_default(size=size) if file is None else ImageFont.truetype(str(file), size)


def is_invisible(char):
    """Whether a character has no glyph: spaces, controls and variation selectors."""
    return char.isspace() or unicodedata.category(char) in ('Cc', 'Cf') or '\ufe00' <= char <= '\ufe0f'


def missing_characters(font, text):
    """The distinct characters of ``text`` that a font lacks."""
    masks = {char: font.getmask(char) for char in NO_CHARACTER + text if not is_invisible(char)}
    glyphs = {char: (mask.size, bytes(mask)) for char, mask in masks.items()}
    return ''.join(char for char in glyphs if char in text and glyphs[char] == glyphs[NO_CHARACTER])


def system_fonts():
    """Font files of the system, upright sans-serif ones first (list[Path])."""
    environ, home = os.environ, Path(os.path.expanduser('~'))
    folders = [Path(folder, 'fonts') for folder in (environ.get('XDG_DATA_DIRS') or SHARED).split(':')]
    folders += [Path(environ.get('XDG_DATA_HOME') or home / '.local/share', 'fonts'), home / '.fonts']
    folders += [Path('/Library/Fonts'), Path('/System/Library/Fonts'), home / 'Library/Fonts']
    if 'WINDIR' in environ:
        folders += [Path(environ['WINDIR'], 'Fonts'), home / 'AppData/Local/Microsoft/Windows/Fonts']
    files = {file for folder in folders for file in folder.rglob('*.[to]t[fc]')}
    return sorted(files, key=lambda file: (any(style in file.stem.lower() for style in STYLES), file))


def find_fonts(text):
    """The first font with all characters of ``text``, or a few fonts that cover as many as possible."""
    lacks, chosen, left = {}, [], set(text)
    for file in system_fonts():
        try:
            lacks[file] = set(missing_characters(open_font(file), text))
        except OSError:  # bitmap fonts, such as for emoji
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

    With ``file``, no other fonts are searched. Otherwise, names that are not pure ASCII use system fonts
    first, then Pillow's built-in font.
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
        files = [*find_fonts(ALWAYS + lacking[:50]), None]  # a few characters identify the scripts
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
    """Enlarge a small picture by an integer factor; returns the picture (PIL.Image) and the factor."""
    scale = max(1, round(SHOWN_SIDE / max(picture.size)))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC), scale


def tint(image, mask, color):
    """Blend ``color`` at half opacity over ``mask``, bool (h, w), which is resized to the image."""
    stencil = Image.fromarray(mask.astype(np.uint8) * 128).resize(image.size, Image.Resampling.NEAREST)
    image.paste(color, (0, 0, *image.size), stencil)


def with_strip(image, entries, fonts):
    """Add a strip of entries, (color or None, text), below an image, in as many columns as fit."""
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


def overlap(box, others):
    """Area that a box (left, top, right, bottom) has in common with others, summed over them."""
    left, top, right, bottom = box
    common = [
        (min(right, each[2]) - max(left, each[0]), min(bottom, each[3]) - max(top, each[1]))
        for each in others
    ]
    return sum(max(0, width) * max(0, height) for width, height in common)


def places_beside(box, width, height):
    """Upper left corners of a name beside a box, in the order of preference."""
    left, top, right, bottom = box
    places = []
    for step in range(4):
        rows = (top - (step + 1) * height, bottom + step * height)
        places += [(x, y) for y in rows for x in (left, right - width)]
    return places + [(x, y) for y in (top, bottom - height) for x in (right, left - width)]


def place_names(boxes, sizes, frame):
    """Where to write the name of each box: upper left corners (list), the first ones best.

    To cover a name is far worse than to cover as much of another box. ``boxes`` are M corners, ``sizes`` M
    pairs of width and height, and ``frame`` is the size of the picture, all in px.
    """
    taken = []
    for index, (box, (width, height)) in enumerate(zip(boxes, sizes)):
        others = [*boxes[:index], *boxes[index + 1 :]]
        best, least = (0, 0, width, height), float('inf')
        for rank, (x, y) in enumerate(places_beside(box, width, height)):
            x, y = max(min(x, frame[0] - width), 0), max(min(y, frame[1] - height), 0)
            place = (x, y, x + width, y + height)
            cost = 100 * overlap(place, taken) + overlap(place, others) + rank * 0.05 * width * height
            if cost < least:
                best, least = place, cost
        taken.append(best)
    return [place[:2] for place in taken]


def draw_objects(picture, network, found):
    """Draw boxes, names, scores and masks on a picture, the best on top."""
    image, scale = enlarge(picture)
    for mask, label in zip(found.get('masks', ()), found['labels']):
        tint(image, mask, color_of(label))
    canvas, font = ImageDraw.Draw(image), font_for(image, network.fonts)
    line = max(2, font.size // 8)
    boxes = [[side * scale for side in box] for box in found['boxes']]
    colors = [color_of(label) for label in found['labels']]
    names = zip(found['labels'], found['scores'])
    texts = [one_line(f'{network.name_of(label)} {score:.2f}') for label, score in names]
    sizes = [(font.getlength(text), 1.25 * font.size) for text in texts]
    for box, color in reversed(list(zip(boxes, colors))):
        canvas.rectangle(box, outline=color, width=line)
    places = place_names(boxes, sizes, image.size)
    for (left, top), (width, height), color, text in zip(places, sizes, colors, texts):
        canvas.rectangle((left, top, left + width, top + height), fill=color)
        font.write(canvas, (left, top), text, 'black' if np.dot(color, LUMINANCE) > 110 else 'white')
    return image


def draw_classes(picture, network, found):
    """Tint a picture by the class of each pixel, and add a legend with the classes and their shares."""
    image, _ = enlarge(picture)
    legend = []
    for entry in network.summary(found)['classes']:
        color = None if entry['name'] == BACKGROUND else color_of(entry['label'])
        if color is not None:
            tint(image, found['classes'] == entry['label'], color)
        legend.append((color, f'{entry["name"]} {entry["share"]:.1%}'))
    return with_strip(image, legend, network.fonts)


def draw_caption(picture, network, found):
    """Add a caption with the best class and score, or with the shapes of a backbone's maps."""
    if 'maps' in found:
        shapes = network.summary(found)['maps'].items()
        entries = [(None, f'{name} {" x ".join(map(str, shape))}') for name, shape in shapes]
    else:
        label, score = found['labels'][0], found['scores'][0]
        entries = [(color_of(label), f'{network.name_of(label)} {score:.2f}')]
    return with_strip(enlarge(picture)[0], entries, network.fonts)


DRAW = dict(
    backbone=draw_caption, classification=draw_caption, detection=draw_objects, segmentation=draw_classes
)
