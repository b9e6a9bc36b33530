"""Checkpoints of MobileMamba: reading them safely, and from the authors' names to ours.

The authors publish flat state dicts, or dicts that hold one under ``net_E`` (the moving average,
whose accuracy they publish), ``net``, ``model`` or ``state_dict``, with ``module.`` in front of the
keys or not. ``RENAMES`` is the one table behind direct loading and the converter. A checkpoint
fits completely or is refused with the reason.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader

from .backbones.arch import ARCHS

# In this order: the moving average before the raw weights.
WRAPPERS = ('net_E', 'net', 'model', 'state_dict')

# Authors' name -> ours, all applied in turn. `blocks2` and `blocks3` begin with the three pieces of
# the downsample; the keys that hold the constant Haar filters are dropped by `convert_backbone`.
RENAMES = (
    (r'^patch_embed\.', 'stem.'),
    (r'^blocks1\.', 'stages.0.blocks.'),
    (r'^blocks([23])\.0\.0\.m\.', lambda m: f'stages.{int(m[1]) - 1}.downsample.dw0.fn.'),
    (r'^blocks([23])\.0\.1\.m\.', lambda m: f'stages.{int(m[1]) - 1}.downsample.ffn0.fn.'),
    (r'^blocks([23])\.1\.', lambda m: f'stages.{int(m[1]) - 1}.downsample.merge.'),
    (r'^blocks([23])\.2\.0\.m\.', lambda m: f'stages.{int(m[1]) - 1}.downsample.dw1.fn.'),
    (r'^blocks([23])\.2\.1\.m\.', lambda m: f'stages.{int(m[1]) - 1}.downsample.ffn1.fn.'),
    (r'^blocks([23])\.(\d+)\.', lambda m: f'stages.{int(m[1]) - 1}.blocks.{int(m[2]) - 3}.'),
    (r'\.mixer\.m\.attn\.', '.mixer.fn.'),
    (r'\.(dw0|dw1|ffn0|ffn1)\.m\.', r'.\1.fn.'),
    (r'\.proj\.1\.', '.proj.'),
    (r'\.local_op\.dwconv3x3\.', '.local_op.dwconv.'),
    (r'\.local_op\.dwconv1x1\.', '.local_op.scale.'),
    (r'\.wavelet_convs\.0\.', '.wavelet_conv.'),
    (r'\.wavelet_scale\.0\.weight$', '.wavelet_scale'),
    (r'\.base_scale\.weight$', '.base_scale'),
    (r'\.global_atten\.', '.ss2d.'),
    (r'\.ss2d\.conv2d\.', '.ss2d.dwconv.'),
    (r'\.dt_projs_', '.dt_proj_'),
    (r'\.A_logs$', '.A_log'),
    (r'\.Ds$', '.D'),
    (r'\.c\.weight$', '.conv.weight'),
)
# Keys that no other network has: `patch_embed.proj`, `stem.0.weight` are met elsewhere.
AUTHORS = r'patch_embed\.\d\.|blocks1\.\d+\.(dw0|ffn0|mixer)\.'
OURS = r'stem\.\d\.(conv|bn)\.|stages\.\d\.blocks\.\d+\.(dw0|ffn0|mixer)\.fn\.'
FUSED = r'patch_embed\.0\.weight$|stem\.0\.weight$|stages\.\d\.blocks\.\d+\.dw0\.weight$'
HAAR_FILTERS = ('.wt_filter', '.iwt_filter')

# The head of the authors' classifiers -> MobileMambaClsHead.
HEAD_RENAMES = ((r'^head\.bn\.', 'head.head.bn.'), (r'^head\.l\.', 'head.head.linear.'))


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or does not fit; the message says why and what to do."""


def read_checkpoint(path, map_location='cpu'):
    """Read a local checkpoint file without running any code that it holds.

    Args:
        path (str | Path): The file.
        map_location (str): Where the tensors go. Defaults to ``'cpu'``.

    Returns:
        dict: What the file holds.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is a web page, damaged, holds other things than tensors and plain
            values, or is no dict.
    """
    path = Path(path)
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
    if not head or (head.startswith(b'PK') and not zipfile.is_zipfile(path)):
        raise CheckpointError(damaged)
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
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


