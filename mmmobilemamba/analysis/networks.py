"""Builds networks with their preprocessing from the names on a tool's command line."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.utils import get_installed_path
from torch import Tensor, nn

from ..check.failures import FAILURES
from ..deployment.build import build_untrained, load_trained, of_channels
from ..models import MobileMamba
from ..models.arch import ARCHS
from ..models.checkpoint import CheckpointError, load_pretrained, read_checkpoint, unwrap
from ..utils import config_argument, read_config
from ..weights import checkpoint_argument
from .errors import AnalysisError

TIMM = 'timm/'
PRETRAINED = 'pretrained'  # selects timm's own checkpoint of a timm network
# ImageNet mean and std of MobileMamba's recipes, for images from 0 to 1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Source(NamedTuple):
    """A network and its weights, by name.

    Args:
        name (str): An arch, ``timm/NAME``, or the path of a config.
        checkpoint (str | Path, optional): The weights. Defaults to None, random weights.
    """

    name: str
    checkpoint: str | Path | None = None

    @property
    def label(self) -> str:
        """Name of the network in figures."""
        is_config = self.name not in ARCHS and not self.name.startswith(TIMM)
        name = Path(self.name).stem if is_config else self.name
        return f'{name}, {"random weights" if self.checkpoint is None else "trained"}'


class Network(nn.Module):
    """A backbone with its normalisation; takes RGB images from 0 to 1 and returns the map of a stage.

    Args:
        backbone (nn.Module): A backbone that returns one map or several, (N, C, H, W).
        mean, std (Sequence[float]): Mean and standard deviation of each channel, for images from 0 to 1.
            Default to those of ImageNet.
        bgr (bool): Whether the backbone expects the channels in reverse order. Defaults to False.
    """

    def __init__(self, backbone, mean=MEAN, std=STD, bgr=False):
        super().__init__()
        self.backbone, self.bgr = backbone, bgr
        for name, values in dict(mean=mean, std=std).items():
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return self.mean.shape[1]

    def normalise(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) from 0 to 1 -> inputs of the backbone, of the same shape."""
        images = images.flip(1) if self.bgr else images
        return (images - self.mean) / self.std

    def forward(self, images: Tensor, stage: int = -1) -> Tensor:
        """Compute the map of a stage, (N, C', H', W').

        Args:
            images (Tensor): Images (N, C, H, W) from 0 to 1, RGB if they have three channels.
            stage (int): Index of a stage of MobileMamba, or of a map returned by another backbone; negative
                values count from the end. Defaults to -1, the last.

        Raises:
            AnalysisError: If the stage does not exist, or the backbone does not support the image size.
        """
        images = self.normalise(images)
        if isinstance(self.backbone, MobileMamba):
            count = len(self.backbone.stages)
            index = check_stage(stage, count)
            return self.backbone.extract(images, (index,))[0]
        try:
            maps = self.backbone(images)
        except FAILURES as error:
            text = ' '.join(str(error).split())[:300]
            raise AnalysisError(
                f'{type(self.backbone).__name__} cannot take images of {images.shape[2]} x '
                f'{images.shape[3]}: {text.rstrip(".")}. Give another size.'
            ) from error
        maps = [maps] if isinstance(maps, Tensor) else list(maps)
        return maps[check_stage(stage, len(maps))]


def check_stage(stage: int, count: int) -> int:
    """Return the non-negative index of one of ``count`` stages (int).

    Raises:
        AnalysisError: If the stage does not exist.
    """
    if not -count <= stage < count:
        raise AnalysisError(
            f'There is no stage {stage}: the backbone returns {count}, 0 to {count - 1}. For backbones other '
            f'than MobileMamba, the config sets them: --cfg-options model.backbone.out_indices=(0,1,2,3).'
        )
    return stage % count


def source_argument(text: str) -> Source:
    """Parse a network on the command line, ``NAME`` or ``NAME=CHECKPOINT``; a ``type`` for argparse.

    Args:
        text (str): NAME is an arch, the name of a recipe, the path of a config of mmpretrain, mmdet or mmseg,
            ``PACKAGE::PATH`` for a config installed with a package, or ``timm/NAME``. CHECKPOINT is a file,
            ``mobilemamba://NAME``, or ``pretrained`` for timm's own weights.

    Raises:
        ArgumentTypeError: If the network or the named weights do not exist.
    """
    name, sign, checkpoint = (text, '', '') if Path(text).is_file() else text.partition('=')
    if sign and not checkpoint:
        raise ArgumentTypeError(f'{text} names no checkpoint: write {name} alone for random weights')
    if name.startswith(TIMM):
        check_timm(name)
        weights = checkpoint if checkpoint == PRETRAINED else checkpoint and checkpoint_argument(checkpoint)
        return Source(name, weights or None)
    if '::' in name:
        name = installed_config(name)
    elif name not in ARCHS:
        name = config_argument(name)
    return Source(name, checkpoint_argument(checkpoint) if checkpoint else None)


