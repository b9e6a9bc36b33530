"""MobileMamba in timm: importing this module registers ``mobilemamba_t2`` to ``mobilemamba_b4``.

    >>> import mmmobilemamba.timm_models
    >>> import timm
    >>> model = timm.create_model('mobilemamba_b1', pretrained=True, num_classes=10)

Those that end in ``_distilled`` are the same networks with the weights that were trained with a teacher.
Weights come through :func:`mmmobilemamba.weights.fetch`, not timm's ``cache_dir``. Needs timm, which the
package itself does not, so it is imported on request.
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

SIZES = dict(t2=192, t4=192, s6=224, b1=256, b2=384, b4=512)  # pixels of the images, by arch
POOLS = ('avg', '')
MAPS = (
    "The head reads pooled features, so with classes global_pool must be 'avg': reset_classifier(n, 'avg')."
)


class TimmMobileMamba(MobileMambaClassifier):
    """The classifier with what timm asks of its models.

    Args:
        arch (str): A name of the family. Defaults to ``'t2'``.
        num_classes (int): Number of classes; 0 for pooled features. Defaults to 1000.
        in_chans (int): Channels of the image. Defaults to 3.
        global_pool (str): ``'avg'``, or ``''`` for maps with ``num_classes=0``. Defaults to ``'avg'``.
        drop_rate (float): Of the dropout before the linear layer. Defaults to 0.
        drop_path_rate (float, optional): Stochastic depth. Defaults to None, the arch's own.
        device (torch.device | str, optional): Where it is built. Defaults to None, the CPU.
        dtype (torch.dtype, optional): Of the parameters. Defaults to None, PyTorch's.
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
        self.global_pool = global_pool  # first, as reset_classifier reads it when the head is built
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
        """(N, C, H, W) -> (N, C), or as it is with ``global_pool=''``."""
        return super().pool(x) if self.global_pool else x

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give the network a new head, and another pooling if one is named.

        Args:
            num_classes (int): Number of classes; 0 for features.
            global_pool (str, optional): ``'avg'`` or ``''``. Defaults to None, as it is.

        Raises:
            ValueError: If either is not one of the above.
        """
        if global_pool is not None:
            check_pool(global_pool)
        super().reset_classifier(num_classes)
        self.global_pool = self.global_pool if global_pool is None else global_pool

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """As that of :class:`MobileMambaClassifier`; with ``global_pool=''`` the features as they are.

        Raises:
            ValueError: If there is a head and no pooling before it.
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
        """The maps of stages.

        Args:
            x (Tensor): (N, in_chans, H, W).
            indices (int | Sequence[int], optional): The last n stages, or these. Defaults to None, all.
            norm (bool): Has no effect, as no norm layer follows the stages. Defaults to False.
            stop_early (bool): Leave out the stages after the last wanted one. Defaults to False.
            output_fmt (str): ``'NCHW'``.
            intermediates_only (bool): Return nothing but the maps. Defaults to False.

        Returns:
            tuple: The last map (Tensor), and the wanted ones (list[Tensor]), (N, C, H, W) each.

        Raises:
            ValueError: If ``output_fmt`` is another one.
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
        """Drop the stages after the last wanted one, and the head, which does without them no longer.

        Args:
            indices (int | Sequence[int]): As in :meth:`forward_intermediates`. Defaults to 1.
            prune_norm (bool): Has no effect, as no norm layer follows the stages. Defaults to False.
            prune_head (bool): Drop the head if all stages stay, too. Defaults to True.

        Returns:
            list[int]: The wanted stages.
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
        """Recompute each block in backward instead of keeping its activations."""
        for stage in self.backbone.stages:
            stage.with_cp = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameters' names for layer-wise decay: the stem, then a layer a stage or a block.

        The first block of a stage is a layer together with the downsample, as in
        :meth:`MobileMamba.get_layer_depth`.
        """
        stage = r'^backbone\.stages\.(\d+)'
        fine = [(rf'{stage}\.downsample', (0,)), (rf'{stage}\.blocks\.(\d+)', None)]
        return dict(stem=r'^backbone\.stem', blocks=stage if coarse else fine)

    def no_weight_decay(self) -> set[str]:
        """None beside those of one dimension, which timm leaves out by itself, as the authors did."""
        return set()


def check_pool(name: str) -> None:
    """Make sure that there is a pooling of this name.

    Raises:
        ValueError: If there is none.
    """
    if name not in POOLS:
        raise ValueError(f"global_pool must be 'avg', or '' for maps, not {name!r}.")


def filter_checkpoint(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Called by timm with a file of one's own: a classifier of the authors or of ours, under our names.

    Raises:
        CheckpointError: If its backbone does not fit completely, which timm does not ask for in all cases.
    """
    state_dict = unwrap(state_dict)
    fitting_weights(model.backbone, state_dict)  # timm adapts the first convolution itself
    backbone = convert_backbone(backbone_part(state_dict))
    return {
        **{f'backbone.{key}': value for key, value in backbone.items()},
        **classifier_head(state_dict),
    }


def pretrained_cfg(arch: str, weights: str) -> dict[str, Any]:
    """What timm knows of a model: the recipe's image size and test pipeline, and where its weights are."""
    size = SIZES[arch]
    return dict(
        file=f'{SCHEME}{weights}',
        custom_load=True,  # by load_pretrained of the model
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
    """The function by which timm makes a model."""

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
    register_model(entrypoint(name, arch))  # which adds the name to __all__
