"""Parameters and FLOPs of any network as it is deployed, which is how ``benchmark.py`` times it.

Batch norms and parallel branches are folded, and a second head of a distilled network into the first one.
FLOPs are counted by ``get_flops.py``, of all networks alike: a multiply-add is one, and the scan and the Haar
transforms of MobileMamba are among them.
"""

import benchmark_models
import torch
from get_flops import count_flops


def count_costs(model, size):
    """Count what one image costs.

    Args:
        model (nn.Module): From :func:`benchmark_models.build`, not folded.
        size (tuple[int, int]): Height and width of the image in pixels.

    Returns:
        dict[str, int]: ``'parameters'`` and ``'flops'``.
    """
    image = torch.zeros(1, benchmark_models.channels_of(model), *size)
    network = benchmark_models.make_variant(model, 'deploy', image)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return dict(parameters=parameters, flops=count_flops(network, image)[0][''])
