"""Disabled branches: compared with one mixer by hand, in both forms, and restored afterwards."""

import copy

import pytest
import torch
from torch import nn

from mmmobilemamba.analysis import BRANCHES, AnalysisError, without
from mmmobilemamba.analysis.branches import branch_modules
from mmmobilemamba.models import set_backend
from mmmobilemamba.models.layers import Mixer
from mmmobilemamba.ops import haar_idwt

from ..conftest import noise_for, relative_error
from ..helpers import randomise, small

SPLITS = (16, 9, 7)


@pytest.fixture(scope='module')
def mixer():
    """A mixer with random parameters, and an input of odd sides."""
    return randomise(Mixer(SPLITS, 5, dict(type='BN'))), noise_for((2, sum(SPLITS), 7, 6), 0)


def by_hand(mixer, x, branches):
    """The output of a mixer computed from its parts, without some branches."""
    global_part, local_part, identity = x.split(SPLITS, dim=1)
    wte = mixer.global_op
    scan = wte.base_scale * wte.ss2d(global_part) * ('scan' not in branches)
    bands = wte.filter_bands(global_part) * ('wavelet' not in branches)
    local = mixer.local_op(local_part) * ('local' not in branches)
    return mixer.proj(torch.cat([haar_idwt(bands, scan), local, identity], dim=1).relu())


@pytest.mark.parametrize(
    'branches', [(), ('scan',), ('wavelet',), ('local',), ('scan', 'local'), BRANCHES], ids='-'.join
)
@torch.no_grad()
def test_a_mixer_by_hand(mixer, branches):
    network, x = mixer
    whole = network(x)
    with without(network, *branches):
        found = network(x)
    assert relative_error(found, by_hand(network, x, branches)) < 1e-6
    assert not branches or relative_error(found, whole) > 1e-3
    assert torch.equal(network(x), whole)


@torch.no_grad()
def test_both_forms_are_alike():
    plain, images = small().eval(), noise_for((1, 3, 96, 96), 1)
    deployed = copy.deepcopy(plain)
    deployed.switch_to_deploy()
    for branch in BRANCHES:
        assert len(branch_modules(plain, branch)) == len(branch_modules(deployed, branch)) == 4
        with without(plain, branch), without(deployed, branch):
            assert relative_error(deployed(images)[0], plain(images)[0]) < 1e-4


@torch.no_grad()
def test_all_is_as_before_after_an_error(mixer):
    network, x = mixer
    whole = network(x)
    with pytest.raises(ZeroDivisionError), without(network, 'scan'):
        raise ZeroDivisionError
    assert torch.equal(network(x), whole)
    with pytest.raises(AnalysisError), without(network, 'scan', 'stem'):
        pass
    assert torch.equal(network(x), whole)


def test_what_cannot_be_left_out(mixer):
    with pytest.raises(AnalysisError, match="no branch 'stem'; the branches are scan, wavelet, local"):
        without(mixer[0], 'stem').__enter__()
    with pytest.raises(AnalysisError, match="has no branch 'local': there is no MobileMamba in it"):
        without(nn.Conv2d(1, 1, 1), 'local').__enter__()
    exported = small()
    set_backend(exported, 'export')
    with pytest.raises(AnalysisError, match=r"backend 'export'.* set_backend\(network, 'auto'\) first"):
        without(exported, 'wavelet').__enter__()
