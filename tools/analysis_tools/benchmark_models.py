"""Networks for ``benchmark.py``: MobileMamba in its forms, and other networks, folded where possible."""

import ast
import copy
import difflib
import importlib.util
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from benchmark_files import call_function, is_file
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmmobilemamba import MobileMamba
from mmmobilemamba.deployment.targets import TARGETS
from mmmobilemamba.models import deploy, prepare_for_cpu, set_backend
from mmmobilemamba.models.backbones.arch import ARCHS
from mmmobilemamba.models.layers import WTEMamba, fold_norm, folding
from mmmobilemamba.models.plain_classifier import MobileMambaClassifier
from mmmobilemamba.ops import check_backend
from mmmobilemamba.ops.cpu.build import find_library
from mmmobilemamba.ops.haar import pad_to_even
from mmmobilemamba.utils import codebase_of, read_config

FORMS = ('baseline', 'plain', 'deploy')
ONNX = ('onnx', 'onnx_custom', 'onnx_fp16', 'onnx_int8', 'onnx_custom_int8')
RUNTIMES = {target.name.lower().replace(' ', ''): target for target in TARGETS.values() if target.runs_here}
EXPORTED = (*ONNX, *RUNTIMES)
CUDA_GRAPH = 'cuda_graph'  # benchmark.py captures the timed step
OPTIONS = ('channels_last', 'compile', 'prepare', *EXPORTED, CUDA_GRAPH)


class Baseline(nn.Module):
    """The baseline: channels first, the scan as a loop over L, the wavelet as strided convolutions.

    Args:
        backbone (MobileMamba): In its plain form; modified in place.
    """

    def __init__(self, backbone):
        super().__init__()
        self.stem, self.stages = backbone.stem, backbone.stages
        for module in list(self.modules()):
            for name, child in module.named_children():
                if isinstance(child, WTEMamba):
                    setattr(module, name, BaselineWTEMamba(child))
        set_backend(self, 'naive')

    def forward(self, x):
        """(N, C, H, W) -> the feature map of the last stage."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x


class BaselineWTEMamba(nn.Module):
    """WTE-Mamba with both wavelet transforms as grouped convolutions of stride 2."""

    def __init__(self, source):
        super().__init__()
        self.ss2d, self.base_scale, self.wavelet_scale = source.ss2d, source.base_scale, source.wavelet_scale
        conv = source.wavelet_conv
        self.conv = partial(F.conv2d, weight=conv.weight, padding=conv.padding, groups=conv.groups)
        signs = [[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]]
        haar = 0.5 * conv.weight.new_tensor(signs)[:, None]
        self.register_buffer('haar', haar.repeat(len(conv.weight) // 4, 1, 1, 1))

    def forward(self, x):
        """(N, C, H, W) -> (N, C, H, W)."""
        channels, height, width = x.shape[1:]
        bands = F.conv2d(pad_to_even(x), self.haar, stride=2, groups=channels)
        bands = self.wavelet_scale * self.conv(bands)
        wavelet = F.conv_transpose2d(bands, self.haar, stride=2, groups=channels)
        return self.base_scale * self.ss2d(x) + wavelet[..., :height, :width]


def randomise(model):
    """Randomise the batch norms in place, so that folding changes the weights as in a trained network."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.8, 1.25, generator=generator)
            for tensor in (module.running_mean, module.bias.data):
                tensor.uniform_(-0.2, 0.2, generator=generator)
    return model


def check_model(name):
    """Check that :func:`build` supports a model.

    Raises:
        ValueError: If it does not.
    """
    if is_file(name):
        call_function(name)
    elif name.startswith('timm/'):
        import timm  # only needed for comparisons

        if not timm.is_model(name[len('timm/') :]):
            similar = difflib.get_close_matches(name[len('timm/') :], timm.list_models())
            raise ValueError(f'timm {timm.__version__} has no {name[len("timm/") :]!r}; similar: {similar}')
    elif name not in ARCHS and not Path(name).is_file():
        raise ValueError(
            f'{name} is not one of {sorted(ARCHS)}, timm/NAME, PATH.py:FUNCTION or the path of a config'
        )
    elif name.endswith('.py') and not is_config(name):
        raise ValueError(f'{name} is no config; for a network that a function returns, write {name}:FUNCTION')


def is_config(path):
    """Whether a Python file defines a model, or has bases that may define one."""
    body = ast.parse(Path(path).read_text(encoding='utf-8')).body
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    return bool(names & {'model', '_base_'}) or any(isinstance(node, ast.With) for node in body)


