"""What a network computes, as arrays and figures: receptive fields, maps of stages, sub-bands, the scan.

============  ======================================================================
``errors``    what is said when there is nothing to look at
``erf``       effective receptive fields and how far they reach
``branches``  a network without its scans, wavelets or local convolutions
``maps``      maps in colours by their principal components, wavelet sub-bands
``scan``      step sizes and states of a scan
``images``    pictures from files and folders, and random ones
``networks``  networks of OpenMMLab and timm by name, with their preprocessing
``figures``   draws all of this with matplotlib
============  ======================================================================

Each imports only from those above it.
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
