"""Files for mobile runtimes: output, comparison and errors; MNN, and ncnn if installed."""

import copy
import functools
import hashlib
import io
import json
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmmobilemamba import MobileMamba
from mmmobilemamba.deployment import build, proof
from mmmobilemamba.deployment.errors import DeploymentError
from mmmobilemamba.deployment.graphs import BackboneGraph
from mmmobilemamba.deployment.scan_effect import LEAST, awakened, scan_effect
from mmmobilemamba.deployment.targets import TARGETS, mnn, target_of
from mmmobilemamba.deployment.targets.target import call
from mmmobilemamba.models.layers import SS2D
from mmmobilemamba.utils import read_config

from ..conftest import ROOT, image_for, load_script, relative_error
from ..helpers import SHALLOW, randomise
from .networks import NO_CHECKPOINT, checkpoint_of, config_of

tool = load_script('tools/deployment/export.py')
runtimes = load_script('tools/deployment/runtimes.py')


def if_installed(suffix):
    """A test case for a runtime, skipped if packages are missing."""
    reason = TARGETS[suffix].why_not() or ''
    return pytest.param(suffix, marks=pytest.mark.skipif(bool(reason), reason=reason))


# Runtimes whose converters take seconds.
SMALL_RUNTIMES = [if_installed(suffix) for suffix in ('.mnn', '.ncnn')]


@pytest.fixture
def graph():
    """A deployed backbone whose scans affect its outputs."""
    return backbone_graph()


def backbone_graph():
    """The same for fixtures of modules."""
    torch.manual_seed(0)
    backbone = randomise(MobileMamba(SHALLOW, out_indices=(1, 2))).eval().requires_grad_(False)
    backbone.switch_to_deploy()
    return awakened(BackboneGraph(backbone), image_for((1, 3, 64, 80)))


def about_of(**others):
    about = dict(task='backbone', mean=[10.0, 20.0, 30.0], std=[50.0, 60.0, 70.0], channels='RGB')
    about.update(size=[64, 80], preprocessed=False, precision='float32')
    about['input'] = dict(layout='NCHW', dtype='float32')
    return dict(about, **others)


@pytest.fixture(scope='module')
def write(tmp_path_factory):
    """A function of a suffix that writes the graph above once; returns the path."""

    @functools.cache
    def write_once(suffix):
        path = tmp_path_factory.mktemp('written') / f'network{suffix}'
        TARGETS[suffix].write(backbone_graph(), image_for((2, 3, 64, 80)), path, about_of())
        return path

    return write_once


@pytest.mark.parametrize('suffix', SMALL_RUNTIMES)
@pytest.mark.parametrize('inside', [False, True])
def test_written_files(graph, write, suffix, inside, tmp_path):
    """Results equal PyTorch's, for batches and with the normalisation inside."""
    target, image, about = TARGETS[suffix], image_for((2, 3, 64, 80)), about_of()
    if inside:
        pixels = target.takes_pixels
        about = about_of(preprocessed=True)
        about['input'] = dict(layout='NHWC' if pixels else 'NCHW', dtype='uint8' if pixels else 'float32')
        graph = build.with_preprocessing(graph, dict(about, channels='BGR'), pixels)
        image, path = proof.to_pixels(image, pixels), tmp_path / f'network{suffix}'
        target.write(graph, image, path, about)
    else:
        path = write(suffix)
    assert sorted(path.parent.iterdir()) == sorted(target.parts(path))
    written = json.loads(target.parts(path)[-1].read_text())
    shapes = [[64, 2, 3], [80, 1, 2]]
    hashes = [hashlib.sha256(part.read_bytes()).hexdigest() for part in target.parts(path)[:-1]]
    assert written == {**about, 'outputs': ['stage1', 'stage2'], 'shapes': shapes, 'sha256': hashes}
    session = runtimes.open_file(path, threads=1)
    assert session.about == written
    for picture in (image, image[:1]):
        found = session.run(picture.numpy())
        assert list(found) == ['stage1', 'stage2']
        for name, expected in zip(found, graph(picture)):
            assert relative_error(torch.from_numpy(found[name]), expected) < 1e-5


