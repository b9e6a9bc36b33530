"""MobileMamba in timm: importing this module registers ``mobilemamba_t2`` to ``mobilemamba_b4``.

    >>> import mmmobilemamba.timm_models
    >>> import timm
    >>> model = timm.create_model('mobilemamba_b1', pretrained=True, num_classes=10)

Models whose names end in ``_distilled`` have the same architecture, with weights trained with a teacher.
Weights are downloaded by :func:`mmmobilemamba.weights.fetch`, not into timm's ``cache_dir``. This module
needs timm 1.0.3 or newer, which the package itself does not, so it has to be imported explicitly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .models.checkpoint import backbone_part, convert_backbone, fitting_weights, unwrap
from .models.plain_classifier import MobileMambaClassifier, classifier_head
from .weights import SCHEME

try:
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
    from timm.models._features import feature_take_indices
except ImportError as error:
    raise ImportError(
        'mmmobilemamba.timm_models needs timm 1.0.3 or newer: python -m pip install "timm>=1.0.3"'
    ) from error

SIZES = dict(t2=192, t4=192, s6=224, b1=256, b2=384, b4=512)  # height and width of the images, in pixels
POOLS = ('avg', '')
MAPS = (
    "The head reads pooled features, so with classes global_pool must be 'avg': reset_classifier(n, 'avg')."
)


class TimmMobileMamba(MobileMambaClassifier):
    """The classifier with the interface of timm's models.

    Args:
        arch (str): Name of the arch. Defaults to ``'t2'``.
        num_classes (int): Number of classes; 0 for pooled features. Defaults to 1000.
        in_chans (int): Channels of the image. Defaults to 3.
        global_pool (str): ``'avg'``, or ``''`` for maps with ``num_classes=0``. Defaults to ``'avg'``.
        drop_rate (float): Rate of the dropout before the linear layer. Defaults to 0.
        drop_path_rate (float, optional): Stochastic depth rate. Defaults to None, that of the arch.
        device (torch.device | str, optional): Device of the parameters. Defaults to None, PyTorch's default.
        dtype (torch.dtype, optional): Dtype of the parameters. Defaults to None, PyTorch's default.
        **kwargs: Other arguments of :class:`MobileMamba`, such as ``norm_eval``.

    Raises:
        TypeError, ValueError: If an argument is not one of the above.
    """

    def __init__(
        self,
        arch='t2',
        num_classes=1000,
        in_chans=3,
        global_pool='avg',
        drop_rate=0.0,
        drop_path_rate=None,
        device=None,
        dtype=None,
        **kwargs,
    ):
        check_pool(global_pool)
        if num_classes and not global_pool:
            raise ValueError(MAPS)
        self.global_pool = global_pool  # before super().__init__, which calls reset_classifier
        rates = dict(drop_rate=drop_rate, drop_path_rate=drop_path_rate)
        with nullcontext() if device is None else torch.device(device):
            super().__init__(
                arch, num_classes, in_channels=in_chans, adapt_in_channels=True, **rates, **kwargs
            )
        if dtype is not None:
            self.to(dtype)
        self.in_chans = in_chans
        self.head_hidden_size = self.num_features
        reductions = zip(self.backbone.arch['embed_dims'], (16, 32, 64))
        self.feature_info = [
            dict(num_chs=channels, reduction=reduction, module=f'backbone.stages.{index}')
            for index, (channels, reduction) in enumerate(reductions)
        ]

    def pool(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C), or unchanged with ``global_pool=''``."""
        return super().pool(x) if self.global_pool else x

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head, and optionally the pooling.

        Args:
            num_classes (int): Number of classes; 0 for features.
            global_pool (str, optional): ``'avg'`` or ``''``. Defaults to None, no change.

        Raises:
            ValueError: If either is not one of the above.
        """
        if global_pool is not None:
            check_pool(global_pool)
        super().reset_classifier(num_classes)
        self.global_pool = self.global_pool if global_pool is None else global_pool

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (N, C, H, W) -> logits (N, num_classes), or without a head (N, C).

        With ``global_pool=''``, the features are returned unchanged.

        Args:
            x (Tensor): (N, C, H, W).
            pre_logits (bool): Skip the head. Defaults to False.

        Raises:
            ValueError: If the network has classes and ``global_pool=''``, unless ``pre_logits`` is set.
        """
        if self.num_classes and not (self.global_pool or pre_logits):
            raise ValueError(MAPS)
        return super().forward_head(x, pre_logits)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the feature maps of stages.

        Args:
            x (Tensor): (N, in_chans, H, W).
            indices (int | Sequence[int], optional): An int n for the last n stages, or a sequence of stages.
                Defaults to None, all stages.
            norm (bool): Has no effect, as no norm layer follows the stages. Defaults to False.
            stop_early (bool): Do not run the stages after the last one in ``indices``. Defaults to False.
            output_fmt (str): Must be ``'NCHW'``. Defaults to ``'NCHW'``.
            intermediates_only (bool): Return only the maps of ``indices``. Defaults to False.

        Returns:
            tuple[Tensor, list[Tensor]] | list[Tensor]: The last map and the maps of ``indices``, (N, C, H, W)
            each; with ``intermediates_only`` the list alone.

        Raises:
            ValueError: If ``output_fmt`` is not ``'NCHW'``.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f"The maps are (N, C, H, W): output_fmt must be 'NCHW', not {output_fmt!r}.")
        stages = range(len(self.backbone.stages))
        wanted, last = feature_take_indices(len(stages), indices)
        computed = sorted({*wanted, last if stop_early else stages[-1]})
        maps = dict(zip(computed, self.backbone.extract(x, computed)))
        intermediates = [maps[index] for index in computed if index in wanted]
        return intermediates if intermediates_only else (maps[computed[-1]], intermediates)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last one in ``indices``, and the head.

        Args:
            indices (int | Sequence[int]): As in :meth:`forward_intermediates`. Defaults to 1.
            prune_norm (bool): Has no effect, as no norm layer follows the stages. Defaults to False.
            prune_head (bool): Remove the head even if all stages are kept. Otherwise it is removed only with
                the stages that it needs. Defaults to True.

        Returns:
            list[int]: The stages in ``indices``.
        """
        backbone = self.backbone
        wanted, last = feature_take_indices(len(backbone.stages), indices)
        is_cut = last < len(backbone.stages) - 1
        if is_cut:
            backbone.stages = backbone.stages[: last + 1]
            backbone.out_indices = (last,)
            backbone.out_channels = (self.feature_info[last]['num_chs'],)
            backbone.strides = (self.feature_info[last]['reduction'],)
            self.num_features = self.head_hidden_size = backbone.out_channels[0]
        if is_cut or prune_head:
            self.reset_classifier(0, '')
        return list(wanted)  # a set in timm 1.0.3

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in backward instead of storing its activations.

        Args:
            enable (bool): Whether to do so. Defaults to True.
        """
        for stage in self.backbone.stages:
            stage.with_cp = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names for layer-wise decay: the stem, then one layer per stage or block.

        The first block of a stage includes the downsample, as in :meth:`MobileMamba.get_layer_depth`.

        Args:
            coarse (bool): One layer per stage instead of one per block. Defaults to False.
        """
        stage = r'^backbone\.stages\.(\d+)'
        fine = [(rf'{stage}\.downsample', (0,)), (rf'{stage}\.blocks\.(\d+)', None)]
        return dict(stem=r'^backbone\.stem', blocks=stage if coarse else fine)

    def no_weight_decay(self) -> set[str]:
        """Empty: timm, like the authors, excludes one-dimensional parameters from weight decay by itself."""
        return set()


def check_pool(name: str) -> None:
    """Check the name of a pooling.

    Raises:
        ValueError: If it is not one of ``POOLS``.
    """
    if name not in POOLS:
        raise ValueError(f"global_pool must be 'avg', or '' for maps, not {name!r}.")


def filter_checkpoint(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Convert a state dict for timm, which calls this function for files given by the user.

    Args:
        state_dict (dict): A classifier in the authors' layout or that of this package.
        model (TimmMobileMamba): The model to load.

    Returns:
        dict[str, Tensor]: The entries under the names of ``model``.

    Raises:
        CheckpointError: If the backbone does not match completely, which timm itself does not always check.
    """
    state_dict = unwrap(state_dict)
    fitting_weights(model.backbone, state_dict)  # timm adapts the first convolution itself
    backbone = convert_backbone(backbone_part(state_dict))
    return {
        **{f'backbone.{key}': value for key, value in backbone.items()},
        **classifier_head(state_dict),
    }


