"""From a config and a checkpoint to the graph of a network, with all that its users have to know about it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from ..models import deploy, set_backend
from ..models.checkpoint import (
    entries_below,
    fetch_checkpoint,
    fitting_weights,
    is_fused,
    is_ours,
    load_whole_model,
)
from ..utils import codebase_of
from .datasets import labels_of
from .detectors import DenseDetector, TwoStageDetector
from .errors import DeploymentError
from .graphs import BackboneGraph, ClassifierGraph, Preprocessed, SegmentorGraph
from .pipeline import Size, largest_sizes, loader_of, pad, pad_divisor_of, read_test_pipeline, resize_steps
from .supported import CHECKS, check_operators

TASKS = ('backbone', 'classification', 'detection', 'segmentation')
SMALLEST = 32  # px; below, the last map of a detector's neck would be empty


def load_trained(config: Config, checkpoint: str | Path) -> nn.Module:
    """The model of a config with its weights, in evaluation, in the form that the checkpoint has.

    Its ``dataset_meta`` is that of the training, from the checkpoint, or empty.

    Args:
        config (Config): Of mmpretrain, mmdet or mmseg.
        checkpoint (str | Path): Its weights, of either form.

    Raises:
        CheckpointError, FileNotFoundError: If the checkpoint cannot be read or does not fit.
    """
    content = fetch_checkpoint(checkpoint)
    state_dict = content.get('state_dict', content)
    model = build_untrained(config)
    if is_fused({key.removeprefix('backbone.'): value for key, value in state_dict.items()}):
        deploy(model)  # which gives the modules that such a checkpoint is of
    if is_ours(entries_below(state_dict, 'backbone.')):  # else the backbone says what does not fit
        fitting_weights(model.backbone, state_dict)
    load_whole_model(model, state_dict)
    model.dataset_meta = (content.get('meta') or {}).get('dataset_meta') or {}
    return model.eval()


def build_untrained(config: Config) -> nn.Module:
    """The model of a config with random weights, in training mode."""
    init_default_scope(codebase_of(config) or 'mmengine')
    return MODELS.build({'data_preprocessor': config.get('data_preprocessor'), **config.model})


def load_model(config: Config, checkpoint: str | Path) -> nn.Module:
    """A model of :func:`load_trained` in its deployed form, for graphs that leave PyTorch.

    Args:
        config (Config): Of mmpretrain, mmdet or mmseg.
        checkpoint (str | Path): Its weights, of either form.

    Raises:
        CheckpointError, FileNotFoundError: If the checkpoint cannot be read or does not fit.
    """
    model = load_trained(config, checkpoint)
    deploy(model)
    set_backend(model, 'export')
    return model.cpu().float().requires_grad_(False)


def task_of(model: nn.Module) -> str:
    """What a model of OpenMMLab does, one of ``TASKS``.

    Raises:
        DeploymentError: If it is none of them.
    """
    if not hasattr(model, 'backbone'):
        return 'backbone'
    if hasattr(model, 'decode_head'):
        return 'segmentation'
    if hasattr(model, 'bbox_head') or hasattr(model, 'roi_head'):
        return 'detection'
    if hasattr(getattr(model, 'head', None), 'num_classes'):
        return 'classification'
    heads = [f'a {type(head).__name__}' for name, head in model.named_children() if 'head' in name]
    raise DeploymentError(
        f'{type(model).__name__}{" with " + " and ".join(heads) if heads else ""} is none of what can be '
        f'exported: a classifier, a detector with dense heads or of two stages, a segmentor or a backbone.'
    )


def check_supported(model: nn.Module, task: str) -> None:
    """Make sure that a graph gives what the model's own ``predict`` does.

    Raises:
        DeploymentError: If the model has a setting, or a head, that the graphs have not.
    """
    if task == 'backbone':
        return
    try:
        check_operators(model)
        CHECKS[task](model)
    except DeploymentError as problem:
        raise DeploymentError(f'{type(model).__name__} cannot be exported: {problem}') from None


def make_graph(model: nn.Module, task: str, topk: int = 5, with_logits: bool = False) -> nn.Module:
    """The network as a function of a normalised image (nn.Module with ``output_names``).

    Raises:
        DeploymentError: If the graph would give something else than the model.
    """
    check_supported(model, task)
    if task == 'backbone':
        return BackboneGraph(model)
    if task == 'classification':
        return ClassifierGraph(model, topk)
    if task == 'segmentation':
        return SegmentorGraph(model, with_logits)
    return (TwoStageDetector if hasattr(model, 'roi_head') else DenseDetector)(model)


def input_size(about: Mapping[str, Any], sides: Sequence[int] | None = None, dynamic: bool = False) -> Size:
    """Height and width of the network's images (tuple[int, int]).

    Args:
        about (dict): See :func:`describe`.
        sides (Sequence[int], optional): Height and width, or one for both; the config's if not given.
        dynamic (bool): Whether it takes others, too. Defaults to False.

    Raises:
        DeploymentError: If they are too small, or the config has none.
    """
    if sides is None:
        sides = default_size(about, dynamic)
    size = (sides[0], sides[-1])
    smallest = SMALLEST if about['task'] == 'detection' else 1
    if min(size) < smallest:
        raise DeploymentError(
            f'Images of {size[0]} x {size[1]} are too small: {smallest} px a side at least.'
        )
    return size


def size_of(image: Tensor) -> Size:
    """Height and width of an image, float32 (N, C, H, W) or uint8 (N, H, W, C)."""
    height, width = image.shape[1:3] if image.dtype == torch.uint8 else image.shape[2:]
    return height, width


def default_size(about: Mapping[str, Any], dynamic: bool) -> Size:
    """Height and width that the config's test pipeline gives every picture, or may give (tuple[int, int]).

    Raises:
        DeploymentError: If there is none.
    """
    sizes = largest_sizes(about['resize'])
    if not sizes:
        raise DeploymentError("The config's test pipeline has no size: give --size HEIGHT WIDTH.")
    if len(sizes) > 1 and not dynamic:
        first, second = (f'{height} x {width}' for height, width in sizes)
        raise DeploymentError(
            f"The config's test pipeline gives pictures of several sizes, up to {first} or "
            f'{second}: choose --dynamic, or one size for all with --size HEIGHT WIDTH.'
        )
    least = about.get('pad_size') or (0, 0)
    return pad((max(sizes[0][0], least[0]), max(sizes[0][1], least[1])), about['pad_divisor'])


def describe(config: Config, task: str, model: nn.Module | None = None) -> dict[str, Any]:
    """What a program that runs the network has to know (dict of what JSON can hold).

    Args:
        config (Config): Of mmpretrain, mmdet or mmseg.
        task (str): One of ``TASKS``.
        model (nn.Module, optional): From :func:`load_model`, whose number of classes the names must have.

    Raises:
        DeploymentError: If the config says what cannot be, such as means of other channels than the image's.
    """
    preprocessor = dict(config.model.get('data_preprocessor') or config.get('data_preprocessor') or {})
    swaps = preprocessor.get('to_rgb', preprocessor.get('bgr_to_rgb', False))
    count = (config.model.get('backbone') or {}).get('in_channels', 3)
    head = config.model.get('decode_head', {})
    head = head[-1] if isinstance(head, list) else head
    steps = read_test_pipeline(config)
    return dict(
        task=task,
        align_corners=head.get('align_corners', False),
        mean=of_channels(preprocessor, 'mean', count, 0.0),
        std=of_channels(preprocessor, 'std', count, 1.0),
        channels={1: 'gray', 3: 'RGB' if swaps else 'BGR', 4: 'BGRA'}.get(count, f'{count} channels'),
        pad_divisor=pad_divisor_of(preprocessor),
        pad_size=(preprocessor.get('test_cfg') or {}).get('size'),  # of mmseg, height and width at least
        pad_value=preprocessor.get('pad_value', preprocessor.get('pad_val', 0)),
        labels=labels_for(config, model),
        load=loader_of(steps),
        resize=resize_steps(steps),
    )


def of_channels(preprocessor: Mapping[str, Any], key: str, count: int, default: float) -> list[float]:
    """Mean or std of a data preprocessor for every channel of the image (list[float]).

    Raises:
        DeploymentError: If they are neither one nor as many as the channels.
    """
    values = preprocessor.get(key)
    values = [default] if values is None else list(values)
    if len(values) not in (1, count):
        raise DeploymentError(
            f'The data_preprocessor has {len(values)} values in {key}, and the images of the backbone have '
            f'in_channels={count}: give as many, or one for all.'
        )
    return values * count if len(values) == 1 else values


def labels_for(config: Config, model: nn.Module | None) -> list[str]:
    """Names of the classes (list[str]); none, and a warning, if they are not as many as a model has."""
    names = labels_of(config, (getattr(model, 'dataset_meta', None) or {}).get('classes'))
    count = class_count(model)
    if names and count is not None and len(names) != count:
        warnings.warn(
            f'The test data name {len(names)} classes, such as {names[0]!r}, and the head has {count}, so '
            f'the names are left out. Give {count} as classes in metainfo of test_dataloader.dataset.',
            stacklevel=3,
        )
        return []
    return names


def class_count(model: nn.Module | None) -> int | None:
    """Number of classes of a model's head (int); None of a backbone, or if the head does not say."""
    for path in ('roi_head.bbox_head', 'bbox_head', 'decode_head', 'head'):
        head = model
        for name in path.split('.'):
            head = getattr(head, name, None)
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        if isinstance(getattr(head, 'num_classes', None), int):
            return head.num_classes
    return None


def with_preprocessing(graph: nn.Module, about: Mapping[str, Any], as_read: bool = True) -> Preprocessed:
    """The graph with normalisation inside: it takes images as they are read, uint8, (N, H, W, C).

    Three channels are RGB, one is gray, and four are BGRA, as OpenCV reads them. Without ``as_read`` images
    are float32, (N, C, H, W), of 0 to 255.
    """
    return Preprocessed(graph, about['mean'], about['std'], about['channels'] == 'BGR', as_read)
