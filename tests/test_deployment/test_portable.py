"""The portable form: the same network in operators that every runtime supports."""

import subprocess
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from mmmobilemamba import MobileMamba
from mmmobilemamba.deployment.errors import DeploymentError
from mmmobilemamba.deployment.portable import portable
from mmmobilemamba.deployment.rewrite import rewrite
from mmmobilemamba.models.arch import ARCHS
from mmmobilemamba.models.layers import SS2D
from mmmobilemamba.utils.garbage import frozen_heap

from ..conftest import image_for, relative_error
from ..helpers import ODD, SHALLOW, SMALL, needs_export, randomise

# Maps with odd sides, not square, with prime numbers of pixels, and of a single pixel.
SIZES = dict(t2=(97, 75), t4=(80, 112), s6=(65, 208), b1=(64, 96))
LOOPS = ('Scan', 'Loop', 'If', 'ConvTranspose')


def deployed(arch=SHALLOW, **kwargs):
    """A deployed backbone in which every branch, including the scans, affects the output."""
    torch.manual_seed(0)
    backbone = randomise(MobileMamba(arch, out_indices=(0, 1, 2), **kwargs))
    backbone.switch_to_deploy()
    backbone.eval().requires_grad_(False)
    for module in backbone.modules():
        if isinstance(module, SS2D):
            module.D *= 0.1
            getattr(module.out_proj, 'conv', module.out_proj).weight *= 3
    return backbone