@pytest.mark.parametrize('suffix', SMALL_RUNTIMES)
def test_files_of_two_exports(graph, write, suffix, tmp_path):
    """Mixed files, and inputs of a wrong shape or dtype, are refused; some runtimes accept them silently."""
    target, image = TARGETS[suffix], image_for((2, 3, 64, 80))
    path, other = (tmp_path / folder / f'network{suffix}' for folder in 'ab')
    shutil.copytree(write(suffix).parent, path.parent)
    other.parent.mkdir()
    next(graph.parameters()).data.mul_(1.5)
    target.write(graph, image, other, about_of())
    session = runtimes.open_file(path, threads=1)
    for batch in (image[:, :, :32], image.double(), image[:, :1], (image * 50 + 120).byte()):
        with pytest.raises(
            runtimes.RuntimeFileError, match=r'takes batches of float32, \(N, 3, 64, 80\), and not'
        ):
            session.run(batch.numpy())
    weights = target.parts(path)[-2]
    shutil.copy(target.parts(other)[-2], weights)
    with pytest.raises(runtimes.RuntimeFileError, match=rf'{weights.name} is not the file that'):
        runtimes.open_file(path)
    target.parts(path)[-1].write_text('[]')
    with pytest.raises(runtimes.RuntimeFileError, match=r'does not describe network'):
        runtimes.open_file(path)


@pytest.mark.parametrize('suffix', ['.onnx', *SMALL_RUNTIMES, '.xml', '.mlpackage'])
def test_what_is_not_ours_is_not_replaced(suffix, classifier, tmp_path, monkeypatch):
    """A folder named like OUT, or a file named like a part of it, is an error before any computation."""
    monkeypatch.setattr(tool, 'prepare', None)
    target = TARGETS.get(suffix)
    if target and target.why_not():
        pytest.skip(target.why_not())
    out = tmp_path / f'a{suffix}'
    folder = target.parts(out)[0] if target else out
    folder.mkdir()
    (folder / 'notes.txt').write_text('precious')
    with pytest.raises(SystemExit, match=rf'{folder.name} is a folder: choose another OUT'):
        tool.main([*classifier, str(out)])
    assert (folder / 'notes.txt').read_text() == 'precious'
    shutil.rmtree(folder)
    if target and len(target.parts(out)) > 2:
        target.parts(out)[1].write_text('of another program')
        with pytest.raises(SystemExit, match=r'would be replaced, and belongs to something else'):
            tool.main([*classifier, str(out)])


