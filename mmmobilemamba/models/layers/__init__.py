from .conv import Conv2d
from .conv_bn import ConvBN
from .fold import PLAIN, can_fold, fold, fold_norm, fold_norm_before, folding
from .mk_deconv import MKDeConv
from .residual import Residual
from .ss2d import SS2D
from .wte_mamba import FoldedWTEMamba, WTEMamba

__all__ = [
    'PLAIN',
    'SS2D',
    'Conv2d',
    'ConvBN',
    'FoldedWTEMamba',
    'MKDeConv',
    'Residual',
    'WTEMamba',
    'can_fold',
    'fold',
    'fold_norm',
    'fold_norm_before',
    'folding',
]
