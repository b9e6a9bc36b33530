"""MobileMamba: a lightweight multi-receptive field vision Mamba network.

Paper: https://arxiv.org/abs/2411.15941 (CVPR 2025)
The authors' checkpoints and recipes: https://github.com/lewandofskee/MobileMamba
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

torch.fx.wrap('in_fast_format')  # a leaf in torch.fx graphs, as it depends on dtypes and devices


@MODELS.register_module()
class MobileMamba(BaseModule):
    """MobileMamba backbone: a stem and three stages at strides 16, 32 and 64.

    It is registered in mmengine's root registry: ``type='MobileMamba'`` works in the configs of every
    OpenMMLab codebase that import ``mmmobilemamba`` (``custom_imports``). For mmaction2, where backbones
    return tensors, import ``mmmobilemamba.mmaction``.

    In evaluation, images may have any size from 1 x 1 pixel; a side of s pixels becomes ceil(s / stride) in
    the output. In training, batch norm needs more than one value per channel: images of 64 x 64 pixels or
    less need batches of two or more. Heads with a batch norm after pooling, such as the classifiers of this
    package, need two images at any size.

    The authors' checkpoints, flat or wrapped, load without conversion through ``init_cfg``,
    ``load_state_dict`` and mmengine's ``load_checkpoint``; see ``mmmobilemamba.models.checkpoint``.

    Source: https://arxiv.org/abs/2411.15941.

    Args:
        arch (str | dict): ``'t2'``, ``'t4'``, ``'s6'``, ``'b1'``, ``'b2'`` or ``'b4'`` (the last
            three are one network, meant for 256, 384 and 512 pixels), or a dict with the fields
            ``embed_dims``, ``depths``, ``global_ratios``, ``local_ratios``, ``kernel_sizes``
            (three values each, one per stage) and ``drop_path_rate``. Defaults to ``'t2'``.
        in_channels (int): Channels of the image. Defaults to 3.
        out_indices (int | Sequence[int]): Stages to return, 0 to 2; negative ones count from the
            end. Outputs are ordered by resolution, finest first. Stages after the last one in
            ``out_indices`` are not built. Defaults to -1, the last stage.
        frozen_stages (int): Freeze nothing (-1), the stem (0), or the stem and the first n stages
            (n): no gradients, and norm layers in evaluation mode. Defaults to -1.
        norm_eval (bool): Keep batch norm in evaluation mode during training. Defaults to False.
        with_cp (bool): Use activation checkpointing, which trades compute for memory. Outputs,
            gradients and batch statistics do not change. Defaults to False.
        drop_path_rate (float, optional): Stochastic depth rate of the last block; the rates rise
            linearly from 0. Defaults to None, that of the arch (0 for T and S, 0.03 for B).
        norm_cfg (dict): Norm layer, which must have a weight. Defaults to ``dict(type='BN')``.
        scan_backend (str): Backend of the selective scan: one of ``mmmobilemamba.ops.BACKENDS``, or
            ``'auto'`` for the fastest that can run. It also applies to convolutions, Haar transforms and
            gates, which run in C++ only with ``'auto'`` and ``'cpp'``. Defaults to ``'auto'``.
        deploy (bool): Build the deployed form, see :meth:`switch_to_deploy`, to load checkpoints of that
            form. Defaults to False.
        compile (bool | dict): Compile the network for training, see :meth:`compile_regions`; a dict gives its
            arguments. Defaults to False.
        init_cfg (dict | list[dict], optional): Initialisation, as in mmengine. A ``Pretrained``
            checkpoint must match completely. Defaults to None, the initialisation of the paper.
        adapt_in_channels (bool): Adapt RGB weights to other ``in_channels``, as timm does: summed for one
            channel, otherwise repeated and scaled. This applies to ``init_cfg``, ``load_from`` and
            ``load_state_dict``. With False, such weights do not match. Defaults to False.

    Attributes:
        out_channels (tuple[int]): Channels of each output.
        strides (tuple[int]): Stride of each output.

    Raises:
        TypeError, ValueError: If an argument is not one of the above.
        RuntimeError: If ``compile`` is set and PyTorch is older than 2.5.

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
        self.in_channels = int(in_channels)
        self.adapt_in_channels = adapt_in_channels
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

        embed_dims = self.arch['embed_dims']
        self.out_channels = tuple(embed_dims[index] for index in self.out_indices)
        self.strides = tuple(STRIDES[index] for index in self.out_indices)
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
        """Feature maps of images.

        Args:
            x (Tensor): Normalised images (N, in_channels, H, W), of a floating dtype.

        Returns:
            tuple[Tensor]: (N, C, ceil(H / stride), ceil(W / stride)) for each stage in ``out_indices``.

        Raises:
            ValueError: If ``x`` does not have four dimensions or a floating dtype.
        """
        if self.training_graph is not None and self.training and torch.is_grad_enabled():
            return self.training_graph(self, x)
        return self.extract(x)

    def extract(self, x: Tensor, out_indices: Optional[Sequence[int]] = None) -> tuple[Tensor, ...]:
        """:meth:`forward` without CUDA graphs, for any stages.

        Args:
            x (Tensor): (N, in_channels, H, W).
            out_indices (Sequence[int], optional): Stages to return; later ones are not run. Defaults to None,
                those of the constructor.

        Returns:
            tuple[Tensor]: (N, C, ceil(H / stride), ceil(W / stride)) for each stage.

        Raises:
            ValueError: If ``x`` does not have four dimensions or a floating dtype.
        """
        out_indices = self.out_indices if out_indices is None else out_indices
        x = self.stem(in_fast_format(x))
        x = in_fast_format(x)  # again, as the stem may lose the format for images of one channel
        outs = []
        for index, stage in enumerate(self.stages):
            if index > max(out_indices):
                break
            x = stage(x)
            if index in out_indices:
                outs.append(x.contiguous())  # mmcv's RoIAlign, for example, misreads other formats
        return tuple(outs)

    @property
    def is_deployed(self) -> bool:
        """Whether the parameters are those of the deployed form (bool); False if norm layers remain."""
        return self.deploy and not any(isinstance(module, ConvBN) for module in self.modules())

    def switch_to_deploy(self) -> None:
        """Switch to the deployed form, for inference, in place. A second call does nothing.

        Batch norms, the shortcuts around depthwise convolutions and the channel scales are folded into the
        convolutions, in float64 and rounded once. ReLU, SiLU and the other shortcuts are fused into their
        kernels, see :class:`~.layers.FusedConv2d`. In evaluation the outputs do not change, up to rounding.
        Do not train the deployed form: it would behave as a different network. Norm layers other than batch
        norm are kept. To load a checkpoint of the deployed form, build the network with ``deploy=True``.

        Raises:
            ValueError: If a weight is computed by a hook, as with ``weight_norm`` and pruning.
        """
        if not self.deploy:
            with folding(self):
                fold(self)
            self.deploy = True
            self.train(self.training)  # for the new modules

    def compile_regions(self, evaluation: bool = False, **options: Any) -> None:
        """Compile the stem, the downsamples and the blocks with ``torch.compile``, at their next call.

        The blocks of a stage share their compiled form, so B1 needs six graphs in training. Parameters,
        buffers, hooks and names do not change; register hooks before the first step. A second image size
        recompiles each region once, for all sizes. SyncBN is not compiled. Tracing, exporting or compiling
        the whole network uses the uncompiled form.

        Args:
            evaluation (bool): Also run the compiled form in evaluation, where images often have many sizes,
                and in frozen stages. Defaults to False.
            **options: Arguments of ``torch.compile``, such as ``dynamic`` or ``mode``.

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
        """Initialise the parameters as in the paper, then apply ``init_cfg``.

        The constructor has already initialised them as in the paper; this draws new values. In the deployed
        form, only ``init_cfg`` is applied.

        Raises:
            FileNotFoundError: If the file of a ``Pretrained`` checkpoint does not exist.
            CheckpointError: If a ``Pretrained`` checkpoint cannot be read or does not match completely.
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
        """Set the mode. Frozen stages, and batch norms with ``norm_eval``, stay in evaluation mode.

        Raises:
            ValueError: If a Runner starts to train a model whose neck or heads do not match this backbone.
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
        """Layer index of a parameter, for layer-wise learning-rate decay, as in mmpretrain.

        The stem is layer 0. Each block is one layer; the first block of a stage includes the downsample. The
        last layer contains all parameters outside the backbone.

        Args:
            param_name (str): Name of the parameter in the model.
            prefix (str): Name of the backbone in the model, with the dot. Defaults to '', for a backbone.

        Returns:
            tuple[int, int]: Index of the layer, and number of layers.
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
        """Called by ``torch.jit.script``, which cannot compile this network.

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
        """Called by mmpretrain's ``ImageClassifier`` with a state dict before loading it."""
        adapt_classifier(self, state_dict, prefix)


def in_fast_format(x: Tensor) -> Tensor:
    """Convert a map (N, C, H, W) to channels-last where it is faster: on CPUs, and on GPUs in half precision.

    Raises:
        ValueError: If ``x`` does not have four dimensions or a floating dtype.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(
            f'MobileMamba takes batches of normalised images of a floating type, (N, C, H, W), and this is '
            f'{x.dtype} of shape {tuple(x.shape)}: call image.float() on pixels, or image[None] on one image.'
        )
    if is_transformed():  # vmap supports one memory format only
        return x
    halves = x.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled()
    if x.device.type == 'cpu' or (x.is_cuda and halves):
        return x.contiguous(memory_format=torch.channels_last)
    return x
