"""Traces, exported programs and ONNX files, created with PyTorch's functions.

The functions are called as for any other network, without selecting a backend.
"""

import warnings

import pytest
import torch

from mmmobilemamba import MobileMamba
from mmmobilemamba.ops import available_backends, select_backend, tracing

from ..conftest import image_for, relative_error
from ..helpers import SMALL, randomise

BOUND = 1e-5
# The first size is used for tracing. PyTorch specialises sides of 1, as in the bands of the last map, so
# images need more than 128 px per side.
SIZES = [(2, 3, 144, 160), (1, 3, 70, 101), (3, 3, 200, 135)]
TINY = dict(SMALL, depths=(1, 1, 1))
TELLS = hasattr(torch.compiler, 'is_exporting')
needs_export = pytest.mark.skipif(not TELLS, reason='needs torch 2.7, which tells what is exported')
FORMS = pytest.mark.parametrize('deployed', [False, True], ids=['trained', 'deployed'])


def network(deployed=False, arch=TINY, **kwargs):
    backbone = randomise(MobileMamba(arch, out_indices=(0, 1, 2), **kwargs))
    if deployed:
        backbone.switch_to_deploy()
    return backbone


@torch.no_grad()
def largest_error(run, backbone, sizes=SIZES):
    """Largest error over all maps of images of these sizes."""
    images = [image_for(size) for size in sizes]
    return max(relative_error(x, y) for image in images for x, y in zip(run(image), backbone(image)))


@FORMS
@pytest.mark.parametrize('gradients', [False, True])
@pytest.mark.parametrize('backend', ['auto', 'torch', 'export'])
def test_a_trace_is_for_any_size(deployed, gradients, backend):
    """PyTorch's check passes without a warning, because no size is read."""
    if backend not in ('auto', *available_backends()):
        pytest.skip(f'no {backend} here')
    backbone = network(deployed, scan_backend=backend)
    with warnings.catch_warnings(), torch.set_grad_enabled(gradients):
        warnings.simplefilter('error', torch.jit.TracerWarning)
        traced = torch.jit.trace(backbone, image_for(SIZES[0]))
    assert largest_error(traced, backbone) < BOUND


def test_a_trace_learns():
    """Gradients of a trace equal those of the network."""
    backbone, image = network(), image_for(SIZES[0])
    traced = torch.jit.trace(backbone, image)
    grads = []
    for run in (backbone, traced):
        backbone.zero_grad()
        run(image)[2].square().mean().backward()
        grads.append([p.grad for p in backbone.parameters() if p.grad is not None])
    for found, expected in zip(*reversed(grads)):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')  # because batch norm reads the batch size
@pytest.mark.parametrize('gradients', [False, True])
def test_a_trace_of_training(gradients):
    backbone = network().train()
    image = image_for((2, 3, 128, 128))
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(backbone, image)
        assert relative_error(traced(image)[0].detach(), backbone(image)[0].detach()) < BOUND


def test_a_named_kernel_is_refused_in_a_trace():
    """The kernel would be missing where the trace runs."""
    with pytest.raises(RuntimeError, match=r"'cpp' cannot run: a traced or exported graph .*backend='auto'"):
        torch.jit.trace(network(scan_backend='cpp'), image_for(SIZES[0]))


def test_scripting_is_refused_by_name():
    with pytest.raises(TypeError, match=r'cannot be scripted\. Call torch\.jit\.trace'):
        torch.jit.script(torch.nn.Sequential(network()))


def onnx_session(path, bound_on_nodes):
    onnx, onnxruntime = pytest.importorskip('onnx'), pytest.importorskip('onnxruntime')
    graph = onnx.load(path).graph
    assert len(graph.node) < bound_on_nodes
    assert sum(node.op_type in ('Loop', 'Scan') for node in graph.node) == sum(TINY['depths'])
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    (name,) = (x.name for x in session.get_inputs())
    return lambda image: session.run(None, {name: image.numpy()})


@FORMS
@pytest.mark.parametrize('opset', [11, 13, 17])
@pytest.mark.filterwarnings('ignore')
def test_the_older_exporter(tmp_path, deployed, opset):
    """With gradients enabled, as in scripts without `torch.no_grad()`. Opset 11 is mmdeploy's default."""
    pytest.importorskip('onnx')
    backbone, path = network(deployed), str(tmp_path / 'network.onnx')
    names = ['image', 'stage0', 'stage1', 'stage2']
    free = {name: {0: 'batch', 2: f'{name}_height', 3: f'{name}_width'} for name in names}
    options = dict(input_names=names[:1], output_names=names[1:], dynamic_axes=free, opset_version=opset)
    if hasattr(torch.onnx, 'ONNXProgram'):  # only if there are two exporters
        options['dynamo'] = False
    torch.onnx.export(backbone, (image_for(SIZES[0]),), path, **options)
    assert largest_error(onnx_session(path, bound_on_nodes=2000), backbone) < BOUND


@needs_export
@pytest.mark.parametrize(('deployed', 'free'), [(False, ()), (False, (0, 2, 3)), (True, (0, 2, 3))])
@pytest.mark.filterwarnings('ignore')
def test_the_newer_exporter(tmp_path, deployed, free):
    pytest.importorskip('onnxscript')
    backbone, path = network(deployed), str(tmp_path / 'network.onnx')
    shapes = (dict.fromkeys(free, torch.export.Dim.DYNAMIC),) if free else None
    options = dict(dynamo=True, dynamic_shapes=shapes, verbose=False)
    torch.onnx.export(backbone, (image_for(SIZES[0]),), path, **options)
    sizes = SIZES if free else SIZES[:1]
    assert largest_error(onnx_session(path, bound_on_nodes=600), backbone, sizes) < BOUND


@needs_export
@pytest.mark.parametrize(('deployed', 'strict'), [(False, False), (True, True)])
def test_an_exported_program(deployed, strict):
    """It has no custom operators, a dynamic batch size, and gradients."""
    backbone = network(deployed)
    free = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(backbone, (image_for(SIZES[0]),), dynamic_shapes=free, strict=strict)
    assert not [node for node in program.graph.nodes if str(node.target).startswith('mmmobilemamba')]
    module = program.module()
    assert largest_error(module, backbone, [SIZES[0], (3, *SIZES[0][1:])]) < BOUND
    if not strict:
        module(image_for(SIZES[0]))[2].sum().backward()
        assert dict(module.named_parameters())['stem.0.conv.weight'].grad.abs().sum() > 0


def test_what_is_chosen_while_something_is_exported(monkeypatch):
    monkeypatch.setattr(tracing, '_is_exporting', lambda: True)
    choice = select_backend()
    assert choice.backend == ('export' if 'export' in available_backends() else 'torch')
    assert set(choice.passed_over) >= {'cpp', 'triton'}
    assert 'has to work where this package is not' in choice.passed_over['cpp']
    for operation in ('conv', 'depthwise_conv', 'haar', 'norm_gate'):
        assert select_backend(operation=operation).backend == 'torch'
    if 'cpp' in available_backends():
        assert select_backend('cpp').backend == 'cpp'  # torch.export keeps a named backend
