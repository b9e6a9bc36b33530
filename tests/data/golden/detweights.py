"""Deterministic weights for a MobileMamba checkpoint in the authors' layout.

Every tensor is drawn from a generator seeded by its own name, so any
implementation can rebuild the same checkpoint from names and shapes alone,
without shipping megabytes of weights.
"""

import zlib

import numpy as np

# LL, then the row, column and diagonal differences.
HAAR = 0.5 * np.array(
    [[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]], np.float32
)


def tensor_for(name: str, shape, salt: int = 0) -> np.ndarray:
    """Value of the checkpoint entry ``name`` (authors' naming) as an array."""
    shape = tuple(shape)
    leaf = name.rsplit('.', 1)[-1]
    rng = np.random.RandomState((zlib.crc32(name.encode()) + salt) % 2**31)
    if leaf == 'num_batches_tracked':
        return np.zeros(shape, np.int64)
    if leaf in ('wt_filter', 'iwt_filter'):  # (4 * C, 1, 2, 2)
        return np.tile(HAAR[:, None], (shape[0] // 4, 1, 1, 1))
    if leaf == 'running_var':
        value = rng.uniform(0.5, 1.5, shape)
    elif leaf == 'Ds':  # small, so that the state affects the output
        value = rng.uniform(-0.3, 0.3, shape)
    elif leaf == 'running_mean':
        value = 0.1 * rng.standard_normal(shape)
    elif leaf == 'A_logs':
        value = rng.uniform(-1.0, 1.0, shape)
    elif leaf == 'dt_projs_bias':
        value = rng.uniform(-3.0, 1.0, shape)
    elif leaf == 'x_proj_weight':
        value = 3.0 * rng.standard_normal(shape) / np.sqrt(shape[-1])
    elif name.endswith(('out_proj.bn.weight', 'proj.1.bn.weight')):
        value = rng.uniform(0.8, 1.6, shape)
    elif '_scale' in name:
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1 and leaf == 'weight':  # norm scale
        value = rng.uniform(0.2, 0.7, shape)
    elif len(shape) == 1:
        value = 0.1 * rng.standard_normal(shape)
    else:
        value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32)


def image_for(shape, salt: int = 0) -> np.ndarray:
    """A smooth-plus-noise input batch of ``shape`` (N, 3, H, W), float32."""
    rng = np.random.RandomState(20251123 + salt)
    n, c, h, w = shape
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    phase = rng.uniform(0, 2 * np.pi, (n, c, 1, 1))
    freq = rng.uniform(2, 12, (n, c, 1, 1))
    wave = np.sin(freq * x / w + phase) + np.cos(freq * y / h - phase)
    return (wave + 0.5 * rng.standard_normal(shape)).astype(np.float32)


def noise_for(shape, salt: int = 0) -> np.ndarray:
    """Standard normal input of any ``shape``, float32."""
    return np.random.RandomState(77 + salt).standard_normal(shape).astype(np.float32)
