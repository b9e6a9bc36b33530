"""Training steps of the backbone as CUDA graphs, which launch hundreds of kernels in one call.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#partial-network-capture.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .backbones import MobileMamba
from .compile import find_backbones

HINT = 'Leave CUDA graphs out of this training: the CUDAGraphHook in custom_hooks, or graph_training().'


def graph_training(model: nn.Module, warmup: int = 3) -> nn.Module:
    """Run the training steps of every MobileMamba in a model as CUDA graphs, in place.

    In configs, use ``CUDAGraphHook``. Forward and backward are captured in the first training step, for its
    autocast dtype and image size, and replayed in later steps. Evaluation and steps without gradients are not
    affected. Gradients can be accumulated over several steps, each with its own backward.

    Args:
        model (nn.Module): A backbone, or a model that contains one; on a GPU before the first step.
        warmup (int): Warm-up steps before the capture, at least 1. They do not change batch statistics.
            Defaults to 3.

    Returns:
        nn.Module: The model.

    Raises:
        ValueError: If there is no MobileMamba in the model, or it cannot be captured: ``with_cp=True``, or
            SyncBN.
        RuntimeError: If there is no GPU. In later steps, see :class:`TrainingGraph`.
    """
    backbones = find_backbones(model)
    if not torch.cuda.is_available():
        raise RuntimeError(f'CUDA graphs need a GPU of NVIDIA, and PyTorch sees none here. {HINT}')
    for backbone in backbones:
        check_capturable(backbone)
        backbone.training_graph = TrainingGraph(warmup)
    return model


def check_capturable(backbone: MobileMamba) -> None:
    """Check that a step of the backbone can be captured as a CUDA graph.

    Raises:
        ValueError: If the backbone uses activation checkpointing or SyncBN.
    """
    if any(stage.with_cp for stage in backbone.stages):
        raise ValueError(f'with_cp=True cannot be captured: recomputation saves random states. {HINT}')
    if any(isinstance(module, nn.SyncBatchNorm) for module in backbone.modules()):
        raise ValueError(f'SyncBN cannot be captured: it waits for other processes. Use BN. {HINT}')


class TrainingGraph:
    """Forward and backward of one backbone as CUDA graphs.

    Args:
        warmup (int): Steps before the capture.
    """

    def __init__(self, warmup):
        self.warmup = warmup
        self.graphed = self.signature = self.state = None
        self.turn = lambda: None  # weak reference to the last step
        self.kept = {}

    def __deepcopy__(self, memo):
        """Start without graphs: a copy of the backbone has its own weights and needs its own graphs."""
        return TrainingGraph(self.warmup)

    def __reduce__(self):
        return TrainingGraph, (self.warmup,)

    def __call__(self, backbone, x):
        """Run the forward pass of ``backbone``, and capture both passes in the first step.

        Args:
            backbone (MobileMamba): In training mode, on a GPU.
            x (Tensor): Images (N, C, H, W).

        Returns:
            tuple[Tensor]: Feature maps.

        Raises:
            RuntimeError: If the size or dtype of ``x`` differs from that of the capture, the last step has
                not run its backward, or the capture fails.
        """
        signature = describe(x)
        if self.signature not in (None, signature):
            raise RuntimeError(
                f'CUDA graphs were captured for images with {self.signature}, and these have {signature}. '
                f'They need one size throughout: set drop_last=True in the train_dataloader, and resize to '
                f'one size. {HINT}'
            )
        turn = self.turn()
        if turn is not None and not turn.is_over:
            raise RuntimeError(
                f'The last output of the backbone still waits for its backward, whose tensors a second step '
                f'would overwrite. Call backward first, or the backbone once for all images. {HINT}'
            )
        state = describe_state(backbone)
        if state != self.state:  # after .to(), for example, the graphs would read freed memory
            self.graphed = capture(backbone, x, self.warmup)
            self.signature, self.state = signature, state
        self.keep_gradients(backbone)
        turn = Turn()
        self.turn = weakref.ref(turn)
        return FinishTurn.apply(turn, *self.graphed(x))

    def keep_gradients(self, backbone: MobileMamba) -> None:
        """Copy accumulated gradients out of the memory that the next backward overwrites."""
        for parameter in backbone.parameters():
            grad = parameter.grad
            if grad is not None and self.kept.get(parameter) != grad.data_ptr():
                parameter.grad = grad.clone()
                self.kept[parameter] = parameter.grad.data_ptr()


class Turn:
    """A step from its forward to its backward; the autograd graph keeps it alive."""

    is_over = False


class FinishTurn(torch.autograd.Function):
    """Copies the outputs, so that the next step does not overwrite them, and records when backward runs."""

    @staticmethod
    def forward(ctx: Any, turn: Turn, *outs: Tensor) -> tuple[Tensor, ...]:
        ctx.turn = turn
        return tuple(out.clone() for out in outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.turn.is_over = True
        return None, *grads


class Plain(nn.Module):
    """A backbone whose ``forward`` does not use CUDA graphs, for the capture."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> a tuple of maps."""
        return self.backbone.extract(x)


def describe(x: Tensor) -> str:
    """The properties of the images that a capture depends on, in words (str)."""
    autocast = autocast_dtype() if torch.is_autocast_enabled() else 'off'
    grad = ', gradients' if x.requires_grad else ''
    return f'shape {tuple(x.shape)}, {x.dtype}, autocast {autocast}, {x.device}{grad}'


def autocast_dtype() -> torch.dtype:
    """Dtype of autocast on GPUs (torch.dtype)."""
    if hasattr(torch, 'get_autocast_dtype'):  # since PyTorch 2.4
        return torch.get_autocast_dtype('cuda')
    return torch.get_autocast_gpu_dtype()


def describe_state(backbone: MobileMamba) -> tuple:
    """The state that a capture depends on (tuple): addresses of tensors, ``requires_grad``, train modes."""
    tensors = (*backbone.parameters(), *backbone.buffers())
    places = tuple((tensor.data_ptr(), tensor.requires_grad) for tensor in tensors)
    return places, tuple(module.training for module in backbone.modules())


def capture(backbone: MobileMamba, x: Tensor, warmup: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Capture forward and backward as CUDA graphs. Batch statistics are restored afterwards.

    Returns:
        Callable: x (N, C, H, W) -> tuple of maps.

    Raises:
        RuntimeError: If the capture fails.
    """
    before = [buffer.clone() for buffer in backbone.buffers()]
    sample = x.detach().clone().requires_grad_(x.requires_grad)
    # Autocast frees its cache of cast weights after the step, but the graphs would still read it.
    context = torch.autocast(
        'cuda', autocast_dtype(), enabled=torch.is_autocast_enabled(), cache_enabled=False
    )
    try:
        with context:
            graphed = torch.cuda.make_graphed_callables(
                Plain(backbone), (sample,), num_warmup_iters=warmup, allow_unused_input=True
            )
    except RuntimeError as error:
        raise RuntimeError(f'The backbone could not be captured as CUDA graphs. {HINT}') from error
    with torch.no_grad():
        for buffer, value in zip(backbone.buffers(), before):
            buffer.copy_(value)
    return graphed
