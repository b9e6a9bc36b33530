"""Feature pyramid with levels finer than those of the backbone, from transposed convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.models.necks import FPN
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..checkpoint import check_form
from ..layers import PLAIN, can_fold, fold_norm, folding


@MODELS.register_module()
class DeconvFPN(FPN):
    """mmdet's FPN, extended to finer levels.

    The finest map of MobileMamba has stride 16. After the top-down pathway, a chain of 2 x 2 transposed
    convolutions of stride 2 computes maps of stride 8, 4, ... from it, without lateral connections. Each
    finer level has its own 3 x 3 output convolution. Modules are named as in the authors' detection
    checkpoints. Source: https://arxiv.org/abs/2411.15941, detection experiments; FPN,
    https://arxiv.org/abs/1612.03144.

    Args:
        in_channels (list[int]): Channels of each input, finest first.
        out_channels (int): Channels of every output.
        num_outs (int): Number of outputs, including the finer and the coarser levels.
        num_extra_trans_convs (int): Number of finer levels; 0 gives mmdet's FPN. Defaults to 1.
        deploy (bool): Build the deployed form, see :meth:`switch_to_deploy`, to load checkpoints of that
            form. Defaults to False.
        **kwargs: Other arguments of :class:`mmdet.models.necks.FPN`, such as those of the coarser levels.

    Raises:
        ValueError: If ``num_extra_trans_convs`` is negative or ``num_outs`` has no room for it.

    Example:
        >>> neck = DeconvFPN([200, 376, 448], 256, num_outs=5, add_extra_convs='on_input')
        >>> maps = [torch.rand(1, c, s, s) for c, s in zip([200, 376, 448], [16, 8, 4])]
        >>> [tuple(out.shape[2:]) for out in neck(maps)]
        [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]
    """

    def __init__(self, in_channels, out_channels, num_outs, num_extra_trans_convs=1, deploy=False, **kwargs):
        if num_extra_trans_convs < 0:
            raise ValueError(f'num_extra_trans_convs must be 0 or more, not {num_extra_trans_convs}.')
        levels = len(in_channels) - kwargs.get('start_level', 0)
        if num_outs < levels + num_extra_trans_convs and kwargs.get('end_level', -1) == -1:
            raise ValueError(
                f'num_outs counts every output: {levels} levels of the backbone and {num_extra_trans_convs} '
                f'finer ones need at least {levels + num_extra_trans_convs}, not {num_outs}.'
            )
        super().__init__(in_channels, out_channels, num_outs - num_extra_trans_convs, **kwargs)
        conv = dict(norm_cfg=kwargs.get('norm_cfg'), act_cfg=kwargs.get('act_cfg'), inplace=False)
        self.extra_trans_convs = nn.ModuleList()
        self.extra_fpn_convs = nn.ModuleList()
        for _ in range(num_extra_trans_convs):
            self.extra_trans_convs.append(
                ConvModule(out_channels, out_channels, 2, stride=2, conv_cfg=dict(type='deconv'), **conv)
            )
            self.extra_fpn_convs.append(ConvModule(out_channels, out_channels, 3, padding=1, **conv))
        self.folds = any(map(folds_norm, self.modules()))
        self.deploy = False
        if deploy:
            self.switch_to_deploy()

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Maps (N, C_i, H_i, W_i) -> ``num_outs`` maps (N, out_channels, H, W), both finest first.

        Raises:
            ValueError: If the number of maps is not that of ``in_channels``.
        """
        if len(inputs) != len(self.in_channels):
            raise ValueError(
                f'DeconvFPN was built for {len(self.in_channels)} maps, but got {len(inputs)}: in_channels '
                f'must be the out_channels of the backbone.'
            )
        inputs = inputs[self.start_level : self.backbone_end_level]
        laterals = self.top_down([conv(x) for conv, x in zip(self.lateral_convs, inputs)])
        finer = self.finer_levels(laterals[0])
        outs = [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
        coarser = self.coarser_levels(inputs[-1], laterals[-1], outs[-1])
        return (*finer, *outs, *coarser)

    def switch_to_deploy(self) -> None:
        """Fold batch norms into their convolutions, in float64, in place. A second call does nothing.

        Other norm layers are kept, and so are batch norms after other types of convolutions, such as
        deformable ones.

        Raises:
            ValueError: If a weight is computed by a hook.
        """
        with folding(self):
            for module in self.modules():
                if folds_norm(module):
                    module.conv = fold_norm(module.conv, module.norm)
                    setattr(module, module.norm_name, nn.Identity())
        self.deploy = True

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        keys = [key for key in state_dict if key.startswith(prefix)]
        if self.folds and f'{prefix}lateral_convs.0.conv.weight' in keys:
            trained = any('.bn.' in key or '.gn.' in key for key in keys)
            check_form(not trained, self.deploy, 'neck', or_else='trained without norm layers')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def top_down(self, laterals: Sequence[Tensor]) -> list[Tensor]:
        """Top-down pathway: add each map, upsampled, to the next finer one. Shapes do not change."""
        summed = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            size = {} if 'scale_factor' in self.upsample_cfg else dict(size=lateral.shape[2:])
            summed.insert(0, lateral + F.interpolate(summed[0], **size, **self.upsample_cfg))
        return summed

    def finer_levels(self, x: Tensor) -> list[Tensor]:
        """Output maps of 2, 4, ... times the resolution of ``x`` (N, out_channels, H, W), finest first."""
        laterals = []
        for deconv in self.extra_trans_convs:
            x = deconv(x)
            laterals.insert(0, x)
        return [conv(lateral) for conv, lateral in zip(self.extra_fpn_convs, laterals)]

    def coarser_levels(self, last_input: Tensor, last_lateral: Tensor, last_out: Tensor) -> list[Tensor]:
        """Output maps of 1/2, 1/4, ... the resolution of the last output (N, out_channels, H, W)."""
        number = self.num_outs - len(self.lateral_convs)
        if not self.add_extra_convs:
            steps = range(1, number + 1)
            return [F.max_pool2d(last_out, 1, stride=2**step) for step in steps]
        sources = dict(on_input=last_input, on_lateral=last_lateral, on_output=last_out)
        x, outs = sources[self.add_extra_convs], []
        for conv in self.fpn_convs[len(self.lateral_convs) :]:
            x = conv(F.relu(x) if outs and self.relu_before_extra_convs else x)
            outs.append(x)
        return outs


def folds_norm(module: nn.Module) -> bool:
    """Whether a module is a ``ConvModule`` whose norm layer can be folded into its convolution (bool)."""
    return (
        isinstance(module, ConvModule)
        and module.with_norm
        and can_fold(module.norm)
        and type(module.conv) in PLAIN
    )
