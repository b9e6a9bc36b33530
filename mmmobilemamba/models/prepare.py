"""Preparation of a network for inference, on whichever device it is."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .prepare_for_cpu import prepare_for_cpu
from .prepare_for_gpu import prepare_for_gpu


def prepare_for_inference(model: nn.Module, image: Tensor, **options: Any) -> nn.Module:
    """A copy of a network for inference with such images, on the device of the image.

    Args:
        model (nn.Module): Any network, on a CPU or a GPU; it stays as it is.
        image (Tensor): An input of the wanted size on the same device, (N, C, H, W).
        **options: Of :func:`prepare_for_gpu`; :func:`prepare_for_cpu` has none.

    Returns:
        nn.Module: What :func:`prepare_for_cpu` or :func:`prepare_for_gpu` makes of it.

    Raises:
        TypeError, ValueError, RuntimeError: See there.

    Example:
        >>> backbone, image = MobileMamba('b1').cuda(), torch.rand(1, 3, 256, 256).cuda()
        >>> fast = prepare_for_inference(backbone, image)
        >>> fast(image)[0].shape
        torch.Size([1, 448, 4, 4])
    """
    prepare = prepare_for_cpu if image.device.type == 'cpu' else prepare_for_gpu
    return prepare(model, image, **options)
