"""mmseg's visualizer with a fix for browse_dataset.py and a check of the class names."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer


@VISUALIZERS.register_module()
class ContiguousSegVisualizer(SegLocalVisualizer):
    """mmseg's visualizer, for images of any memory layout and with a check of the number of classes.

    mmseg 1.2.2 draws class names with OpenCV into an array of the image's memory layout. Its
    browse_dataset.py passes a transposed array, which OpenCV rejects: ``Layout of the output array img is
    incompatible with cv::Mat``. Source: https://github.com/open-mmlab/mmsegmentation/issues/3405.

    mmseg's inferencer uses the class names of the checkpoint, or those of Cityscapes if it has none. With a
    different number of classes, names would be wrong and some classes would not be drawn.
    """

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: SegDataSample | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Draw a data sample, see :class:`mmseg.visualization.SegLocalVisualizer`; ``image`` is (H, W, 3).

        Raises:
            ValueError: If the number of predicted classes differs from the number of names.
        """
        if data_sample is not None and 'seg_logits' in data_sample:
            self._check_classes(len(data_sample.seg_logits.data))
        return super().add_datasample(name, np.ascontiguousarray(image), data_sample, *args, **kwargs)

    def _check_classes(self, channels: int) -> None:
        names = self.dataset_meta.get('classes') or ()
        # A single channel is for two classes, of which the first may have no name.
        if len(names) not in ((1, 2) if channels == 1 else (channels,)):
            raise ValueError(
                f'The model predicts {max(channels, 2)} classes, but there are names and colours of '
                f'{len(names)} ({", ".join(map(str, names[:3]))} ...). If the checkpoint of MMSegInferencer '
                f'names no classes, set inferencer.model.dataset_meta = dict(classes=[...], palette=[...]); '
                f'elsewhere, metainfo of the dataset.'
            )
