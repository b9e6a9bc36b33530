"""Layer-wise learning rate decay for mmpretrain, mmdet and mmseg."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from numbers import Real

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

FSDP_PREFIX = '_fsdp_wrapped_module.'  # FSDP inserts it into parameter names


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor with a learning rate that decreases from the head to the stem.

    The learning rate of a parameter d layers below the head is multiplied by ``layer_decay_rate ** d``;
    parameters outside the backbone keep the full rate. The depth comes from ``get_layer_depth`` of
    ``model.backbone``, or of the model itself if it is a bare backbone, so any network with this method is
    supported. Source: https://arxiv.org/abs/1801.06146 (discriminative fine-tuning) and
    https://arxiv.org/abs/2106.08254 (fine-tuning of vision networks).

    All other keys of ``paramwise_cfg`` work as in mmengine; ``lr_mult``, for example, is applied on top.

    Args:
        optim_wrapper_cfg (dict): Config of the optimizer wrapper; its ``optimizer`` needs an ``lr``.
        paramwise_cfg (dict): ``layer_decay_rate`` (float, above 0 and up to 1), and the keys of
            :class:`mmengine.optim.DefaultOptimWrapperConstructor`.

    Raises:
        ValueError: If ``lr`` or ``layer_decay_rate`` is missing or invalid.
        TypeError: When called with a model without ``get_layer_depth``.

    Example:
        >>> optim_wrapper = dict(
        ...     optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
        ...     constructor='LayerDecayOptimWrapperConstructor',
        ...     paramwise_cfg=dict(layer_decay_rate=0.8, norm_decay_mult=0.0),
        ... )
    """

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if not isinstance(rate, Real) or not 0 < rate <= 1:
            raise ValueError(
                f'LayerDecayOptimWrapperConstructor needs paramwise_cfg=dict(layer_decay_rate=...) with a '
                f'number above 0 and up to 1, not {rate!r}; the other keys are {sorted(self.paramwise_cfg)}.'
            )
        if self.base_lr is None:
            raise ValueError("Layer-wise decay multiplies the optimizer's lr: set optimizer=dict(lr=...).")

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Add one group per parameter; after the last one, scale the learning rates of all groups."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:  # a submodule
            return
        get_depth = depth_lookup(module)
        names = {
            id(parameter): name.replace(FSDP_PREFIX, '') for name, parameter in module.named_parameters()
        }
        layers = Counter()
        for group in params:
            layer, number = get_depth(names[id(group['params'][0])])
            scale = self.paramwise_cfg['layer_decay_rate'] ** (number - 1 - layer)
            group['lr'] = group.get('lr', self.base_lr) * scale
            layers[layer, scale] += 1
        for (layer, scale), count in sorted(layers.items()):
            print_log(f'Layer {layer}: {count} parameters at {scale:.4g} of their learning rate', 'current')


def depth_lookup(model: nn.Module) -> Callable[[str], tuple[int, int]]:
    """Return a function that maps a parameter's name to its layer and the number of layers (Callable).

    Raises:
        TypeError: If neither the model nor its backbone has ``get_layer_depth``.
    """
    backbone = getattr(model, 'backbone', None)
    if hasattr(backbone, 'get_layer_depth'):
        return lambda name: backbone.get_layer_depth(name, prefix='backbone.')
    if hasattr(model, 'get_layer_depth'):
        return model.get_layer_depth
    raise TypeError(
        f'Layer-wise decay needs get_layer_depth(param_name, prefix), which neither '
        f'{type(model).__name__} nor its backbone ({type(backbone).__name__}) has: use MobileMamba, another '
        f'backbone with this method, or the default constructor.'
    )
