"""LiteRT, ExecuTorch and Core ML: files of every kind of network against PyTorch, and their converters."""

import sys
from functools import cache
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmmobilemamba.deployment import build, proof
from mmmobilemamba.deployment.errors import DeploymentError
from mmmobilemamba.deployment.graphs import graph_of
from mmmobilemamba.deployment.raw_graphs import make_raw_graph
from mmmobilemamba.deployment.targets import TARGETS, environment
from mmmobilemamba.deployment.targets.program import WithExactResize, nearest

from ..conftest import ROOT
from ..helpers import needs_export
from .networks import checkpoint_of, config_of

sys.path.append(str(ROOT / 'tools/deployment'))
from runtimes import RuntimeFileError, open_file

SUFFIXES = ('.tflite', '.pte', '.mlpackage')
NETWORKS = (
    ('classifier', False),
    ('classifier', True),
    ('retinanet', True),
    ('ssdlite', False),
    ('sem_fpn', True),  # its maps are resized by non-integer factors
)
REDUCED = [(suffix, precision) for suffix in SUFFIXES for precision in TARGETS[suffix].precisions]


@cache
def network(name, folder):
    """A small model of OpenMMLab, its task and its metadata."""
    config = config_of(name)
    model = build.load_model(config, checkpoint_of(name, folder))
    task = build.task_of(model)
    return model, task, build.describe(config, task, model)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('networks')


def convert(suffix, name, preprocess, folder, path, precision='float32'):
    """Convert a network; returns a session, the network, and a batch of two images."""
    target = TARGETS[suffix]
    if target.why_not(precision):
        pytest.skip(target.why_not(precision))
    model, task, about = network(name, folder)
    size = (224, 224) if task == 'detection' else (97, 75)
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    graph = make_raw_graph(model, task, image, target.segmentation)
    if preprocess:
        graph = build.with_preprocessing(graph, about, target.takes_pixels)
        image = proof.to_pixels(image, target.takes_pixels)
    about = dict(about, precision=precision, outputs=graph_of(graph).output_names)
    target.check(graph, size)
    target.write(graph, image, path, about, list(image[:, None].numpy()))
    return target.prove_session(path) or open_file(path, threads=1), graph, image


def errors(session, graph, image):
    """Largest relative errors of maps and boxes, and fractions of pixels with another class (list[float])."""
    with torch.no_grad():
        expected = dict(zip(graph_of(graph).output_names, graph(image)))
    found = {name: torch.from_numpy(np.array(value)) for name, value in session.run(image.numpy()).items()}
    assert list(found) == list(expected)
    assert [value.shape for value in found.values()] == [value.shape for value in expected.values()]
    return [
        proof.difference(value, found[name])
        if value.is_floating_point()
        else float((value != found[name]).float().mean())
        for name, value in expected.items()
    ]


@pytest.mark.deploy
@pytest.mark.parametrize(
    ('name', 'preprocess'), NETWORKS, ids=[f'{name}-{"pixels" * inside}' for name, inside in NETWORKS]
)
@pytest.mark.parametrize('suffix', SUFFIXES)
def test_equal_to_pytorch(suffix, name, preprocess, folder, tmp_path):
    found = errors(*convert(suffix, name, preprocess, folder, tmp_path / f'network{suffix}'))
    assert max(found) < 1e-4


@pytest.mark.deploy
@pytest.mark.parametrize(('suffix', 'precision'), REDUCED)
def test_reduced_precision(suffix, precision, folder, tmp_path):
    """Errors match the precision and are not zero; the file is smaller."""
    path = tmp_path / f'a{suffix}'
    session, graph, image = convert(suffix, 'classifier', False, folder, path, precision)
    found = errors(session, graph, image)
    values = sum(parameter.numel() for parameter in graph.parameters())
    # In such a small network, float32 parts and the graph itself are a third of the size.
    assert TARGETS[suffix].size(path) < 4 * values * (0.9 if precision == 'float16' else 0.7)
    assert 1e-5 < max(found) < (5e-3 if precision == 'float16' else 1e-1)


