"""The loader of checkpoints for versions of torch without an allow-list."""

import os
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmmobilemamba.models.checkpoint import load_weights


class Harm:
    """Runs a command when it is unpickled without a check."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(autouse=True)
def _no_list(monkeypatch):
    monkeypatch.setattr(load_weights, 'has_list', lambda: False)


@pytest.mark.parametrize('zipped', [True, False])
def test_what_a_runner_writes(tmp_path, zipped):
    buffer = HistoryBuffer()
    buffer.update(1.0)
    buffer.update(2.0)
    weights = dict(a=torch.ones(2, dtype=torch.bfloat16), b=torch.nn.Parameter(torch.ones(3)))
    content = dict(state_dict=weights, log=buffer, best=np.float64(0.5), size=torch.Size([1]))
    torch.save(content, tmp_path / 'x.pth', _use_new_zipfile_serialization=zipped)
    found = load_weights.load_weights(tmp_path / 'x.pth', 'cpu')
    assert all(torch.equal(found['state_dict'][key], value) for key, value in weights.items())
    assert found['log'].mean() == 1.5 and found['best'] == 0.5 and found['size'] == (1,)


def test_nothing_else(tmp_path):
    torch.save(dict(a=Harm(tmp_path / 'made')), tmp_path / 'x.pth')
    with pytest.raises(pickle.UnpicklingError, match=r'Unsupported class \w+\.mkdir'):
        load_weights.load_weights(tmp_path / 'x.pth', 'cpu')
    assert not (tmp_path / 'made').exists()
    torch.save(torch.nn.Linear(1, 1), tmp_path / 'x.pth')
    with pytest.raises(pickle.UnpicklingError, match=r'Unsupported class torch\.nn\.modules\.linear\.Linear'):
        load_weights.load_weights(tmp_path / 'x.pth', 'cpu')


def test_bytes_in_one_encoding_alone():
    """Other codecs are refused, because looking up a codec can import modules named in the file."""
    assert load_weights._encode('\xe9', 'latin1') == b'\xe9'
    with pytest.raises(pickle.UnpicklingError, match='but for latin1'):
        load_weights._encode('x', 'zip')
