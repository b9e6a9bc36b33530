"""Fonts for class names in any script.

Pillow's built-in font only covers ASCII, and most other fonts only cover some scripts.
``tools/deployment/infer.py`` implements the same selection, because it runs without this package.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from matplotlib import font_manager
from PIL import ImageDraw, ImageFont, features

SIZE = 15  # px, size at which glyphs are compared
NO_CHARACTER = '\uffff'  # never assigned, so fonts draw their glyph for missing characters
ALWAYS = 'abcdefghijklmnopqrstuvwxyz0123456789.,:()'  # used by scores and captions
SAMPLE = 50  # characters to test fonts with; enough, because fonts usually cover whole scripts
STYLES = ('bold', 'black', 'condensed', 'italic', 'light', 'medium', 'mono', 'oblique', 'serif', 'thin')


class FontError(ValueError):
    """A font cannot be used; the message says why and what to do."""


class NameFont:
    """A font with fallbacks: each character is drawn in the first font that has it.

    Args:
        paths (Sequence[str | Path | None]): Font files; None is Pillow's built-in font.
        size (int): Font size in px.

    Raises:
        FontError: If a file is not a font.
    """

    def __init__(self, paths: Sequence[str | Path | None] = (None,), size: int = SIZE) -> None:
        self.fonts = [open_font(path, size) for path in paths]
        self._chosen: dict[str, ImageFont.FreeTypeFont] = {}

    def getlength(self, text: str) -> float:
        """Width of a line in px."""
        return sum(font.getlength(run) for font, run in self._runs(text))

    @property
    def height(self) -> int:
        """Height of a line in px."""
        return max(font.getmetrics()[0] for font in self.fonts) + max(
            font.getmetrics()[1] for font in self.fonts
        )

    def write(self, canvas: ImageDraw.ImageDraw, place: Sequence[float], text: str, fill: object) -> None:
        """Write a line of text.

        Args:
            canvas (ImageDraw): Where to write.
            place (Sequence[float]): Upper left corner (x, y) in px.
            text (str): The line.
            fill (object): Its colour, see Pillow's ``ImageDraw.text``.
        """
        left, baseline = place[0], place[1] + max(font.getmetrics()[0] for font in self.fonts)
        for font, run in self._runs(text):
            canvas.text((left, baseline), run, fill=fill, font=font, anchor='ls')
            left += font.getlength(run)

    def _runs(self, text: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        """Split a text into parts of one font each."""
        runs: list[tuple[ImageFont.FreeTypeFont, str]] = []
        for char in text:
            if runs and (_is_invisible(char) or unicodedata.category(char).startswith('M')):
                font = runs[-1][0]  # combining marks use the font of their letter
            else:
                font = self._chosen.get(char) or self._font_of(char)
            if runs and runs[-1][0] is font:
                runs[-1] = (font, runs[-1][1] + char)
            else:
                runs.append((font, char))
        return runs

    def _font_of(self, char: str) -> ImageFont.FreeTypeFont:
        """Return the first font that has a character, or the first font if none has."""
        having = (font for font in self.fonts if not missing_characters(font, char))
        self._chosen[char] = next(having, self.fonts[0])
        return self._chosen[char]


def one_line(name: object) -> str:
    """Normalise a name for drawing: composed characters (NFC), without line breaks."""
    return ' '.join(unicodedata.normalize('NFC', str(name)).split())


def open_font(path: str | Path | None, size: int = SIZE) -> ImageFont.FreeTypeFont:
    """Open a font file, or Pillow's built-in font for None, at a size in px.

    Raises:
        FontError: If the file is not a scalable font.
    """
    if path is None:
        return ImageFont.load_default(size=size)
    try:
        return ImageFont.truetype(str(path), size)
    except OSError as error:
        raise FontError(f'{path} is no TrueType or OpenType font that can be scaled: {error}.') from error


def missing_characters(font: ImageFont.FreeTypeFont, text: str) -> str:
    """Return the characters of ``text`` that a font lacks, each once (str)."""
    nothing = _glyph(font, NO_CHARACTER)
    visible = (char for char in dict.fromkeys(text) if not _is_invisible(char))
    return ''.join(char for char in visible if _glyph(font, char) == nothing)


def choose_fonts(
    names: Iterable[object], path: str | Path | None = None, default: str | None = None
) -> tuple[list[str | None], str | None]:
    """Choose the fonts of a :class:`NameFont` for class names.

    Args:
        names (Iterable[object]): The class names.
        path (str | Path, optional): A font file. If given, no other fonts are searched. Defaults to None.
        default (str, optional): File of the default font. If it lacks characters, matplotlib's DejaVu Sans
            and the system fonts take precedence over it. Defaults to None, Pillow's built-in font.

    Returns:
        tuple[list[str | None], str | None]: The font files (None for Pillow's font), and a warning if
        characters are missing or would be drawn in the wrong order.

    Raises:
        FontError: If ``path`` is not a font.
    """
    lines = [one_line(name) for name in names]
    text = ALWAYS + ''.join(lines)
    chosen: list[str | None] = [default] if path is None else [str(path), default]
    lacking = _missing_in_all(chosen, text)
    if lacking and path is None:
        chosen = [*_find_fonts(ALWAYS + lacking[:SAMPLE]), default]
        lacking = _missing_in_all(chosen, text)
    return chosen, _warning(lines, chosen, lacking)


def system_fonts() -> Iterator[str]:
    """Yield font files: matplotlib's DejaVu Sans, then the system fonts, upright sans serif ones first."""
    yield font_manager.findfont('DejaVu Sans')
    yield from sorted(
        font_manager.findSystemFonts(),
        key=lambda path: (any(style in Path(path).stem.lower() for style in STYLES), path),
    )


def _find_fonts(text: str) -> list[str | None]:
    """Return the first font that has all characters of ``text``, or a few that together cover the most."""
    lacks: dict[str, set[str]] = {}
    for path in system_fonts():
        try:
            lacks[path] = set(missing_characters(open_font(path), text))
        except FontError:  # bitmap fonts, such as emoji
            continue
        if not lacks[path]:
            return [path]
    chosen: list[str | None] = []
    left = set(text)
    while lacks and left:
        best = min(lacks, key=lambda path: len(left & lacks[path]))
        if left <= lacks[best]:
            break
        chosen.append(best)
        left &= lacks[best]
    return chosen


def _missing_in_all(paths: Sequence[str | None], text: str) -> str:
    """Return the characters of ``text`` that all of the fonts lack."""
    for path in paths:
        text = missing_characters(open_font(path), text)
    return text


def _glyph(font: ImageFont.FreeTypeFont, char: str) -> tuple[tuple[int, int], bytes]:
    """Return size and pixels of a character."""
    mask = font.getmask(char)
    return mask.size, bytes(mask)


def _is_invisible(char: str) -> bool:
    """Whether a character has no glyph: spaces, control characters and variation selectors."""
    return char.isspace() or unicodedata.category(char) in ('Cc', 'Cf') or '\ufe00' <= char <= '\ufe0f'


def _warning(names: Sequence[str], paths: Sequence[str | None], lacking: str) -> str | None:
    """Return the warning of :func:`choose_fonts`, if any."""
    if lacking:
        example = next(name for name in names if set(name) & set(lacking))
        more = f' and {len(lacking) - 10} more' if len(lacking) > 10 else ''
        fonts = ', '.join("Pillow's font" if path is None else Path(path).name for path in paths)
        return (
            f'no font for {" ".join(lacking[:10])}{more}, as in the name {example!r}: empty boxes are drawn '
            f'instead. Name a font that has them with --font FILE (tried: {fonts}).'
        )
    right_to_left = any(unicodedata.bidirectional(char) in ('R', 'AL') for name in names for char in name)
    if right_to_left and not features.check('raqm'):
        return 'names from right to left are drawn in the wrong order: this Pillow was built without libraqm.'
    return None
