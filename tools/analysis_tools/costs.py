"""Count parameters and FLOPs of a network in its deployed form, as timed by ``benchmark.py``.

Batch norms and parallel branches are folded, and the second head of a distilled network is merged into the
first. ``get_flops.py`` counts the FLOPs of all networks in the same way: a multiply-add is one FLOP, and the
scan and the Haar transforms of MobileMamba are included.
"""

import benchmark_models
import torch
from get_flops import count_flops


def count_costs(model, size):
    """Count the cost of one image.

    Args:
        model (nn.Module): From :func:`benchmark_models.build`, not yet folded.
        size (tuple[int, int]): Height and width of the image in pixels.

    Returns:
        dict[str, int]: ``'parameters'`` and ``'flops'``.
    """
    image = torch.zeros(1, benchmark_models.channels_of(model), *size)
    network = benchmark_models.make_variant(model, 'deploy', image)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return dict(parameters=parameters, flops=count_flops(network, image)[0][''])
