"""Visual analysis of networks: receptive fields, feature maps, wavelet sub-bands and scan states.

============  ======================================================================
``errors``    the error of this package
``erf``       effective receptive fields and their extent
``branches``  a network without its scans, wavelets or local convolutions
``maps``      feature maps coloured by principal components, wavelet sub-bands
``scan``      step sizes and states of a scan
``images``    images from files and folders, and random ones
``networks``  networks of OpenMMLab and timm by name, with their preprocessing
``figures``   matplotlib figures of the above
============  ======================================================================

Each module only imports modules above it.
"""

from .branches import BRANCHES, open_residuals, without
from .erf import SHARES, effective_receptive_fields, square_sides
from .errors import AnalysisError
from .maps import BANDS, find_global_branch, global_input, pca_colors, sub_bands
from .scan import scan_states

__all__ = [
    'BANDS',
    'BRANCHES',
    'SHARES',
    'AnalysisError',
    'effective_receptive_fields',
    'find_global_branch',
    'global_input',
    'open_residuals',
    'pca_colors',
    'scan_states',
    'square_sides',
    'sub_bands',
    'without',
]