def _blocked_name(error):
    """What torch's unpickler refused, or None where the file is no sound pickle at all."""
    match = re.search(r'GLOBAL ([\w.]+)|Unsupported class ([\w.]+)|asks for (getattr\(.*?\))', str(error))
    return next(filter(None, match.groups())) if match else None


def unwrap(checkpoint, wrappers=WRAPPERS):
    """The state dict inside a checkpoint, without ``module.`` in front of its keys.

    Raises:
        CheckpointError: If it holds other things than tensors.
    """
    inner = next((checkpoint[name] for name in wrappers if isinstance(checkpoint.get(name), Mapping)), None)
    if inner is not None:
        return unwrap(inner, wrappers)
    state_dict = {re.sub(r'^module\.', '', str(key)): value for key, value in checkpoint.items()}
    odd = [key for key, value in state_dict.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise CheckpointError(f'The checkpoint holds other things than tensors, under {odd[:3]}.')
    return state_dict


def backbone_part(state_dict):
    """The entries of a backbone, without ``backbone.``: all of a bare one's, {} if there is none."""
    for prefix in ('', 'backbone.'):
        part = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
        if is_authors(part) or is_ours(part):
            return part
    return {}


def is_authors(state_dict):
    """Whether the keys are the authors' names of a backbone, fused or not."""
    return any(re.match(AUTHORS, key) for key in state_dict)


def is_ours(state_dict):
    """Whether the keys are our names of a backbone."""
    return any(re.match(OURS, key) for key in state_dict)


def is_fused(state_dict):
    """Whether batch norms are folded into the convolutions, in the authors' layout or ours."""
    return any(re.match(FUSED, key) for key in state_dict)


def check_form(folded, wanted, part, or_else=None):
    """Compare the form of a checkpoint with that of the network.

    Args:
        folded (bool): Whether the checkpoint is in the deployed form.
        wanted (bool): Whether the network is.
        part (str): What it is, in words.
        or_else (str, optional): What else than folded it may be, where its keys do not tell.

    Raises:
        CheckpointError: If they differ, with what to do.
    """
    if folded and not wanted:
        doubt = f' (or was {or_else}: then build it without them, too)' if or_else else ''
        raise CheckpointError(
            f'The {part} of this checkpoint is in the deployed form, which cannot be undone: build it with '
            f'deploy=True, or load the checkpoint from which it was made{doubt}.'
        )
    if wanted and not folded:
        raise CheckpointError(
            f'The {part} is built with deploy=True, but this checkpoint is not: build it with '
            f'deploy=False, load, and call switch_to_deploy(), or deploy the file with '
            f'tools/model_converters/reparameterize_model.py.'
        )


def rename(key, table=RENAMES):
    """Our name of an authors' key."""
    for pattern, replacement in table:
        key = re.sub(pattern, replacement, key)
    return key


def convert_backbone(state_dict):
    """From the authors' names of a backbone to ours; our own names stay.

    Args:
        state_dict (dict[str, Tensor]): Result of :func:`backbone_part`; a head is left out.

    Returns:
        dict[str, Tensor]: The same tensors under our names, without the constant Haar filters.

    Raises:
        CheckpointError: If the file is fused or its wavelet is not Haar.
    """
    if not is_authors(state_dict):
        return dict(state_dict)
    if is_fused(state_dict):
        raise CheckpointError(
            f'This looks like {describe(state_dict)}. Folding batch norm cannot be undone: load the '
            f'checkpoint from which it was made.'
        )
    converted = {}
    for key, value in state_dict.items():
        if key.endswith(HAAR_FILTERS):
            _check_haar(key, value)
        elif not key.startswith('head.'):
            converted[rename(key)] = value
    return converted


def _check_haar(key, filters):
    """Sub-bands of a channel: average, rows, columns, diagonal; every tap +-1/2."""
    signs = [[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]]
    haar = 0.5 * torch.tensor(signs, dtype=torch.float32, device=filters.device)
    found = filters.detach().float().reshape(-1, 4, 2, 2)
    if not torch.allclose(found, haar.expand_as(found), rtol=0, atol=1e-4):
        raise CheckpointError(f'{key} is not the Haar wavelet (db1), the only one that MobileMamba uses.')


def convert_head(state_dict):
    """The head of an authors' classifier under the names of ``MobileMambaClsHead``."""
    return {rename(key, HEAD_RENAMES): value for key, value in state_dict.items() if key.startswith('head.')}


def guess_archs(state_dict):
    """Names of the archs whose stage widths and depths a backbone has; () if none fits."""
    keys = {key if is_ours(state_dict) else rename(key): value for key, value in state_dict.items()}
    pattern = r'^stages\.(\d)\.blocks\.(\d+)\.dw0\.(?:fn\.)?(?:conv\.)?weight$'
    blocks = {
        tuple(map(int, match.groups())): value.shape[0]
        for key, value in keys.items()
        if (match := re.match(pattern, key)) and isinstance(value, torch.Tensor) and value.ndim
    }
    stages = sorted({stage for stage, _ in blocks})
    if stages != list(range(len(stages))) or not stages:
        return ()
    widths = tuple(blocks.get((stage, 0)) for stage in stages)
    depths = tuple(sum(1 for found, _ in blocks if found == stage) for stage in stages)
    sizes = len(stages)
    return tuple(
        name
        for name, arch in ARCHS.items()
        if arch['embed_dims'][:sizes] == widths and arch['depths'][:sizes] == depths
    )


def describe(state_dict):
    """What a state dict looks like, in words."""
    part = backbone_part(state_dict)
    if not part:
        keys = ', '.join(list(map(str, state_dict))[:3]) or 'none'
        return f'no MobileMamba (its first keys: {keys})'
    archs = '/'.join(name.upper() for name in guess_archs(part)) or 'of unknown size'
    layout = "in the authors' layout" if is_authors(part) else 'in the layout of this package'
    fused = ', in the deployed form' if is_fused(part) else ''
    return f'a MobileMamba {archs} {layout}{fused}'


def check_fit(backbone, weights, looks_like):
    """Compare names and shapes of ``weights`` with a backbone; drop stages that it does not build.

    Returns:
        dict[str, Tensor]: The weights that the backbone takes.

    Raises:
        CheckpointError: If a key is left over, missing or of the wrong shape.
    """
    built = len(backbone.stages)
    wanted = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    weights = {key: value for key, value in weights.items() if not _beyond(key, built)}
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    problems = {
        'left over': [key for key in shapes if key not in wanted],
        'missing': [key for key in wanted if key not in shapes and not key.endswith('num_batches_tracked')],
        'of another shape': [
            f'{key} {shapes[key]} instead of {wanted[key]}'
            for key in wanted
            if key in shapes and shapes[key] != wanted[key]
        ],
    }
    problems = {kind: keys for kind, keys in problems.items() if keys}
    if problems:
        lines = [f'{len(keys)} {kind}: {"; ".join(keys[:3])}' for kind, keys in problems.items()]
        widths, depths = backbone.arch['embed_dims'], backbone.arch['depths']
        raise CheckpointError(
            f'The checkpoint does not fit this MobileMamba of widths {widths} and depths {depths}.\n  '
            + '\n  '.join(lines)
            + f'\nIt looks like {looks_like}. Build the backbone with the `arch` and `in_channels` of the '
            f'checkpoint, or choose the checkpoint of this arch.'
        )
    return weights


def _beyond(key, built):
    match = re.match(r'stages\.(\d)\.', key)
    return bool(match) and built <= int(match[1]) < 3


def adapt_state_dict(backbone, state_dict, prefix):
    """Rewrite the entries below ``prefix`` in place so that the backbone can load them.

    Called on every load. Our own names stay as they are, less the stages that are not built. Any
    other form (authors' names, wrapped, below ``backbone.``) must fit completely.

    Raises:
        CheckpointError: If there are entries, but not those of a MobileMamba that fits.
    """
    entries = {key: state_dict[key] for key in state_dict if key.startswith(prefix)}
    below = {key[len(prefix) :]: value for key, value in entries.items()}
    if not below:
        return
    if is_ours(below):
        check_form(is_fused(below), backbone.is_deployed, 'backbone')
        for key in below:
            if _beyond(key, len(backbone.stages)):
                del state_dict[prefix + key]
        return
    weights = fitting_weights(backbone, unwrap(below))
    for key in entries:
        del state_dict[key]
    state_dict.update({prefix + key: value for key, value in weights.items()})


def adapt_classifier(backbone, state_dict, prefix):
    """Rewrite an authors' classifier in place to the names of mmpretrain's ``ImageClassifier``.

    Raises:
        CheckpointError: If it is an authors' checkpoint whose backbone does not fit completely.
    """
    below = {key[len(prefix) :]: state_dict[key] for key in state_dict if key.startswith(prefix)}
    inner = unwrap(below)
    if not is_authors(inner):
        return
    converted = fitting_weights(backbone, inner)
    for key in below:
        del state_dict[prefix + key]
    weights = {f'backbone.{key}': value for key, value in converted.items()}
    state_dict.update({prefix + key: value for key, value in {**weights, **convert_head(inner)}.items()})


def fitting_weights(backbone, state_dict):
    """Weights for a backbone under our names, out of a state dict in any known form.

    Raises:
        CheckpointError: If they are not those of a MobileMamba that fits completely.
    """
    looks_like = describe(state_dict)
    part = backbone_part(state_dict)
    if not part:
        raise CheckpointError(f'The checkpoint looks like {looks_like}.')
    weights = convert_backbone(part)
    check_form(is_fused(weights), backbone.is_deployed, 'backbone')
    return check_fit(backbone, weights, looks_like)


def split_pretrained(init_cfg):
    """Part an ``init_cfg`` into what mmengine does and the arguments of :func:`load_pretrained`."""
    cfgs = [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg or [])
    pretrained = [cfg for cfg in cfgs if cfg['type'] in ('Pretrained', 'PretrainedInit')]
    others = [cfg for cfg in cfgs if cfg not in pretrained]
    if not pretrained:
        return others, None
    return others, {key: value for key, value in pretrained[-1].items() if key != 'type'}


def fetch_checkpoint(checkpoint, map_location='cpu'):
    """Content of a file, or of an address that mmengine understands.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file cannot be read.
    """
    if re.match(r'\w[\w+.-]+:', str(checkpoint)):
        return CheckpointLoader.load_checkpoint(checkpoint, map_location)
    return read_checkpoint(checkpoint, map_location)


def entries_below(state_dict, prefix):
    """Entries of ``state_dict`` whose names begin with ``prefix`` (str | None), by the rest of the name."""
    prefix = f'{prefix.rstrip(".")}.' if prefix else ''
    return {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}


def load_pretrained(backbone, checkpoint, prefix=None, map_location='cpu'):
    """Load a whole checkpoint into a backbone: ``init_cfg=dict(type='Pretrained', ...)``.

    Args:
        backbone (MobileMamba): What is to be loaded.
        checkpoint (str): A file, or an address that mmengine understands.
        prefix (str, optional): Where the backbone is in the file, such as ``'backbone.'``. A bare
            backbone in the authors' layout is found with and without it. Defaults to None.
        map_location (str): As in ``torch.load``. Defaults to ``'cpu'``.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file cannot be read or does not fit completely.
    """
    content = fetch_checkpoint(checkpoint, map_location)
    try:
        state_dict = unwrap(content)
        state_dict = entries_below(state_dict, prefix) or state_dict
        weights = fitting_weights(backbone, state_dict)
    except CheckpointError as error:
        raise CheckpointError(f'{checkpoint} was not loaded. {error}') from error
    backbone.load_state_dict(weights)
