"""Components for mmaction2; in a config: ``custom_imports = dict(imports=['mmmobilemamba.mmaction'])``."""

from typing import Union

from mmaction.registry import MODELS
from torch import Tensor

from .models import MobileMamba


@MODELS.register_module(name='MobileMamba')
class FrameMobileMamba(MobileMamba):
    """MobileMamba for mmaction2, registered as ``MobileMamba``: it returns a single map as a tensor.

    The heads of mmaction2's recognizers expect tensors, and mmaction2 1.2.0 unpacks a tuple of one map only
    if the ``type`` of the backbone starts with ``mmpretrain.``
    (https://github.com/open-mmlab/mmaction2/blob/v1.2.0/mmaction/models/recognizers/recognizer2d.py).
    ``type='mmpretrain.MobileMamba'`` is the plain backbone there. Arguments and parameters are the same.

    Example:
        >>> backbone = dict(type='MobileMamba', arch='t2')
        >>> model = dict(type='Recognizer2D', backbone=backbone, cls_head=dict(in_channels=368, ...), ...)
    """

    def forward(self, x: Tensor) -> Union[Tensor, tuple[Tensor, ...]]:
        """Feature maps of images.

        Args:
            x (Tensor): Normalised images (N, in_channels, H, W), of a floating dtype.

        Returns:
            Tensor | tuple[Tensor]: (N, C, ceil(H / stride), ceil(W / stride)); a tuple if ``out_indices`` has
            several stages.

        Raises:
            ValueError: If ``x`` does not have four dimensions or a floating dtype.
        """
        maps = super().forward(x)
        return maps[0] if len(maps) == 1 else maps
