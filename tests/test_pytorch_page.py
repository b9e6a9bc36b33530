"""The snippets and commands of docs/pytorch.md, in order."""

import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

from mmmobilemamba.models.arch import ARCHS
from mmmobilemamba.weights import WEIGHTS

from .conftest import ROOT
from .pages import blocks, commands
from .test_recipes.recipes import PIXELS

PAGE = ROOT / 'docs' / 'pytorch.md'
SNIPPETS = [text for text in blocks(PAGE, 'python') if 'runpy' not in text]
PLAIN, TIMM = SNIPPETS[:2], SNIPPETS[2:]

# Replacement for timm's scripts, which are not in its package.
SCRIPT = """
import sys
import timm
print(__name__, timm.is_model(sys.argv[sys.argv.index('--model') + 1]), sys.argv[1])
"""


def test_sizes_and_names():
    rows = re.findall(r'^\| `(\w+)` \| (\d+) \| `(.*)` \| `(.*)` \|$', PAGE.read_text(), re.MULTILINE)
    assert {arch: int(pixels) for arch, pixels, *_ in rows} == PIXELS and len(rows) == len(ARCHS)
    classifiers = {weights.name for weights in WEIGHTS if weights.task == 'classification'}
    assert {name for _, _, *names in rows for name in names} == classifiers


def test_plain_pytorch(authors_weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new('RGB', (320, 240), (90, 120, 40)).save('dog.jpg')
    names = {}
    for text in PLAIN:
        exec(text, names)
    assert names['image'].shape == (1, 3, 256, 256)
    assert names['probabilities'].sum().item() == pytest.approx(1)
    assert names['model'].eval()(torch.rand(1, 3, 64, 64)).shape == (1, 5)
    assert names['gray'].eval()(torch.rand(1, 1, 64, 64)).shape == (1, 10)


def test_timm(authors_weights, capsys):
    pytest.importorskip('timm')
    names = {}
    for text in TIMM:
        exec(text, names)
    assert '[272, 368] [32, 64]' in capsys.readouterr().out
    assert names['model'].num_classes == 10
    assert names['transform'](Image.new('RGB', (320, 240))).shape == (3, 192, 192)


def test_scripts_of_timm(tmp_path):
    pytest.importorskip('timm')
    (wrapper,) = (text for text in blocks(PAGE, 'python') if 'runpy' in text)
    for name in ('train.py', 'validate.py'):
        (tmp_path / name).write_text(SCRIPT)
    (tmp_path / 'train_mobilemamba.py').write_text(wrapper)
    ran = 0
    for words in commands(PAGE):
        if 'data/imagenet' in words:
            first = words.index('data/imagenet')
            arguments = words[1:] if words[0] == 'python' else words[first - 1 :]  # torchrun's processes
            output = subprocess.check_output([sys.executable, *arguments], cwd=tmp_path, text=True)
            assert output == '__main__ True data/imagenet\n'
            ran += 1
    assert ran == 2
