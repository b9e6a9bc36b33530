from .backend import set_backend
from .conv import Conv2d, FusedConv2d
from .conv_bn import ConvBN
from .ffn import FFN, FoldedFFN
from .fold import PLAIN, can_fold, fold, fold_norm, fold_norm_before, folding, fuse, fuse_activation
from .mixer import FoldedMixer, Mixer
from .mk_deconv import ChannelScale, FoldedMKDeConv, MKDeConv
from .residual import FoldedResidual, Residual
from .squeeze_excite import SqueezeExcite
from .ss2d import SS2D
from .wte_mamba import FoldedWTEMamba, WTEMamba

__all__ = [
    'FFN',
    'PLAIN',
    'SS2D',
    'ChannelScale',
    'Conv2d',
    'ConvBN',
    'FoldedFFN',
    'FoldedMKDeConv',
    'FoldedMixer',
    'FoldedResidual',
    'FoldedWTEMamba',
    'FusedConv2d',
    'MKDeConv',
    'Mixer',
    'Residual',
    'SqueezeExcite',
    'WTEMamba',
    'can_fold',
    'fold',
    'fold_norm',
    'fold_norm_before',
    'folding',
    'fuse',
    'fuse_activation',
    'set_backend',
]
