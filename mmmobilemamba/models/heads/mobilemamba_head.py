"""Classification head of MobileMamba: batch norm and a linear layer."""

from __future__ import annotations

from mmengine.registry import MODELS
from mmpretrain.models.heads import LeViTClsHead

from ..checkpoint import check_form
from ..layers import fold_norm_before, folding


@MODELS.register_module()
class MobileMambaClsHead(LeViTClsHead):
    """mmpretrain's LeViTClsHead without distillation, with a fix for ``deploy=True``.

    In mmpretrain 1.2.0, LeViTClsHead with ``deploy=True`` fails with ``TypeError: switch_to_deploy() takes 1
    positional argument but 2 were given``. Parameters and their names are the same.

    Args:
        num_classes (int): Number of classes. Defaults to 1000.
        in_channels (int): Channels of the pooled features, C; required.
        deploy (bool): Build the deployed form, a single linear layer, to load checkpoints of that form.
            Defaults to False.
        **kwargs: Other arguments of :class:`mmpretrain.models.ClsHead`.
    """

    def __init__(self, num_classes=1000, in_channels=None, deploy=False, **kwargs):
        super().__init__(num_classes, distillation=False, in_channels=in_channels, **kwargs)
        if deploy:
            self.switch_to_deploy()

    def switch_to_deploy(self) -> None:
        """Fold the batch norm into the linear layer, in float64. A second call does nothing."""
        if not self.deploy:
            with folding(self):
                self.head = fold_norm_before(self.head.bn, self.head.linear)
            self.deploy = True

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if any(key.startswith(f'{prefix}head.') for key in state_dict):
            check_form(f'{prefix}head.weight' in state_dict, self.deploy, 'head')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
