"""Training steps of the backbone as CUDA graphs, which launch hundreds of kernels at once.

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
    """Let every MobileMamba in a model run its training steps as CUDA graphs, in place.

    Forward and backward are captured at the first step in training, with the type of autocast and the size of
    images that are met there, and replayed from then on. Evaluation runs as before, as do steps without
    gradients. Gradients may be accumulated over several steps, each with its own backward. Use
    ``CUDAGraphHook`` in configs.

    Args:
        model (nn.Module): A backbone, or anything that has one inside, on a GPU before the first step.
        warmup (int): Steps before the capture, at least 1, which change no statistics. Defaults to 3.

    Returns:
        nn.Module: The model.

    Raises:
        ValueError: If there is no MobileMamba in the model, or one that cannot be captured.
        RuntimeError: If there is no GPU.
    """
    backbones = find_backbones(model)
    if not torch.cuda.is_available():
        raise RuntimeError(f'CUDA graphs need a GPU of NVIDIA, and PyTorch sees none here. {HINT}')
    for backbone in backbones:
        check_capturable(backbone)
        backbone.training_graph = TrainingGraph(warmup)
    return model


def check_capturable(backbone: MobileMamba) -> None:
    """Make sure that nothing in a backbone has to wait for the GPU within a step.

    Raises:
        ValueError: If something has to.
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
        self.turn = lambda: None  # a weak reference to the last step
        self.kept = {}

    def __deepcopy__(self, memo):
        """A copy of the backbone has weights of its own, and so graphs of its own."""
        return TrainingGraph(self.warmup)

    def __reduce__(self):
        return TrainingGraph, (self.warmup,)

    def __call__(self, backbone, x):
        """What ``backbone`` gives for ``x`` in training, (N, C, H, W): a tuple of maps.

        Raises:
            RuntimeError: If the size or type of ``x`` is another than before, the last step still waits for
                its backward, or the capture fails.
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
        if state != self.state:  # as after .to(): the graphs would read memory of the past
            self.graphed = capture(backbone, x, self.warmup)
            self.signature, self.state = signature, state
        self.keep_gradients(backbone)
        turn = Turn()
        self.turn = weakref.ref(turn)
        return FinishTurn.apply(turn, *self.graphed(x))

    def keep_gradients(self, backbone: MobileMamba) -> None:
        """Take gradients that are to be added to out of the memory that the next backward writes to."""
        for parameter in backbone.parameters():
            grad = parameter.grad
            if grad is not None and self.kept.get(parameter) != grad.data_ptr():
                parameter.grad = grad.clone()
                self.kept[parameter] = parameter.grad.data_ptr()


class Turn:
    """A step, from its forward to its backward; the graph of automatic differentiation holds it."""

    is_over = False


class FinishTurn(torch.autograd.Function):
    """Copies of the outputs, which the next step leaves alone; notes when backward is reached."""

    @staticmethod
    def forward(ctx: Any, turn: Turn, *outs: Tensor) -> tuple[Tensor, ...]:
        ctx.turn = turn
        return tuple(out.clone() for out in outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.turn.is_over = True
        return None, *grads


class Plain(nn.Module):
    """A backbone without its graphs, as PyTorch captures it."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> a tuple of maps."""
        return self.backbone.extract(x)


def describe(x: Tensor) -> str:
    """What a capture depends on: size, types, and whether the images need gradients (str)."""
    autocast = autocast_dtype() if torch.is_autocast_enabled() else 'off'
    grad = ', gradients' if x.requires_grad else ''
    return f'shape {tuple(x.shape)}, {x.dtype}, autocast {autocast}, {x.device}{grad}'


def autocast_dtype() -> torch.dtype:
    """The type of autocast on GPUs."""
    if hasattr(torch, 'get_autocast_dtype'):  # since PyTorch 2.4
        return torch.get_autocast_dtype('cuda')
    return torch.get_autocast_gpu_dtype()


def describe_state(backbone: MobileMamba) -> tuple:
    """Where the weights are, which learn, and which modules train (tuple)."""
    tensors = (*backbone.parameters(), *backbone.buffers())
    places = tuple((tensor.data_ptr(), tensor.requires_grad) for tensor in tensors)
    return places, tuple(module.training for module in backbone.modules())


def capture(backbone: MobileMamba, x: Tensor, warmup: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Forward and backward as CUDA graphs (Callable), which leaves the statistics as they are.

    Raises:
        RuntimeError: If it fails.
    """
    before = [buffer.clone() for buffer in backbone.buffers()]
    sample = x.detach().clone().requires_grad_(x.requires_grad)
    # Weights that autocast has cast are kept for the rest of a step, and would be missing in the next one.
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