def test_a_converter_that_fails_leaves_nothing(tmp_path, monkeypatch):
    """MNN's converter leaves a file in its working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mnn, 'write_onnx', lambda form, image, path: path.touch())
    monkeypatch.setattr(mnn, 'CONVERTER', 'open("kept.bin", "w"); raise SystemExit("it is broken")')
    with pytest.raises(DeploymentError, match='it is broken'):
        TARGETS['.mnn'].convert(None, None, Path('network.mnn'), 'float32', ())
    assert list(tmp_path.iterdir()) == []


def test_interrupted(classifier, tmp_path, monkeypatch):
    """Existing files are kept."""
    out = tmp_path / 'a.onnx'
    out.write_text('of the user')

    def interrupt(exporter, graph, about, image, path):
        path.write_text('half of a file')
        raise KeyboardInterrupt

    arguments = [*classifier, str(out), '--size', '64']
    monkeypatch.setattr(type(tool.make_exporter(tool.parse_args(arguments))), 'make', interrupt)
    with pytest.raises(SystemExit, match=r'a\.onnx was not written: the export was interrupted'):
        tool.main(arguments)
    assert [path.read_text() for path in tmp_path.iterdir()] == ['of the user']


@pytest.mark.parametrize('suffix', SMALL_RUNTIMES)
@pytest.mark.parametrize('bias', [-12.0, 100.0])
def test_step_sizes(graph, suffix, bias, tmp_path):
    """Small step sizes, and those whose exponential overflows in float32."""
    for module in graph.modules():
        if isinstance(module, SS2D):
            module.dt_proj_bias.data += bias
    target, path, image = TARGETS[suffix], tmp_path / f'network{suffix}', image_for((1, 3, 64, 80))
    target.write(graph, image.repeat(2, 1, 1, 1), path, about_of())
    found = runtimes.open_file(path, threads=1).run(image.numpy())
    for name, expected in zip(found, graph(image)):
        assert relative_error(torch.from_numpy(found[name]), expected) < 1e-5


def run_tool(config, folder, out, *options):
    """Export with the tool; returns the path of the output."""
    tool.main([*config, str(folder / out), *options])
    return folder / out


@pytest.fixture(scope='module')
def exported(classifier, tmp_path_factory):
    """A function of a suffix that exports the classifier once; returns the path and what the tool printed."""

    @functools.cache
    def export(suffix):
        # Words that are searched for in converter outputs.
        folder = tmp_path_factory.mktemp('exported') / 'unsupported: failed'
        folder.mkdir()
        with redirect_stdout(io.StringIO()) as said:
            out = run_tool(classifier, folder, f'network{suffix}', '--size', '64')
        return out, said.getvalue()

    return export


@pytest.mark.parametrize('suffix', SMALL_RUNTIMES)
def test_the_tool(suffix, classifier, exported):
    """The files exported from a config and a checkpoint are as accurate as the tool reports."""
    out, said = exported(suffix)
    assert f'network{suffix}: classification' in said and 'a batch of 3, 3x3x64x64:' in said
    assert 'random weights' not in said  # the scans affect the outputs
    assert sorted(out.parent.iterdir()) == sorted(TARGETS[suffix].parts(out))
    session = runtimes.open_file(out, threads=1)
    assert session.about['outputs'] == ['logits'] and session.about['shapes'] == [[10]]
    assert session.about['input'] == dict(layout='NCHW', dtype='float32')
    assert session.about['size'] == [64, 64] and len(session.about['labels']) == 10
    model = tool.build.load_model(read_config(classifier[0]), classifier[1])
    image = image_for((2, 3, 64, 64))
    found = session.run(image.numpy())['logits']
    assert relative_error(torch.from_numpy(found), model(image, mode='tensor')) < 1e-5


@pytest.mark.parametrize('suffix', SMALL_RUNTIMES)
def test_float16(suffix, classifier, exported, short_timing, tmp_path, capsys):
    """The file has half the size, replaces the earlier one, and has the precision in its metadata."""
    full, _ = exported(suffix)
    shutil.copytree(full.parent, tmp_path, dirs_exist_ok=True)
    out = run_tool(classifier, tmp_path, full.name, '--size', '64', '--fp16')
    said = capsys.readouterr().out
    assert 'float16 against float32, both in' in said and ', made of one in float32' in said
    assert TARGETS[suffix].size(out) < 0.65 * TARGETS[suffix].size(full)
    assert runtimes.open_file(out).about['precision'] == 'float16'
    assert sorted(tmp_path.iterdir()) == sorted(TARGETS[suffix].parts(out))


@pytest.mark.parametrize('suffix', SMALL_RUNTIMES)
def test_classes_of_a_segmentor(suffix, tmp_path):
    """Only classes, unless logits are requested or the runtime has no suitable argmax."""
    pytest.importorskip('mmseg')
    config = tmp_path / 'config.py'
    config_of('sem_fpn').dump(config)
    arguments = [str(config), str(checkpoint_of('sem_fpn', tmp_path))]
    out = run_tool(arguments, tmp_path, f'network{suffix}', '--size', '64')
    session = runtimes.open_file(out, threads=1)
    model = tool.build.load_model(read_config(arguments[0]), arguments[1])
    logits = model.encode_decode(image_for((1, 3, 64, 64)), [dict(img_shape=(64, 64))])
    found = session.run(image_for((1, 3, 64, 64)).numpy())
    if suffix == '.ncnn':
        assert list(found) == ['logits']
        assert relative_error(torch.from_numpy(found['logits']), logits) < 1e-5
    else:
        assert list(found) == ['classes'] and found['classes'].dtype == np.int32
        assert (found['classes'] == logits.argmax(1).numpy()).mean() > 0.999


def test_a_file_that_differs_is_not_written(classifier, tmp_path, monkeypatch):
    """A conversion with one wrong weight is refused, and existing files are kept."""
    target = TARGETS['.mnn']
    if target.why_not():
        pytest.skip(target.why_not())
    convert = target.convert

    def wrong(form, *others):
        [p for p in form.parameters() if p.ndim == 2][-1].mul_(1.01)
        convert(form, *others)

    monkeypatch.setattr(target, 'convert', wrong)
    (tmp_path / 'network.mnn').write_text('of the user')
    with pytest.raises(SystemExit, match=r'network.mnn was not written. It would differ from PyTorch by'):
        run_tool(classifier, tmp_path, 'network.mnn', '--size', '64')
    assert [path.read_text() for path in tmp_path.iterdir()] == ['of the user']


def test_other_weights_where_scans_do_not_show(capsys):
    """For example in an untrained network, whose residual branches are zero."""
    backbone = MobileMamba(SHALLOW).eval().requires_grad_(False)
    backbone.switch_to_deploy()
    graph, image = BackboneGraph(backbone), image_for((2, 3, 64, 80))
    assert scan_effect(graph, image) == 0
    assert scan_effect(awakened(graph, image), image) > LEAST
    made = []

    class Exporter:
        """Computes the same as PyTorch except for the scans."""

        def make(self, graph, about, image, path):
            made.append(graph)
            forgetful = Forgetful(graph)
            return lambda image: (forgetful(image), [])

    args = Exporter(), graph, about_of(), image, 'path'
    assert tool.compare(graph, Exporter().make(*args[1:]), about_of(), (64, 80)) < 1e-5
    assert tool.compare_awakened(*args) > proof.TOLERANCE
    assert made[-1] is not graph
    assert 'the scans change the maps by 0.0e+00 alone' in capsys.readouterr().out
    assert tool.compare_awakened(args[0], awakened(graph, image), *args[2:]) == 0 and len(made) == 2


class Forgetful(nn.Module):
    """A graph whose scans only use the current step."""

    def __init__(self, graph):
        super().__init__()
        self.graph = copy.deepcopy(graph)
        for module in self.graph.modules():
            if isinstance(module, SS2D):
                module.A_log.fill_(20.0)

    def forward(self, image):
        return self.graph(image)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            ['x.ncnn', '--int8', '.'],
            '--int8 is for files of ONNX, MNN, OpenVINO, LiteRT, ExecuTorch, Core ML, and not of ncnn',
        ),
        (['x.mnn', '--dynamic'], '--dynamic is for files of ONNX'),
        (['x.mnn', '--topk', '3'], '--topk is for .onnx and .pt2: a file for MNN gives the logits of all'),
        (['x', '--to', 'exe'], "invalid choice: 'exe'"),
        (['x'], 'OUT must end in .onnx, .pt2, .ncnn, .mnn, .xml, .tflite, .pte, .mlpackage, not x'),
    ],
)
def test_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool.main([*NO_CHECKPOINT, *arguments])
    assert message in capsys.readouterr().err


def test_the_kind_by_name():
    parse = [*NO_CHECKPOINT]
    assert tool.parse_args([*parse, 'network', '--to', 'mnn']).out.name == 'network.mnn'
    assert tool.parse_args([*parse, 'v1.2', '--to', 'ncnn']).out.name == 'v1.2.ncnn'
    assert tool.parse_args([*parse, 'network.mnn', '--to', 'mnn']).out.name == 'network.mnn'


def test_missing_packages(monkeypatch, tmp_path):
    """They are listed with the command that installs them, before the checkpoint is read."""
    monkeypatch.setattr('mmmobilemamba.deployment.targets.target.find_spec', lambda name: None)
    with pytest.raises(
        SystemExit, match=r'For ncnn it needs ncnn, pnnx: python -m pip install ncnn==.* pnnx=='
    ):
        tool.main([*NO_CHECKPOINT, str(tmp_path / 'network.ncnn')])


@pytest.mark.parametrize('target', TARGETS.values(), ids=lambda target: target.name)
def test_pins(target):
    """Pins in messages equal those in requirements/deploy-*.txt."""
    name = target.name.lower().replace(' ', '')
    lines = (ROOT / f'requirements/deploy-{name}.txt').read_text().splitlines()
    assert lines[0].startswith(f'# export OUT{target.suffix}: ')
    assert tuple(lines[1:]) == target.pins


def test_a_converter_that_fails():
    with pytest.raises(DeploymentError, match=r'(?s)failed with status 3:.*the last line'):
        call([sys.executable, '-c', 'print("the last line"); raise SystemExit(3)'])


def test_two_stages_are_refused(tmp_path):
    pytest.importorskip('mmdet')
    config = tmp_path / 'config.py'
    config_of('mask_rcnn').dump(config)
    if TARGETS['.mnn'].why_not():
        pytest.skip(TARGETS['.mnn'].why_not())
    with pytest.raises(SystemExit, match=r'MaskRCNN looks at the boxes .* choose an OUT that ends in .onnx'):
        run_tool([str(config), str(checkpoint_of('mask_rcnn', tmp_path))], tmp_path, 'x.mnn', '--size', '224')


def test_files_that_cannot_be_opened(tmp_path):
    """The message names the file and says what to do."""
    for name, message in {
        'network.exe': r'must end in .onnx, .ncnn',
        'network.mnn': r'There is no file .*network.mnn',
        'network.ncnn': r'There is no file .*network.ncnn.param',
    }.items():
        with pytest.raises(runtimes.RuntimeFileError, match=message):
            runtimes.open_file(tmp_path / name)
    assert target_of(tmp_path / 'network.ncnn') is TARGETS['.ncnn'] and target_of('network.exe') is None
