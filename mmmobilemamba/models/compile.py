"""``torch.compile`` by region, for any model that contains the backbone."""

from __future__ import annotations

from typing import Any

from torch import nn

from .backbones import MobileMamba


def compile_regions(model: nn.Module, evaluation: bool = False, **options: Any) -> nn.Module:
    """Compile every MobileMamba in a model by region, in place.

    This equals ``compile=True`` in the config of the backbone. The rest of the model, such as heads and
    losses, is not compiled. Parameters, buffers and their names do not change, so checkpoints, EMA, DDP and
    AMP work as before.

    Args:
        model (nn.Module): A backbone, or a model that contains one.
        evaluation (bool): Also run the compiled form in evaluation. Defaults to False, as compiling for each
            size of test images costs more than it gains.
        **options: Arguments of ``torch.compile``.

    Returns:
        nn.Module: The model.

    Raises:
        ValueError: If there is no MobileMamba in the model.
        RuntimeError: If PyTorch is older than 2.5.

    Example:
        >>> detector = compile_regions(MODELS.build(config.model))
    """
    for backbone in find_backbones(model):
        backbone.compile_regions(evaluation, **options)
    return model


def find_backbones(model: nn.Module) -> list[MobileMamba]:
    """Every MobileMamba in a model (list[MobileMamba]).

    Raises:
        ValueError: If there is none.
    """
    backbones = [module for module in model.modules() if isinstance(module, MobileMamba)]
    if not backbones:
        raise ValueError(f'There is no MobileMamba in this {type(model).__name__}.')
    return backbones
