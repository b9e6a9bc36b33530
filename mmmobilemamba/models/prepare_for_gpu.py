"""Preparation of a network for inference on a GPU: deployed, compiled, in a faster type, as CUDA graphs."""

from __future__ import annotations

import copy
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .backbones import MobileMamba
from .backbones.region import check_version
from .deploy import deploy
from .prepared import PreparedModule

WARMUP = 3  # calls before a capture, in which what is compiled or chosen at first use is
CAN_COMPUTE = {torch.bfloat16: (8, 0), torch.float16: (5, 3), torch.float32: (0, 0)}  # the fastest first


def prepare_for_gpu(
    model: nn.Module,
    image: Tensor,
    dtype: torch.dtype | None = None,
    compile: bool = True,
    max_graphs: int = 8,
) -> GraphedNetwork:
    """A copy of a network for inference on this GPU, captured as a CUDA graph for each size of images.

    The copy is deployed (``switch_to_deploy``), in evaluation and without gradients, in the memory format
    that was measured to be faster: channels-last for types that tensor cores multiply, TF32 among them. It
    computes in ``dtype`` and answers in the type of the image. Sizes beyond the first ``max_graphs`` work,
    without graphs. It cannot be moved, converted, saved or loaded into: do that with the network that it was
    made from. How much it gains: docs/performance.md.

    Args:
        model (nn.Module): Any network on a GPU that is called with an image alone, such as a backbone. It
            stays as it is. It must not ask the GPU for a number on the way, as detectors' suppression does.
        image (Tensor): An input of the wanted size on the same GPU, (N, C, H, W); its graph is captured now.
        dtype (torch.dtype, optional): ``torch.bfloat16``, ``torch.float16`` or ``torch.float32``. Defaults to
            bfloat16, or float16 where the GPU has no bfloat16.
        compile (bool): Compile MobileMamba by region, and other networks as a whole, which takes some tens of
            seconds for each size. Defaults to True.
        max_graphs (int): How many sizes to capture, each of which keeps its activations. Defaults to 8.

    Returns:
        nn.Module: The copy.

    Raises:
        RuntimeError: If there is no GPU, or PyTorch is too old to compile.
        ValueError: If network and image are not on one GPU, the image is not (N, C, H, W), or the GPU does
            not compute in ``dtype``.
    """
    if not torch.cuda.is_available():
        raise RuntimeError('PyTorch sees no GPU of NVIDIA here. prepare_for_cpu is for CPUs.')
    places = {str(tensor.device) for tensor in (image, *model.parameters(), *model.buffers())}
    if len(places) > 1 or image.device.type != 'cuda':
        raise ValueError(
            f'Network and image must be on one GPU, not on {sorted(places)}: call .cuda() on both.'
        )
    if image.ndim != 4:
        raise ValueError(f'The image must be (N, C, H, W), but has shape {tuple(image.shape)}.')
    dtype = choose_dtype(dtype, torch.cuda.get_device_capability(image.device))
    model = copy.deepcopy(model).eval().requires_grad_(False)
    deploy(model)
    multiplies = dtype != torch.float32 or torch.backends.cudnn.allow_tf32
    memory_format = torch.channels_last if multiplies else torch.contiguous_format
    model = model.to(dtype=dtype, memory_format=memory_format)
    if compile:
        model = compile_for_inference(model)
    prepared = GraphedNetwork(model, dtype, memory_format, max_graphs)
    prepared(image)
    return prepared


def choose_dtype(dtype: torch.dtype | None, capability: tuple[int, int]) -> torch.dtype:
    """The type to compute in, on a GPU of a compute capability (tuple[int, int]).

    Raises:
        ValueError: If it is none of those there are.
    """
    able = [name for name, needed in CAN_COMPUTE.items() if capability >= needed]
    if dtype is None:
        return able[0]
    if dtype not in able:
        raise ValueError(
            f'dtype must be one of {able} on this GPU, of compute capability {capability}, not {dtype}.'
        )
    return dtype


def compile_for_inference(model: nn.Module) -> nn.Module:
    """A network of which MobileMamba is compiled by region; without one, all of it, each size on its own."""
    backbones = [module for module in model.modules() if isinstance(module, MobileMamba)]
    for backbone in backbones:
        backbone.compile_regions(evaluation=True, dynamic=False)
    if not backbones:
        check_version()
        model = torch.compile(model, dynamic=False)
    return model


class GraphedNetwork(PreparedModule):
    """A network that runs as one CUDA graph for each size of images that it has met.

    Args:
        network (nn.Module): In evaluation, on a GPU.
        dtype (torch.dtype): Of what it takes.
        memory_format (torch.memory_format): Likewise.
        max_graphs (int): How many sizes to capture.
    """

    maker = 'prepare_for_gpu'

    def __init__(self, network, dtype, memory_format, max_graphs):
        super().__init__()
        self.network, self.dtype, self.memory_format = network, dtype, memory_format
        self.max_graphs, self.graphs, self.lock = max_graphs, {}, Lock()

    def __getstate__(self):
        raise RuntimeError(
            f'A network from {self.maker} cannot be copied. Prepare the network that it was made from again.'
        )

    def extra_repr(self) -> str:
        """What it computes in."""
        return f'dtype={self.dtype}, memory_format={self.memory_format}, sizes={sorted(self.graphs)}'

    @torch.inference_mode()
    def forward(self, image: Tensor) -> Any:
        """(N, C, H, W) of any floating type -> what the network gives, in that type."""
        size = tuple(image.shape)
        with self.lock:  # the graph's memory is there once
            if size not in self.graphs and len(self.graphs) < self.max_graphs:
                self.graphs[size] = Graph(self.network, self.convert(image))
            graph = self.graphs.get(size)
            out = graph(image) if graph else self.network(self.convert(image))
            return pytree.tree_map_only(Tensor, partial(copy_as, image.dtype), out)

    def convert(self, image: Tensor) -> Tensor:
        """An image as the network takes it, in memory of its own."""
        return image.to(self.dtype, memory_format=self.memory_format, copy=True)


def copy_as(dtype: torch.dtype, x: Tensor) -> Tensor:
    """A copy of a tensor, in a type if it is of a floating one."""
    return x.to(dtype, copy=True) if x.is_floating_point() else x.clone()


class Graph:
    """A network captured for images of one size.

    Args:
        network (nn.Module): In evaluation, on a GPU.
        image (Tensor): Kept; the images to come are copied into it.
    """

    def __init__(self, network, image):
        self.image, self.graph = image, torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(image.device)
        stream.wait_stream(torch.cuda.current_stream(image.device))
        with torch.cuda.stream(stream):
            for _ in range(WARMUP):
                network(image)
        torch.cuda.current_stream(image.device).wait_stream(stream)
        with torch.cuda.graph(self.graph):
            self.out = network(image)

    def __call__(self, image):
        """The output for an image, in memory that the next call writes to."""
        self.image.copy_(image)
        self.graph.replay()
        return self.out
