"""The scan as an operator of PyTorch: opcheck, compile, export, autocast, checkpointing, memory."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mmmobilemamba import MobileMamba
from mmmobilemamba.ops import select_backend, selective_scan
from mmmobilemamba.ops.backends import AS_OPERATOR
from mmmobilemamba.ops.selective_scan.operator import SelectiveScan

from ..conftest import relative_error
from ..helpers import arguments, needs_torch, randomise

pytestmark = pytest.mark.skipif(select_backend().backend != 'cpp', reason='the operator has no kernel here')
needs_operator = pytest.mark.skipif(not AS_OPERATOR, reason='needs torch 2.4')


def half(args):
    """Mixed dtypes as under autocast: outputs of linear layers are bfloat16, parameters float32."""
    return [x.to(torch.bfloat16) for x in args[:2]] + args[2:]


PATTERNS = dict(
    float64=lambda: arguments(2, 9, 5),
    float32=lambda: arguments(1, 70, 33, torch.float32),
    one_step=lambda: arguments(2, 1, 4, torch.float32),
    mixed=lambda: half(arguments(2, 12, 8, torch.float32)),
    half_of_a_wider_one=lambda: [torch.randn(2, 9, 10)[..., :5], *arguments(2, 9, 5, torch.float32)[1:]],
)


@needs_operator
@pytest.mark.parametrize('pattern', PATTERNS)
def test_opcheck(pattern):
    args = PATTERNS[pattern]()
    operator = torch.ops.mmmobilemamba.selective_scan.default
    torch.library.opcheck(operator, args)
    torch.library.opcheck(operator, [x.detach().requires_grad_() for x in args])


def test_plain_function_of_older_torch():
    args = arguments(2, 20, 6)
    results = []
    for scan in (SelectiveScan.apply, selective_scan):
        leaves = [x.clone().requires_grad_() for x in args]
        y = scan(*leaves)
        y.square().sum().backward()
        results.append((y.detach(), *(x.grad for x in leaves)))
    assert all(torch.equal(x, y) for x, y in zip(*results))


@needs_torch('2.4')
def test_a_batch_of_gradients_at_once():
    args = [x.requires_grad_() for x in arguments(1, 5, 3)]
    y = selective_scan(*args)
    upstream = torch.randn(4, *y.shape, dtype=y.dtype)
    batched = torch.autograd.grad(y, args, upstream, is_grads_batched=True, retain_graph=True)
    singles = [torch.autograd.grad(y, args, one, retain_graph=True) for one in upstream]
    for grad, *others in zip(batched, *singles):
        torch.testing.assert_close(grad, torch.stack(others))


def test_gradients_have_the_types_of_the_inputs():
    args = [x.requires_grad_() for x in half(arguments(2, 12, 8, torch.float32))]
    y = selective_scan(*args)
    assert y.dtype == torch.float32
    y.sum().backward()
    assert [x.grad.dtype for x in args] == [x.dtype for x in args]


def test_no_second_derivative():
    """Raises on double backward."""
    u, *others = arguments(1, 5, 3)
    u.requires_grad_()
    (grad,) = torch.autograd.grad(selective_scan(u, *others).square().sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative.*backend='torch'"):
        torch.autograd.grad(grad.sum(), u)


def test_saves_its_inputs_only():
    args = [x.requires_grad_() for x in arguments(2, 300, 40)]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.data_ptr()) or x, lambda x: x):
        selective_scan(*args)
    assert sorted(saved) == sorted(x.data_ptr() for x in args)


def test_activation_checkpointing():
    results = []
    for run in (selective_scan, lambda *args: checkpoint(selective_scan, *args, use_reentrant=False)):
        args = [x.requires_grad_() for x in arguments(2, 30, 6)]
        run(*args).square().sum().backward()
        results.append([x.grad for x in args])
    assert all(torch.equal(x, y) for x, y in zip(*results))


def test_autocast_keeps_the_state_in_float32():
    args = arguments(2, 40, 6, torch.float32)
    expected = selective_scan(*args)
    with torch.autocast('cpu', torch.bfloat16):
        found = selective_scan(*args)
    assert torch.equal(found, expected)


def train_once(forward, backbone, x):
    """Output and gradients of one training step."""
    backbone.zero_grad()
    (y,) = forward(x)
    y.square().mean().backward()
    return [y.detach(), *(p.grad for p in backbone.parameters())]


@needs_operator
@pytest.mark.slow
@needs_torch('2.8')  # 2.6 sums gradients in a different order: 2 of 5832 differ by 1e-4
def test_compiled_as_one_graph():
    """Without a compiler backend: only checks that the graph is complete and correct."""
    backbone = randomise(MobileMamba('t2'))
    x = torch.randn(2, 3, 96, 64)
    compiled = torch.compile(backbone, fullgraph=True, backend='aot_eager')
    backbone.eval()
    with torch.no_grad():
        assert relative_error(compiled(x)[0], backbone(x)[0]) < 1e-5
    backbone.train()
    statistics = {name: value.clone() for name, value in backbone.state_dict().items()}
    expected = train_once(backbone, backbone, x)
    backbone.load_state_dict(statistics)
    for found, exact in zip(train_once(compiled, backbone, x), expected):
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-5)


@needs_operator
@pytest.mark.slow
def test_exported_program():
    """torch.export keeps the operator if its backend is named."""
    backbone = randomise(MobileMamba('t2', scan_backend='cpp'))
    x = torch.randn(2, 3, 64, 96)
    program = torch.export.export(backbone, (x,))
    names = [str(node.target) for node in program.graph.nodes]
    assert names.count('mmmobilemamba.selective_scan.default') == 5
    with torch.no_grad():
        assert relative_error(program.module()(x)[0], backbone(x)[0]) < 1e-5


def test_traced_graphs_have_no_operator_of_ours():
    """Traces can run in C++ and on phones, without Python."""
    backbone = randomise(MobileMamba('t2'))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        traced = torch.jit.trace(backbone, x)
        assert 'mmmobilemamba::' not in str(traced.inlined_graph)
        assert relative_error(traced(x)[0], backbone(x)[0]) < 1e-5
