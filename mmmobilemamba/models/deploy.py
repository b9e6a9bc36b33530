"""Switches a whole model to its deployed form."""

from torch import nn


def deploy(model: nn.Module) -> list[str]:
    """Call ``switch_to_deploy`` of every module that has one, in place.

    In this package these are MobileMamba, MobileMambaClassifier and its head, MobileMambaClsHead and
    DeconvFPN. Modules that are already deployed do not change.

    Args:
        model (nn.Module): A backbone, or a model that contains one.

    Returns:
        list[str]: Names of these modules in the model, '' for the model itself.

    Example:
        >>> backbone = MobileMamba('t2').eval()
        >>> deploy(backbone)
        ['']
    """
    parts = {name: part for name, part in model.named_modules() if hasattr(part, 'switch_to_deploy')}
    for part in parts.values():
        part.switch_to_deploy()
    return list(parts)