def onnx_operators(module, image, **options):
    """Nodes of an ONNX file written by PyTorch (list of NodeProto), and its constants by name."""
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxscript')
    with warnings.catch_warnings(), torch.no_grad(), frozen_heap():
        warnings.simplefilter('ignore')
        program = torch.onnx.export(module, (image,), dynamo=True, opset_version=18, verbose=False, **options)
    model = program.model_proto
    constants = {x.name: onnx.numpy_helper.to_array(x) for x in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == 'Constant':
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return list(model.graph.node), constants


@pytest.mark.parametrize('softplus', ['operator', 'log'])
@pytest.mark.parametrize('arch', [*SIZES, 'odd'])
def test_equal_to_naive(arch, softplus):
    """All maps are equal, for the batch size of the conversion and for others."""
    backbone = deployed(ARCHS.get(arch, ODD), scan_backend='naive')
    size = SIZES.get(arch, (70, 101))
    form = portable(backbone, image_for((1, 3, *size)), softplus)
    for batch in (1, 3):
        image = image_for((batch, 3, *size))
        backbone.double()
        for found, expected in zip(form(image), backbone(image.double())):
            assert found.dtype == torch.float32
            assert relative_error(found, expected) < 1e-5
        backbone.float()


def test_the_scan_matters():
    """Without the scan, the outputs of the networks in these tests differ."""
    backbone, image = deployed(), image_for((1, 3, 70, 101))
    form = portable(backbone, image)
    before = form(image)
    for name, parameter in form.named_parameters():
        if name.endswith(('A_forward', 'A_backward')):
            parameter.data.fill_(-1e9)  # no state is carried between steps
    assert all(relative_error(x, y) > 1e-2 for x, y in zip(form(image), before))


def test_the_network_stays():
    """The source is unchanged; the copy shares no tensors with it, nor do layers of the copy."""
    backbone, image = deployed(), image_for((1, 3, 64, 64))
    before = [x.clone() for x in backbone(image)]
    form = portable(backbone, image)
    for tensor in form.parameters():
        assert tensor.stride() == torch.empty(tensor.shape).stride() and not tensor.requires_grad
        tensor.data.zero_()
    assert all(torch.equal(x, y) for x, y in zip(backbone(image), before))
    pointers = [tensor.data_ptr() for tensor in portable(backbone, image).parameters()]
    assert len(pointers) == len(set(pointers))


def test_every_constant_is_used():
    image = image_for((1, 3, 64, 64))  # the last map has one pixel
    form = portable(deployed(), image)
    assert not list(form.buffers())
    form.requires_grad_(True)
    sum(x.square().mean() for x in form(image)).backward()
    assert not [name for name, parameter in form.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize('size', [(64, 64), (70, 101)])
def test_a_trace(size):
    """A trace has few operators and none that read a size; ncnn converts it."""
    form = portable(deployed(), image_for((1, 3, *size)))
    with warnings.catch_warnings():
        warnings.simplefilter('error', torch.jit.TracerWarning)
        traced = torch.jit.trace(form, image_for((1, 3, *size)))
    graph = traced.inlined_graph
    kinds = {node.kind() for node in graph.nodes()}
    computing = {kind.removeprefix('aten::') for kind in kinds if kind.startswith('aten::')}
    layers = '_convolution layer_norm linear mean permute pad pixel_shuffle reshape silu softplus'
    allowed = f'{layers} add cat exp mul relu sigmoid slice split split_with_sizes'
    assert computing == set(allowed.split())
    assert not any('Loop' in kind or 'If' in kind or 'CallFunction' in kind for kind in kinds)
    for node in graph.findAllNodes('aten::slice'):
        assert list(node.inputs())[4].toIValue() == 1
    tensors = [x.type().sizes() for node in graph.nodes() for x in node.outputs() if x.isCompleteTensor()]
    assert len(tensors) > 100 and all(len(sizes) <= 4 and 0 not in sizes for sizes in tensors)


@needs_export
@pytest.mark.parametrize('size', [(64, 64), (70, 101)])
def test_a_program(size):
    """A program of torch.export is the same for every batch size, with PyTorch's operators only."""
    form = portable(deployed(), image_for((1, 3, *size)))
    free = ({0: torch.export.Dim.DYNAMIC},)
    image = image_for((2, 3, *size))
    with frozen_heap():
        program = torch.export.export(form, (image,), dynamic_shapes=free, strict=False)
        program = program.run_decompositions({})
    targets = {str(node.target) for node in program.graph.nodes if node.op == 'call_function'}
    refused = ('scan', 'while', 'cond', 'flip', 'addcmul', 'transpose2d', 'mmmobilemamba', 'channels_last')
    assert not [target for target in targets if any(word in target for word in refused)]
    for node in program.graph.nodes:
        value = node.meta.get('val')
        if isinstance(value, torch.Tensor):
            assert value.ndim <= 4 and 0 not in value.shape
        if str(node.target).startswith('aten.slice'):
            assert len(node.args) < 5 or node.args[4] == 1
        assert 'memory_format' not in node.kwargs or node.kwargs['memory_format'] != torch.channels_last
    image = image_for((3, 3, *size))
    for found, expected in zip(program.module()(image), form(image)):
        assert relative_error(found, expected) < 1e-6


@needs_export
@pytest.mark.parametrize('size', [(64, 64), (70, 101)])
def test_a_file_of_onnx(size):
    """An ONNX file has no loops, transposed convolutions, strided slices or empty tensors."""
    image = image_for((1, 3, *size))
    nodes, constants = onnx_operators(portable(deployed(), image, 'log'), image)
    kinds = {node.op_type for node in nodes}
    assert {node.domain for node in nodes} == {''}
    assert kinds.isdisjoint({*LOOPS, 'Where', 'Gather', 'Expand', 'Shape', 'Softplus'})
    for node in nodes:
        if node.op_type == 'Slice' and len(node.input) > 4:
            assert (constants[node.input[4]] == 1).all()
    assert not empty_pieces(nodes, constants)


def empty_pieces(nodes, constants):
    """Split nodes with an empty output."""
    return [
        node
        for node in nodes
        if node.op_type == 'Split' and len(node.input) > 1 and 0 in constants[node.input[1]]
    ]


@needs_export
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('form', ['rewritten', 'newer exporter', 'older exporter'])
def test_no_file_has_empty_pieces(form, tmp_path):
    """MNN computes wrong outputs of such a Split. For archs with and without an identity part."""
    onnx = pytest.importorskip('onnx')
    whole = dict(SMALL, local_ratios=(0.5,) * 3, depths=(1, 1, 1))
    for arch in (dict(SMALL, depths=(1, 1, 1)), whole):
        backbone, image = deployed(arch), image_for((2, 3, 64, 64))
        if form == 'older exporter':
            path = str(tmp_path / 'network.onnx')
            torch.onnx.export(backbone, (image,), path, opset_version=13, dynamo=False)
            model = onnx.load(path)
            nodes = list(model.graph.node)
            constants = {
                node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
                for node in nodes
                if node.op_type == 'Constant'
            }
            constants.update({x.name: onnx.numpy_helper.to_array(x) for x in model.graph.initializer})
        else:
            nodes, constants = onnx_operators(rewrite(backbone) if form == 'rewritten' else backbone, image)
        assert any(node.op_type == 'Split' for node in nodes)
        assert not empty_pieces(nodes, constants)


def test_what_is_refused():
    """Messages name the part and say what to do."""
    image = image_for((1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"softplus must be one of \['log', 'operator'\], not 'relu'"):
        portable(deployed(), image, 'relu')
    with pytest.raises(DeploymentError, match=r'not deployed\. Call switch_to_deploy\(\) first'):
        portable(MobileMamba(ODD), image)
    with pytest.raises(DeploymentError, match=r'global_op \(WTEMamba\) has no portable form: .* norm layers'):
        portable(deployed(norm_cfg=dict(type='GN', num_groups=1)), image)

    class Own(SS2D):
        def forward(self, x):
            return 2 * super().forward(x)

    backbone = deployed()
    backbone.stages[1].blocks[0].mixer.fn.global_op.ss2d.__class__ = Own
    with pytest.raises(
        DeploymentError, match=r'blocks\.0\.mixer\.fn\.global_op\.ss2d \(Own\) has no portable'
    ):
        portable(backbone, image)


class Twice(nn.Module):
    """Applies a backbone to an image in two sizes."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return self.backbone(x), self.backbone(x[:, :, :32])


def test_two_sizes_are_refused():
    with pytest.raises(DeploymentError, match=r'images of several sizes, its maps \(4, 4\) and \(2, 4\)'):
        portable(Twice(deployed()), image_for((1, 3, 64, 64)))


@pytest.mark.parametrize('softplus', ['operator', 'log'])
def test_double_precision(softplus):
    """The copy has the dtype of the network."""
    backbone, image = deployed().double(), image_for((1, 3, 70, 101)).double()
    for found, expected in zip(portable(backbone, image, softplus)(image), backbone(image)):
        assert found.dtype == torch.float64 and relative_error(found, expected) < 1e-12


class Classifier(nn.Module):
    """Logits of T2."""

    def __init__(self):
        super().__init__()
        self.backbone = deployed('t2')
        self.head = nn.Linear(self.backbone.out_channels[-1], 10).requires_grad_(False)

    def forward(self, x):
        return self.head(self.backbone(x)[-1].mean((2, 3)))


def test_ncnn(tmp_path, monkeypatch):
    """T2 at 192 px, traced and converted by pnnx, which reports no ignored operators."""
    ncnn = pytest.importorskip('ncnn', reason='needs: python -m pip install ncnn pnnx')
    pnnx = pytest.importorskip('pnnx', reason='needs: python -m pip install ncnn pnnx')
    monkeypatch.chdir(tmp_path)
    classifier, image = Classifier(), image_for((1, 3, 192, 192))
    torch.jit.trace(portable(classifier, image), image).save('network.pt')
    command = [pnnx.EXEC_PATH, 'network.pt', 'inputshape=[1,3,192,192]', 'fp16=0']
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert 'not supported' not in said and 'ignore' not in said
    network = ncnn.Net()
    network.opt.num_threads = 1
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
    assert network.load_param('network.ncnn.param') == network.load_model('network.ncnn.bin') == 0
    for picture in (image, image.flip(3), 30 * image):
        extractor = network.create_extractor()
        assert extractor.input('in0', ncnn.Mat(picture[0].contiguous().numpy()).clone()) == 0
        status, found = extractor.extract('out0')
        assert status == 0
        assert relative_error(np.array(found)[None], classifier(picture)) < 1e-5
