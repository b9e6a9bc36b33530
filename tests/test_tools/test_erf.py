"""Effective receptive fields from the command line: table, figure, arrays, and errors."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmpretrain')
pytest.importorskip('timm')

from mmmobilemamba.analysis import SHARES, effective_receptive_fields, square_sides
from mmmobilemamba.analysis.images import random_image, read_picture
from mmmobilemamba.analysis.networks import Source, build_network

from ..conftest import load_script
from ..helpers import SMALL

erf = load_script('tools/visualizations/erf.py')
CONFIG = f"""
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmmobilemamba.mmpretrain'])
backbone = dict(type='MobileMamba', arch={SMALL})
model = dict(type='ImageClassifier', backbone=backbone)
"""
RESNET = 'timm/resnet10t'


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config of a small classifier in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'small.py').write_text(CONFIG)
    return 'small.py'


def rows_of(output):
    """Sides in the tool's table, by the row's label."""
    lines = [line.split() for line in output.splitlines() if 'stage' in line]
    return {' '.join(words[: -len(SHARES)]): [int(side) for side in words[-len(SHARES) :]] for words in lines}


def test_two_networks_and_branches(config, capsys):
    erf.main(
        [config, RESNET, '--stages', '0', '1', '--size', '128', '--number', '2', '--without', 'scan']
        + ['wavelet,local', '--open-residuals', '--out', 'a.png', '--save', 'a.npz']
    )
    printed = capsys.readouterr()
    assert '2 images of white noise' in printed.out and '] 2/2' in printed.err
    rows = rows_of(printed.out)
    ours = 'small, random weights'
    names = [ours, f'{ours}, without scan', f'{ours}, without wavelet and local', f'{RESNET}, random weights']
    strides = [(16, 32)] * 3 + [(2, 4)]
    assert list(rows) == [
        f'{name} stage {stage}, stride {stride}'
        for name, both in zip(names, strides)
        for stage, stride in enumerate(both)
    ]
    with np.load('a.npz') as saved:
        assert saved['fields'].shape == (8, 128, 128)
        assert [square_sides(field) for field in saved['fields']] == saved['sides'].tolist()
        assert list(rows.values()) == saved['sides'].tolist()
        assert saved['shares'].tolist() == list(SHARES)
        assert [name.replace(', stage', ' stage') for name in saved['names']] == list(rows)
        fields = saved['fields']
    assert not np.allclose(fields[2], fields[0], rtol=0.01)  # stage 0 with and without the scan
    with Image.open('a.png') as figure:
        assert figure.width > 500 and figure.height > figure.width  # four rows of two


def test_the_field_is_that_of_the_package(config, capsys):
    options = ['--stages', '1', '--number', '3', '--seed', '5', '--save', 'a.npz']
    erf.main([config, '--size', '64', '128', *options])
    network = build_network(Source(config), seed=5)
    images = [random_image((64, 128), seed=5 + index) for index in range(3)]
    expected = effective_receptive_fields({'1': lambda image: network(image, 1)}, images)['1']
    assert np.allclose(np.load('a.npz')['fields'], expected[None], rtol=1e-9)
    rows = rows_of(capsys.readouterr().out)
    assert rows == {'small, random weights stage 1, stride 32': square_sides(expected)}


def test_pictures_and_a_checkpoint(config, tmp_path, capsys):
    network = build_network(Source(config), seed=9)
    weights = {f'backbone.{key}': value for key, value in network.backbone.state_dict().items()}
    torch.save(dict(state_dict=weights), 'small.pth')
    (tmp_path / 'pictures').mkdir()
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), np.uint8)):
        Image.fromarray(pixels).save(f'pictures/{index}.png')
    pictures = ['--images', 'pictures', '--number', '2']
    erf.main([f'{config}=small.pth', *pictures, '--size', '128', '--save', 'a.npz'])
    images = [read_picture(f'pictures/{index}.png', (128, 128)) for index in range(2)]
    expected = effective_receptive_fields({'': network}, images)['']
    assert np.allclose(np.load('a.npz')['fields'], expected[None], rtol=1e-6)
    assert '2 pictures' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (
            ['small.py', '--size', '64'],
            'small, random weights, last stage: The map has 1 x 1 pixels for an image of 64 x 64',
        ),
        (['small.py', '--stages', '4'], 'There is no stage 4: the backbone returns 3, 0 to 2'),
        (['small.py', '--images', 'none'], 'There is no picture or folder none'),
        (['small.py', '--images', 'empty'], 'The folder empty has no images'),
        (['small.py=none.pth'], 'There is no checkpoint file none.pth'),
        (['small.py=other.pth'], 'does not fit this MobileMamba of widths (32, 48, 64)'),
        (['small.py', 'small.py'], 'small, random weights is given twice'),
        ([RESNET, '--without', 'scan'], '--without needs a MobileMamba'),
        (['small.py', '--out', 'a.txt'], 'a.txt must end in .png, .jpg, .pdf, .svg'),
        (['small.py', '--save', 'none/a.npz'], 'there is no folder none; make it first'),
        (['small.py', '--size', '1', '2', '3'], '--size takes one side or HEIGHT WIDTH'),
        (['small.py', '--number', '0'], '--number must be 1 or more'),
        (
            ['small.py', '--without', 'scan,stem'],
            "there is no branch 'stem'; choose from scan, wavelet, local",
        ),
        (['b9'], 'there is no config file b9 here'),
        (['timm/resnet5'], "'resnet50' is close"),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_errors_are_short_and_before_any_work(config, tmp_path, capsys, words, message):
    (tmp_path / 'empty').mkdir()
    weights = build_network(Source(config), {'model.backbone.arch.embed_dims': (48, 64, 80)}).state_dict()
    torch.save(weights, 'other.pth')
    with pytest.raises(SystemExit) as end:
        erf.main(words)
    printed = capsys.readouterr()
    assert message in f'{end.value} {printed.err}'
    assert 'elapsed' not in printed.err and not list(tmp_path.glob('erf.png'))
