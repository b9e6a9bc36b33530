"""A hook that runs training steps as CUDA graphs."""

from __future__ import annotations

from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmmobilemamba.models import graph_training
from mmmobilemamba.models.compile import find_backbones
from mmmobilemamba.models.graph_training import HINT


@HOOKS.register_module()
class CUDAGraphHook(Hook):
    """Run the backbone's training steps as CUDA graphs.

    Requires training images of one size, as in classification and segmentation. Works with AMP, DDP, EMA,
    ``compile``, gradient accumulation and intermediate validation. See
    :func:`~mmmobilemamba.models.graph_training`.

    Args:
        warmup (int): Number of warm-up steps before the capture; they do not change the model. Defaults to 3.

    Raises:
        ValueError: Before training, if the last batch of an epoch is smaller than the others, or the backbone
            cannot be captured.
        RuntimeError: Before training, if there is no GPU; during training, if the image size changes.

    Example:
        >>> custom_hooks = [dict(type='CUDAGraphHook')]
    """

    def __init__(self, warmup=3):
        self.warmup = warmup

    def before_train(self, runner: Runner) -> None:
        """Check the batches and enable the capture at the first step."""
        check_batches(runner.train_dataloader)
        graph_training(unwrap(runner.model), self.warmup)

    def after_train(self, runner: Runner) -> None:
        """Free the memory of the graphs."""
        for backbone in find_backbones(unwrap(runner.model)):
            backbone.training_graph = None


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside a wrapper such as DDP."""
    return model.module if is_model_wrapper(model) else model


def check_batches(loader: DataLoader) -> None:
    """Check that all batches of a dataloader have the same size.

    Raises:
        ValueError: If the last batch of an epoch is smaller.
    """
    sampler, size = loader.sampler, loader.batch_size
    if size is None or loader.drop_last or isinstance(sampler, InfiniteSampler):
        return
    if len(sampler) % size:
        raise ValueError(
            f'The last batch of an epoch has {len(sampler) % size} of {size} images, and CUDA graphs need '
            f'batches of one size. Set train_dataloader.drop_last=True. {HINT}'
        )
