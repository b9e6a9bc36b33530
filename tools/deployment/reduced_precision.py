"""What is said of files of float16 and of 8 bits, and what is refused."""

import sys

from mmmobilemamba.deployment.errors import DeploymentError

FLOAT16_TOLERANCE = 1e-2  # see report.Difference
LEAST_AGREEMENT = 0.95  # of 8 bits with float32 on the images of the calibration, before there is a warning


def print_gain(sizes, before, after):
    """Print sizes in bytes and times in ms, of float32 and of another precision.

    Raises:
        DeploymentError: If the file is not smaller, so that its weights are in float32 still.
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
    """Refuse a file that gives no numbers, or one of float16 that is too far from float32.

    Raises:
        DeploymentError: If it is so.
    """
    if difference.error == float('inf'):
        raise DeploymentError(f'What it gives in {kind} is not finite, or of another shape.')
    if kind == 'float16' and not difference.error <= FLOAT16_TOLERANCE:
        raise DeploymentError(
            f'In float16 it would differ from float32 by {difference.error:.1e}, and at most '
            f'{FLOAT16_TOLERANCE:.0e} is allowed.'
        )


def warn_of_difference(difference, kind):
    """Say if 8 bits choose otherwise than float32."""
    if kind == 'int8' and difference.agreement < LEAST_AGREEMENT:
        print(
            f'warning: in 8 bits {1 - difference.agreement:.1%} of the {difference.choices} are other ones. '
            f'Score the file with evaluate.py before it is used.',
            file=sys.stderr,
        )
