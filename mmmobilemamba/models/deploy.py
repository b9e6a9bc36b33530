"""The deployed form of a whole model."""

from torch import nn


def deploy(model: nn.Module) -> list[str]:
    """Switch every part of a model that has a ``switch_to_deploy`` to its deployed form, in place.

    Parts of this package that have one are MobileMamba, MobileMambaClsHead and DeconvFPN. A part that is
    deployed already stays as it is.

    Args:
        model (nn.Module): A backbone, or anything that has one inside.

    Returns:
        list[str]: Names of these parts in the model, '' for the model itself.

    Example:
        >>> backbone = MobileMamba('t2').eval()
        >>> deploy(backbone)
        ['']
    """
    parts = {name: part for name, part in model.named_modules() if hasattr(part, 'switch_to_deploy')}
    for part in parts.values():
        part.switch_to_deploy()
    return list(parts)
