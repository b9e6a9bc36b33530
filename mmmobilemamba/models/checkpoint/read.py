"""Reads checkpoints without running code from them, and unwraps their state dicts."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

from .load_weights import load_weights

try:
    import safetensors.torch
except ImportError:  # needed for safetensors files only
    safetensors = None

# In this order: the EMA before the raw weights.
WRAPPERS = ('net_E', 'net', 'model', 'state_dict')


# First bytes of files that are often mistaken for checkpoints.
OTHER_FILES = {
    b'\x08': 'a file of ONNX',
    b'{': 'JSON',
    b'[': 'JSON',
    b'\x89HDF': 'HDF5',
    b'\x1f\x8b': 'compressed by gzip',
    b'\x93NUMPY': 'an array of numpy',
}
# Members of zip archives that are not checkpoints.
OTHER_ARCHIVES = {
    r'[^/]+/constants\.pkl': 'a program of TorchScript',
    r'(.*/)?archive_format|serialized_exported_program\.json': 'a program of torch.export',
    r'[^/]+\.npy': 'arrays of numpy',
}


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or does not match; the message says why and what to do."""


def read_checkpoint(path: str | Path, map_location: str = 'cpu') -> Mapping:
    """Read a local checkpoint file without running any code from it.

    Args:
        path (str | Path): A file written by ``torch.save``, or a safetensors file if its name ends in
            ``.safetensors``.
        map_location (str): As in ``torch.load``. Defaults to ``'cpu'``.

    Returns:
        Mapping: Content of the file.

    Raises:
        FileNotFoundError: If the file does not exist or is a folder.
        CheckpointError: If it is a web page or another kind of file, is damaged, contains objects other than
            tensors, plain values and those of mmengine's Runner, or is not a dict; or if it is a safetensors
            file and safetensors is not installed.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f'{path} is a folder, not a checkpoint file.')
    if not path.is_file():
        raise FileNotFoundError(f'There is no checkpoint file {path}.')
    with open(path, 'rb') as file:
        head = file.read(256).lstrip()
    if head.startswith((b'<', b'version https://git-lfs')):
        raise CheckpointError(
            f'{path} is a web page or a pointer file, not a checkpoint: the download gave a confirmation '
            f'or login page. Download the file itself, for instance with a browser.'
        )
    damaged = f'{path} is damaged or was not downloaded completely. Download it again.'
    if path.suffix == '.safetensors':
        return _read_safetensors(path, map_location, damaged)
    kind = _other_kind(path, head)
    if kind is not None:
        raise CheckpointError(
            f'{path} is {kind}, not a checkpoint: give the file that training wrote, or what '
            f'torch.save(network.state_dict(), path) writes.'
        )
    if not head or (head.startswith(b'PK') and not zipfile.is_zipfile(path)):
        raise CheckpointError(damaged)
    try:
        checkpoint = load_weights(path, map_location)
    except pickle.UnpicklingError as error:
        blocked = _blocked_name(error)
        if blocked is None:
            raise CheckpointError(damaged) from error
        raise CheckpointError(
            f'{path} holds Python objects beside tensors, which could run code when loaded, so it is '
            f'refused: {blocked}. Where it comes from a source that you trust, load it there '
            f'and save its state dict alone: torch.save({{k: v.cpu() for k, v in state_dict.items()}}, path).'
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(damaged) from error
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f'{path} holds a {type(checkpoint).__name__}, not a dict of tensors.')
    return checkpoint


def _read_safetensors(path: Path, map_location: str, damaged: str) -> dict[str, Tensor]:
    """Read a safetensors file."""
    if safetensors is None:
        raise CheckpointError(f'{path} needs safetensors: python -m pip install safetensors')
    try:
        return safetensors.torch.load_file(path, device=map_location)
    except safetensors.SafetensorError as error:
        raise CheckpointError(damaged) from error


def _other_kind(path: Path, head: bytes) -> str | None:
    """Kind of a file that is not a checkpoint of ``torch.save`` (str); None if it may be one."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        if any(member.endswith('/data.pkl') for member in members) and not any(
            '/code/' in member for member in members
        ):
            return None
        kinds = OTHER_ARCHIVES.items()
        return next((kind for name, kind in kinds if any(re.fullmatch(name, each) for each in members)), None)
    return next((kind for start, kind in OTHER_FILES.items() if head.startswith(start)), None)


def _blocked_name(error: Exception) -> str | None:
    """The object that the unpickler refused (str); None if the file is not a valid pickle."""
    match = re.search(r'GLOBAL ([\w.]+)|Unsupported class ([\w.]+)|asks for (getattr\(.*?\))', str(error))
    return next(filter(None, match.groups())) if match else None


def fetch_checkpoint(checkpoint: str | Path, map_location: str = 'cpu') -> Mapping:
    """Read a checkpoint from a file or a URL.

    Args:
        checkpoint (str | Path): A file, published weights (``'mobilemamba://b1'``), or any other URL that
            mmengine can load.
        map_location (str): As in ``torch.load``. Defaults to ``'cpu'``.

    Returns:
        Mapping: Content of the checkpoint.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If there are no published weights of this name.
        CheckpointError: If the file cannot be read or the published weights cannot be downloaded.
    """
    if re.match(r'\w[\w+.-]+:', str(checkpoint)):
        return CheckpointLoader.load_checkpoint(checkpoint, map_location)
    return read_checkpoint(checkpoint, map_location)


def unwrap(checkpoint: Mapping, wrappers: Sequence[str] = WRAPPERS) -> dict[str, Tensor]:
    """Extract the state dict of a checkpoint, without ``module.`` and ``_orig_mod.`` in its keys.

    DDP adds ``module.`` and ``torch.compile`` adds ``_orig_mod.``.

    Args:
        checkpoint (Mapping): Content of a checkpoint.
        wrappers (Sequence[str]): Keys under which a state dict may be found, most preferred first. Defaults
            to ``WRAPPERS``.

    Returns:
        dict[str, Tensor]: The state dict.

    Raises:
        CheckpointError: If it contains values that are not tensors.
    """
    inner = next((checkpoint[name] for name in wrappers if isinstance(checkpoint.get(name), Mapping)), None)
    if inner is not None:
        return unwrap(inner, wrappers)
    names = {key: re.sub(r'^module\.', '', str(key).replace('_orig_mod.', '')) for key in checkpoint}
    state_dict = {names[key]: value for key, value in checkpoint.items()}
    odd = [key for key, value in state_dict.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise CheckpointError(f'The checkpoint holds other things than tensors, under {odd[:3]}.')
    return state_dict


def entries_below(state_dict: Mapping[str, Any], prefix: str | None) -> dict[str, Any]:
    """Entries below a prefix, with the prefix removed.

    Args:
        state_dict (dict[str, Tensor]): Any state dict.
        prefix (str | None): Prefix, with or without the final dot; all entries if it is empty.

    Returns:
        dict[str, Tensor]: The entries.
    """
    prefix = f'{prefix.rstrip(".")}.' if prefix else ''
    return {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