def build(name, classifier=False):
    """Build a network with random weights, in eval mode; its input is a batch of images.

    Args:
        name (str): An arch, ``timm/NAME``, ``PATH.py:FUNCTION``, or the path of a config of mmpretrain,
            mmdet or mmseg.
        classifier (bool): Add a head for 1000 classes to an arch; timm models have one.

    Raises:
        ValueError: If a function does not exist or does not return a network.
    """
    torch.manual_seed(0)
    if name in ARCHS:
        return randomise(MobileMambaClassifier(name) if classifier else MobileMamba(name)).eval()
    if name.startswith('timm/'):
        import timm  # only needed for comparisons

        return randomise(timm.create_model(name[len('timm/') :])).eval()
    if is_file(name):
        return randomise(call_function(name)).eval()
    config = read_config(name)
    init_default_scope(codebase_of(config) or 'mmengine')
    config.model.backbone.init_cfg = None
    model = MODELS.build(config.model)
    model.forward = partial(model.forward, mode='tensor') if hasattr(model, 'head') else model.extract_feat
    return randomise(model).eval()


def channels_of(model):
    """Input channels of a network: MobileMamba's ``in_channels``, or 3."""
    return next((each.in_channels for each in model.modules() if isinstance(each, MobileMamba)), 3)


def is_ours(model):
    """Whether a network contains a MobileMamba."""
    return any(isinstance(module, MobileMamba) for module in model.modules())


def parse_variant(text):
    """Split a variant such as ``deploy+torch+compile`` into form, backend (or None) and options.

    Raises:
        ValueError: If a part is unknown.
    """
    form, *rest = text.split('+')
    backends = [part for part in rest if part not in OPTIONS]
    if form not in FORMS or len(backends) > 1:
        raise ValueError(
            f'{text!r} is no variant: it is one of {FORMS}, then at most one backend of the scan, then any '
            f'of {OPTIONS}, with a + between, as in deploy+torch+compile.'
        )
    if form == 'baseline' and rest:
        raise ValueError(f'{text!r} is no variant: the baseline is what it is, with nothing added.')
    if backends:
        check_backend(backends[0])
    return form, backends[0] if backends else None, [part for part in rest if part in OPTIONS]


def make_variant(model, text, image, compile_backend='inductor'):
    """Copy a network and convert it to a variant.

    Args:
        model (nn.Module): From :func:`build`.
        text (str): See :func:`parse_variant`.
        image (Tensor): Example input; the network is moved to its dtype and device.
        compile_backend (str): Backend of ``torch.compile``, for ``compile``.

    Returns:
        nn.Module: In eval mode.
    """
    form, backend, options = parse_variant(text)
    model = copy.deepcopy(model)
    if form == 'deploy' and not is_ours(model):  # on the CPU in float32, to check the folding
        model = fold_model(model, torch.rand(1, *image.shape[1:]))
    model = model.to(image)
    if backend is not None:
        set_backend(model, backend)
    if form == 'baseline':
        model = Baseline(model)
    if form == 'deploy' and is_ours(model):
        model = fold_model(model, image)
    if 'channels_last' in options:
        model = model.to(memory_format=torch.channels_last)
    if 'prepare' in options:
        model = prepare(model, image)
    for option in set(ONNX).intersection(options):
        model = OnnxNetwork(model, image, option)
    for option in set(RUNTIMES).intersection(options):
        model = RuntimeNetwork(model, image, RUNTIMES[option])
    return compiled(model, compile_backend) if 'compile' in options else model


def prepare(model, image):
    """Prepare a network for inference at one image size, on the device of the images."""
    if image.device.type == 'cpu':
        return prepare_for_cpu(model, image)
    from mmmobilemamba.models import prepare_for_inference

    return prepare_for_inference(model, image, dtype=image.dtype)


def compiled(model, backend='inductor'):
    """Compile a network for fixed shapes: MobileMamba by region, other networks as a whole."""
    if not is_ours(model):
        return torch.compile(model, dynamic=False, backend=backend)
    from mmmobilemamba.models import compile_regions

    compile_regions(model, evaluation=True, dynamic=False, backend=backend)
    return model


class OnnxNetwork(nn.Module):
    """A network in ONNX Runtime, exported for one image size, with as many threads as PyTorch uses.

    Args:
        model (nn.Module): A MobileMamba is modified in place: its scans switch to the export backend.
        image (Tensor): Example input, (N, 3, H, W); also calibrates int8.
        kind (str): One of ``ONNX``, see :mod:`mmmobilemamba.deployment.precision`; those with ``custom`` have
            the operators of :mod:`mmmobilemamba.deployment.custom_ops`.
    """

    def __init__(self, model, image, kind='onnx'):
        super().__init__()
        from mmmobilemamba.deployment import onnx_file, precision  # only needed for these variants

        set_backend(model, 'export')
        custom = 'custom' in kind
        library = find_library() if custom else None
        proto = onnx_file.to_onnx(model, image[:1].repeat(2, 1, 1, 1), dynamic_sizes=False, custom_ops=custom)
        if kind == 'onnx_fp16':
            proto = precision.to_float16(proto)
        if kind.endswith('int8'):
            proto = precision.to_int8(proto, [image.numpy()], library)
        self.content = proto.SerializeToString()
        self.bytes = len(self.content)
        self.session = onnx_file.open_session(self.content, torch.get_num_threads(), library)

    def forward(self, image):
        """(N, 3, H, W) -> a list of arrays."""
        return self.session.run(None, {'image': image.numpy()})


