"""Runner checkpoints with torch's allow-list: its entries, and what is still refused."""

import builtins
import functools
import io
import os
import pickle
import subprocess
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch.torch_version import TorchVersion

from mmmobilemamba import compat

from .test_compat import STATISTICS, allowed, assert_same, in_new_process, needs_list  # noqa: F401

# Values that can occur in a log.


def saved(content, rename=None):
    """Save like ``torch.save``; ``rename`` replaces a module name in the pickle."""
    file = io.BytesIO()
    torch.save(content, file)
    if rename is None:
        file.seek(0)
        return file
    renamed = io.BytesIO()
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(renamed, 'w', zipfile.ZIP_STORED) as target:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith('data.pkl'):
                old, new = (f'c{module}\n'.encode() for module in rename)
                assert old in data
                data = data.replace(old, new)
            target.writestr(info.filename, data)
    renamed.seek(0)
    return renamed


@needs_list
@pytest.mark.parametrize(
    'dtype',
    ['bool', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64']
    + ['float16', 'float32', 'float64', '>f4', '>i8'],
)
def test_arrays_and_scalars_come_back(dtype):
    values = np.array([0, 1, 3], dtype=dtype)
    buffer = HistoryBuffer(values, np.ones(3, dtype='int64'))
    loaded = torch.load(saved({'buffer': buffer, 'scalar': values[2]}), weights_only=True)

    assert type(loaded['buffer']) is HistoryBuffer
    # NumPy swaps the bytes of files from machines with the other byte order.
    native = values.astype(values.dtype.newbyteorder('='))
    assert_same(loaded['buffer'].data, (native, np.ones(3, dtype='int64')))
    assert type(loaded['scalar']) is type(values[2])
    assert loaded['scalar'] == values[2]
    assert loaded['buffer'].max() == values.max()


@needs_list
def test_special_values_and_shapes_come_back():
    arrays = [
        np.array([np.nan, np.inf, -0.0, 5e-324]),
        np.array(3.5, dtype='float32'),
        np.arange(12, dtype='int64').reshape(3, 4)[:, ::2],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    ]
    loaded = torch.load(saved(arrays), weights_only=True)
    assert_same(loaded, arrays)
    assert np.signbit(loaded[0][2])
    assert np.isfortran(loaded[3])


@needs_list
@pytest.mark.parametrize('written_by', ['numpy.core.multiarray', 'numpy._core.multiarray'])
def test_files_of_either_numpy_load(written_by):
    content = {'buffer': HistoryBuffer([0.25, 0.5], [1, 2]), 'best': np.float64(0.125)}
    here = np.float64(0).__reduce__()[0].__module__
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        loaded = torch.load(saved(content, rename=(here, written_by)), weights_only=True)
    assert loaded['buffer'].data[0].tolist() == [0.25, 0.5]
    assert loaded['buffer'].mean() == 0.25
    assert type(loaded['best']) is np.float64
    assert loaded['best'] == 0.125


# Content that is still refused.


class Call:
    """Pickles as the call of ``function``, optionally followed by a state."""

    def __init__(self, function, *args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts


def refusal(content):
    with pytest.raises(pickle.UnpicklingError) as error:
        torch.load(saved(content), weights_only=True)
    return str(error.value)


@needs_list
@pytest.mark.parametrize('name', STATISTICS)
def test_getattr_answers_for_the_statistics(name):
    assert torch.load(saved(Call(getattr, HistoryBuffer, name)), weights_only=True) is getattr(
        HistoryBuffer, name
    )


def test_the_statistics_are_those_that_mmengine_registers(monkeypatch):
    monkeypatch.setattr(HistoryBuffer, '_statistics_methods', {})
    HistoryBuffer()
    assert set(HistoryBuffer._statistics_methods) == set(STATISTICS)


@needs_list
@pytest.mark.parametrize(
    'name',
    ['__init__', '__globals__', '__class__', '__dict__', '__subclasses__', '__reduce__', '__setstate__']
    + ['update', 'data', 'statistics', 'register_statistics', '_statistics_methods']
    + ['mean.__globals__', 'MEAN', ' mean', '', 7, ('mean',), ['mean'], None],
)
def test_getattr_refuses_other_attributes_of_the_buffer(name):
    message = refusal(Call(getattr, HistoryBuffer, name))
    assert 'The file asks for getattr(mmengine.logging.history_buffer.HistoryBuffer, ' in message
    assert 'allows only the statistics methods' in message
    assert 'current, max, mean, min' in message


@needs_list
@pytest.mark.parametrize(
    'owner, described',
    [
        (OrderedDict, 'collections.OrderedDict'),
        (torch.Tensor, 'torch.Tensor'),
        (np.ndarray, 'numpy.ndarray'),
        (np.dtype('float64'), '<numpy.'),
        (HistoryBuffer([1.0], [1]), '<mmengine.logging.history_buffer.HistoryBuffer object>'),
        (HistoryBuffer.mean, '<builtins.function object>'),
        (torch._utils._rebuild_tensor_v2, '<builtins.function object>'),
        (torch.zeros(2), '<torch.Tensor object>'),
        ('os', "'os'"),
        (None, '<builtins.NoneType object>'),
    ],
)
def test_getattr_refuses_other_objects(owner, described):
    for name in ('mean', '__globals__', '__class__', 'system'):
        message = refusal(Call(getattr, owner, name))
        assert f'The file asks for getattr({described}' in message
        assert f"'{name}')" in message


@needs_list
@pytest.mark.parametrize('args', [(), (HistoryBuffer,), (HistoryBuffer, 'mean', None), (HistoryBuffer,) * 2])
def test_getattr_refuses_other_arguments(args):
    assert 'allows only the statistics methods' in refusal(Call(getattr, *args))


@needs_list
def test_a_file_cannot_register_the_name_it_asks_for(monkeypatch):
    monkeypatch.setattr(HistoryBuffer, '_statistics_methods', dict(HistoryBuffer._statistics_methods))
    register = Call(HistoryBuffer, state={'statistics_methods': {'__init__': OrderedDict}})
    message = refusal([register, Call(getattr, HistoryBuffer, '__init__')])
    # The first half loads, so the second half causes the error.
    assert HistoryBuffer._statistics_methods['__init__'] is OrderedDict
    assert "getattr(mmengine.logging.history_buffer.HistoryBuffer, '__init__')" in message


@needs_list
def test_a_method_of_the_buffer_leads_nowhere():
    # It may be referenced, but neither called nor used to access the globals of its module.
    assert 'unrecognized function' in refusal(Call(HistoryBuffer.mean, HistoryBuffer([1.0], [1])))
    method = Call(getattr, HistoryBuffer, 'mean')
    assert "getattr(<builtins.function object>, '__globals__')" in refusal(
        Call(getattr, method, '__globals__')
    )


ATTACKS = {
    'eval': lambda path: Call(eval, f'open({path!r}, "w").close()'),
    'exec': lambda path: Call(exec, f'open({path!r}, "w").close()'),
    'open': lambda path: Call(builtins.open, path, 'w'),
    'mkdir': lambda path: Call(os.mkdir, path),
    'system': lambda path: Call(os.system, f'mkdir "{path}"'),
    'subprocess': lambda path: Call(subprocess.call, ['mkdir', path]),
    'method': lambda path: Call(Path.touch, Path(path)),
    'partial': lambda path: Call(functools.partial(os.mkdir, path)),
    'numpy.save': lambda path: Call(np.save, path, 1),
}


@needs_list
@pytest.mark.parametrize('name', ATTACKS)
def test_code_is_never_run(name, tmp_path):
    path = tmp_path / 'made.npy'
    attack = ATTACKS[name](str(path))
    refusal(attack)
    assert not path.exists()
    # Without the check, loading the same file executes the code.
    torch.load(saved(attack), weights_only=False)
    assert path.exists()


@needs_list
@pytest.mark.parametrize(
    'content',
    [np.array(['text']), np.array([b'bytes']), np.array([None, {}]), np.array([(1, 2.0)], dtype='i4,f8')]
    + [np.datetime64('2024-11-01'), np.array([1j]), np.str_('text'), Path('file'), slice(1, 2)],
    ids=lambda content: type(content).__name__ + str(getattr(content, 'dtype', '')),
)
def test_other_contents_are_refused_as_before(content):
    refusal(content)


# The list itself.


@needs_list
def test_calling_again_changes_nothing():
    before = set(torch.serialization.get_safe_globals())
    for _ in range(3):
        compat.allow_runner_checkpoints()
    assert set(torch.serialization.get_safe_globals()) == before
    names = [entry[1] for entry in before if isinstance(entry, tuple)]
    assert sorted(names) == sorted(set(names))
    assert names.count('builtins.getattr') == 1


@needs_list
def test_the_list_survives_other_peoples_blocks():
    content = HistoryBuffer([0.5], [1])
    function = np.empty(0).__reduce__()[0]
    with torch.serialization.safe_globals([HistoryBuffer, np.ndarray, np.dtype, function]):
        assert torch.load(saved(content), weights_only=True).mean() == 0.5
    assert torch.load(saved(content), weights_only=True).mean() == 0.5


@needs_list
@pytest.mark.parametrize('theirs', [getattr, (getattr, 'builtins.getattr')], ids=['object', 'tuple'])
def test_a_getattr_that_somebody_listed_before_is_left_alone(theirs):
    code = (
        'import sys, torch\n'
        'theirs = (getattr, "builtins.getattr") if sys.argv[1] == "tuple" else getattr\n'
        'torch.serialization.add_safe_globals([theirs])\n'
        'import mmmobilemamba\n'
        'for entry in torch.serialization.get_safe_globals():\n'
        '    entry, name = entry if isinstance(entry, tuple) else (entry, entry.__qualname__)\n'
        '    if name.endswith("getattr"):\n'
        '        print(name, entry is getattr)\n'
    )
    result = in_new_process(code, 'tuple' if isinstance(theirs, tuple) else 'object')
    assert result.returncode == 0, result.stderr
    expected = 'builtins.getattr True' if isinstance(theirs, tuple) else 'getattr True'
    assert result.stdout.splitlines() == [expected]


@pytest.mark.parametrize('version', ['2.0.1', '2.1.2', '2.4.1+cu121', '2.5.1', '2.6.0a0+git1234567'])
def test_older_torch_is_left_alone(version, monkeypatch):
    monkeypatch.setattr(torch, '__version__', TorchVersion(version))
    # torch has no such list before 2.4.
    monkeypatch.delattr(torch.serialization, 'add_safe_globals', raising=False)
    monkeypatch.delattr(torch.serialization, 'get_safe_globals', raising=False)
    compat.allow_runner_checkpoints()


@needs_list
@pytest.mark.parametrize(
    'version', ['2.6.0', '2.6.0+cu124', '2.7.0a0+git1234567', '2.13.0', '2.100.0', '3.0.0']
)
def test_newer_torch_gets_the_list(version, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, '__version__', TorchVersion(version))
    monkeypatch.setattr(torch.serialization, 'add_safe_globals', calls.append)
    compat.allow_runner_checkpoints()
    assert len(calls) == 1
    assert (np.ndarray, 'numpy.ndarray') in calls[0]


@needs_list
def test_a_fork_without_history_buffer_is_left_alone(monkeypatch):
    import mmengine.logging

    calls = []
    monkeypatch.delattr(mmengine.logging, 'HistoryBuffer')
    monkeypatch.setattr(torch.serialization, 'add_safe_globals', calls.append)
    compat.allow_runner_checkpoints()
    assert calls == []


def test_loading_and_functions_of_others_are_untouched():
    code = (
        'import builtins, torch, mmengine.runner.checkpoint as checkpoint\n'
        'from mmengine.logging import HistoryBuffer\n'
        'def state(): return [torch.load, builtins.getattr, checkpoint.load_from_local,\n'
        '                     dict(vars(HistoryBuffer)), dict(HistoryBuffer._statistics_methods)]\n'
        'before = state()\n'
        'from mmmobilemamba import compat\n'
        'compat.allow_runner_checkpoints()\n'
        'print(state() == before)\n'
    )
    result = in_new_process(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout == 'True\n'


def test_importing_the_module_alone_does_nothing():
    code = (
        'import importlib.util, sys, torch\n'
        'listed = getattr(torch.serialization, "get_safe_globals", list)\n'
        'before = len(listed())\n'
        'spec = importlib.util.spec_from_file_location("compat", sys.argv[1])\n'
        'spec.loader.exec_module(importlib.util.module_from_spec(spec))\n'
        'print(len(listed()) - before, "mmengine" in sys.modules)\n'
    )
    result = in_new_process(code, compat.__file__)
    assert result.returncode == 0, result.stderr
    assert (result.stdout, result.stderr) == ('0 False\n', '')
