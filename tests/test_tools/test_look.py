"""Figures of maps, sub-bands and the scan, from the command line and as objects."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmpretrain')
pytest.importorskip('timm')

from mmmobilemamba.analysis import global_input, pca_colors, scan_states, sub_bands
from mmmobilemamba.analysis.figures import band_figure, erf_figure, scan_figure, stage_figure
from mmmobilemamba.analysis.networks import Source, build_network

from ..conftest import load_script
from .test_erf import CONFIG

look = load_script('tools/visualizations/look.py')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A config of a small classifier and two images in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'small.py').write_text(CONFIG)
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)):
        Image.fromarray(pixels).save(f'{index}.png')
    return tmp_path


def drawn(figure):
    """Arrays in the axes of a figure, row by row, without colour bars."""
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


def test_three_pictures(folder, capsys):
    look.main(
        ['small.py', '--images', '0.png', '1.png', '--size', '128', '--block', '1', '0', '--out', 'a/b']
    )
    names = ['stages.png', 'bands.png', 'scan.png']
    assert [line.rpartition('/')[2] for line in capsys.readouterr().out.split()] == names
    for name in names:
        with Image.open(folder / 'a/b' / name) as picture:
            assert min(picture.size) > 200


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp('look') / 'small.py'
    path.write_text(CONFIG)
    return build_network(Source(str(path)))


def test_figures_show_what_is_computed(network):
    """Images are on the left, followed by one panel for each value, in order."""
    images = torch.rand(2, 3, 96, 128)
    x = global_input(network.backbone, network.normalise(images), 1, 0)
    branch = network.backbone.stages[1].blocks[0].mixer.fn.global_op
    bands, scan = sub_bands(branch, x), scan_states(branch.ss2d, x)
    for figure, values in ((band_figure(images, *bands), bands), (scan_figure(images, *scan), scan)):
        rows = drawn(figure)
        columns = 1 + sum(value.shape[1] for value in values)
        assert len(rows) == 2 * columns
        for index in range(2):
            found = rows[index * columns : (index + 1) * columns]
            assert np.allclose(found[0], images[index].permute(1, 2, 0))
            strengths = torch.cat([value[index].double().square().mean(1).sqrt() for value in values])
            assert np.allclose(np.stack(found[1:]), strengths)


def test_maps_of_stages(network):
    images = torch.rand(2, 3, 128, 128)
    maps = look.stage_maps(network, images)
    assert list(maps) == ['stage 0, stride 16', 'stage 1, stride 32', 'stage 2, stride 64']
    shown = drawn(stage_figure(images, maps))
    assert len(shown) == 2 * 4
    for index, values in enumerate(maps.values()):
        colors, _ = pca_colors(values)
        assert np.allclose(shown[1 + index], colors[0]) and np.allclose(shown[5 + index], colors[1])


def test_a_gray_image_is_shown(network):
    assert len(drawn(stage_figure(torch.rand(1, 1, 64, 64), {'map': torch.rand(1, 8, 4, 4)}))) == 2


def test_fields_have_one_scale():
    """Each field is relative to its largest value."""
    fields = {'a, b': {'0': np.eye(16) + 1e-9, '1': 5 * np.eye(16) + 1}, 'a, c, d': {'0': np.ones((16, 16))}}
    figure = erf_figure(fields)
    shown = drawn(figure)
    assert [image.max() for image in shown] == [1, 1, 1]
    assert [image.min() for image in shown] == pytest.approx([1e-4, 1 / 6, 1])
    panels = [axes for axes in figure.axes if axes.images]
    assert {(axes.images[0].norm.vmin, axes.images[0].norm.vmax) for axes in panels} == {(1e-4, 1)}
    assert [axes.get_title() for axes in panels] == ['0', '1', '0']
    assert [axes.get_ylabel() for axes in panels] == ['b', '', 'c,\nd']
    assert figure.get_suptitle().endswith('; a, image of 16 x 16 px')
    assert panels[2].get_xlabel() == '50 % in 13 px, 99 % in 17 px'


def test_fields_of_one_stage_are_in_one_line():
    fields = {name: {'last': np.ones((8, 8))} for name in ('a', 'a, without b')}
    panels = [axes for axes in erf_figure(fields).axes if axes.images]
    assert [axes.get_title() for axes in panels] == ['as it is\nlast', 'without b\nlast']
    assert panels[0].get_position().y0 == pytest.approx(panels[1].get_position().y0)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (
            ['timm/resnet10t'],
            'The backbone of timm/resnet10t is a FeatureListNet; look.py is for MobileMamba',
        ),
        (
            ['small.py', '--block', '0', '3'],
            'no block 3 in a stage 0: the network has 1 in stage 0, 2 in stage 1',
        ),
        (['small.py', '--images', 'none.png'], 'There is no picture or folder none.png'),
        (['small.py', '--size', '0'], '--size takes one side or HEIGHT WIDTH'),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_errors_are_short(folder, capsys, words, message):
    with pytest.raises(SystemExit) as end:
        look.main([*words, '--out', 'a'])
    assert message in f'{end.value} {capsys.readouterr().err}'
    assert not (folder / 'a').exists()
