"""MobileMamba: a lightweight multi-receptive field vision Mamba network.

Paper: https://arxiv.org/abs/2411.15941 (CVPR 2025)
Checkpoints and recipes of the authors: https://github.com/lewandofskee/MobileMamba
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Optional

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmmobilemamba.check.start import check_at_start
from mmmobilemamba.ops.tracing import is_transformed

from ..arch import resolve_arch, resolve_out_indices
from ..checkpoint import adapt_classifier, adapt_state_dict, split_pretrained
from ..layers import ConvBN, fold, folding, set_backend
from .blocks import build_stage, build_stem
from .init import MobileMambaInit, MobileMambaPretrainedInit
from .region import Region

STRIDES = (16, 32, 64)

torch.fx.wrap('in_fast_format')  # one node in a graph of torch.fx, as it looks at types and devices


@MODELS.register_module()
class MobileMamba(BaseModule):
    """MobileMamba backbone: a stem and three stages at strides 16, 32 and 64.

    Registered in mmengine's root registry: ``type='MobileMamba'`` works in the configs of every
    OpenMMLab codebase once ``mmmobilemamba`` is imported (``custom_imports``); in mmaction2 it is
    ``mmmobilemamba.mmaction``, as backbones return tensors there. In evaluation any image
    of at least 1 x 1 pixel works; a side s leaves a stage with ceil(s / stride) pixels. In training,
    batch norm needs more than one value a channel: at 64 x 64 pixels and less, two images or more. Heads
    with a batch norm after pooling, as our classifiers have, need two images at any size.

    Checkpoints of the authors load as they are, flat or wrapped, through ``init_cfg``,
    ``load_state_dict`` or mmengine's ``load_checkpoint``; see ``mmmobilemamba.models.checkpoint``.

    Args:
        arch (str | dict): ``'t2'``, ``'t4'``, ``'s6'``, ``'b1'``, ``'b2'`` or ``'b4'`` (the last
            three are one network, meant for 256, 384 and 512 pixels), or a dict with the fields
            ``embed_dims``, ``depths``, ``global_ratios``, ``local_ratios``, ``kernel_sizes``
            (three values each, one a stage) and ``drop_path_rate``. Defaults to ``'t2'``.
        in_channels (int): Channels of the image. Defaults to 3.
        out_indices (int | Sequence[int]): Stages to return, 0 to 2; negative ones count from the
            end. The output is in order of resolution, finest first. Stages after the last wanted
            one are not built. Defaults to -1, the last stage.
        frozen_stages (int): -1 freezes nothing, 0 the stem, n the stem and the first n stages:
            no gradient, and norm layers in evaluation. Defaults to -1.
        norm_eval (bool): Keep batch norm in evaluation while training. Defaults to False.
        with_cp (bool): Trade compute for memory with activation checkpointing. Outputs,
            gradients and batch statistics stay the same. Defaults to False.
        drop_path_rate (float, optional): Stochastic depth of the last block; the others rise to
            it from 0 in equal steps. Defaults to the arch's own (0 for T and S, 0.03 for B).
        norm_cfg (dict): Norm layer with a weight. Defaults to ``dict(type='BN')``.
        scan_backend (str): What computes the selective scan, one of ``mmmobilemamba.ops.BACKENDS`` or
            ``'auto'``, the fastest that can run. It also holds for convolutions, Haar transforms and gates:
            all but ``'auto'`` and ``'cpp'`` keep them from C++. Defaults to ``'auto'``.
        deploy (bool): Build the deployed form, see :meth:`switch_to_deploy`, for checkpoints of that form.
            Defaults to False.
        compile (bool | dict): Compile the network for training, see :meth:`compile_regions`; a dict has its
            arguments. Defaults to False.
        init_cfg (dict | list[dict], optional): Initialisation, as in mmengine. A ``Pretrained``
            checkpoint must fit completely. Defaults to None, the paper's.
        adapt_in_channels (bool): Load RGB weights into a network of other ``in_channels``: summed for one
            channel, else repeated and scaled, as timm does. It holds for ``init_cfg``, ``load_from`` and
            ``load_state_dict``. Defaults to False: such weights do not fit.

    Attributes:
        out_channels (tuple[int]): Channels of each output.
        strides (tuple[int]): Stride of each output.

    Raises:
        TypeError, ValueError: If an argument is not one of the above.

    Example:
        >>> backbone = MobileMamba('t2', out_indices=(0, 1, 2)).eval()
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 192, 192))]
        [(1, 144, 12, 12), (1, 272, 6, 6), (1, 368, 3, 3)]
    """

    def __init__(
        self,
        arch='t2',
        in_channels=3,
        out_indices=-1,
        frozen_stages=-1,
        norm_eval=False,
        with_cp=False,
        drop_path_rate=None,
        norm_cfg=dict(type='BN'),
        scan_backend='auto',
        deploy=False,
        compile=False,
        init_cfg=None,
        adapt_in_channels=False,
    ):
        super().__init__(init_cfg)
        self.arch = resolve_arch(arch, drop_path_rate)
        self.out_indices = resolve_out_indices(out_indices, len(STRIDES))
        if not isinstance(in_channels, Integral) or in_channels < 1:
            raise ValueError(f'in_channels must be a whole number from 1 up, not {in_channels!r}.')
        if not isinstance(frozen_stages, Integral) or not -1 <= frozen_stages <= len(STRIDES):
            raise ValueError(
                f'frozen_stages must be -1 (none), 0 (the stem) or 1 to 3 (the stem and that many '
                f'stages), not {frozen_stages!r}.'
            )
        self.in_channels = in_channels
        self.adapt_in_channels = adapt_in_channels
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

        embed_dims = self.arch['embed_dims']
        self.out_channels = tuple(embed_dims[index] for index in self.out_indices)
        self.strides = tuple(STRIDES[index] for index in self.out_indices)
        self.in_channels = int(in_channels)
        self.stem = build_stem(in_channels, embed_dims[0], norm_cfg)
        built = range(self.out_indices[-1] + 1)
        self.stages = nn.ModuleList(build_stage(self.arch, index, with_cp, norm_cfg) for index in built)
        set_backend(self, scan_backend)
        self.training_graph = None  # see graph_training
        self.deploy = False
        if deploy:
            self.switch_to_deploy()
        self._freeze_stages()
        if compile or isinstance(compile, dict):
            self.compile_regions(**(compile if isinstance(compile, dict) else {}))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) -> a tuple with (N, C, ceil(H / stride), ceil(W / stride)) a stage.

        Raises:
            ValueError: If ``x`` has another number of dimensions, or is not of a floating type.
        """
        if self.training_graph is not None and self.training and torch.is_grad_enabled():
            return self.training_graph(self, x)
        return self.extract(x)

    def extract(self, x: Tensor, out_indices: Optional[Sequence[int]] = None) -> tuple[Tensor, ...]:
        """:meth:`forward`, without CUDA graphs, and up to the last of these stages; by default its own."""
        out_indices = self.out_indices if out_indices is None else out_indices
        x = self.stem(in_fast_format(x))
        x = in_fast_format(x)  # which an image of one channel is not
        outs = []
        for index, stage in enumerate(self.stages):
            if index > max(out_indices):
                break
            x = stage(x)
            if index in out_indices:
                outs.append(x.contiguous())  # mmcv's RoIAlign, for one, reads no other format rightly
        return tuple(outs)

    @property
    def is_deployed(self) -> bool:
        """Whether the parameters are those of the deployed form; not with norm layers that do not fold."""
        return self.deploy and not any(isinstance(module, ConvBN) for module in self.modules())

    def switch_to_deploy(self) -> None:
        """Switch to the deployed form, for inference; a second call changes nothing.

        Batch norm, the shortcut around a depthwise convolution and the channel scales are folded into the
        convolutions, exactly: in float64, rounded once. Their kernels compute ReLU, SiLU and the other
        shortcuts, too, see :class:`~.layers.FusedConv2d`. In evaluation the outputs stay the same, to
        rounding; trained further, it would be another network. Norm layers other than batch norm stay.
        A checkpoint of the deployed form is loaded with ``deploy=True``.
        """
        if not self.deploy:
            with folding(self):
                fold(self)
            self.deploy = True
            self.train(self.training)  # new modules, too

    def compile_regions(self, evaluation: bool = False, **options: Any) -> None:
        """Compile the stem, the downsamples and the blocks with ``torch.compile``, at their next use.

        The blocks of a stage share what is compiled: B1 takes six graphs in training. Parameters, buffers,
        hooks and names stay as they are; hooks have to be there before the first step. Another size of the
        images compiles each region once more, for any size. SyncBN is not compiled. A trace, an export or a
        ``torch.compile`` of the whole network takes the plain form.

        Args:
            evaluation (bool): Run compiled in evaluation, too, where images often have many sizes, and
                frozen stages. Defaults to False.
            **options: Of ``torch.compile``, such as ``dynamic`` or ``mode``.

        Raises:
            RuntimeError: If PyTorch is older than 2.5.
        """
        regions = [(self.stem, 'forward', 'stem')]
        for index, stage in enumerate(self.stages):
            if index:
                regions.append((stage.downsample, 'forward', f'stage_{index}'))
            regions += [(stage.blocks, 'branch', f'stage_{index}')]
        for module, name, kind in regions:
            alike = module if isinstance(module, nn.ModuleList) else [module]
            region = Region(type(alike[0]), name, kind, evaluation, options)
            for one in alike:
                one.region = region

    def init_weights(self) -> None:
        """Initialise as in the paper, unless it is deployed, then as ``init_cfg`` says.

        A new network is initialised as in the paper already; this draws again.

        Raises:
            CheckpointError: If a ``Pretrained`` checkpoint does not fit completely.
        """
        init_cfg = self.init_cfg
        others, pretrained = split_pretrained(init_cfg)
        steps: list[Any] = [] if self.deploy else [dict(type=MobileMambaInit)]
        steps += others
        if pretrained is not None:
            steps.append(dict(type=MobileMambaPretrainedInit, **pretrained))
        self.init_cfg = steps
        try:
            super().init_weights()
        finally:
            self.init_cfg = init_cfg

    def train(self, mode: bool = True) -> 'MobileMamba':
        """Set the mode, keeping frozen stages, and norms with ``norm_eval``, in evaluation.

        Raises:
            ValueError: If a Runner begins to train a model whose neck or heads do not fit this backbone.
        """
        if mode:
            check_at_start(self)
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Layer of a parameter, for layer-wise learning-rate decay, as in mmpretrain.

        The stem is layer 0 and every block one more, the first of a stage together with the stage's
        downsample; the last layer is what follows the backbone.

        Args:
            param_name (str): Name of the parameter in the model.
            prefix (str): Name of the backbone in the model, with the dot. Defaults to '', for a backbone.

        Returns:
            tuple[int, int]: The layer, and the number of layers.
        """
        depths = [len(stage.blocks) for stage in self.stages]
        last = sum(depths) + 1
        path = param_name[len(prefix) :].split('.') if param_name.startswith(prefix) else ['']
        if path[0] == 'stem':
            return 0, last + 1
        if path[0] == 'stages':
            block = int(path[3]) if path[2] == 'blocks' else 0
            return sum(depths[: int(path[1])]) + block + 1, last + 1
        return last, last + 1

    def __prepare_scriptable__(self):
        """Called by ``torch.jit.script``, whose language is too small for this network.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            'MobileMamba cannot be scripted. Call torch.jit.trace(network.eval(), image): the trace takes '
            'images of any size and number.'
        )

    def _freeze_stages(self):
        if self.frozen_stages < 0:
            return
        for module in (self.stem, *self.stages[: self.frozen_stages]):
            module.eval()
            module.requires_grad_(False)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        adapt_state_dict(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _checkpoint_filter(self, state_dict, prefix, *args):
        """mmpretrain's ``ImageClassifier`` calls it with a checkpoint before it loads it."""
        adapt_classifier(self, state_dict, prefix)


def in_fast_format(x: Tensor) -> Tensor:
    """In channels-last where that is faster: on a CPU, and for the tensor cores of a GPU. (N, C, H, W).

    Raises:
        ValueError: If ``x`` has another number of dimensions, or is not of a floating type.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(
            f'MobileMamba takes batches of normalised images of a floating type, (N, C, H, W), and this is '
            f'{x.dtype} of shape {tuple(x.shape)}: call image.float() on pixels, or image[None] on one image.'
        )
    if is_transformed():  # vmap knows one memory format
        return x
    halves = x.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled()
    if x.device.type == 'cpu' or (x.is_cuda and halves):
        return x.contiguous(memory_format=torch.channels_last)
    return x
