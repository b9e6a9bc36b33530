"""From a config and a checkpoint to the graph of a network, with all that its users have to know about it."""

from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner.checkpoint import load_state_dict

from ..models.checkpoint import fetch_checkpoint, is_fused
from .detectors import DenseDetector, TwoStageDetector
from .graphs import BackboneGraph, ClassifierGraph, Preprocessed, SegmentorGraph

TASKS = ('backbone', 'classification', 'detection', 'segmentation')
RESIZES = ('Resize', 'ResizeEdge', 'CenterCrop')  # steps of a test pipeline that change the size
SMALLEST = 32  # px; below, the last map of a detector's neck would be empty


class DeploymentError(RuntimeError):
    """A network cannot leave PyTorch; the message says why and what to do."""


def load_model(config, checkpoint):
    """The model of a config, in evaluation and folded for inference, for graphs that leave PyTorch.

    Args:
        config (Config): Of mmpretrain, mmdet or mmseg.
        checkpoint (str | Path): Its weights, folded or not.

    Raises:
        CheckpointError, FileNotFoundError: If the checkpoint cannot be read or does not fit.
    """
    init_default_scope(config.get('default_scope', 'mmengine'))
    content = fetch_checkpoint(checkpoint)
    state_dict = content.get('state_dict', content)
    model = MODELS.build({'data_preprocessor': config.get('data_preprocessor'), **config.model})
    if is_fused({key.removeprefix('backbone.'): value for key, value in state_dict.items()}):
        fold(model)  # which gives the modules that such a checkpoint is of
    load_state_dict(model, state_dict, strict=True)
    fold(model)
    for module in model.modules():
        if hasattr(module, 'backend'):
            module.backend = 'export'
    return model.cpu().float().eval().requires_grad_(False)


def fold(model):
    """Fold all that can be folded, in place."""
    for module in list(model.modules()):
        if hasattr(module, 'switch_to_deploy'):
            module.switch_to_deploy()


def task_of(model):
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


def make_graph(model, task, topk=5, with_logits=False):
    """The network as a function of a normalised image (nn.Module with ``output_names``)."""
    if task == 'backbone':
        return BackboneGraph(model)
    if task == 'classification':
        return ClassifierGraph(model, topk)
    if task == 'segmentation':
        return SegmentorGraph(model, with_logits)
    return (TwoStageDetector if hasattr(model, 'roi_head') else DenseDetector)(model)


def input_size(about, sides=None):
    """Height and width of the network's images (tuple[int, int]).

    Args:
        about (dict): See :func:`describe`.
        sides (Sequence[int], optional): Height and width, or one for both; the config's if not given.

    Raises:
        DeploymentError: If they are too small, or the config has none.
    """
    if sides is None:
        sides = next((size_of(step) for step in reversed(about['resize']) if size_of(step)), None)
    if sides is None:
        raise DeploymentError("The config's test pipeline has no size: give --size HEIGHT WIDTH.")
    size = (sides[0], sides[-1])
    smallest = SMALLEST if about['task'] == 'detection' else 1
    if min(size) < smallest:
        raise DeploymentError(
            f'Images of {size[0]} x {size[1]} are too small: {smallest} px a side at least.'
        )
    return size


def size_of(step):
    """Height and width that a step of a pipeline makes (tuple[int, int]), or None."""
    size = step.get('crop_size') if step['type'] == 'CenterCrop' else step.get('scale')
    if isinstance(size, int):
        return size, size
    return (size[1], size[0]) if size else None  # pipelines have the width first


def describe(config, task):
    """What a program that runs the network has to know (dict of what JSON can hold)."""
    preprocessor = dict(config.get('data_preprocessor') or config.model.get('data_preprocessor') or {})
    swaps = preprocessor.get('to_rgb', preprocessor.get('bgr_to_rgb', False))
    pipeline = config.get('test_dataloader', {}).get('dataset', {}).get('pipeline', [])
    return dict(
        task=task,
        mean=list(preprocessor.get('mean', (0.0, 0.0, 0.0))),
        std=list(preprocessor.get('std', (1.0, 1.0, 1.0))),
        channels='RGB' if swaps else 'BGR',
        pad_divisor=preprocessor.get('pad_size_divisor', 1),
        labels=labels_of(config),
        resize=[plain(step) for step in pipeline if step['type'] in RESIZES],
    )


def plain(step):
    """A step of a pipeline as JSON holds it."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in step.items()}


def labels_of(config):
    """Names of the classes (list[str]), of the test data's metainfo or else of its class; [] if unknown."""
    dataset = config.get('test_dataloader', {}).get('dataset', {})
    names = dataset.get('metainfo', {}).get('classes')
    if names is None and 'type' in dataset:
        with DATASETS.switch_scope_and_registry(config.get('default_scope')) as registry:
            names = getattr(registry.get(dataset['type']), 'METAINFO', {}).get('classes')
    return list(names or ())


def with_preprocessing(graph, about):
    """The graph with normalisation inside: it takes images as they are read, uint8, RGB, (N, H, W, 3)."""
    return Preprocessed(graph, about['mean'], about['std'], swaps=about['channels'] == 'BGR')


def read_config(path, options=None):
    """A config file with changes (Config)."""
    config = Config.fromfile(path)
    config.merge_from_dict(options or {})
    return config
