"""Common PyTorch tools on a new and on a deployed network."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import prune

from mmmobilemamba import MobileMamba
from mmmobilemamba.ops import cpu, tracing

from ..conftest import image_for, relative_error
from ..helpers import SMALL, randomise

TINY = dict(SMALL, depths=(1, 1, 1))
IMAGE = image_for((2, 3, 48, 64))
needs_detection = pytest.mark.skipif(not tracing.CAN_DETECT, reason='needs torch 2.3')


@pytest.fixture(params=[False, True], ids=['trained', 'deployed'])
def network(request):
    return make(request.param)


def make(deployed=False):
    backbone = randomise(MobileMamba(TINY, out_indices=(0, 1, 2)))
    if deployed:
        backbone.switch_to_deploy()
    return backbone


@torch.no_grad()
def answer(run, image=IMAGE):
    """The last map, which depends on all layers."""
    return run(image)[2]


def test_safetensors(network, tmp_path):
    """All entries are contiguous, as these files require; the network keeps its memory layout."""
    safetensors = pytest.importorskip('safetensors.torch')
    expected, state_dict = answer(network), network.state_dict()
    strides = [parameter.stride() for parameter in network.parameters()]
    assert all(value.is_contiguous() for value in state_dict.values())
    for save, load in (
        (safetensors.save_file, lambda path, other: other.load_state_dict(safetensors.load_file(path))),
        (
            lambda _, path: safetensors.save_model(network, path),
            lambda path, other: safetensors.load_model(other, path),
        ),
    ):
        path, other = str(tmp_path / 'network.safetensors'), make(network.deploy)
        nn.init.zeros_(next(other.parameters()))
        save(state_dict, path)
        load(path, other)
        assert torch.equal(answer(other), expected)
    assert [parameter.stride() for parameter in network.parameters()] == strides
    if network.deploy and cpu.has_vectors():
        assert any(not parameter.is_contiguous() for parameter in network.parameters())


def test_a_state_dict_with_its_graph_has_the_parameters(network):
    parameters = dict(network.named_parameters())
    state_dict = network.state_dict(keep_vars=True)
    assert all(state_dict[name] is parameter for name, parameter in parameters.items())


@needs_detection  # older versions do not support float16 convolutions
@pytest.mark.parametrize(
    ('dtype', 'bound'), [(torch.float16, 0.01), (torch.bfloat16, 0.05), (torch.float64, 1e-5)]
)
def test_other_types(network, dtype, bound):
    expected = answer(network)
    found = answer(network.to(dtype), IMAGE.to(dtype))
    assert found.dtype == dtype and relative_error(found.double(), expected) < bound


def test_memory_format(network):
    expected = answer(network)
    network.to(memory_format=torch.channels_last)
    found = answer(network, IMAGE.to(memory_format=torch.channels_last))
    assert relative_error(found, expected) < 1e-6


def test_parameters_from_outside(network):
    scaled = {name: 0.9 * parameter for name, parameter in network.named_parameters()}
    expected = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter.mul_(0.9)
    found = answer(lambda image: functional_call(network, scaled, (image,)))
    assert relative_error(found, answer(expected)) < 1e-6


@needs_detection
def test_an_ensemble(network):
    """Two networks batched by vmap: https://pytorch.org/functorch/stable/notebooks/ensembling.html."""
    networks = [network, copy.deepcopy(network)]
    with torch.no_grad():
        for parameter in networks[1].parameters():
            parameter.mul_(0.9)
    parameters, buffers = torch.func.stack_module_state(networks)
    base = copy.deepcopy(network).to('meta')

    def run(parameters, buffers):
        return functional_call(base, (parameters, buffers), (IMAGE,))[2]

    with torch.no_grad():
        found = torch.func.vmap(run)(parameters, buffers)
    for one, other in zip(found, networks):
        assert relative_error(one, answer(other)) < 1e-5


@needs_detection
def test_gradients_of_each_image(network):
    network.double()
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def loss(parameters, image):
        return functional_call(network, parameters, (image[None],))[2].square().sum()

    images = IMAGE.double()
    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, images)
    for index in range(2):
        network.zero_grad()
        network(images[index, None])[2].square().sum().backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(grads[name][index], parameter.grad, rtol=1e-8, atol=1e-8)


@needs_detection
def test_forward_mode(network):
    """Compared with a finite difference."""
    network.double()
    image, direction = IMAGE.double(), torch.randn(IMAGE.shape, dtype=torch.float64)
    _, found = torch.func.jvp(lambda x: network(x)[2], (image,), (direction,))
    step = 1e-6
    plus, minus = (answer(network, image + sign * step * direction) for sign in (1, -1))
    assert relative_error(found.detach(), (plus - minus) / (2 * step)) < 1e-5


@pytest.mark.parametrize('name', ['weight_norm', 'spectral_norm'])
def test_parametrizations_stay(name):
    """A convolution with a parametrised weight is not folded; outputs are unchanged."""
    backbone = make()
    for module in list(backbone.modules()):
        if isinstance(module, nn.Conv2d):
            getattr(nn.utils.parametrizations, name)(module)
    expected = answer(backbone.eval())
    backbone.switch_to_deploy()
    assert relative_error(answer(backbone), expected) < 1e-6


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', ['weight_norm', 'prune'])
def test_weights_of_hooks_are_not_folded(name):
    """The error occurs before any change; a hook would overwrite the folded weight."""
    backbone = make()
    for module in list(backbone.modules()):
        if type(module).__name__ == 'Conv2d':
            if name == 'prune':
                prune.l1_unstructured(module, 'weight', 0.3)
            else:
                getattr(nn.utils, name)(module)
    expected = answer(backbone.eval())
    with pytest.raises(ValueError, match=r'The weight of stem\.0\.conv is computed by a hook'):
        backbone.switch_to_deploy()
    assert torch.equal(answer(backbone), expected) and not backbone.deploy
    if name == 'prune':
        for module in list(backbone.modules()):
            if type(module).__name__ == 'Conv2d':
                prune.remove(module, 'weight')
        backbone.switch_to_deploy()
        assert relative_error(answer(backbone), expected) < 1e-5


@pytest.mark.filterwarnings('ignore')
def test_static_quantisation(network):
    quantisation = pytest.importorskip('torch.ao.quantization.quantize_fx')
    mapping = torch.ao.quantization.get_default_qconfig_mapping('x86')
    expected = answer(network)
    prepared = quantisation.prepare_fx(network, mapping, (IMAGE,))
    answer(prepared)
    assert relative_error(answer(quantisation.convert_fx(prepared)), expected) < 0.2


@pytest.mark.parametrize('name', ['compiled', 'parallel', 'shared', 'averaged', 'fused', 'synchronised'])
def test_wrapped_or_changed(network, name):
    expected = answer(network)
    if name == 'compiled':
        if not tracing.CAN_DETECT:
            pytest.skip('needs torch 2.3')
        run = torch.compile(network, backend='eager', fullgraph=True)
    elif name == 'parallel':
        run = nn.DataParallel(network)
    elif name == 'shared':
        run = network.share_memory()
    elif name == 'averaged':
        run = torch.optim.swa_utils.AveragedModel(network)
        run.update_parameters(network)
        run.eval()
    elif name == 'fused':
        run = network
        for module in network.modules():
            if type(module).__name__ == 'ConvBN':
                module.conv = nn.utils.fuse_conv_bn_eval(module.conv, module.bn)
                module.bn = nn.Identity()
    else:
        run = nn.SyncBatchNorm.convert_sync_batchnorm(network).eval()
    assert relative_error(answer(run), expected) < 1e-5
