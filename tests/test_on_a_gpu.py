"""The network on a GPU, with the scan in Triton; all tests are skipped without a GPU."""

import copy

import pytest
import torch

from mmmobilemamba import MobileMamba, create_model
from mmmobilemamba.models import compile_regions, graph_training, prepare_for_gpu, prepare_for_inference
from mmmobilemamba.ops import select_backend

from .conftest import authors_checkpoint, golden, image_for, relative_error
from .helpers import arguments, small

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')


@pytest.fixture
def full_float32():
    """Disable TF32; not with monkeypatch, which would delete these computed attributes afterwards."""
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, value in zip(switches, before):
        switch.allow_tf32 = value


@pytest.fixture
def network(full_float32):
    """T2 with the golden weights, in evaluation mode."""
    backbone = MobileMamba('t2', out_indices=(0, 1, 2)).eval()
    backbone.load_state_dict(authors_checkpoint('t2'))
    return backbone.cuda()


@pytest.fixture
def first_stage(full_float32):
    """A network of one stage in evaluation mode: all operations, but a third of the kernels to compile."""
    return small(out_indices=0).cuda().eval()


@pytest.fixture
def image():
    return image_for((2, 3, 96, 128)).cuda()


@torch.no_grad()
@pytest.mark.parametrize('deploy', [False, True])
def test_golden_features(network, image, deploy):
    assert select_backend(device='cuda').backend == 'triton'
    if deploy:
        network.switch_to_deploy()
    for index, feature in enumerate(network(image)):
        assert relative_error(feature.cpu(), golden('t2')[f'feat{index + 1}']) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(('dtype', 'bound'), [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
def test_autocast(first_stage, image, dtype, bound):
    expected = first_stage(image)
    with torch.autocast('cuda', dtype):
        found = first_stage(image)
    assert found[-1].dtype == dtype
    for one, exact in zip(found, expected):
        assert relative_error(one.cpu(), exact.cpu()) < bound


def test_opcheck():
    u, x_dbl, *parameters = (x.cuda() for x in arguments(2, 40, 33, torch.float32))
    args = [x.detach().requires_grad_() for x in (u.bfloat16(), x_dbl.bfloat16(), *parameters)]
    torch.library.opcheck(torch.ops.mmmobilemamba.selective_scan.default, args)


def test_gradients_repeat(network, image, monkeypatch):
    """Repeated gradients are bit-identical, and close to those of a CPU for each parameter."""
    monkeypatch.setattr(torch.backends.cudnn, 'deterministic', True)
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', False)
    grads = []
    on_cpu = copy.deepcopy(network).cpu()
    for model, x in ((network, image), (network, image), (on_cpu, image.cpu())):
        model.zero_grad()
        model(x)[-1].square().mean().backward()
        grads.append([p.grad.cpu().clone() for p in model.parameters()])
    first, second, cpu = grads
    assert all(torch.equal(x, y) for x, y in zip(first, second))
    largest = max(x.abs().max() for x in cpu)
    for x, exact in zip(
        second, cpu
    ):  # rounding may flip the sign of a ReLU's input, which slightly changes gradients
        assert (x - exact).abs().max() < 0.02 * exact.abs().max() + 1e-5 * largest


@torch.no_grad()
def test_compiled_as_one_graph(first_stage, image):
    compiled = torch.compile(first_stage, fullgraph=True, backend='aot_eager')
    for found, exact in zip(compiled(image), first_stage(image)):
        assert relative_error(found.cpu(), exact.cpu()) < 1e-5


@torch.no_grad()
def test_cuda_graph(first_stage, image):
    """A captured step is correct for other images as well."""
    other = image.flip(3)
    expected = first_stage(other)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        first_stage(image)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = first_stage(image)
    image.copy_(other)
    graph.replay()
    for one, exact in zip(found, expected):
        assert relative_error(one.cpu(), exact.cpu()) < 1e-5


def train(model, images, steps=2):
    """SGD updates with accumulated gradients, under autocast."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for update in range(steps):
        for x in images:
            with torch.autocast('cuda', torch.bfloat16):
                out = model(x + 0.1 * update)[-1]
            (out.float().square().mean() / len(images)).backward()
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            model(images[0])
        model.train()
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize('compiles', [False, True])
def test_training_graph(compiles):
    """Weights and statistics after updates with gradient accumulation and evaluation in between."""
    torch.manual_seed(0)
    # Compilation time is proportional to the stages, and one stage covers everything.
    network = small(out_indices=0 if compiles else (0, 2)).cuda().train()
    images = [torch.rand(8, 3, 64, 96, device='cuda') + number for number in range(2)]
    graphed = graph_training(copy.deepcopy(network))
    if compiles:
        torch.compiler.reset()
        compile_regions(graphed)
    start = copy.deepcopy(network.state_dict())
    expected, found = train(network, images), train(graphed, images)
    for name, value in expected.items():
        moved = (value - start[name]).abs().max()
        assert (found[name] - value).abs().max() <= 0.1 * moved + 1e-4, name
    assert graphed.training_graph.graphed is not None


def test_training_graph_repeats_what_it_captured():
    """Without autocast, the gradients of a replay equal those of the network for each image."""
    torch.manual_seed(0)
    network = small(out_indices=0).cuda().train()
    graphed = graph_training(copy.deepcopy(network))
    for number in range(3):
        x = torch.rand(4, 3, 64, 96, device='cuda') + number
        for model in (network, graphed):
            model.zero_grad()
            model(x)[-1].square().mean().backward()
        largest = max(p.grad.abs().max() for p in network.parameters())
        for p, q in zip(network.parameters(), graphed.parameters()):
            assert (p.grad - q.grad).abs().max() < 1e-3 * largest


@pytest.mark.parametrize(
    ('dtype', 'bound'), [(torch.float32, 1e-4), (torch.bfloat16, 0.05), (torch.float16, 0.01)]
)
def test_prepared(first_stage, image, dtype, bound):
    prepared = prepare_for_inference(first_stage, image, dtype=dtype, compile=False, max_graphs=2)
    others = (image.flip(3), image[:1, :, :64], image.flip(2)[:, :, :70], image)
    with torch.no_grad():
        for x in others:  # the third size exceeds the number of graphs
            for found, exact in zip(prepared(x), first_stage(x)):
                assert found.dtype == torch.float32
                assert relative_error(found.cpu(), exact.cpu()) < bound
    assert len(prepared.graphs) == 2 and not first_stage.deploy
    first = prepared(image)[-1]
    kept = first.clone()
    prepared(others[0])
    assert torch.equal(first, kept)
    with pytest.raises(RuntimeError, match='cannot be copied'):
        copy.deepcopy(prepared)
    with pytest.raises(RuntimeError, match='cannot be saved'):
        prepared.state_dict()


@torch.no_grad()
def test_prepared_and_compiled():
    torch.compiler.reset()
    network = small(out_indices=0).cuda().eval()
    image = torch.rand(2, 3, 96, 64, device='cuda')
    prepared = prepare_for_inference(network, image)
    assert prepared.dtype == torch.bfloat16
    for found, exact in zip(prepared(image), network(image)):
        assert relative_error(found.cpu(), exact.cpu()) < 0.05
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).cuda().eval()
    assert relative_error(prepare_for_inference(other, image)(image).cpu(), other(image).cpu()) < 0.05


def test_prepared_needs_one_place(first_stage, image):
    with pytest.raises(ValueError, match=r"on one GPU, not on \['cpu', 'cuda:0'\]"):
        prepare_for_gpu(first_stage, image.cpu())
    with pytest.raises(ValueError, match='dtype must be one of'):
        prepare_for_gpu(first_stage, image, dtype=torch.float64)


def test_plain_classifier(full_float32):
    """The classifier of ``create_model`` is prepared as one graph, including the head."""
    classifier = create_model('t2').eval()
    classifier.load_state_dict(authors_checkpoint('t2'))
    image = image_for((2, 3, 192, 192)).cuda()
    logits = prepare_for_gpu(classifier.cuda(), image, dtype=torch.float32, compile=False)(image)
    assert relative_error(logits.cpu(), golden('t2')['logits']) < 1e-4
