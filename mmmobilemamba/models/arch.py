"""The archs of the MobileMamba family, and checks of ``arch`` and ``out_indices``.

Source: https://arxiv.org/abs/2411.15941 and the authors' released checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

ARCH_FIELDS = ('embed_dims', 'depths', 'global_ratios', 'local_ratios', 'kernel_sizes', 'drop_path_rate')


def _arch(embed_dims, depths, drop_path_rate):
    return dict(
        embed_dims=embed_dims,
        depths=depths,
        global_ratios=(0.8, 0.7, 0.6),
        local_ratios=(0.2, 0.2, 0.3),
        kernel_sizes=(7, 5, 3),
        drop_path_rate=drop_path_rate,
    )


_B = _arch((200, 376, 448), (2, 3, 2), 0.03)

# B1, B2 and B4 are one network for inputs of 256, 384 and 512 pixels.
ARCHS = dict(
    t2=_arch((144, 272, 368), (1, 2, 2), 0.0),
    t4=_arch((176, 368, 448), (1, 2, 2), 0.0),
    s6=_arch((192, 384, 448), (1, 2, 2), 0.0),
    b1=_B,
    b2=_B,
    b4=_B,
)


def resolve_arch(arch: str | dict[str, Any], drop_path_rate: float | None = None) -> dict[str, Any]:
    """Look up and check an arch.

    Args:
        arch (str | dict): A name of ``ARCHS``, case-insensitive, or a dict with all ``ARCH_FIELDS``.
        drop_path_rate (float, optional): Overrides that of the arch. Defaults to None.

    Returns:
        dict: All fields; sequences are tuples.

    Raises:
        TypeError: If ``arch`` is neither a name nor a dict.
        ValueError: If the name or a field does not exist, a field is missing, or a value is invalid.
    """
    if isinstance(arch, str):
        if arch.lower() not in ARCHS:
            raise ValueError(f"arch '{arch}' is not one of {sorted(ARCHS)}, nor a dict of {ARCH_FIELDS}.")
        fields = ARCHS[arch.lower()]
    elif isinstance(arch, dict):
        fields = arch
    else:
        raise TypeError(f'arch must be one of {sorted(ARCHS)} or a dict, not {type(arch).__name__}.')
    if set(fields) != set(ARCH_FIELDS):
        raise ValueError(
            f'An arch dict has the fields {ARCH_FIELDS}; '
            f'missing: {sorted(set(ARCH_FIELDS) - set(fields))}, '
            f'unknown: {sorted(set(fields) - set(ARCH_FIELDS))}.'
        )
    rate = fields['drop_path_rate'] if drop_path_rate is None else drop_path_rate
    resolved = {field: _triple(field, fields[field]) for field in ARCH_FIELDS[:-1]}
    resolved['drop_path_rate'] = rate
    _check_values(resolved)
    return resolved


def _triple(field, value):
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        raise ValueError(f"arch['{field}'] must hold three values, one a stage, not {value!r}.")
    kind, name = (Real, 'numbers') if field.endswith('ratios') else (Integral, 'whole numbers')
    if not all(isinstance(item, kind) and item > 0 for item in value):
        raise ValueError(f"arch['{field}'] must hold three positive {name}, not {value!r}.")
    return tuple(value)


def _check_values(arch):
    if arch['embed_dims'][0] % 8:
        raise ValueError(
            f'The stem widens in steps of 1/8, 1/4 and 1/2, so the first of embed_dims must be a multiple '
            f'of 8, not {arch["embed_dims"][0]}.'
        )
    if not all(size % 2 for size in arch['kernel_sizes']):
        raise ValueError(f'kernel_sizes must be odd to keep the size, not {arch["kernel_sizes"]}.')
    rate = arch['drop_path_rate']
    if not isinstance(rate, Real) or not 0 <= rate < 1:
        raise ValueError(f'drop_path_rate must be a number from 0 up to, but not including, 1, not {rate!r}.')
    for index in range(3):
        splits = stage_splits(arch, index)
        if min(splits) < 0 or splits[0] == 0 or splits[1] == 0:
            raise ValueError(
                f'Stage {index} would split its {arch["embed_dims"][index]} channels into {splits} (global, '
                f'local, identity), but the first two must be positive and the last not negative: change '
                f'embed_dims, global_ratios or local_ratios.'
            )


def stage_splits(arch: Mapping[str, Any], index: int) -> tuple[int, int, int]:
    """Channels of the global, local and identity parts of the mixers of a stage.

    The global part is rounded to the nearest multiple of 16 (ties up). The local part is limited to
    the remaining channels, and the rest is identity.

    Args:
        arch (dict): Result of :func:`resolve_arch`.
        index (int): Index of the stage, 0 to 2.

    Returns:
        tuple[int, int, int]: Global, local and identity channels.
    """
    channels = arch['embed_dims'][index]
    global_part = (int(arch['global_ratios'][index] * channels) + 8) // 16 * 16
    local_part = min(int(arch['local_ratios'][index] * channels), channels - global_part)
    return global_part, local_part, channels - global_part - local_part


def resolve_out_indices(out_indices: int | Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Normalise ``out_indices``.

    Args:
        out_indices (int | Sequence[int]): Stages; negative ones count from the end.
        num_stages (int): Number of stages.

    Returns:
        tuple[int]: The stages, not negative and in ascending order.

    Raises:
        TypeError: If ``out_indices`` is neither an int nor a sequence of ints.
        ValueError: If it is empty, repeats a stage or names one that does not exist.
    """
    if isinstance(out_indices, Integral):
        out_indices = (int(out_indices),)
    if not isinstance(out_indices, Sequence) or not all(isinstance(item, Integral) for item in out_indices):
        raise TypeError(f'out_indices must be an int or a sequence of ints, not {out_indices!r}.')
    allowed = f'The stages are 0 to {num_stages - 1} (strides 16, 32 and 64), or -{num_stages} to -1.'
    if not all(-num_stages <= item < num_stages for item in out_indices):
        raise ValueError(f'out_indices {tuple(out_indices)} names a stage that does not exist. {allowed}')
    resolved = sorted(item % num_stages for item in out_indices)
    if len(set(resolved)) != len(resolved) or not resolved:
        raise ValueError(
            f'out_indices {tuple(out_indices)} must name at least one stage, each once. {allowed}'
        )
    return tuple(resolved)
