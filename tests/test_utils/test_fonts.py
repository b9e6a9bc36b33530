"""Names in any script: coverage and choice of fonts, in the package and in infer.py."""

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image, ImageDraw

from mmmobilemamba.utils import fonts

from ..conftest import load_script

DEJAVU = font_manager.findfont('DejaVu Sans')


def make_font(path, chars):
    """A font file in which each of ``chars`` is a block, and missing characters are a flat line."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    builder = FontBuilder(1000, isTTF=True)
    names = {ord(char): f'u{ord(char):05X}' for char in chars}
    builder.setupGlyphOrder(['.notdef', *names.values()])
    builder.setupCharacterMap(names)
    glyphs = {}
    for name, height in (('.notdef', 100), *((each, 700) for each in names.values())):
        pen = TTGlyphPen(None)
        for step, point in enumerate(((100, 0), (100, height), (900, height), (900, 0))):
            (pen.lineTo if step else pen.moveTo)(point)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable(dict(familyName=path.stem, styleName='Regular'))
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A system with two fonts of one script each, and a file that is not a font."""
    drawing = load_script('tools/deployment/drawing.py')
    folder = tmp_path / 'share/fonts/deep'
    folder.mkdir(parents=True)
    files = [make_font(folder / f'{name}.ttf', chars) for name, chars in (('Dog', '犬大'), ('Deva', 'अआि'))]
    (folder / 'broken.ttf').write_text('no font')
    every = [*map(str, files), str(folder / 'broken.ttf')]
    monkeypatch.setattr(fonts.font_manager, 'findSystemFonts', lambda: every)
    monkeypatch.setenv('XDG_DATA_DIRS', str(tmp_path / 'share'))
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path / 'none'))
    monkeypatch.setenv('HOME', str(tmp_path))
    return drawing, [str(file) for file in files]


def test_what_a_font_has():
    inside = fonts.open_font(None)
    assert fonts.missing_characters(inside, 'cat 0.5\n\u200d\ufe0f') == ''
    assert fonts.missing_characters(inside, 'Riß犬Riß') == 'ß犬'
    assert fonts.missing_characters(fonts.open_font(DEJAVU), 'Riß犬Ж') == '犬'


def test_choice(system):
    """The order is Pillow's font, DejaVu Sans, then system fonts, several if necessary."""
    drawing, (dog, deva) = system
    assert fonts.choose_fonts(['cat', 'dog']) == ([None], None)
    assert fonts.choose_fonts(['Riß', 'Кот']) == ([DEJAVU, None], None)
    # Decomposed letters, as in macOS file names, are composed.
    assert fonts.one_line('a\u0308b\n c') == 'äb c'
    assert fonts.choose_fonts(['Großer Hund 犬']) == ([DEJAVU, dog, None], None)
    assert fonts.choose_fonts(['犬', 'आ']) == ([DEJAVU, deva, dog, None], None)
    chosen, warning = fonts.choose_fonts(['ok', '語 犬', 7])
    assert chosen == [DEJAVU, dog, None]
    assert warning.startswith(
        "no font for 語, as in the name '語 犬': empty boxes are drawn instead. Name a font"
    )
    # infer.py chooses the same fonts except for matplotlib's.
    assert drawing.choose_fonts(['cat']) == ([None], None)
    chosen, warning = drawing.choose_fonts(['犬', 'आ'])
    assert [str(file) for file in chosen] == [deva, dog, 'None'] and warning is None
    assert drawing.choose_fonts(['語'])[1].startswith(
        "no font for 語, as in the name '語': empty boxes are drawn"
    )
    for text in ('Riß犬', 'ok', 'आि\u200d'):
        for path in (None, DEJAVU, dog, deva):
            here, there = (tool.missing_characters(tool.open_font(path), text) for tool in (fonts, drawing))
            assert here == there


def test_a_font_that_is_given(system, tmp_path):
    drawing, (dog, _) = system
    assert fonts.choose_fonts(['犬 1'], dog) == ([dog, None], None)
    assert drawing.choose_fonts(['犬 1'], dog) == ([dog, None], None)
    for tool in (fonts, drawing):
        assert 'no font for आ,' in tool.choose_fonts(['犬', 'आ'], dog)[1]
    broken = tmp_path / 'share/fonts/deep/broken.ttf'
    with pytest.raises(fonts.FontError, match=r'broken\.ttf is no TrueType or OpenType font'):
        fonts.choose_fonts(['a'], broken)
    with pytest.raises(drawing.NetworkError, match=r'broken\.ttf is no TrueType or OpenType font'):
        drawing.choose_fonts(['a'], broken)


def test_one_line_of_several_fonts(system):
    """Each character is drawn in a font that has it; combining marks follow their letter."""
    drawing, (dog, deva) = system
    for tool in (fonts, drawing):
        font = tool.NameFont([dog, deva, None], 20)
        assert font.getlength('犬आ') == 40
        assert font.getlength('犬a') == 20 + tool.open_font(None, 20).getlength('a')
        runs = (font._runs if tool is fonts else font.runs)('犬大अि a')
        assert [text for _, text in runs] == ['犬大', 'अि ', 'a']
        image = Image.new('L', (60, 30))
        font.write(ImageDraw.Draw(image), (5, 3), '犬', 255)
        drawn = np.asarray(image) > 128
        # A block of 800 x 700 units (of 1000), at the left edge of the letter.
        assert 14 * 15 <= drawn.sum() <= 15 * 17
        assert not drawn[:, :5].any() and not drawn[:, 24:].any()
