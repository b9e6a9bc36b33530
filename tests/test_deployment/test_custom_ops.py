"""Exports with operators of this package for ONNX Runtime."""

import platform
import re
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytest.importorskip('mmpretrain')

from mmmobilemamba import MobileMamba  # noqa: E402
from mmmobilemamba.deployment import build, custom_ops, onnx_file  # noqa: E402
from mmmobilemamba.deployment.errors import DeploymentError  # noqa: E402
from mmmobilemamba.models import set_backend  # noqa: E402
from mmmobilemamba.ops.cpu import library  # noqa: E402
from mmmobilemamba.ops.cpu.build import BuildError  # noqa: E402
from mmmobilemamba.utils import read_config  # noqa: E402

from ..conftest import load_script, noise_for, relative_error  # noqa: E402
from ..helpers import ODD  # noqa: E402
from .networks import NO_CHECKPOINT  # noqa: E402

tool = load_script('tools/deployment/export.py')
graph_exporter = load_script('tools/deployment/graph_exporter.py')
runtimes = load_script('tools/deployment/runtimes.py')
NAME = f'mmmobilemamba_ops-{platform.system()}-{platform.machine()}.so'.lower()

needs_library = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))


@pytest.fixture(scope='module')
def exported(classifier, tmp_path_factory):
    """A file for any size, its folder has the library as well (Path)."""
    out = tmp_path_factory.mktemp('custom') / 'network.onnx'
    tool.main([*classifier, str(out), '--dynamic', '--custom-ops'])
    return out


@needs_library
def test_equal_to_naive(exported, classifier):
    """Logits of other batches and sizes, on one and two threads; the metadata name the operators."""
    assert sorted(path.name for path in exported.parent.iterdir()) == sorted([NAME, 'network.onnx'])
    counts = onnx_file.operators(onnx.load(exported), custom_ops=True)
    found = {name: count for name, count in counts.items() if '.' in name}
    assert found == {f'mmmobilemamba.{name}': 3 for name in ('SelectiveScan', 'NormGate', 'HaarFilter')}
    assert not {'Scan', 'Exp', 'ConvTranspose'} & set(counts)
    with pytest.raises(RuntimeError, match='of mmmobilemamba is no standard operator'):
        onnx_file.operators(onnx.load(exported))
    model = build.load_model(read_config(classifier[0]), classifier[1])
    set_backend(model, 'naive')
    for threads, shape in ((1, (1, 3, 64, 64)), (2, (3, 3, 97, 75)), (2, (2, 3, 130, 64))):
        session, image = runtimes.open_file(exported, threads), noise_for(shape, 0)
        assert session.about['custom_ops'] == dict(domain='mmmobilemamba', version=1)
        with torch.no_grad():
            expected = model(image, mode='tensor')
        assert relative_error(torch.from_numpy(session.run(image.numpy())['logits']), expected) < 1e-5


