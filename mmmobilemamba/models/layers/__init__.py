from .conv_bn import ConvBN
from .fold import can_fold, fold, fold_norm, fold_norm_before
from .mk_deconv import MKDeConv
from .residual import Residual
from .ss2d import SS2D
from .wavelet import haar_dwt, haar_idwt, pad_to_even
from .wte_mamba import FoldedWTEMamba, WTEMamba

__all__ = [
    'SS2D',
    'ConvBN',
    'FoldedWTEMamba',
    'MKDeConv',
    'Residual',
    'WTEMamba',
    'can_fold',
    'fold',
    'fold_norm',
    'fold_norm_before',
    'haar_dwt',
    'haar_idwt',
    'pad_to_even',
]