def installed_config(name: str) -> str:
    """Return the path of an installed package's config, given as ``PACKAGE::PATH`` like in ``_base_`` (str).

    Raises:
        ArgumentTypeError: If the package is not installed or does not have the config.
    """
    package, _, path = name.partition('::')
    try:
        file = Path(get_installed_path(package), '.mim', 'configs', path)
    except Exception as error:  # the type depends on the version of Python
        raise ArgumentTypeError(f'there is no package {package} here: {error}') from error
    if not file.is_file():
        raise ArgumentTypeError(
            f'there is no config {path} in {package}; its configs are in {file.parents[1]}'
        )
    return str(file)


def check_timm(name: str) -> None:
    """Check that timm is installed and has a network.

    Args:
        name (str): ``timm/NAME``.

    Raises:
        ArgumentTypeError: If timm is not installed or does not have the network.
    """
    try:
        import timm  # noqa: PLC0415 - only needed for comparisons
    except ImportError as error:
        raise ArgumentTypeError(f'{name} needs timm: python -m pip install timm') from error
    name = name.removeprefix(TIMM)
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=1)
        raise ArgumentTypeError(f'timm has no network {name!r}{f"; {close[0]!r} is close" if close else ""}')


def build_network(source: Source, options: Mapping[str, Any] | None = None, seed: int = 0) -> Network:
    """Build a network in evaluation mode, with frozen weights.

    Args:
        source (Source): The network and its weights, see :func:`source_argument`.
        options (dict, optional): Changes of the config, if the network is a config. Defaults to None.
        seed (int): Seed of random weights. Defaults to 0.

    Raises:
        AnalysisError: If the config has no model with a backbone, or the model cannot be built.
        CheckpointError, FileNotFoundError: If the checkpoint cannot be read or does not match the network.
    """
    torch.manual_seed(seed)
    if source.name in ARCHS:
        backbone = MobileMamba(source.name)
        if source.checkpoint is not None:
            load_pretrained(backbone, source.checkpoint)
        network = Network(backbone)
    elif source.name.startswith(TIMM):
        network = build_timm(source)
    else:
        network = build_config(source, options)
    return network.eval().requires_grad_(False)


def build_timm(source: Source) -> Network:
    """Build a backbone of timm.

    Raises:
        CheckpointError, FileNotFoundError: If the checkpoint cannot be read or does not match the network.
        AnalysisError: If the network does not return feature maps.
    """
    import timm  # noqa: PLC0415 - only needed for comparisons

    overlay = None
    if source.checkpoint not in (None, PRETRAINED):
        overlay = dict(state_dict=unwrap(read_checkpoint(source.checkpoint)))
    try:
        backbone = timm.create_model(
            source.name.removeprefix(TIMM),
            pretrained=source.checkpoint is not None,
            pretrained_cfg_overlay=overlay,
            features_only=True,
        )
    except FAILURES as error:
        text = ' '.join(str(error).split())[:300]
        if overlay is not None:
            raise CheckpointError(f'{source.checkpoint} does not fit {source.name}: {text}') from error
        raise AnalysisError(f'timm cannot build {source.name} for its maps: {text}') from error
    cfg = backbone.pretrained_cfg
    return Network(backbone, cfg['mean'], cfg['std'])


def build_config(source: Source, options: Mapping[str, Any] | None) -> Network:
    """Build the backbone of a config with its preprocessing; errors as in :func:`build_network`."""
    config = read_config(source.name, options)
    if not isinstance(config.get('model'), Mapping):
        raise AnalysisError(f'{source.name} has no model.')
    try:
        weights = source.checkpoint
        model = build_untrained(config) if weights is None else load_trained(config, weights)
    except (CheckpointError, FileNotFoundError):
        raise
    except FAILURES as error:
        text = ' '.join(str(error).split())[:300]
        raise AnalysisError(f'The model of {source.name} cannot be built: {text}') from error
    if not isinstance(getattr(model, 'backbone', None), nn.Module):
        raise AnalysisError(f'The model of {source.name}, {type(model).__name__}, has no backbone.')
    preprocessor = dict(config.model.get('data_preprocessor') or config.get('data_preprocessor') or {})
    channels = (config.model.get('backbone') or {}).get('in_channels', 3)
    mean, std = (
        [value / 255 for value in of_channels(preprocessor, key, channels, default)]
        for key, default in (('mean', 0.0), ('std', 1.0))
    )
    is_rgb = preprocessor.get('to_rgb', preprocessor.get('bgr_to_rgb', False))
    return Network(model.backbone, mean, std, bgr=channels == 3 and not is_rgb)