@needs_library
def test_int8(classifier, short_timing, tmp_path, capsys):
    """The same convolutions are quantised as without the operators, which hide the types of tensors."""
    image = noise_for((4, 3, 64, 64), 0)
    pictures = tmp_path / 'pictures'
    pictures.mkdir()
    for index, pixels in enumerate((image * 40 + 128).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(pixels).save(pictures / f'{index}.png')
    files = [tmp_path / name / 'network.onnx' for name in ('custom', 'standard')]
    for path, flags in zip(files, (['--custom-ops'], [])):
        path.parent.mkdir()
        tool.main([*classifier, str(path), *flags, '--int8', str(pictures)])
    assert re.search(r'4 images of \S+: error \d\.\de-0[2-4], ', capsys.readouterr().out)
    assert sorted(path.name for path in files[0].parent.iterdir()) == sorted([NAME, 'network.onnx'])
    custom, standard = (quantised(onnx.load(path)) for path in files)
    assert len(custom) == 61 and custom == standard
    counts = onnx_file.operators(onnx.load(files[0]), custom_ops=True)
    assert {counts[f'mmmobilemamba.{name}'] for name in ('SelectiveScan', 'NormGate', 'HaarFilter')} == {3}
    found, expected = (runtimes.open_file(path, 1) for path in files)
    assert found.about['precision'] == 'int8' and found.about['custom_ops']['version'] == 1
    difference = relative_error(
        *(torch.from_numpy(x.run(image.numpy())['logits']) for x in (found, expected))
    )
    assert 0 < difference < 0.02


def quantised(proto):
    """Shapes of the 8-bit weights of convolutions (list)."""
    shapes = {x.name: tuple(x.dims) for x in proto.graph.initializer if x.data_type == onnx.TensorProto.INT8}
    makers = {name: node for node in proto.graph.node for name in node.output}
    weights = [makers.get(node.input[1]) for node in proto.graph.node if node.op_type == 'Conv']
    return sorted(shapes[node.input[0]] for node in weights if node is not None and node.input[0] in shapes)


@needs_library
def test_the_library_is_missing_or_broken(exported, tmp_path):
    path = tmp_path / 'network.onnx'
    path.write_bytes(exported.read_bytes())
    with pytest.raises(
        runtimes.RuntimeFileError, match=rf'^network\.onnx has operators .* there is no .*{NAME}'
    ):
        runtimes.open_file(path)
    (tmp_path / NAME).write_bytes(b'of another platform')
    with pytest.raises(runtimes.RuntimeFileError, match=rf'^\S*{NAME} cannot be loaded for network\.onnx: '):
        runtimes.open_file(path)
    path.write_bytes(b'mmmobilemamba: no network')
    with pytest.raises(runtimes.RuntimeFileError, match='cannot open'):
        runtimes.open_file(path)


@needs_library
def test_the_library_is_of_another_release(exported, tmp_path):
    model = onnx.load(exported)
    next(node for node in model.graph.node if node.op_type == 'NormGate').op_type = 'Later'
    onnx.save(model, tmp_path / 'network.onnx')
    (tmp_path / NAME).write_bytes((exported.parent / NAME).read_bytes())
    with pytest.raises(
        runtimes.RuntimeFileError, match=rf'{NAME} lacks an operator of network\.onnx, .*Later'
    ):
        runtimes.open_file(tmp_path / 'network.onnx')


@needs_library
def test_in_the_working_directory(exported, monkeypatch):
    monkeypatch.chdir(exported.parent)
    assert runtimes.open_file('network.onnx').about['custom_ops']['domain'] == 'mmmobilemamba'


def test_layers_without_a_kernel():
    """A wavelet convolution of another size stays in standard operators; a network needs a conversion."""
    backbone = MobileMamba(dict(ODD, kernel_sizes=(7, 9, 3)))
    with pytest.raises(DeploymentError, match='no layer to which --custom-ops applies'):
        custom_ops.with_custom_ops(backbone)
    backbone.switch_to_deploy()
    form = custom_ops.with_custom_ops(backbone)
    kinds = [type(module) for module in form.modules()]
    assert kinds.count(custom_ops.CustomSS2D) == 4 and kinds.count(custom_ops.CustomWTEMamba) == 2


@pytest.mark.parametrize('flags', [['a.ncnn'], ['a.pt2'], ['a.onnx', '--fp16']])
def test_refused_at_once(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        tool.main([*NO_CHECKPOINT, *flags, '--custom-ops'])
    assert '--custom-ops is for files of ONNX in float32 or int8' in capsys.readouterr().err


def test_a_folder_at_the_place_of_the_library(tmp_path):
    """Said before the network is read; without the option, it does not matter."""
    (tmp_path / NAME).mkdir()
    with pytest.raises(SystemExit, match=rf'{NAME} is a folder: choose another OUT\.$'):
        tool.main([*NO_CHECKPOINT, str(tmp_path / 'a.onnx'), '--custom-ops'])
    with pytest.raises(SystemExit, match=r'none\.pth was not exported'):
        tool.main([*NO_CHECKPOINT, str(tmp_path / 'a.onnx')])


@needs_library
def test_interrupted_while_the_library_is_copied(exported, tmp_path, monkeypatch):
    """Neither file of an earlier export changes, whether one or both are there."""
    exporter = graph_exporter.OnnxExporter(SimpleNamespace(custom_ops=True))
    exporter.find_operators()
    folder = tmp_path / 'temporary'
    folder.mkdir()
    (folder / 'a.onnx').write_bytes(exported.read_bytes())

    def interrupt(source, target):
        target.write_bytes(source.read_bytes()[:100])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(graph_exporter.shutil, 'copyfile', interrupt)
        for former in (tmp_path / NAME, tmp_path / 'a.onnx'):
            former.write_text('former')
            with pytest.raises(KeyboardInterrupt):
                exporter.move(folder / 'a.onnx', tmp_path / 'a.onnx')
            found = [path for path in tmp_path.iterdir() if path.is_file()]
            assert former in found and {path.read_text() for path in found} == {'former'}
    exporter.move(folder / 'a.onnx', tmp_path / 'a.onnx')
    assert runtimes.open_file(tmp_path / 'a.onnx').about['custom_ops']['domain'] == 'mmmobilemamba'


def test_without_a_compiler(monkeypatch):

    def fail():
        raise BuildError('there is no C++ compiler')

    monkeypatch.setattr(graph_exporter, 'find_library', fail)
    exporter = graph_exporter.OnnxExporter(SimpleNamespace(custom_ops=True))
    with pytest.raises(DeploymentError, match=r'operators cannot be built: there is no C\+\+ compiler\.$'):
        exporter.find_operators()
