from .conv_bn import ConvBN
from .ss2d import SS2D
from .wavelet import haar_dwt, haar_idwt, pad_to_even

__all__ = ['SS2D', 'ConvBN', 'haar_dwt', 'haar_idwt', 'pad_to_even']
