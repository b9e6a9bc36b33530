"""Small networks and random arguments that several test modules use."""

import pytest
import torch
from mmengine.utils import digit_version
from torch.nn.modules.batchnorm import _BatchNorm

from mmmobilemamba import MobileMamba
from mmmobilemamba.deployment.errors import EXPORT_SINCE

SMALL = dict(
    embed_dims=(32, 48, 64),
    depths=(1, 2, 1),
    global_ratios=(0.5, 0.5, 0.5),
    local_ratios=(0.25, 0.25, 0.25),
    kernel_sizes=(7, 5, 3),
    drop_path_rate=0.0,
)
# Its numbers of channels are not multiples of 4: 6 in the stem, 9 in the local part.
ODD = dict(SMALL, embed_dims=(48, 64, 80), global_ratios=(0.8, 0.7, 0.6), local_ratios=(0.2, 0.2, 0.3))
# One block a stage, for tests whose time grows with the number of layers, such as exports.
SHALLOW = dict(ODD, depths=(1, 1, 1))
# Arguments of the scan.
NAMES = ('u', 'x_dbl', 'dt_weight', 'A', 'D', 'dt_bias')


def needs_torch(version):
    """A mark that skips a test with older versions of torch."""
    older = digit_version(torch.__version__) < digit_version(version)
    return pytest.mark.skipif(older, reason=f'needs torch {version}')


needs_export = needs_torch(EXPORT_SINCE)


def small(**kwargs):
    """A small network whose norms and scales are random, so that every branch affects the output."""
    backbone = MobileMamba(SMALL, **kwargs)
    generator = torch.Generator().manual_seed(1)
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return backbone


def randomise(module):
    """Set all parameters and statistics to random values, as after a training."""
    generator = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.running_mean.uniform_(-0.5, 0.5, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
    for name, parameter in module.named_parameters():
        if name.endswith(('bn.weight', 'bn1.weight', 'bn2.weight', 'scale')):
            parameter.data.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(('.bias', '.D', 'A_log')):
            parameter.data.uniform_(-0.5, 0.5, generator=generator)
    return module.eval()


def arguments(batch, length, channels, dtype=torch.float64, seed=0, rank=3):
    """Random arguments of plausible size, in the order of ``NAMES``."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    A, D, dt_bias = (normal(2, channels) for _ in range(3))
    x_dbl, u = normal(batch, length, 2, rank + 2), normal(batch, length, channels)
    dt_weight = normal(2, channels, rank) / rank**0.5
    return [x.to(dtype) for x in (u, x_dbl, dt_weight, -A.exp(), D, dt_bias)]


def write_digits_start(folder):
    """Write an untrained checkpoint of the classifier from which other digits configs start."""
    path = folder / 'work_dirs/mobilemamba-t2_1xb64-1e-pretrain_digits-64px/epoch_1.pth'
    path.parent.mkdir(parents=True)
    weights = MobileMamba('t2').state_dict()
    torch.save(dict(state_dict={f'backbone.{key}': value for key, value in weights.items()}), path)


def with_gradients(y, *inputs):
    """``y`` and the gradients of its weighted sum by each of ``inputs``."""
    weights = torch.linspace(0.5, 1.5, y.numel()).view(y.shape)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), inputs)]
