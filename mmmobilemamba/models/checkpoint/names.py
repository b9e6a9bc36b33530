"""Maps the authors' names of parameters to those of this package, for direct loading and the converter."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Union

Renames = Sequence[tuple[str, Union[str, Callable[[re.Match], str]]]]

# Patterns of the authors' names and their replacements, applied in order. `blocks2` and `blocks3` begin
# with the three parts of the downsample. `convert_backbone` drops the keys of the constant Haar filters.
RENAMES: Renames = (
    (r'^patch_embed\.', 'stem.'),
    (r'^blocks1\.', 'stages.0.blocks.'),
    (r'^blocks([23])\.0\.0\.m\.', lambda m: f'stages.{int(m[1]) - 1}.downsample.dw0.fn.'),
    (r'^blocks([23])\.0\.1\.m\.', lambda m: f'stages.{int(m[1]) - 1}.downsample.ffn0.fn.'),
    (r'^blocks([23])\.1\.', lambda m: f'stages.{int(m[1]) - 1}.downsample.merge.'),
    (r'^blocks([23])\.2\.0\.m\.', lambda m: f'stages.{int(m[1]) - 1}.downsample.dw1.fn.'),
    (r'^blocks([23])\.2\.1\.m\.', lambda m: f'stages.{int(m[1]) - 1}.downsample.ffn1.fn.'),
    (r'^blocks([23])\.(\d+)\.', lambda m: f'stages.{int(m[1]) - 1}.blocks.{int(m[2]) - 3}.'),
    (r'\.mixer\.m\.attn\.', '.mixer.fn.'),
    (r'\.(dw0|dw1|ffn0|ffn1)\.m\.', r'.\1.fn.'),
    (r'\.proj\.1\.', '.proj.'),
    (r'\.local_op\.dwconv3x3\.', '.local_op.dwconv.'),
    (r'\.local_op\.dwconv1x1\.', '.local_op.scale.'),
    (r'\.wavelet_convs\.0\.', '.wavelet_conv.'),
    (r'\.wavelet_scale\.0\.weight$', '.wavelet_scale'),
    (r'\.base_scale\.weight$', '.base_scale'),
    (r'\.global_atten\.', '.ss2d.'),
    (r'\.ss2d\.conv2d\.', '.ss2d.dwconv.'),
    (r'\.dt_projs_', '.dt_proj_'),
    (r'\.A_logs$', '.A_log'),
    (r'\.Ds$', '.D'),
    (r'\.c\.weight$', '.conv.weight'),
)

# From the head of the authors' classifiers to MobileMambaClsHead.
HEAD_RENAMES: Renames = ((r'^head\.bn\.', 'head.head.bn.'), (r'^head\.l\.', 'head.head.linear.'))


def rename(key: str, table: Renames = RENAMES) -> str:
    """Rename a key of the authors by a table of patterns (str)."""
    for pattern, replacement in table:
        key = re.sub(pattern, replacement, key)
    return key
