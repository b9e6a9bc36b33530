"""The bidirectional selective scan without a loop, unrolled for a fixed length, for runtimes without loops.

The sequence is split into chunks of about the square root of its length. Each step is computed in all chunks
at once; then the state at the end of each chunk is carried into the next. Both directions use the same maps,
one of them in reverse. For a length L this takes at most ``5 * sqrt(L) + 8`` operators per direction, most of
them on one step of all chunks. Tensors have at most four axes. Decays may underflow, as nothing is divided by
them and no logarithm is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FOR_PADDING = 4  # cost of padding the sequence, in operators on one step


@dataclass(frozen=True)
class Chunks:
    """The split of a sequence into chunks.

    Attributes:
        length (int): Length of the sequence.
        count (int): Number of chunks.
        steps (int): Steps per chunk; the last chunk may need padding.
    """

    length: int
    count: int
    steps: int

    @property
    def padding(self) -> int:
        """Number of padded steps at the end (int)."""
        return self.count * self.steps - self.length

    @property
    def operators(self) -> int:
        """Number of operators of :func:`linear_recurrence` (int)."""
        several, more = self.steps > 1, self.count > 2
        within = 2 * (self.steps - 1) + 3 * several
        between = self.steps - 1 + several + 4 + 2 * (self.count - 2) + 2 * more
        return within + between * (self.count > 1)


def chunks_of(length: int) -> Chunks:
    """The split with the fewest operators, padding included (Chunks)."""
    ways = [Chunks(length, -(-length // steps), steps) for steps in range(1, length + 1)]
    return min(ways, key=lambda chunks: (chunks.operators + FOR_PADDING * (chunks.padding > 0), chunks.count))


def pad(x: Tensor, chunks: Chunks) -> Tensor:
    """Zero-pad a sequence at its end to whole chunks: (N, L, E) -> (N, L', E)."""
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
    """Sum of the scans from first to last and from last to first, without the direct path.

    Position t is the same pixel in every argument. L' is the padded length, see :func:`pad`; zero inputs do
    not change the state.

    Args:
        u (Tensor): (N, L', E).
        delta (tuple[Tensor, Tensor]): Step sizes of each direction, not negative, (N, L', E) each.
        B, C (tuple[Tensor, Tensor]): Input and output weights of each direction, (N, L', 1) each.
        A (tuple[Tensor, Tensor], optional): Decay rates of each direction, negative, (E) each. None for a
            sequence of one step.
        chunks (Chunks): See :func:`chunks_of`.
        channels (int): E, passed as an int so that a trace does not record reading it from ``u``.

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
    """h_t = a_t * h_{t-1} + b_t along a sequence in chunks, starting from h = 0.

    Args:
        a, b (Tensor): Decays and inputs, (N, count, steps, E).
        chunks (Chunks): Number and size of the chunks.
        backward (bool): Scan from the last step to the first, h_t = a_t * h_{t+1} + b_t.

    Returns:
        Tensor: h, (N, count, steps, E).
    """
    order = walked(chunks.steps, backward)
    decays, inputs = pieces(a, chunks.steps, 2), pieces(b, chunks.steps, 2)
    states, kept = {order[0]: inputs[order[0]]}, {order[0]: decays[order[0]]}
    for before, now in zip(order, order[1:]):
        states[now] = decays[now] * states[before] + inputs[now]
        kept[now] = decays[now] * kept[before]  # share of the state before the chunk
    within = joined(states)
    if chunks.count == 1:
        return within
    return within + joined(kept) * before_chunks(kept[order[-1]], states[order[-1]], chunks, backward)


def before_chunks(a: Tensor, b: Tensor, chunks: Chunks, backward: bool) -> Tensor:
    """Initial states of the chunks.

    Args:
        a (Tensor): Total decay of each chunk, (N, count, 1, E).
        b (Tensor): Final state of each chunk when started from zero, (N, count, 1, E).
        chunks (Chunks): Number and size of the chunks.
        backward (bool): As in :func:`linear_recurrence`.

    Returns:
        Tensor: (N, count, 1, E).
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
    """The numbers below ``count`` in the scan order of a direction (list[int])."""
    return list(reversed(range(count)) if backward else range(count))


def pieces(x: Tensor, count: int, dim: int) -> Sequence[Tensor]:
    """Split a dimension of size ``count`` into parts of size 1."""
    return x.split(1, dim) if count > 1 else [x]


def joined(steps: dict[int, Tensor]) -> Tensor:
    """Concatenate parts, given by position, along dimension 2."""
    return torch.cat([steps[index] for index in range(len(steps))], dim=2) if len(steps) > 1 else steps[0]
