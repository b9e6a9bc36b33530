"""Builds a model from a config and a checkpoint, its export graph, and the metadata of the exported file."""

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
SMALLEST = 32  # px per side; the coarsest feature map of a detector's neck would be empty below it


def load_trained(config: Config, checkpoint: str | Path) -> nn.Module:
    """Build the model of a config and load a checkpoint; the checkpoint determines its form.

    Args:
        config (Config): A config of mmpretrain, mmdet or mmseg.
        checkpoint (str | Path): The weights, in training or deployed form.

    Returns:
        nn.Module: The model in evaluation mode, in training or deployed form. Its ``dataset_meta`` comes from
        the checkpoint's ``meta``; it is empty if the checkpoint has none.

    Raises:
        CheckpointError, FileNotFoundError: If the checkpoint cannot be read or does not match the model.
    """
    content = fetch_checkpoint(checkpoint)
    state_dict = content.get('state_dict', content)
    model = build_untrained(config)
    if is_fused({key.removeprefix('backbone.'): value for key, value in state_dict.items()}):
        deploy(model)
    if is_ours(entries_below(state_dict, 'backbone.')):  # otherwise the backbone reports the mismatch
        fitting_weights(model.backbone, state_dict)
    load_whole_model(model, state_dict)
    model.dataset_meta = (content.get('meta') or {}).get('dataset_meta') or {}
    return model.eval()


def build_untrained(config: Config) -> nn.Module:
    """Build the model of a config with random weights, in training mode (nn.Module)."""
    init_default_scope(codebase_of(config) or 'mmengine')
    return MODELS.build({'data_preprocessor': config.get('data_preprocessor'), **config.model})


def load_model(config: Config, checkpoint: str | Path) -> nn.Module:
    """Load a model with :func:`load_trained` and prepare it for export.

    Args:
        config (Config): A config of mmpretrain, mmdet or mmseg.
        checkpoint (str | Path): The weights, in training or deployed form.

    Returns:
        nn.Module: The deployed model with the backend ``'export'``: on the CPU, in float32, without
        gradients.

    Raises:
        CheckpointError, FileNotFoundError: If the checkpoint cannot be read or does not match the model.
    """
    model = load_trained(config, checkpoint)
    deploy(model)
    set_backend(model, 'export')
    return model.cpu().float().requires_grad_(False)


def task_of(model: nn.Module) -> str:
    """Return the task of an OpenMMLab model, one of ``TASKS`` (str).

    Raises:
        DeploymentError: If the model performs none of these tasks.
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
    """Check that the export graph reproduces the model's ``predict``.

    Args:
        model (nn.Module): The model, see :func:`load_model`.
        task (str): One of ``TASKS``.

    Raises:
        DeploymentError: If the model has a setting or a head that the graphs do not support.
    """
    if task == 'backbone':
        return
    try:
        check_operators(model)
        CHECKS[task](model)
    except DeploymentError as problem:
        raise DeploymentError(f'{type(model).__name__} cannot be exported: {problem}') from None


def make_graph(model: nn.Module, task: str, topk: int = 5, with_logits: bool = False) -> nn.Module:
    """Wrap a model as a function of normalised images, float32 (N, C, H, W).

    Args:
        model (nn.Module): The model, see :func:`load_model`.
        task (str): One of ``TASKS``.
        topk (int): Number of classes that a classifier returns. Defaults to 5.
        with_logits (bool): Whether a segmentor returns its logits as well. Defaults to False.

    Returns:
        nn.Module: The graph; its ``output_names`` (list[str]) names its outputs in order.

    Raises:
        DeploymentError: If the graph would not reproduce the model's ``predict``.
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
    """Return height and width of the input images in px (tuple[int, int]).

    Args:
        about (dict): The metadata, see :func:`describe`.
        sides (Sequence[int], optional): Height and width, or one value for both. Defaults to the size of the
            config's test pipeline.
        dynamic (bool): Whether the graph accepts other sizes as well. Defaults to False.

    Raises:
        DeploymentError: If the size is too small, or not given and not defined by the config.
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
    """Return height and width of a batch of images, float32 (N, C, H, W) or uint8 (N, H, W, C), in px."""
    height, width = image.shape[1:3] if image.dtype == torch.uint8 else image.shape[2:]
    return height, width


def default_size(about: Mapping[str, Any], dynamic: bool) -> Size:
    """Return the height and width in px that the config's test pipeline produces (tuple[int, int]).

    If the pipeline produces several sizes, ``dynamic`` selects the first of the largest ones.

    Args:
        about (dict): The metadata, see :func:`describe`.
        dynamic (bool): Whether the graph accepts other sizes as well.

    Raises:
        DeploymentError: If the pipeline defines no size, or several sizes and ``dynamic`` is False.
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
    """Collect the metadata that a program needs to run the network.

    Args:
        config (Config): A config of mmpretrain, mmdet or mmseg.
        task (str): One of ``TASKS``.
        model (nn.Module, optional): The model from :func:`load_model`. If given, its number of classes must
            match the class names.

    Returns:
        dict: JSON-serialisable metadata: the task, normalisation (in 0 to 255), channel order, padding, class
        names, and the loading and resizing steps of the test pipeline.

    Raises:
        DeploymentError: If settings contradict each other, such as a mean with the wrong number of channels.
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
        pad_size=(preprocessor.get('test_cfg') or {}).get('size'),  # mmseg's minimum height and width
        pad_value=preprocessor.get('pad_value', preprocessor.get('pad_val', 0)),
        labels=labels_for(config, model),
        load=loader_of(steps),
        resize=resize_steps(steps),
    )


def of_channels(preprocessor: Mapping[str, Any], key: str, count: int, default: float) -> list[float]:
    """Return the mean or std of a data preprocessor, one value per image channel (list[float]).

    Args:
        preprocessor (dict): The config of the data preprocessor.
        key (str): ``'mean'`` or ``'std'``.
        count (int): Number of image channels.
        default (float): The value if the preprocessor has none.

    Raises:
        DeploymentError: If the number of values is neither 1 nor ``count``.
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
    """Return the class names (list[str]); warn and return none if their number does not match the model."""
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
    """Return ``num_classes`` of a model's head (int), or None if it has no head or no such attribute."""
    for path in ('roi_head.bbox_head', 'bbox_head', 'decode_head', 'head'):
        head = model
        for name in path.split('.'):
            head = getattr(head, name, None)
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        if isinstance(getattr(head, 'num_classes', None), int):
            return head.num_classes
    return None


def with_preprocessing(graph: nn.Module, about: Mapping[str, Any], as_read: bool = True) -> Preprocessed:
    """Add the normalisation to a graph.

    Three channels are RGB, one is gray, and four are BGRA, the order in which OpenCV reads them.

    Args:
        graph (nn.Module): A graph of normalised images, see :func:`make_graph`.
        about (dict): The metadata, see :func:`describe`.
        as_read (bool): Whether the input is uint8, (N, H, W, C), instead of float32, (N, C, H, W), in 0 to
            255. Defaults to True.
    """
    return Preprocessed(graph, about['mean'], about['std'], about['channels'] == 'BGR', as_read)
