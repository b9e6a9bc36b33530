"""Published top-1 accuracies on ImageNet-1k, for the figures, tables and reports of the benchmarks.

None was measured here; each was read at the address of its source. ``PLAIN`` training uses labels only.
``DISTILLED`` training also has a teacher, which adds 1 to 3 %, so compare accuracies of the same kind only.
All networks were trained on the images of ImageNet-1k only. If authors publish several training lengths, the
one nearest to MobileMamba's is used: 300 epochs plain, 1000 distilled. Of timm's weights, the most accurate
ones at each size are used.
"""

from typing import NamedTuple, Optional

PLAIN, DISTILLED = 'plain', 'distilled'
GITHUB = 'https://github.com'


class Source(NamedTuple):
    """Where an accuracy was published.

    Args:
        paper (str): arXiv number of the paper that describes the network.
        address (str): Page with the accuracy; for a repository, at a fixed commit.
    """

    paper: str
    address: str


class Published(NamedTuple):
    """One published accuracy.

    Args:
        model (str): Name as in ``benchmark.py``: an arch, or ``timm/NAME``.
        size (int): Side of the test images in pixels.
        label (str): Name in figures and tables.
        top1 (float): Top-1 accuracy in percent.
        training (str): ``PLAIN`` or ``DISTILLED``.
        epochs (int, optional): Length of the training; None if neither the source nor the defaults of its
            training script state it.
        source (Source): Source of the accuracy.
    """

    model: str
    size: int
    label: str
    top1: float
    training: str
    epochs: Optional[int]
    source: Source


class Unmeasured(NamedTuple):
    """A network that cannot run here, with the figures of its authors, however they count.

    Args:
        size (int): Side of the test images in pixels.
        label (str): Name in tables.
        top1 (float): Top-1 accuracy in percent.
        training (str): ``PLAIN`` or ``DISTILLED``.
        epochs (int, optional): Length of the training.
        source (Source): Source of all numbers.
        parameters (float): In millions.
        flops (float): In GFLOPs, by the authors.
    """

    size: int
    label: str
    top1: float
    training: str
    epochs: Optional[int]
    source: Source
    parameters: float
    flops: float


def readme(paper, repository, commit, path='README.md'):
    """A page of a GitHub repository as a :class:`Source`."""
    return Source(paper, f'{GITHUB}/{repository}/blob/{commit}/{path}')


def timm_results(paper):
    """timm's validation results of weights trained with timm, as a :class:`Source`."""
    commit = '4e5207c7bb6592474ca56e28b2cf85be8f1a550f'
    return readme(paper, 'huggingface/pytorch-image-models', commit, 'results/results-imagenet.csv')


MOBILEMAMBA = Source('2411.15941', 'https://arxiv.org/abs/2411.15941')
EDGENEXT = readme('2206.10589', 'mmaaz60/EdgeNeXt', '388450404fdd6d6e097f1cf94f5afcbbdc352f08')
EFFICIENTFORMER_V2 = readme(
    '2212.08059', 'snap-research/EfficientFormer', 'd01da426243a38303d0a35d01fc928b0e37d38d3'
)
EFFICIENTNET = readme(  # with AutoAugment
    '1905.11946',
    'tensorflow/tpu',
    '7dc921f846c9e4071f3884b768a7ddf521272a49',
    'models/official/efficientnet/README.md',
)
EFFICIENTVIM = readme('2411.15241', 'mlvlab/EfficientViM', '304340cb9c339b61669250d058525c9cdadd5e93')
CREAM = ('microsoft/Cream', '4a13c4091e78f9abd2160e7e01c02e48c1cf8fb9')
EFFICIENTVIT_M = readme('2305.07027', *CREAM, 'EfficientViT/classification/README.md')
EFFICIENTVIT_B = readme(
    '2205.14756',
    'mit-han-lab/efficientvit',
    'de7d7733cc0329f391b33f1f459271562ec27bd5',
    'applications/efficientvit_cls/README.md',
)
FASTVIT = readme('2303.14189', 'apple/ml-fastvit', '8af5928238cab99c45f64fc3e4e7b1516b8224ba')
LEVIT = readme('2104.01136', 'facebookresearch/LeViT', '3772b8e7517b900330ee1f46e11b0ae917dae323')
MAMBAOUT = readme('2405.07992', 'yuweihao/MambaOut', '9f2f2343eb0f99f2cf3ba6b92290b5a81be2bad1')
MOBILENET_V3, MOBILENET_V4 = timm_results('1905.02244'), timm_results('2404.10518')
MOBILEONE = readme('2206.04040', 'apple/ml-mobileone', 'b7f4e6d48884593c7eb46eedc53c3a097c09e957')
REPVIT = readme('2307.09283', 'THU-MIG/RepViT', '298f42075eda5d2e6102559fad260c970769d34e')
SHVIT = readme('2401.16456', 'ysj9909/SHViT', '6a729ccf18e0b941714b529638bd3d9bacebcef0')
STARNET = readme(
    '2403.19967', 'ma-xu/Rewrite-the-Stars', 'c999eb50840a44f9f1d92e8f7d2c22cd645a6d5e', 'imagenet/README.md'
)
TINYVIT = readme('2207.10666', *CREAM, 'TinyViT/README.md')
EFFICIENTVMAMBA = readme('2403.09977', 'TerryPei/EfficientVMamba', '0bc5ee288b402d648641f5494b73e9d152e0c62b')
LOCALMAMBA = readme('2403.09338', 'hunto/LocalMamba', '75e5d1f007c303509c77d179df38f7fa19c0d05c')
VMAMBA = readme('2401.10166', 'MzeroMiko/VMamba', '2ed52ead062a51a64521ed3871d52914bf532876')

