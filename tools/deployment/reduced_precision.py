"""Messages about float16 and 8-bit files, and the limits beyond which they are refused."""

import sys

from mmmobilemamba.deployment.errors import DeploymentError

FLOAT16_TOLERANCE = 1e-2  # see report.Difference
LEAST_AGREEMENT = 0.95  # of int8 with float32 on the calibration images; below this, there is a warning


def print_gain(sizes, before, after):
    """Print sizes and times in float32 and in another precision, from sizes in bytes and times in ms.

    Raises:
        DeploymentError: If the file is not smaller, so its weights are still in float32.
    """
    full, reduced = sizes
    if reduced >= full:
        raise DeploymentError(
            f'The file would not be smaller than in float32: {reduced} bytes, and {full}. The tools of the '
            f'runtime have not reduced its weights.'
        )
    texts = ' -> '.join(f'{size / 2**20:.1f} MiB' for size in (full, reduced))
    print(f'  {texts}; 1 thread, batch 1: {before:.2f} -> {after:.2f} ms, ratio {before / after:.2f}')


def check_difference(difference, kind):
    """Refuse a file with outputs that are not finite, or a float16 file that differs too much from float32.

    Raises:
        DeploymentError: In both cases.
    """
    if difference.error == float('inf'):
        raise DeploymentError(f'What it gives in {kind} is not finite, or of another shape.')
    if kind == 'float16' and not difference.error <= FLOAT16_TOLERANCE:
        raise DeploymentError(
            f'In float16 it would differ from float32 by {difference.error:.1e}, and at most '
            f'{FLOAT16_TOLERANCE:.0e} is allowed.'
        )


def warn_of_difference(difference, kind):
    """Warn if int8 and float32 predictions differ too often."""
    if kind == 'int8' and difference.agreement < LEAST_AGREEMENT:
        print(
            f'warning: in 8 bits {1 - difference.agreement:.1%} of the {difference.choices} are other ones. '
            f'Score the file with evaluate.py before it is used.',
            file=sys.stderr,
        )
