"""Layer-wise learning-rate decay in mmpretrain, mmdet and mmseg alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from numbers import Real

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

FSDP_PREFIX = '_fsdp_wrapped_module.'  # which FSDP adds to the names of what it wraps


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor, with a learning rate that falls from the head to the stem.

    A parameter d layers below the head learns at ``layer_decay_rate ** d`` of the rate it would have
    otherwise; whatever is not in the backbone learns at the full rate. The depth is what
    ``get_layer_depth`` of ``model.backbone``, or of the model itself if it is a bare backbone, says,
    so it works with any network that has this method. Source: https://arxiv.org/abs/1801.06146
    (discriminative fine-tuning) and https://arxiv.org/abs/2106.08254 (in fine-tuning of vision networks).

    All other keys of ``paramwise_cfg`` keep their meaning, ``lr_mult`` among them, which is applied on top.

    Args:
        optim_wrapper_cfg (dict): The wrapper with its ``optimizer``, which needs an ``lr``.
        paramwise_cfg (dict): ``layer_decay_rate`` (float, more than 0 and at most 1), and the keys of
            :class:`mmengine.optim.DefaultOptimWrapperConstructor`.

    Raises:
        ValueError: If ``lr`` or ``layer_decay_rate`` is missing or wrong.
        TypeError: When called with a model that has no layers to tell apart.

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
        """Add a group for each parameter; once those of the whole model are there, scale their rates."""
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
    """Function from a parameter's name to its layer and the number of layers."""
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