@pytest.mark.deploy
def test_int8_of_executorch_keeps_concatenations(tmp_path):
    """Only convolutions are quantised; coordinates of boxes in 8 bits would have steps of a pixel."""
    target = TARGETS['.pte']
    if target.why_not('int8'):
        pytest.skip(target.why_not('int8'))

    class Boxes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return (torch.cat([self.conv(x), 100 * x], dim=1),)

    torch.manual_seed(0)
    network, image, path = Boxes().eval(), torch.rand(1, 3, 8, 8), tmp_path / 'a.pte'
    with torch.no_grad():
        target.convert(network, image, path, 'int8', [image.numpy()])
        expected = network(image)[0]
    program = pytest.importorskip('executorch.runtime').Runtime.get().load_program(path)
    found = program.load_method('forward').execute([image])[0]
    errors = (found - expected).abs().flatten(2).amax((0, 2))
    assert errors[:3].min() > 1e-4 and errors[:3].max() < 0.02  # the convolution is in 8 bits
    assert errors[3:].max() < 1e-4


@pytest.mark.deploy
@pytest.mark.skipif(sys.platform == 'darwin', reason='runs there')
def test_core_ml_runs_on_macos_alone(tmp_path):
    (tmp_path / 'network.mlpackage').mkdir()
    with pytest.raises(RuntimeFileError, match='macOS'):
        open_file(tmp_path / 'network.mlpackage')


@pytest.mark.deploy
def test_unknown_operator_of_core_ml(tmp_path):
    """The message names it."""
    tools = pytest.importorskip('coremltools')
    program = torch.export.export(torch.nn.GELU(), (torch.zeros(1, 3, 4, 4),)).run_decompositions({})
    model = tools.convert(program, minimum_deployment_target=tools.target.iOS16, skip_model_load=True)
    path = tmp_path / 'network.mlpackage'
    model.save(str(path))
    with pytest.raises(DeploymentError, match='operator gelu of Core ML'):
        TARGETS['.mlpackage'].prove_session(path)


@pytest.mark.parametrize('size', range(1, 24))
def test_nearest(size):
    """The same pixels as in PyTorch."""
    for wanted in range(1, 60):
        x = torch.randn(2, size)
        assert torch.equal(x @ nearest(size, wanted), F.interpolate(x[None], wanted)[0])


@needs_export
def test_exact_resize():
    """Only nearest resizes by non-integer factors become products."""

    class Resize(torch.nn.Module):
        def forward(self, x):
            return F.interpolate(x, (7, 12), mode='nearest'), F.interpolate(x, scale_factor=2)

    x = torch.randn(1, 2, 4, 5)
    for found, expected in zip(WithExactResize(Resize())(x), Resize()(x)):
        assert torch.equal(found, expected)
    graph = torch.export.export(WithExactResize(Resize()), (x,), strict=False).graph
    kinds = [str(node.target) for node in graph.nodes]
    assert sum('upsample' in kind for kind in kinds) == 1 and sum('matmul' in kind for kind in kinds) == 2


@pytest.mark.slow
def test_environment(tmp_path, monkeypatch):
    """It has its own and its parent's packages, is created once, and does not exist after a failure."""
    monkeypatch.setenv('MMMOBILEMAMBA_CACHE', str(tmp_path / 'cache'))
    with pytest.raises(DeploymentError, match='environment of nothing could not be made'):
        environment.environment('nothing', ['--no-index', 'no-such-package'], '0 MB')
    assert list((tmp_path / 'cache').iterdir()) == []

    wheel = tmp_path / 'own-1.0-py3-none-any.whl'
    with ZipFile(wheel, 'w') as file:
        file.writestr('own.py', '')
        file.writestr('own-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\nName: own\nVersion: 1.0\n')
        file.writestr('own-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\nTag: py3-none-any\n')
        file.writestr('own-1.0.dist-info/RECORD', '')
    pins = ['--no-index', str(wheel)]
    python = environment.environment('own', pins, '0 MB')
    environment.step([python, '-c', 'import own, importlib.util as u; assert u.find_spec("mmengine")'], 'own')
    assert [path.name for path in (tmp_path / 'cache').iterdir()] == [Path(python).parents[1].name]

    monkeypatch.setattr(environment, 'make', None)
    assert environment.environment('own', pins, '0 MB') == python
