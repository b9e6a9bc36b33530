"""Reading pictures with Pillow, 16-bit gray ones among them."""

from __future__ import annotations

import io

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.registry import TRANSFORMS
from PIL import Image, ImageOps

DEEP = ('I;16', 'I;16B', 'I;16L', 'I;16N')  # modes of Pillow with 16 bits of gray


@TRANSFORMS.register_module()
class PillowLoadImageFromFile(LoadImageFromFile):
    """mmcv's LoadImageFromFile with ``imdecode_backend='pillow'``, which takes 16-bit gray pictures as well.

    Of those, mmcv makes all values above 255 white, as Pillow's conversion to RGB clips them
    (https://github.com/python-pillow/Pillow/issues/2574). Here, as with OpenCV, the higher 8 of the 16 bits
    count. All other pictures are read as mmcv reads them.

    Args:
        color_type (str): ``'color'``, ``'grayscale'``, either with ``'_ignore_orientation'`` for pictures as
            they are stored, or ``'unchanged'``. Defaults to 'color_ignore_orientation', as torchvision and
            timm read.
        to_float32 (bool): Whether to give float32 instead of uint8. Defaults to False.
        ignore_empty (bool): Give None for a file that cannot be read. Defaults to False.
        backend_args (dict, optional): See :func:`mmengine.fileio.get`.

    Raises:
        ValueError: Of pictures with values of 32 bits, integers or floats, whose range nothing says.
    """

    def __init__(
        self, color_type='color_ignore_orientation', to_float32=False, ignore_empty=False, backend_args=None
    ):
        super().__init__(
            to_float32, color_type, 'pillow', ignore_empty=ignore_empty, backend_args=backend_args
        )

    def transform(self, results: dict) -> dict | None:
        """Reads ``img_path``; sets ``img``, (H, W, 3) of BGR or (H, W) of gray, and its shapes.

        An ``img`` without ``img_path`` stays: mmpretrain's inferencers read pictures themselves, and take no
        loader but mmcv's out of the pipeline.
        """
        if 'img' in results and 'img_path' not in results:
            return results
        try:
            img = self.read(fileio.get(results['img_path'], backend_args=self.backend_args))
        except Exception as error:  # of many kinds, by the format
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
        """A file's content -> uint8 (H, W, 3), BGR, or (H, W), gray; unchanged, uint16 perhaps."""
        with Image.open(io.BytesIO(content)) as file:
            deep = file.mode in DEEP or (file.mode == 'I' and file.format in ('PNG', 'PPM'))  # of 16 bits
            if self.color_type != 'unchanged' and not deep and file.mode in ('I', 'F'):
                raise ValueError(
                    f'A {file.format} of mode {file.mode} has values of 32 bits, whose range nothing says; '
                    f'convert it to 8 or 16 bits.'
                )
            if self.color_type == 'unchanged' or not deep:
                return mmcv.imfrombytes(content, self.color_type, backend='pillow')
            if not self.color_type.endswith('ignore_orientation'):
                file = ImageOps.exif_transpose(file)
            gray = (np.asarray(file) >> 8).astype(np.uint8)
        return gray if self.color_type.startswith('grayscale') else np.repeat(gray[..., None], 3, 2)
