"""From a config and a checkpoint to the graph of a network, with all that its users have to know about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from ..models import deploy, set_backend
from ..models.checkpoint import entries_below, fetch_checkpoint, fitting_weights, is_fused, is_ours
from .detectors import DenseDetector, TwoStageDetector
from .errors import DeploymentError
from .graphs import BackboneGraph, ClassifierGraph, Preprocessed, SegmentorGraph
from .pipeline import Size, largest_sizes, pad, pad_divisor_of, read_test_pipeline, resize_steps

TASKS = ('backbone', 'classification', 'detection', 'segmentation')
SMALLEST = 32  # px; below, the last map of a detector's neck would be empty


def load_model(config: Config, checkpoint: str | Path) -> nn.Module:
    """The model of a config, in evaluation and in its deployed form, for graphs that leave PyTorch.

    Args:
        config (Config): Of mmpretrain, mmdet or mmseg.
        checkpoint (str | Path): Its weights, of either form.

    Raises:
        CheckpointError, FileNotFoundError: If the checkpoint cannot be read or does not fit.
    """
    init_default_scope(config.get('default_scope', 'mmengine'))
    content = fetch_checkpoint(checkpoint)
    state_dict = content.get('state_dict', content)
    model = MODELS.build({'data_preprocessor': config.get('data_preprocessor'), **config.model})
    if is_fused({key.removeprefix('backbone.'): value for key, value in state_dict.items()}):
        deploy(model)  # which gives the modules that such a checkpoint is of
    if is_ours(entries_below(state_dict, 'backbone.')):  # else the backbone says what does not fit
        fitting_weights(model.backbone, state_dict)
    load_state_dict(model, state_dict, strict=True)
    deploy(model)
    set_backend(model, 'export')
    return model.cpu().float().eval().requires_grad_(False)


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
    raise DeploymentError(
        f'{type(model).__name__} is none of what can be exported: a classifier, an anchor-based detector, a '
        f'segmentor or a backbone.'
    )


def check_supported(model: nn.Module, task: str) -> None:
    """Make sure that a graph gives what the model's own ``predict`` does.

    Raises:
        DeploymentError: If the model has a setting, or a head, that the graphs have not.
    """
    problem = None
    if task == 'classification' and is_a(model.head, 'MultiLabelClsHead'):
        problem = 'it may find several classes in an image, and the graph has one'
    if task == 'segmentation' and model.test_cfg.get('mode', 'whole') != 'whole':
        problem = f'test_cfg.mode is {model.test_cfg.mode!r}, and the graph takes whole images'
    if task == 'segmentation' and model.decode_head.out_channels == 1:
        problem = 'it has one output for two classes, and the graph takes the largest of several'
    if task == 'detection':
        two_stages = hasattr(model, 'roi_head')
        head = model.rpn_head if two_stages else model.bbox_head
        stages = [model.test_cfg.rpn, model.test_cfg.rcnn] if two_stages else [model.test_cfg]
        kinds = {stage.nms.get('type', 'nms') for stage in stages}
        if not is_a(head, 'AnchorHead'):
            problem = f'{type(head).__name__} is no head with anchors'
        elif two_stages and not is_a(model.roi_head, 'StandardRoIHead'):
            problem = f'{type(model.roi_head).__name__} is no StandardRoIHead'
        elif kinds != {'nms'}:
            problem = f'test_cfg asks for {sorted(kinds)}, and the graph suppresses boxes by plain nms'
    if problem:
        raise DeploymentError(f'{type(model).__name__} cannot be exported: {problem}.')


def is_a(module: nn.Module, name: str) -> bool:
    """Whether a module is of a class of that name, or of one that is made from it."""
    return any(kind.__name__ == name for kind in type(module).__mro__)


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
    return pad(sizes[0], about['pad_divisor'])


def describe(config: Config, task: str) -> dict[str, Any]:
    """What a program that runs the network has to know (dict of what JSON can hold)."""
    preprocessor = dict(config.model.get('data_preprocessor') or config.get('data_preprocessor') or {})
    swaps = preprocessor.get('to_rgb', preprocessor.get('bgr_to_rgb', False))
    head = config.model.get('decode_head', {})
    head = head[-1] if isinstance(head, list) else head
    return dict(
        task=task,
        align_corners=head.get('align_corners', False),
        mean=list(preprocessor.get('mean', (0.0, 0.0, 0.0))),
        std=list(preprocessor.get('std', (1.0, 1.0, 1.0))),
        channels='RGB' if swaps else 'BGR',
        pad_divisor=pad_divisor_of(preprocessor),
        labels=labels_of(config),
        resize=resize_steps(read_test_pipeline(config)),
    )


def labels_of(config: Config) -> list[str]:
    """Names of the classes (list[str]), of the test data's metainfo or else of its class; [] if unknown."""
    dataset = config.get('test_dataloader', {}).get('dataset', {})
    names = dataset.get('metainfo', {}).get('classes')
    if names is None and 'type' in dataset:
        with DATASETS.switch_scope_and_registry(config.get('default_scope')) as registry:
            names = getattr(registry.get(dataset['type']), 'METAINFO', {}).get('classes')
    return list(names or ())


def with_preprocessing(graph: nn.Module, about: Mapping[str, Any]) -> Preprocessed:
    """The graph with normalisation inside: it takes images as they are read, uint8, RGB, (N, H, W, 3)."""
    return Preprocessed(graph, about['mean'], about['std'], swaps=about['channels'] == 'BGR')


def read_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """A config file with changes (Config)."""
    config = Config.fromfile(path)
    config.merge_from_dict(options or {})
    return config
