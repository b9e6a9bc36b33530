"""Builds networks with pretrained weights without a config: ``create_model('b1', pretrained=True)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .models.arch import ARCHS, resolve_arch
from .models.backbones import MobileMamba
from .models.checkpoint import load_pretrained
from .models.plain_classifier import MobileMambaClassifier
from .weights import SCHEME, weights_of
from .weights.table import BY_NAME

ALL_STAGES = (0, 1, 2)
# Arguments of MobileMamba that create_model sets, and the argument to use instead.
SET_BY = dict(init_cfg='pretrained', in_channels='in_chans', adapt_in_channels='in_chans')


def create_model(
    arch: str | dict[str, Any],
    pretrained: bool | str | Path = False,
    num_classes: int = 1000,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    **kwargs: Any,
) -> MobileMambaClassifier | MobileMamba:
    """Create a MobileMamba as a plain PyTorch module.

    Args:
        arch (str | dict): ``'t2'``, ``'t4'``, ``'s6'``, ``'b1'``, ``'b2'``, ``'b4'``, or a dict as in
            :class:`MobileMamba`.
        pretrained (bool | str | Path): True loads the authors' ImageNet-1k weights, trained without a
            teacher. A name such as ``'b1-kd'`` or ``'mobilemamba://b1-kd'`` loads other published weights.
            Published weights are downloaded at first use. A path loads a file. Defaults to False.
        num_classes (int): Number of classes, 0 for pooled features. If it differs from that of the weights,
            the linear layer keeps its initialisation, and the log says so. Defaults to 1000.
        features_only (bool): Build a backbone without a head, which returns feature maps. Defaults to False.
        out_indices (int | Sequence[int], optional): Stages to return, 0 to 2 (strides 16, 32 and 64); only
            with ``features_only``. Defaults to None, all stages.
        in_chans (int): Channels of the image. RGB weights are adapted to other numbers: summed for one
            channel, otherwise repeated and scaled. Defaults to 3.
        drop_rate (float): Rate of the dropout before the linear layer. Defaults to 0.
        **kwargs: Other arguments of :class:`MobileMamba`, such as ``drop_path_rate`` and ``with_cp``.

    Returns:
        nn.Module: A network in training mode. By default a :class:`MobileMambaClassifier`, (N, in_chans, H,
        W) -> logits (N, num_classes), or features (N, C) without classes. With ``features_only`` a
        :class:`MobileMamba`, (N, in_chans, H, W) -> a tuple of maps (N, C, ceil(H / stride), ceil(W /
        stride)).

    Raises:
        TypeError, ValueError: If an argument is not one of the above, or the weights are of another arch.
        FileNotFoundError: If ``pretrained`` is a path and the file does not exist.
        CheckpointError: If the weights cannot be downloaded or read, or do not match.

    Example:
        >>> model = create_model('b1', pretrained=True).eval()
        >>> model(torch.rand(1, 3, 256, 256)).shape
        torch.Size([1, 1000])
    """
    check_arguments(arch, features_only, out_indices, drop_rate, kwargs)
    checkpoint = find_weights(arch, pretrained, with_head=bool(num_classes) and not features_only)
    if features_only:
        stages = ALL_STAGES if out_indices is None else out_indices
        backbone = MobileMamba(arch, in_chans, stages, adapt_in_channels=True, **kwargs)
        if checkpoint is not None:
            load_pretrained(backbone, checkpoint)
        return backbone
    rgb = dict(in_channels=in_chans, adapt_in_channels=True)
    classifier = MobileMambaClassifier(arch, num_classes, drop_rate, **rgb, **kwargs)
    if checkpoint is not None:
        classifier.load_pretrained(checkpoint)
    return classifier


def check_arguments(
    arch: str | dict[str, Any],
    features_only: bool,
    out_indices: int | Sequence[int] | None,
    drop_rate: float,
    others: Mapping[str, Any],
) -> None:
    """Check that the arguments of :func:`create_model` are compatible.

    Raises:
        TypeError: If ``others`` contains an argument that has another name in :func:`create_model`.
        ValueError: If ``arch`` is a name of weights, or ``drop_rate`` or ``out_indices`` does not apply to
            this kind of network.
    """
    if isinstance(arch, str) and arch.lower() not in ARCHS and arch.lower() in BY_NAME:
        weights = weights_of(arch)
        raise ValueError(
            f'{arch!r} names weights: create_model({weights.arch!r}, pretrained={weights.name!r}).'
        )
    for name in SET_BY.keys() & others.keys():
        raise TypeError(f'create_model takes {SET_BY[name]} instead of {name}.')
    if features_only and drop_rate:
        raise ValueError('drop_rate applies to the head, which features_only=True leaves out.')
    if out_indices is not None and not features_only:
        raise ValueError(
            'out_indices chooses maps of stages, for which create_model needs features_only=True.'
        )


def find_weights(
    arch: str | dict[str, Any], pretrained: bool | str | Path, with_head: bool
) -> str | Path | None:
    """Locate the weights for a network.

    Args:
        arch (str | dict): Arch of the network.
        pretrained (bool | str | Path): See :func:`create_model`.
        with_head (bool): Whether the weights need the head of a classifier.

    Returns:
        str | Path | None: A name with its scheme (``'mobilemamba://b1'``), a path, or None for no weights.

    Raises:
        ValueError: If there are no weights of this name, they are of another arch or lack a head, or
            ``pretrained`` has another type.
    """
    if pretrained is None or pretrained is False:
        return None
    if not pretrained or not isinstance(pretrained, (bool, str, Path)):
        raise ValueError(f'pretrained must be True, False, a name or the path of a file, not {pretrained!r}.')
    if pretrained is True:
        if not isinstance(arch, str):
            raise ValueError(
                'An arch of your own has no published weights: give `pretrained` a path or a name.'
            )
        resolve_arch(arch)
        return SCHEME + arch.lower()
    if not is_name(pretrained):
        return pretrained
    weights = weights_of(str(pretrained))
    wanted, found = resolve_arch(arch), resolve_arch(weights.arch)
    if any(wanted[field] != found[field] for field in wanted if field != 'drop_path_rate'):
        raise ValueError(
            f'The weights {weights.name!r} are of a MobileMamba {weights.arch.upper()}, not of arch={arch!r}.'
        )
    if with_head and weights.task != 'classification':
        raise ValueError(
            f'The weights {weights.name!r} are of {weights.task} and have no head of a classifier: call '
            f'create_model with num_classes=0 or features_only=True.'
        )
    return SCHEME + weights.name


def is_name(pretrained: str | Path) -> bool:
    """Whether ``pretrained`` is a name of published weights, or looks like one and not like a path (bool)."""
    if isinstance(pretrained, Path):
        return False
    path = Path(pretrained)
    like_a_name = path.name == pretrained and not path.suffix and not path.exists()
    return pretrained.startswith(SCHEME) or pretrained.lower() in BY_NAME or like_a_name
