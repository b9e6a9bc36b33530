"""Fonts for names of classes, which may be in any script.

The font inside Pillow has the characters of ASCII and no others. ``tools/deployment/infer_onnx.py``, which
runs without this package, chooses a font by the same rules.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from matplotlib import font_manager
from PIL import ImageFont, features

SIZE = 15  # px, at which glyphs are compared
NO_CHARACTER = '\uffff'  # never assigned, so a font draws what it draws for all that it lacks
ALWAYS = 'abcdefghijklmnopqrstuvwxyz0123456789.,:()'  # scores and captions are in the same font
SAMPLE = 50  # characters that other fonts are tried with; a script is there, or it is not
STYLES = ('bold', 'black', 'condensed', 'italic', 'light', 'medium', 'mono', 'oblique', 'serif', 'thin')


class FontError(ValueError):
    """A font cannot be used; the message says why and what to do."""


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


def choose_font(
    names: Iterable[object], path: str | Path | None = None, default: str | None = None
) -> tuple[str | None, str | None]:
    """The font to draw names with, and what its user should know.

    Args:
        names (Iterable[object]): Names of the classes.
        path (str | Path, optional): A font file, which is taken whatever it lacks.
        default (str, optional): File that is taken if it has all characters; that of Pillow if not given.
            Otherwise it is matplotlib's DejaVu Sans, or the font of the system that lacks the fewest.

    Returns:
        tuple[str | None, str | None]: The file, None for Pillow's font, and a warning if characters are
        missing, or would be drawn in the wrong order.

    Raises:
        FontError: If ``path`` is no font.
    """
    names = [one_line(name) for name in names]
    text = ALWAYS + ''.join(names)
    chosen = default if path is None else str(path)
    lacking = missing_characters(open_font(chosen), text)
    if lacking and path is None:
        chosen = _best_font(chosen, ALWAYS + lacking[:SAMPLE])
        lacking = missing_characters(open_font(chosen), text)
    return chosen, _warning(names, chosen, lacking)


def system_fonts() -> Iterator[str]:
    """Font files: matplotlib's DejaVu Sans, and those of the system, the upright sans serif ones first."""
    yield font_manager.findfont('DejaVu Sans')
    yield from sorted(
        font_manager.findSystemFonts(),
        key=lambda path: (any(style in Path(path).stem.lower() for style in STYLES), path),
    )


def _best_font(default: str | None, text: str) -> str | None:
    """The first font that has all characters of ``text``, or else the one that lacks the fewest."""
    best, fewest = default, len(missing_characters(open_font(default), text))
    for path in system_fonts():
        try:
            lacking = len(missing_characters(open_font(path), text))
        except FontError:  # of bitmaps, as those of emoji
            continue
        if lacking < fewest:
            best, fewest = path, lacking
        if not fewest:
            break
    return best


def _glyph(font: ImageFont.FreeTypeFont, char: str) -> tuple[tuple[int, int], bytes]:
    """Size and pixels of a character."""
    mask = font.getmask(char)
    return mask.size, bytes(mask)


def _is_invisible(char: str) -> bool:
    """Whether a character has no glyph of its own: spaces, controls, and what selects variants."""
    return char.isspace() or unicodedata.category(char) in ('Cc', 'Cf') or '\ufe00' <= char <= '\ufe0f'


def _warning(names: Sequence[str], path: str | None, lacking: str) -> str | None:
    """What the user of a font should know, if anything."""
    if lacking:
        example = next(name for name in names if set(name) & set(lacking))
        more = f' and {len(lacking) - 10} more' if len(lacking) > 10 else ''
        font = "Pillow's font" if path is None else path
        return (
            f'{font} has no {" ".join(lacking[:10])}{more}, as in the name {example!r}, and draws empty '
            f'boxes instead. Name a font that has them with --font FILE.'
        )
    right_to_left = any(unicodedata.bidirectional(char) in ('R', 'AL') for name in names for char in name)
    if right_to_left and not features.check('raqm'):
        return 'Names from right to left are drawn in the wrong order: this Pillow was built without libraqm.'
    return None
