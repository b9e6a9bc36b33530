"""A classifier in plain PyTorch, equal to mmpretrain's ``ImageClassifier`` of the recipes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from .backbones import MobileMamba
from .checkpoint import (
    CheckpointError,
    adapt_classifier,
    check_form,
    convert_head,
    fetch_checkpoint,
    fitting_weights,
    is_authors,
    unwrap,
)
from .layers import fold_norm_before, folding


class NormLinearHead(nn.Module):
    """Batch norm, dropout and a linear layer, with the parameter names of ``MobileMambaClsHead``.

    Args:
        in_features (int): Channels of the pooled features, C.
        num_classes (int): Number of classes.
        drop_rate (float): Rate of the dropout. Defaults to 0.
    """

    def __init__(self, in_features, num_classes, drop_rate=0.0):
        super().__init__()
        linear = nn.Linear(in_features, num_classes)
        nn.init.trunc_normal_(linear.weight, std=0.02)  # as in the recipes
        nn.init.zeros_(linear.bias)
        layers = OrderedDict(bn=nn.BatchNorm1d(in_features), drop=nn.Dropout(drop_rate), linear=linear)
        self.head = nn.Sequential(layers)

    @property
    def is_deployed(self) -> bool:
        """Whether the batch norm is folded into the linear layer (bool)."""
        return isinstance(self.head, nn.Linear)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) -> (N, num_classes)."""
        return self.head(x)

    def switch_to_deploy(self) -> None:
        """Fold the batch norm into the linear layer, in float64. A second call does nothing."""
        if not self.is_deployed:
            with folding(self):
                self.head = fold_norm_before(self.head.bn, self.head.linear)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if any(key.startswith(f'{prefix}head.') for key in state_dict):
            check_form(f'{prefix}head.weight' in state_dict, self.is_deployed, 'head')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class MobileMambaClassifier(nn.Module):
    """MobileMamba with global average pooling, batch norm and a linear layer.

    Parameter names equal those of mmpretrain's ``ImageClassifier`` in the recipes, so the two can load each
    other's checkpoints. The authors' checkpoints load without conversion. Training needs batches of two or
    more images, as the head pools each channel to one value before its batch norm.

    Args:
        arch (str | dict): As in :class:`MobileMamba`. Defaults to ``'t2'``.
        num_classes (int): Number of classes; 0 for pooled features. Defaults to 1000.
        drop_rate (float): Rate of the dropout before the linear layer. Defaults to 0.
        deploy (bool): Build the deployed form, see :meth:`switch_to_deploy`. Defaults to False.
        **kwargs: Other arguments of :class:`MobileMamba`, except ``out_indices`` and ``init_cfg``.

    Attributes:
        num_features (int): Channels of the features, C.

    Raises:
        TypeError, ValueError: If an argument is not one of the above.

    Example:
        >>> MobileMambaClassifier('b1').eval()(torch.rand(1, 3, 256, 256)).shape
        torch.Size([1, 1000])
    """

    def __init__(self, arch='t2', num_classes=1000, drop_rate=0.0, deploy=False, **kwargs):
        super().__init__()
        self.backbone = MobileMamba(arch, out_indices=-1, deploy=deploy, init_cfg=None, **kwargs)
        self.num_features = self.backbone.out_channels[-1]
        self.drop_rate = drop_rate
        self.head = nn.Identity()
        self.reset_classifier(num_classes)
        if deploy:
            self.switch_to_deploy()

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) -> logits (N, num_classes), or pooled features (N, C)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, C, ceil(H / 64), ceil(W / 64))."""
        return self.backbone(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (N, C, H, W) -> logits (N, num_classes), or with ``pre_logits`` pooled features (N, C)."""
        x = self.pool(x)
        return x if pre_logits else self.head(x)

    def pool(self, x: Tensor) -> Tensor:
        """Global average pooling: (N, C, H, W) -> (N, C)."""
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def get_classifier(self) -> nn.Module:
        """The module after the pooling: a :class:`NormLinearHead`, or ``nn.Identity`` without classes."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head. The batch norm of the old head is kept, unless it is deployed.

        Args:
            num_classes (int): Number of classes; 0 for pooled features.

        Raises:
            ValueError: If ``num_classes`` is not an integer of 0 or more.
        """
        if not isinstance(num_classes, Integral) or num_classes < 0:
            raise ValueError(
                f'num_classes must be a whole number from 0 (pooled features) up, not {num_classes!r}.'
            )
        before, like = self.head, next(self.backbone.parameters())
        self.num_classes, self.head = int(num_classes), nn.Identity()
        if num_classes:
            self.head = NormLinearHead(self.num_features, self.num_classes, self.drop_rate).to(like)
            if isinstance(before, NormLinearHead) and not before.is_deployed:
                self.head.head.bn = before.head.bn
        self.head.train(self.training)

    def switch_to_deploy(self) -> None:
        """Fold batch norms into the convolutions and the linear layer, for inference.

        In evaluation the logits do not change, up to rounding. A second call does nothing.
        """
        self.backbone.switch_to_deploy()
        if isinstance(self.head, NormLinearHead):
            self.head.switch_to_deploy()

    def load_pretrained(self, checkpoint: str | Path) -> None:
        """Load a checkpoint of a classifier, in the authors' layout or that of this package.

        The checkpoint must match completely, with two exceptions. If it has another number of classes, the
        linear layer keeps its initialisation, and the log says so. If this network has no classes, the head
        of the checkpoint is ignored.

        Args:
            checkpoint (str | Path): A file, or a URL that mmengine can load, such as ``'mobilemamba://b1'``.

        Raises:
            FileNotFoundError: If the file does not exist.
            CheckpointError: If the checkpoint cannot be read or does not match, or the network has a head and
                the checkpoint none.
        """
        content = fetch_checkpoint(checkpoint)
        try:
            state_dict = unwrap(content)
            weights = {
                f'backbone.{key}': value for key, value in fitting_weights(self.backbone, state_dict).items()
            }
            head = fitting_head(self.head, classifier_head(state_dict))
        except CheckpointError as error:
            raise CheckpointError(f'{checkpoint} was not loaded. {error}') from error
        missing = self.load_state_dict({**weights, **head}, strict=False).missing_keys
        if missing:
            print_log(
                f'{checkpoint} has another number of classes than {self.num_classes}: the linear layer of '
                f'the head is new, the rest is loaded.',
                'current',
            )

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        adapt_classifier(self.backbone, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def classifier_head(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of the head of a classifier, under the names of this package; {} if there is none.

    Args:
        state_dict (dict[str, Tensor]): A classifier in the authors' layout or that of this package.

    Returns:
        dict[str, Tensor]: Entries with names that start with ``head.``.
    """
    if is_authors(state_dict):
        return convert_head(state_dict)
    return {key: value for key, value in state_dict.items() if key.startswith('head.')}


def fitting_head(head: nn.Module, found: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights to load into a head, without the linear layer if its number of classes differs.

    Args:
        head (nn.Module): A :class:`NormLinearHead`; no weights are returned for any other module.
        found (dict[str, Tensor]): Result of :func:`classifier_head`.

    Returns:
        dict[str, Tensor]: The weights, with names that start with ``head.``.

    Raises:
        CheckpointError: If ``found`` is empty, not a head of MobileMamba, or deployed and ``head`` is not
            (or the reverse).
    """
    if not isinstance(head, NormLinearHead):
        return {}
    if not found:
        raise CheckpointError(
            'It has no head of a classifier. Build the network with num_classes=0 or features_only=True, or '
            'load the file into the `backbone` of one with classes.'
        )
    check_form('head.head.weight' in found, head.is_deployed, 'head')
    wanted = {f'head.{key}': tuple(value.shape) for key, value in head.state_dict().items()}
    shapes = {key: tuple(value.shape) for key, value in found.items()}
    weight, bias = (f'head.head.{"" if head.is_deployed else "linear."}{name}' for name in ('weight', 'bias'))
    classes, channels = shapes.get(bias, (0,)), wanted[weight][1]
    expected = {**wanted, weight: (*classes, channels), bias: classes}
    odd = [key for key in {**expected, **shapes} if shapes.get(key) != expected.get(key)]
    odd = [key for key in odd if not key.endswith('num_batches_tracked')]  # missing in old files
    if odd:
        raise CheckpointError(
            f'Its head is not that of a MobileMamba, batch norm and a linear layer of {channels} channels, '
            f'but differs in {odd[:3]}. Build the network with num_classes=0 or features_only=True, which '
            f'leave the head out.'
        )
    other_classes = classes != wanted[bias]
    return {key: value for key, value in found.items() if not (other_classes and key in (weight, bias))}
