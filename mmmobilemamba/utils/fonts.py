"""Fonts for names of classes, which may be in any script.

The font inside Pillow has the characters of ASCII and no others, and most fonts have some scripts alone.
``tools/deployment/infer.py``, which runs without this package, chooses fonts by the same rules.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from matplotlib import font_manager
from PIL import ImageDraw, ImageFont, features

SIZE = 15  # px, at which glyphs are compared
NO_CHARACTER = '\uffff'  # never assigned, so a font draws what it draws for all that it lacks
ALWAYS = 'abcdefghijklmnopqrstuvwxyz0123456789.,:()'  # of scores and captions
SAMPLE = 50  # characters that other fonts are tried with: a font has a script, or has it not
STYLES = ('bold', 'black', 'condensed', 'italic', 'light', 'medium', 'mono', 'oblique', 'serif', 'thin')


class FontError(ValueError):
    """A font cannot be used; the message says why and what to do."""


class NameFont:
    """Several fonts as one: each character is drawn by the first that has it.

    Args:
        paths (Sequence[str | Path | None]): Font files; None is the font inside Pillow.
        size (int): In px.

    Raises:
        FontError: If a file is no font.
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
        """Write a line with its upper left corner at ``place`` (x, y)."""
        left, baseline = place[0], place[1] + max(font.getmetrics()[0] for font in self.fonts)
        for font, run in self._runs(text):
            canvas.text((left, baseline), run, fill=fill, font=font, anchor='ls')
            left += font.getlength(run)

    def _runs(self, text: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        """Parts of a text that are of one font."""
        runs: list[tuple[ImageFont.FreeTypeFont, str]] = []
        for char in text:
            if runs and (_is_invisible(char) or unicodedata.category(char).startswith('M')):
                font = runs[-1][0]  # a mark belongs to the letter before it
            else:
                font = self._chosen.get(char) or self._font_of(char)
            if runs and runs[-1][0] is font:
                runs[-1] = (font, runs[-1][1] + char)
            else:
                runs.append((font, char))
        return runs

    def _font_of(self, char: str) -> ImageFont.FreeTypeFont:
        """The first font that has a character, or else the first."""
        having = (font for font in self.fonts if not missing_characters(font, char))
        self._chosen[char] = next(having, self.fonts[0])
        return self._chosen[char]


def one_line(name: object) -> str:
    """A name as it is drawn: composed characters (NFC), and no line breaks."""
    return ' '.join(unicodedata.normalize('NFC', str(name)).split())


def open_font(path: str | Path | None, size: int = SIZE) -> ImageFont.FreeTypeFont:
    """The font of a file, or the one inside Pillow, at a size in px.

    Raises:
        FontError: If the file is no font.
    """
    if path is None:
        return ImageFont.load_default(size=size)
    try:
        return ImageFont.truetype(str(path), size)
    except OSError as error:
        raise FontError(f'{path} is no TrueType or OpenType font that can be scaled: {error}.') from error


def missing_characters(font: ImageFont.FreeTypeFont, text: str) -> str:
    """The characters of ``text`` that a font draws as it draws any that it lacks, each once."""
    nothing = _glyph(font, NO_CHARACTER)
    visible = (char for char in dict.fromkeys(text) if not _is_invisible(char))
    return ''.join(char for char in visible if _glyph(font, char) == nothing)


def choose_fonts(
    names: Iterable[object], path: str | Path | None = None, default: str | None = None
) -> tuple[list[str | None], str | None]:
    """The fonts to draw names with, see :class:`NameFont`, and what their user should know.

    Args:
        names (Iterable[object]): Names of the classes.
        path (str | Path, optional): A font file. If it is given, no other is looked for.
        default (str, optional): File of the font that has ASCII; the one inside Pillow if not given. Where it
            lacks characters, matplotlib's DejaVu Sans and the fonts of the system go before it.

    Returns:
        tuple[list[str | None], str | None]: The files, None for Pillow's font, and a warning if characters
        are missing, or would be drawn in the wrong order.

    Raises:
        FontError: If ``path`` is no font.
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
    """Font files: matplotlib's DejaVu Sans, and those of the system, the upright sans serif ones first."""
    yield font_manager.findfont('DejaVu Sans')
    yield from sorted(
        font_manager.findSystemFonts(),
        key=lambda path: (any(style in Path(path).stem.lower() for style in STYLES), path),
    )


def _find_fonts(text: str) -> list[str | None]:
    """The first font that has all characters of ``text``, or else a few that have as many as there are."""
    lacks: dict[str, set[str]] = {}
    for path in system_fonts():
        try:
            lacks[path] = set(missing_characters(open_font(path), text))
        except FontError:  # of bitmaps, as those of emoji
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
    """The characters of ``text`` that none of several fonts has."""
    for path in paths:
        text = missing_characters(open_font(path), text)
    return text


def _glyph(font: ImageFont.FreeTypeFont, char: str) -> tuple[tuple[int, int], bytes]:
    """Size and pixels of a character."""
    mask = font.getmask(char)
    return mask.size, bytes(mask)


def _is_invisible(char: str) -> bool:
    """Whether a character has no glyph of its own: spaces, controls, and what selects variants."""
    return char.isspace() or unicodedata.category(char) in ('Cc', 'Cf') or '\ufe00' <= char <= '\ufe0f'


def _warning(names: Sequence[str], paths: Sequence[str | None], lacking: str) -> str | None:
    """What the user of some fonts should know, if anything."""
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
