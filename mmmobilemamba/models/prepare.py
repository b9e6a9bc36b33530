"""Prepares a network for inference on its device."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .prepare_for_cpu import prepare_for_cpu
from .prepare_for_gpu import prepare_for_gpu


def prepare_for_inference(model: nn.Module, image: Tensor, **options: Any) -> nn.Module:
    """Copy a network and optimise the copy for inference on the device of the image.

    Calls :func:`prepare_for_cpu` or :func:`prepare_for_gpu`.

    Args:
        model (nn.Module): Any network, on a CPU or a GPU. It is not changed.
        image (Tensor): An example input of the wanted size on the same device, (N, C, H, W).
        **options: Arguments of :func:`prepare_for_gpu`; :func:`prepare_for_cpu` has none.

    Returns:
        nn.Module: The prepared copy.

    Raises:
        TypeError, ValueError, RuntimeError: As in these functions.

    Example:
        >>> backbone, image = MobileMamba('b1').cuda(), torch.rand(1, 3, 256, 256).cuda()
        >>> fast = prepare_for_inference(backbone, image)
        >>> fast(image)[0].shape
        torch.Size([1, 448, 4, 4])
    """
    prepare = prepare_for_cpu if image.device.type == 'cpu' else prepare_for_gpu
    return prepare(model, image, **options)
