"""All that configs for mmaction2 use: ``custom_imports = dict(imports=['mmmobilemamba.mmaction'])``."""

from typing import Union

from mmaction.registry import MODELS
from torch import Tensor

from .models import MobileMamba


@MODELS.register_module(name='MobileMamba')
class FrameMobileMamba(MobileMamba):
    """MobileMamba under its own name in mmaction2, whose backbones return one map as a tensor.

    mmaction2 1.2.0 unpacks a tuple of one map only if the backbone's ``type`` begins with ``mmpretrain.``;
    the heads of its recognizers take tensors
    (https://github.com/open-mmlab/mmaction2/blob/v1.2.0/mmaction/models/recognizers/recognizer2d.py).
    ``type='mmpretrain.MobileMamba'`` is the plain backbone there. Arguments and parameters are the same.

    Example:
        >>> backbone = dict(type='MobileMamba', arch='t2')
        >>> model = dict(type='Recognizer2D', backbone=backbone, cls_head=dict(in_channels=368, ...), ...)
    """

    def forward(self, x: Tensor) -> Union[Tensor, tuple[Tensor, ...]]:
        """(N, in_channels, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)), or a tuple of several.

        Raises:
            ValueError: If ``x`` has another number of dimensions, or is not of a floating type.
        """
        maps = super().forward(x)
        return maps[0] if len(maps) == 1 else maps
