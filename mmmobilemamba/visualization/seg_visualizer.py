"""mmseg's visualizer, mended for its browse_dataset.py, and with a check of the classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer


@VISUALIZERS.register_module()
class ContiguousSegVisualizer(SegLocalVisualizer):
    """mmseg's visualizer for images of any memory layout.

    mmseg 1.2.2 writes the names of classes with OpenCV into an array that is laid out as the image, and its
    browse_dataset.py passes a transposed one, which OpenCV refuses: ``Layout of the output array img is
    incompatible with cv::Mat``. Source: https://github.com/open-mmlab/mmsegmentation/issues/3405.

    mmseg's inferencer draws with the classes that the checkpoint names, and with those of Cityscapes if it
    names none; a model of another number of classes would be drawn with wrong names, in part not at all.
    """

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: SegDataSample | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """As in :class:`mmseg.visualization.SegLocalVisualizer`; ``image`` is (H, W, 3).

        Raises:
            ValueError: If the prediction has another number of classes than there are names.
        """
        if data_sample is not None and 'seg_logits' in data_sample:
            self._check_classes(len(data_sample.seg_logits.data))
        return super().add_datasample(name, np.ascontiguousarray(image), data_sample, *args, **kwargs)

    def _check_classes(self, channels: int) -> None:
        names = self.dataset_meta.get('classes') or ()
        # One channel tells two classes apart, of which the first may have no name.
        if len(names) not in ((1, 2) if channels == 1 else (channels,)):
            raise ValueError(
                f'The model predicts {max(channels, 2)} classes, but there are names and colours of '
                f'{len(names)} ({", ".join(map(str, names[:3]))} ...). If the checkpoint of MMSegInferencer '
                f'names no classes, set inferencer.model.dataset_meta = dict(classes=[...], palette=[...]); '
                f'elsewhere, metainfo of the dataset.'
            )
