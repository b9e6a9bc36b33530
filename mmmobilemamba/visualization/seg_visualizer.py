"""mmseg's visualizer, mended so that mmseg's browse_dataset.py can use it."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.registry import VISUALIZERS
from mmseg.visualization import SegLocalVisualizer


@VISUALIZERS.register_module()
class ContiguousSegVisualizer(SegLocalVisualizer):
    """mmseg's visualizer for images of any memory layout.

    mmseg 1.2.2 writes the names of classes with OpenCV into an array that is laid out as the image, and its
    browse_dataset.py passes a transposed one, which OpenCV refuses: ``Layout of the output array img is
    incompatible with cv::Mat``. Source: https://github.com/open-mmlab/mmsegmentation/issues/3405.
    """

    def add_datasample(self, name: str, image: np.ndarray, *args: Any, **kwargs: Any) -> None:
        """As in :class:`mmseg.visualization.SegLocalVisualizer`; ``image`` is (H, W, 3)."""
        return super().add_datasample(name, np.ascontiguousarray(image), *args, **kwargs)