PUBLISHED = (
    Published('t2', 192, 'MobileMamba-T2', 73.6, PLAIN, 300, MOBILEMAMBA),
    Published('t2', 192, 'MobileMamba-T2', 76.9, DISTILLED, 1000, MOBILEMAMBA),
    Published('t4', 192, 'MobileMamba-T4', 76.1, PLAIN, 300, MOBILEMAMBA),
    Published('t4', 192, 'MobileMamba-T4', 78.9, DISTILLED, 1000, MOBILEMAMBA),
    Published('s6', 224, 'MobileMamba-S6', 78.0, PLAIN, 300, MOBILEMAMBA),
    Published('s6', 224, 'MobileMamba-S6', 80.7, DISTILLED, 1000, MOBILEMAMBA),
    Published('b1', 256, 'MobileMamba-B1', 79.9, PLAIN, 300, MOBILEMAMBA),
    Published('b1', 256, 'MobileMamba-B1', 82.2, DISTILLED, 1000, MOBILEMAMBA),
    Published('b2', 384, 'MobileMamba-B2', 81.6, PLAIN, 300, MOBILEMAMBA),
    Published('b2', 384, 'MobileMamba-B2', 83.3, DISTILLED, 1000, MOBILEMAMBA),
    Published('b4', 512, 'MobileMamba-B4', 82.5, PLAIN, 300, MOBILEMAMBA),
    Published('b4', 512, 'MobileMamba-B4', 83.6, DISTILLED, 1000, MOBILEMAMBA),
    Published('timm/edgenext_small', 256, 'EdgeNeXt-S', 79.4, PLAIN, 300, EDGENEXT),
    Published('timm/edgenext_small', 256, 'EdgeNeXt-S', 81.1, DISTILLED, None, EDGENEXT),
    Published(
        'timm/efficientformerv2_s1', 224, 'EfficientFormerV2-S1', 79.7, DISTILLED, 450, EFFICIENTFORMER_V2
    ),
    Published('timm/efficientnet_b0', 224, 'EfficientNet-B0', 77.1, PLAIN, None, EFFICIENTNET),
    Published('timm/efficientnet_b1', 240, 'EfficientNet-B1', 79.1, PLAIN, None, EFFICIENTNET),
    Published('timm/efficientvim_m1', 224, 'EfficientViM-M1', 72.9, PLAIN, 300, EFFICIENTVIM),
    Published('timm/efficientvim_m1', 224, 'EfficientViM-M1', 74.6, DISTILLED, 300, EFFICIENTVIM),
    Published('timm/efficientvim_m2', 224, 'EfficientViM-M2', 75.4, PLAIN, 300, EFFICIENTVIM),
    Published('timm/efficientvim_m2', 224, 'EfficientViM-M2', 76.7, DISTILLED, 300, EFFICIENTVIM),
    Published('timm/efficientvim_m3', 224, 'EfficientViM-M3', 77.6, PLAIN, 300, EFFICIENTVIM),
    Published('timm/efficientvim_m3', 224, 'EfficientViM-M3', 79.1, DISTILLED, 300, EFFICIENTVIM),
    Published('timm/efficientvim_m4', 256, 'EfficientViM-M4', 79.4, PLAIN, 300, EFFICIENTVIM),
    Published('timm/efficientvim_m4', 256, 'EfficientViM-M4', 80.7, DISTILLED, 300, EFFICIENTVIM),
    Published('timm/efficientvit_m5', 224, 'EfficientViT-M5', 77.1, PLAIN, 300, EFFICIENTVIT_M),
    Published('timm/efficientvit_b1', 224, 'EfficientViT-B1', 79.4, PLAIN, 300, EFFICIENTVIT_B),
    Published('timm/fastvit_t8', 256, 'FastViT-T8', 76.2, PLAIN, 300, FASTVIT),
    Published('timm/fastvit_t8', 256, 'FastViT-T8', 77.2, DISTILLED, 300, FASTVIT),
    Published('timm/fastvit_t12', 256, 'FastViT-T12', 79.3, PLAIN, 300, FASTVIT),
    Published('timm/fastvit_t12', 256, 'FastViT-T12', 80.3, DISTILLED, 300, FASTVIT),
    Published('timm/fastvit_sa12', 256, 'FastViT-SA12', 80.9, PLAIN, 300, FASTVIT),
    Published('timm/fastvit_sa12', 256, 'FastViT-SA12', 81.9, DISTILLED, 300, FASTVIT),
    Published('timm/levit_256', 224, 'LeViT-256', 81.6, DISTILLED, 1000, LEVIT),
    Published('timm/mambaout_femto', 224, 'MambaOut-Femto', 78.9, PLAIN, 300, MAMBAOUT),
    Published('timm/mobilenetv3_large_100', 224, 'MobileNetV3-L', 76.3, PLAIN, 3600, MOBILENET_V3),
    Published('timm/mobilenetv4_conv_small', 224, 'MobileNetV4-Conv-S', 73.8, PLAIN, 2400, MOBILENET_V4),
    Published('timm/mobilenetv4_conv_medium', 256, 'MobileNetV4-Conv-M', 79.9, PLAIN, 500, MOBILENET_V4),
    Published('timm/mobilenetv4_conv_large', 256, 'MobileNetV4-Conv-L', 81.9, PLAIN, 500, MOBILENET_V4),
    Published('timm/mobilenetv4_conv_large', 384, 'MobileNetV4-Conv-L', 83.0, PLAIN, 600, MOBILENET_V4),
    Published('timm/mobileone_s2', 224, 'MobileOne-S2', 77.4, PLAIN, None, MOBILEONE),
    Published('timm/repvit_m0_9', 224, 'RepViT-M0.9', 79.1, DISTILLED, 450, REPVIT),
    Published('timm/repvit_m1_1', 224, 'RepViT-M1.1', 81.2, DISTILLED, 450, REPVIT),
    Published('timm/repvit_m1_5', 224, 'RepViT-M1.5', 82.5, DISTILLED, 450, REPVIT),
    Published('timm/shvit_s4', 256, 'SHViT-S4', 79.4, PLAIN, 300, SHVIT),
    Published('timm/starnet_s4', 224, 'StarNet-S4', 78.8, PLAIN, 300, STARNET),
    Published('timm/tiny_vit_5m_224.in1k', 224, 'TinyViT-5M', 79.1, PLAIN, 300, TINYVIT),
)

# Their scans only have CUDA kernels, in packages that are not in the environment.
UNMEASURED = (
    Unmeasured(224, 'EfficientVMamba-T', 76.5, PLAIN, 300, EFFICIENTVMAMBA, 6, 0.8),
    Unmeasured(224, 'EfficientVMamba-S', 78.7, PLAIN, 300, EFFICIENTVMAMBA, 11, 1.3),
    Unmeasured(224, 'LocalVim-T', 76.2, PLAIN, 300, LOCALMAMBA, 8, 1.5),
    Unmeasured(224, 'VMamba-T', 82.6, PLAIN, 300, VMAMBA, 30, 4.9),
)


def networks():
    """All networks of the table without duplicates, as ``(model, size)``, in order."""
    return list(dict.fromkeys((entry.model, entry.size) for entry in PUBLISHED))


def accuracies(model, size):
    """Published accuracies of a network at a size: :class:`Published` by kind of training (dict)."""
    return {entry.training: entry for entry in PUBLISHED if (entry.model, entry.size) == (model, size)}
