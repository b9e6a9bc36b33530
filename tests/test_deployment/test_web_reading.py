"""Image loading of the page: its module in node, against Pillow and infer.py."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from ..conftest import ROOT

NODE = shutil.which('node')
pytestmark = pytest.mark.skipif(NODE is None, reason='node is not installed')
MODULE = (ROOT / 'tools/deployment/web/picture.js').as_uri()


def run(code, *arguments):
    """Run JavaScript with the module as ``m`` and arguments as ``a``; returns its output as JSON."""
    start = f"import * as fs from 'node:fs'; const m = await import('{MODULE}'), a = process.argv.slice(1);"
    command = [NODE, '--no-warnings', '--input-type=module', '-e', start + code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if 'import statement outside a module' in result.stderr:
        pytest.skip('this node takes no modules without a package.json')
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ('load', 'expected'),
    [
        (dict(), dict(upright=True, gray=False, deep=True)),
        (dict(imdecode_backend='pillow'), dict(upright=True, gray=False, deep=False)),
        (dict(imdecode_backend='turbojpeg'), dict(upright=False, gray=False, deep=False)),
        (
            dict(type='PillowLoadImageFromFile', color_type='color_ignore_orientation'),
            dict(upright=False, gray=False, deep=True),
        ),
        (dict(color_type='grayscale'), dict(upright=True, gray=True, deep=True)),
        (dict(color_type='grayscale_ignore_orientation'), dict(upright=False, gray=True, deep=True)),
        (dict(color_type='unchanged'), 'has the color_type unchanged, which this page cannot follow'),
        (dict(type='LoadBands'), 'reads pictures with {"type":"LoadBands"}, which this page cannot'),
        (dict(to_float32=True), 'which this page cannot'),
        (dict(imdecode_backend='tifffile'), 'which this page cannot'),
        (None, 'reads pictures with null, which this page cannot'),
    ],
)
def test_loaders(load, expected):
    load = load if load is None else {'type': 'LoadImageFromFile', **load}
    code = (
        'let found; try { found = m.readingOf(JSON.parse(a[0])) } catch (e) { found = e.message }'
        'console.log(JSON.stringify(found))'
    )
    found = run(code, json.dumps(load))
    assert found == expected if isinstance(expected, dict) else expected in found


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp'])
@pytest.mark.parametrize('turned', [False, True])
def test_as_stored(tmp_path, suffix, turned):
    """Without its EXIF data, an image is valid and its pixels are unchanged."""
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f'a.{suffix}', exif=exif)
    run(
        'const blob = await m.asStored(new Blob([fs.readFileSync(a[0])]));'
        'fs.writeFileSync(a[1], new Uint8Array(await blob.arrayBuffer())); console.log(blob.size)',
        *(tmp_path / f'{name}.{suffix}' for name in 'ab'),
    )
    before, after = (Image.open(tmp_path / f'{name}.{suffix}') for name in 'ab')
    assert before.getexif().get(0x0112) == (6 if turned else None) and 0x0112 not in after.getexif()
    assert np.array_equal(np.asarray(before), np.asarray(after))


def test_gray():
    """Bit-identical to Pillow."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 3), dtype=np.uint8)
    code = 'const d = Uint8Array.from(JSON.parse(a[0])); m.toGray(d); console.log(JSON.stringify([...d]))'
    gray = np.asarray(Image.fromarray(noise[None]).convert('L'))[0]
    assert run(code, json.dumps(noise.ravel().tolist())) == gray.repeat(3).tolist()
