"""The bidirectional selective scan without a loop, for runtimes that have none: for one length.

The sequence is cut into chunks of about the square root of its length. Each step is taken in all chunks at
once, then the state at the end of each chunk is carried into the next. Both directions walk through the same
maps, one of them backwards. For a length L that takes at most ``5 * sqrt(L) + 8`` operators a direction, most
of them on one step of all chunks; tensors have at most four axes. There are no quotients of decays and no
logarithms of them, so that decays may underflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FOR_PADDING = 4  # operators on one step that cost as much as to copy the sequence into a longer one


@dataclass(frozen=True)
class Chunks:
    """How a sequence is cut.

    Attributes:
        length (int): Of the sequence.
        count (int): Number of chunks.
        steps (int): Steps of each; the last chunk may need padding.
    """

    length: int
    count: int
    steps: int

    @property
    def padding(self) -> int:
        """Steps without an input at the end (int)."""
        return self.count * self.steps - self.length

    @property
    def operators(self) -> int:
        """How many operators :func:`linear_recurrence` takes (int)."""
        several, more = self.steps > 1, self.count > 2
        within = 2 * (self.steps - 1) + 3 * several
        between = self.steps - 1 + several + 4 + 2 * (self.count - 2) + 2 * more
        return within + between * (self.count > 1)


def chunks_of(length: int) -> Chunks:
    """The chunks that take the fewest operators (Chunks)."""
    ways = [Chunks(length, -(-length // steps), steps) for steps in range(1, length + 1)]
    return min(ways, key=lambda chunks: (chunks.operators + FOR_PADDING * (chunks.padding > 0), chunks.count))


def pad(x: Tensor, chunks: Chunks) -> Tensor:
    """A sequence, (N, L, E), with zeros at its end up to whole chunks."""
    return F.pad(x, (0, 0, 0, chunks.padding)) if chunks.padding else x


def scan_both_ways(
    u: Tensor,
    delta: Sequence[Tensor],
    B: Sequence[Tensor],
    C: Sequence[Tensor],
    A: Sequence[Tensor] | None,
    chunks: Chunks,
    channels: int,
) -> Tensor:
    """The sum of the scans from first to last and from last to first, without their direct paths.

    Position t means the same pixel in every argument. The length L' is that of whole chunks, see :func:`pad`:
    inputs of zeros change no state.

    Args:
        u (Tensor): (N, L', E).
        delta (tuple[Tensor, Tensor]): Of each direction, step sizes from 0 up, (N, L', E).
        B, C (tuple[Tensor, Tensor]): (N, L', 1).
        A (tuple[Tensor, Tensor], optional): Below 0, (E). A sequence of one step needs none.
        chunks (Chunks): See :func:`chunks_of`.
        channels (int): E, which a trace would else ask ``u`` for.

    Returns:
        Tensor: (N, L', E).
    """
    length = chunks.count * chunks.steps
    outputs = []
    for direction in range(2):
        states = delta[direction] * (B[direction] * u)
        if A is not None:
            decay = torch.exp(delta[direction] * A[direction])
            a, b = (x.reshape(-1, chunks.count, chunks.steps, channels) for x in (decay, states))
            states = linear_recurrence(a, b, chunks, backward=direction == 1)
            states = states.reshape(-1, length, channels)
        outputs.append(C[direction] * states)
    return outputs[0] + outputs[1]


def linear_recurrence(a: Tensor, b: Tensor, chunks: Chunks, backward: bool) -> Tensor:
    """h_t = a_t * h_{t-1} + b_t along a sequence in chunks, (N, count, steps, E), from h = 0 on.

    Args:
        a, b (Tensor): Of each step.
        chunks (Chunks): Their sizes.
        backward (bool): From the last step to the first: h_t = a_t * h_{t+1} + b_t.
    """
    order = walked(chunks.steps, backward)
    decays, inputs = pieces(a, chunks.steps, 2), pieces(b, chunks.steps, 2)
    states, kept = {order[0]: inputs[order[0]]}, {order[0]: decays[order[0]]}
    for before, now in zip(order, order[1:]):
        states[now] = decays[now] * states[before] + inputs[now]
        kept[now] = decays[now] * kept[before]  # of the state before the chunk
    within = joined(states)
    if chunks.count == 1:
        return within
    return within + joined(kept) * before_chunks(kept[order[-1]], states[order[-1]], chunks, backward)


def before_chunks(a: Tensor, b: Tensor, chunks: Chunks, backward: bool) -> Tensor:
    """The states that chunks begin with, of what is kept of these and added until they end.

    All are (N, count, 1, E).
    """
    order = walked(chunks.count, backward)
    decays, inputs = pieces(a, chunks.count, 1), pieces(b, chunks.count, 1)
    states = [inputs[order[0]]]
    for now in order[1:-1]:
        states.append(decays[now] * states[-1] + inputs[now])
    if backward:
        states.reverse()
    carried = torch.cat(states, dim=1) if len(states) > 1 else states[0]
    return F.pad(carried, (0, 0, 0, 0, 0, 1) if backward else (0, 0, 0, 0, 1, 0))


def walked(count: int, backward: bool) -> list[int]:
    """The numbers below ``count`` in the order of a direction (list[int])."""
    return list(reversed(range(count)) if backward else range(count))


def pieces(x: Tensor, count: int, dim: int) -> Sequence[Tensor]:
    """Parts of size 1 along a dimension of size ``count``."""
    return x.split(1, dim) if count > 1 else [x]


def joined(steps: dict[int, Tensor]) -> Tensor:
    """Parts along dimension 2 by their position, as one tensor."""
    return torch.cat([steps[index] for index in range(len(steps))], dim=2) if len(steps) > 1 else steps[0]