def pretrained_cfg(arch: str, weights: str) -> dict[str, Any]:
    """timm's config of pretrained weights: the recipe's image size and test pipeline, and the weights.

    Args:
        arch (str): Name of the arch.
        weights (str): Name of the published weights.
    """
    size = SIZES[arch]
    return dict(
        file=f'{SCHEME}{weights}',
        custom_load=True,  # loaded by the model's load_pretrained
        input_size=(3, size, size),
        pool_size=(-(-size // 64), -(-size // 64)),
        crop_pct=0.875,
        interpolation='bicubic',
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        num_classes=1000,
        first_conv='backbone.stem.0.conv',
        classifier='head.head.linear',
        license='apache-2.0',
        origin_url='https://github.com/lewandofskee/MobileMamba',
        paper_ids='arXiv:2411.15941',
    )


NAMES = {
    f'mobilemamba_{arch}{suffix}': (arch, f'{arch}{weights}')
    for arch in SIZES
    for suffix, weights in (('', ''), ('_distilled', '-kd'))
}
default_cfgs = generate_default_cfgs({f'{name}.in1k': pretrained_cfg(*NAMES[name]) for name in NAMES})


def entrypoint(name: str, arch: str) -> Callable[..., nn.Module]:
    """Make the function by which timm creates a model.

    Args:
        name (str): timm's name of the model.
        arch (str): Name of the arch.

    Returns:
        Callable: ``create(pretrained=False, **kwargs)``.
    """

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(
            TimmMobileMamba,
            name,
            pretrained,
            pretrained_filter_fn=filter_checkpoint,
            feature_cfg=dict(out_indices=(0, 1, 2), feature_cls='getter'),
            arch=arch,
            **kwargs,
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f'MobileMamba {arch.upper()}, see :class:`TimmMobileMamba`.'
    return create


__all__ = ['TimmMobileMamba']
for name, (arch, _) in NAMES.items():
    register_model(entrypoint(name, arch))  # adds the name to __all__
