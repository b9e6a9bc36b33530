"""Image loading with Pillow, including 16-bit gray images."""

from __future__ import annotations

import io

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.registry import TRANSFORMS
from PIL import Image, ImageOps

DEEP = ('I;16', 'I;16B', 'I;16L', 'I;16N')  # Pillow's 16-bit gray modes


@TRANSFORMS.register_module()
class PillowLoadImageFromFile(LoadImageFromFile):
    """mmcv's LoadImageFromFile with ``imdecode_backend='pillow'`` and support for 16-bit gray images.

    In mmcv, all values above 255 of such images become white, because Pillow's conversion to RGB clips them
    (https://github.com/python-pillow/Pillow/issues/2574). This transform keeps the upper 8 of the 16 bits,
    like OpenCV. All other images are read as in mmcv.

    Args:
        color_type (str): ``'color'``, ``'grayscale'``, either of them with ``'_ignore_orientation'`` to
            ignore the EXIF orientation, or ``'unchanged'``. Defaults to 'color_ignore_orientation', as in
            torchvision and timm.
        to_float32 (bool): Whether to return float32 instead of uint8. Defaults to False.
        ignore_empty (bool): Whether to return None for a file that cannot be read. Defaults to False.
        backend_args (dict, optional): See :func:`mmengine.fileio.get`. Defaults to None.

    Raises:
        ValueError: If an image has 32-bit values, integers or floats, because their range is unknown.
    """

    def __init__(
        self, color_type='color_ignore_orientation', to_float32=False, ignore_empty=False, backend_args=None
    ):
        super().__init__(
            to_float32, color_type, 'pillow', ignore_empty=ignore_empty, backend_args=backend_args
        )

    def transform(self, results: dict) -> dict | None:
        """Read ``img_path``; sets ``img``, BGR (H, W, 3) or gray (H, W), ``img_shape`` and ``ori_shape``.

        Results that have ``img`` but no ``img_path`` are returned unchanged: mmpretrain's inferencers load
        images themselves, but remove only mmcv's loader from the pipeline.

        Raises:
            ValueError: If the image has 32-bit values.
        """
        if 'img' in results and 'img_path' not in results:
            return results
        try:
            img = self.read(fileio.get(results['img_path'], backend_args=self.backend_args))
        except Exception as error:  # the type depends on the image format
            if self.ignore_empty:
                return None
            if type(error) is ValueError:
                raise ValueError(f'{results["img_path"]}: {error}') from error
            raise
        if self.to_float32:
            img = img.astype(np.float32)
        results.update(img=img, img_shape=img.shape[:2], ori_shape=img.shape[:2])
        return results

    def read(self, content: bytes) -> np.ndarray:
        """Decode a file's content: uint8, BGR (H, W, 3) or gray (H, W); ``'unchanged'`` also returns uint16.

        Raises:
            ValueError: If the image has 32-bit values.
        """
        with Image.open(io.BytesIO(content)) as file:
            deep = file.mode in DEEP or (file.mode == 'I' and file.format in ('PNG', 'PPM'))
            if self.color_type != 'unchanged' and not deep and file.mode in ('I', 'F'):
                raise ValueError(
                    f'A {file.format} of mode {file.mode} has 32-bit values, whose range is unknown; '
                    f'convert it to 8 or 16 bits.'
                )
            if self.color_type == 'unchanged' or not deep:
                return mmcv.imfrombytes(content, self.color_type, backend='pillow')
            if not self.color_type.endswith('ignore_orientation'):
                file = ImageOps.exif_transpose(file)
            gray = (np.asarray(file) >> 8).astype(np.uint8)
        return gray if self.color_type.startswith('grayscale') else np.repeat(gray[..., None], 3, 2)
