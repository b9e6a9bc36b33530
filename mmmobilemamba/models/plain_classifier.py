"""A classifier of plain PyTorch, equal to mmpretrain's ``ImageClassifier`` of our recipes."""

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
    """Batch norm, dropout and a linear layer; parameters have the names of ``MobileMambaClsHead``.

    Args:
        in_features (int): Channels of the pooled features, C.
        num_classes (int): Number of classes.
        drop_rate (float): Of the dropout. Defaults to 0.
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
        """Whether the batch norm is in the linear layer (bool)."""
        return isinstance(self.head, nn.Linear)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) -> (N, num_classes)."""
        return self.head(x)

    def switch_to_deploy(self) -> None:
        """Fold the batch norm into the linear layer, in float64; a second call changes nothing."""
        if not self.is_deployed:
            with folding(self):
                self.head = fold_norm_before(self.head.bn, self.head.linear)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if any(key.startswith(f'{prefix}head.') for key in state_dict):
            check_form(f'{prefix}head.weight' in state_dict, self.is_deployed, 'head')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class MobileMambaClassifier(nn.Module):
    """MobileMamba with global average pooling, batch norm and a linear layer.

    Parameters have the names that they have in mmpretrain's ``ImageClassifier`` of our recipes, so that
    checkpoints of either load into the other. Those of the authors load as they are. For training it takes
    batches of two images or more, as the head pools each channel to one value.

    Args:
        arch (str | dict): Of :class:`MobileMamba`. Defaults to ``'t2'``.
        num_classes (int): Number of classes; 0 for pooled features. Defaults to 1000.
        drop_rate (float): Of the dropout before the linear layer. Defaults to 0.
        deploy (bool): Build the deployed form, see :meth:`switch_to_deploy`. Defaults to False.
        **kwargs: Other arguments of :class:`MobileMamba`, less ``out_indices`` and ``init_cfg``.

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
        """Logits (N, num_classes), or pooled features (N, C), of images (N, in_channels, H, W)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, C, ceil(H / 64), ceil(W / 64))."""
        return self.backbone(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (N, C, H, W) -> logits (N, num_classes), or with ``pre_logits`` pooled (N, C)."""
        x = self.pool(x)
        return x if pre_logits else self.head(x)

    def pool(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C), the average of each channel."""
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def get_classifier(self) -> nn.Module:
        """What follows the pooling: a :class:`NormLinearHead`, or ``nn.Identity`` without classes."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Give the network a new head, whose batch norm goes on with what it has learnt, if there is one.

        Args:
            num_classes (int): Number of classes; 0 for pooled features.

        Raises:
            ValueError: If it is no whole number from 0 up.
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
        """Fold batch norms into convolutions and the linear layer, for inference.

        A second call changes nothing. In evaluation the logits stay the same, to rounding.
        """
        self.backbone.switch_to_deploy()
        if isinstance(self.head, NormLinearHead):
            self.head.switch_to_deploy()

    def load_pretrained(self, checkpoint: str | Path) -> None:
        """Load a classifier's checkpoint, of the authors or of ours, completely.

        The linear layer stays as initialised where the checkpoint has another number of classes, and the log
        says so; without classes, the head of the checkpoint is left out.

        Args:
            checkpoint (str | Path): A file, or an address that mmengine understands: ``'mobilemamba://b1'``.

        Raises:
            FileNotFoundError: If there is no such file.
            CheckpointError: If it cannot be read, does not fit, or has no head where one is wanted.
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
    """The head of a classifier, of the authors or of ours, under our names; {} if there is none."""
    if is_authors(state_dict):
        return convert_head(state_dict)
    return {key: value for key, value in state_dict.items() if key.startswith('head.')}


def fitting_head(head: nn.Module, found: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights for a head, less a linear layer of another number of classes.

    Args:
        head (nn.Module): A :class:`NormLinearHead`, or another module, which takes none.
        found (dict[str, Tensor]): Result of :func:`classifier_head`.

    Raises:
        CheckpointError: If they are not those of such a head.
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
    odd = [key for key in odd if not key.endswith('num_batches_tracked')]  # which old files lack
    if odd:
        raise CheckpointError(
            f'Its head is not that of a MobileMamba, batch norm and a linear layer of {channels} channels, '
            f'but differs in {odd[:3]}. Build the network with num_classes=0 or features_only=True, which '
            f'leave the head out.'
        )
    other_classes = classes != wanted[bias]
    return {key: value for key, value in found.items() if not (other_classes and key in (weight, bias))}
