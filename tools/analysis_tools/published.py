"""Published top-1 accuracies on ImageNet-1k, for the figures and the reports of the benchmarks.

None was measured here. ``PLAIN`` trainings use labels alone; ``DISTILLED`` ones have a teacher as well, which
adds 1 to 3 %, so only accuracies of one kind should be compared.
"""

from typing import NamedTuple

PLAIN, DISTILLED = 'plain', 'distilled'


class Published(NamedTuple):
    """One published accuracy.

    Args:
        model (str): As ``benchmark.py`` takes it: an arch, or ``timm/NAME``.
        size (int): Side of the test images in pixels.
        label (str): Name in figures and tables.
        top1 (float): Top-1 accuracy in percent.
        training (str): ``PLAIN`` or ``DISTILLED``.
        arxiv (str): Number of the paper.
    """

    model: str
    size: int
    label: str
    top1: float
    training: str
    arxiv: str


PUBLISHED = (
    Published('t2', 192, 'MobileMamba-T2', 73.6, PLAIN, '2411.15941'),
    Published('t2', 192, 'MobileMamba-T2', 76.9, DISTILLED, '2411.15941'),
    Published('t4', 192, 'MobileMamba-T4', 76.1, PLAIN, '2411.15941'),
    Published('t4', 192, 'MobileMamba-T4', 78.9, DISTILLED, '2411.15941'),
    Published('s6', 224, 'MobileMamba-S6', 78.0, PLAIN, '2411.15941'),
    Published('s6', 224, 'MobileMamba-S6', 80.7, DISTILLED, '2411.15941'),
    Published('b1', 256, 'MobileMamba-B1', 79.9, PLAIN, '2411.15941'),
    Published('b1', 256, 'MobileMamba-B1', 82.2, DISTILLED, '2411.15941'),
    Published('timm/repvit_m1_1', 224, 'RepViT-M1.1', 80.7, DISTILLED, '2307.09283'),
    Published('timm/mobilenetv4_conv_medium', 256, 'MobileNetV4-Conv-M', 79.9, PLAIN, '2404.10518'),
    Published('timm/mobilenetv4_conv_small', 224, 'MobileNetV4-Conv-S', 73.8, PLAIN, '2404.10518'),
    Published('timm/fastvit_t12', 256, 'FastViT-T12', 79.1, PLAIN, '2303.14189'),
    Published('timm/fastvit_t12', 256, 'FastViT-T12', 80.3, DISTILLED, '2303.14189'),
    Published('timm/efficientvit_m5', 224, 'EfficientViT-M5', 77.1, PLAIN, '2305.07027'),
    Published('timm/efficientvit_b1', 224, 'EfficientViT-B1', 79.4, PLAIN, '2205.14756'),
    Published('timm/efficientnet_b0', 224, 'EfficientNet-B0', 77.1, PLAIN, '1905.11946'),
    Published('timm/mobileone_s2', 224, 'MobileOne-S2', 77.4, PLAIN, '2206.04040'),
    Published('timm/mambaout_femto', 224, 'MambaOut-Femto', 78.9, PLAIN, '2405.07992'),
    Published('timm/starnet_s4', 224, 'StarNet-S4', 78.4, PLAIN, '2403.19967'),
    Published('timm/shvit_s4', 256, 'SHViT-S4', 79.4, PLAIN, '2401.16456'),
)


def networks():
    """Every network of the table once, as ``(model, size)``, in its order."""
    return list(dict.fromkeys((entry.model, entry.size) for entry in PUBLISHED))


def accuracies(model, size):
    """What is published of a network at a size: kind of training to :class:`Published` (dict)."""
    return {entry.training: entry for entry in PUBLISHED if (entry.model, entry.size) == (model, size)}