class RuntimeNetwork(nn.Module):
    """A network in another runtime, for one image size, with as many threads as PyTorch uses.

    Args:
        model (nn.Module): Deployed.
        image (Tensor): Example input, (N, 3, H, W).
        target (Target): The runtime. If its files have a fixed batch of one, images run one by one.
    """

    def __init__(self, model, image, target):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()  # kept while the file is in use
        path = Path(self.folder.name, f'network{target.suffix}')
        about = dict(precision='float32')
        image = image[:1].repeat(2, 1, 1, 1)
        target.write(Outputs(model, image), image, path, about)
        self.bytes = target.size(path)
        self.session = load_runtimes().open_file(path, torch.get_num_threads())

    def forward(self, image):
        """(N, 3, H, W) -> a dict of arrays."""
        return self.session.run(image.numpy())


class Outputs(nn.Module):
    """Wraps a network so that its outputs are a tuple with names.

    Args:
        model (nn.Module): Its output is one tensor or several.
        image (Tensor): Example input.
    """

    def __init__(self, model, image):
        super().__init__()
        self.model = model
        with torch.no_grad():
            self.output_names = [f'out{index}' for index in range(len(self(image)))]

    def forward(self, image):
        """Outputs as a tuple."""
        found = self.model(image)
        return (found,) if torch.is_tensor(found) else tuple(found)


def load_runtimes():
    """Import ``tools/deployment/runtimes.py``, which opens exported files."""
    path = Path(__file__).resolve().parents[1] / 'deployment/runtimes.py'
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fold_model(model, image):
    """Fold a network: MobileMamba with its own method; others with theirs, then their batch norms.

    Args:
        model (nn.Module): Modified in place.
        image (Tensor): Input, (1, 3, H, W), for finding foldable batch norms and checking the result.

    Returns:
        nn.Module: The folded network; use it instead of ``model``.
    """
    if is_ours(model):
        deploy(model)
        return model
    if type(model).__module__.startswith('timm.'):
        from timm.utils import reparameterize_model

        model = reparameterize_model(model)
    else:
        model = reparameterize(model)
    return fold_batch_norms(model, image)


def reparameterize(module):
    """Call the folding method of a network, or of its outermost submodules that have one.

    Returns:
        nn.Module: The folded network; ``fuse`` often returns a new one.
    """
    for name in ('switch_to_deploy', 'reparameterize', 'fuse'):
        if hasattr(module, name):
            found = getattr(module, name)()
            return found if isinstance(found, nn.Module) else module
    for name, child in module.named_children():
        setattr(module, name, reparameterize(child))
    return module


class Readers(TorchDispatchMode):
    """While active, counts the operations that read each tensor, by the ``id`` of the tensor."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts.update({id(value) for value in tree_leaves((args, kwargs)) if torch.is_tensor(value)})
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def fold_batch_norms(model, image):
    """Run the model once and fold each batch norm that is the only reader of a convolution's output.

    Raises:
        RuntimeError: If the outputs change.
    """
    made_by, pairs, hooks, readers = {}, {}, [], Readers()

    def after_conv(conv, _, output):
        made_by[id(output)] = (conv, output)  # keeps the tensor alive, so that its id stays unique
        readers.counts[id(output)] = 0

    def before_norm(norm, inputs):
        if id(inputs[0]) in made_by:
            pairs[norm] = made_by[id(inputs[0])]

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_conv))
        if isinstance(module, _BatchNorm):
            hooks.append(module.register_forward_pre_hook(before_norm))
    with readers:
        expected = model(image)
    for hook in hooks:
        hook.remove()
    norms = {conv: norm for norm, (conv, output) in pairs.items() if readers.counts[id(output)] == 1}
    with folding(model):
        for module in list(model.modules()):
            for name, child in module.named_children():
                if child in norms:
                    setattr(module, name, fold_norm(child, norms[child]))
                elif child in norms.values():
                    setattr(module, name, getattr(child, 'act', nn.Identity()))
    if not torch.allclose(model(image), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item()):
        raise RuntimeError('Folding the batch norms changed the outputs: a convolution is called twice.')
    return model
