"""The result of a check, and config lines as text.

Changes of a config are nested dicts. Where the config has a list, its elements are the keys ``'0'``, ``'1'``,
..., all of them, each with the changes of that element, as in mmengine's ``Config.merge_from_dict``.
"""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

LEVELS = ('error', 'warning', 'ok')
WIDTH = 110  # characters of a config line


class Finding(NamedTuple):
    """The result of a check.

    Args:
        level (str): ``'error'`` if the run would fail or give wrong results, ``'warning'`` if the setting may
            be intended, otherwise ``'ok'``.
        subject (str): Subject of the check, such as ``'strides'``.
        text (str): The result.
        advice (str): What to do, in addition to ``mend``. Defaults to ''.
        mend (Mapping): Changes of the config that fix it, by nested keys. Defaults to {}.
        other (Mapping): Changes that can be made in place of ``mend``. Defaults to {}.
    """

    level: str
    subject: str
    text: str
    advice: str = ''
    mend: Mapping[str, Any] = {}
    other: Mapping[str, Any] = {}


def has_error(findings: Iterable[Finding]) -> bool:
    """Whether any of the findings is an error (bool)."""
    return any(finding.level == 'error' for finding in findings)


def merge(changes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge nested changes; later values override earlier ones, and ``_delete_`` drops them (dict)."""
    merged: dict[str, Any] = {}
    for change in changes:
        for key, value in change.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            both = both and not value.get('_delete_')
            merged[key] = merge([merged[key], value]) if both else value
    return merged


def nest(path: str, value: Any) -> dict[str, Any]:
    """Nest ``value`` below the keys of a dotted path (dict)."""
    for key in reversed(path.split('.')):
        value = {key: value}
    return value


def nest_in(config: Any, path: str, value: Any) -> dict[str, Any]:
    """Nest ``value`` below the keys of a module's dotted path, as far as the config has them.

    A module may be one of several that are built from the same settings: elements of a ``ModuleList`` that
    the config does not list, and teacher and student of mmdet's semi-supervised detectors.

    Args:
        config (Config): The config to change.
        path (str): A path such as ``'model.roi_head.bbox_head.0'``, which begins with a key of the config.
        value (Any): The new value.

    Returns:
        dict: The changes, with the keys of all elements where the config has a list.
    """
    config = plain(config)
    name, _, rest = path.partition('.')
    if isinstance(config, Sequence):
        if not name.isdigit():  # each of the elements
            return {str(index): nest_in(each, path, value) for index, each in enumerate(config)}
        changes: dict[str, Any] = {str(index): {} for index in range(len(config))}
        changes[name] = nest_in(config[int(name)], rest, value) if rest else value
        return changes
    if name.isdigit():
        return nest_in(config, rest, value) if rest else value
    if name in ('student', 'teacher') and name not in config:
        name = 'detector'
    inner = config.get(name)
    if not rest:
        return {name: value}
    return {
        name: nest_in(inner, rest, value) if isinstance(inner, (Mapping, list, tuple)) else nest(rest, value)
    }


def importing(config: Config, module: str) -> dict[str, Any]:
    """Return the config changes that add a module to ``custom_imports`` (dict); {} if it is there."""
    imports = (config.get('custom_imports') or {}).get('imports') or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    if module in imports:
        return {}
    kept = [name for name in imports if name != module.partition('.')[0]]  # which ``module`` imports
    return {'custom_imports': dict(imports=[*kept, module])}


def plain(config: Any) -> Any:
    """Return the dict of a config, or settings within one as they are."""
    return config._cfg_dict if isinstance(config, Config) else config


def lookup(config: Any, path: str) -> Any:
    """Return the settings of a module, whose dotted path is as in :func:`nest_in`; None if there are none."""
    config = plain(config)
    for name in path.split('.'):
        if isinstance(config, Sequence) and not isinstance(config, str):
            config = config[int(name)] if name.isdigit() and int(name) < len(config) else None
        elif not name.isdigit():
            name = 'detector' if name in ('student', 'teacher') and name not in (config or {}) else name
            config = config.get(name) if isinstance(config, Mapping) else None
    return config


def change(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a copy of a config with changes (Config)."""
    config = copy.deepcopy(config)
    for key, value in copy.deepcopy(dict(changes)).items():
        config[key] = _apply(config.get(key), value)
    return config


def _apply(old, changes):
    """Return a value with changes."""
    if is_list(changes) and isinstance(old, Sequence):
        return [_apply(each, changes.get(str(index), {})) for index, each in enumerate(old)]
    if not isinstance(changes, Mapping):
        return changes
    kept = old if isinstance(old, Mapping) and not changes.get('_delete_') else {}
    new = {key: value for key, value in changes.items() if key != '_delete_'}
    return {**kept, **{key: _apply(kept.get(key), value) for key, value in new.items()}}


def config_lines(changes: Mapping[str, Any], python_style: bool = False) -> list[str]:
    """Format changes as the lines of a config that inherits the one to change.

    In the same file, ``model = dict(...)`` would replace the earlier value instead of being merged with it.

    Args:
        changes (Mapping): Nested keys and values.
        python_style (bool): Whether the config is in mmengine's pure Python style, where values are only
            merged by an explicit ``merge``. Defaults to False.
    """
    lines = []
    root = '' if python_style else '_base_.'
    for key, value in changes.items():
        if isinstance(value, Mapping) and not is_list(value):
            merged = python_style and key != 'custom_imports'
            start, end = (f'{key}.merge(dict(', '))') if merged else (f'{key} = dict(', ')')
            parts = [f'{name}={as_text(part, f"{root}{key}.{name}")}' for name, part in value.items()]
        elif isinstance(value, (list, tuple)) or is_list(value):
            start, end = f'{key} = [', ']'
            items = value if isinstance(value, (list, tuple)) else elements(value, f'{root}{key}')
            parts = [each if is_list(value) else as_text(each) for each in items]
        else:
            lines.append(f'{key} = {as_text(value)}')
            continue
        one_line = start + ', '.join(parts) + end
        lines += [one_line] if len(one_line) <= WIDTH else [start, *(f'    {part},' for part in parts), end]
    return lines


def is_list(changes: Any) -> bool:
    """Whether changes are those of the elements of a list (bool)."""
    return isinstance(changes, Mapping) and bool(changes) and all(key.isdigit() for key in changes)


def elements(changes: Mapping[str, Any], source: str) -> list[str]:
    """Format the elements of a list with changes (list[str]).

    Args:
        changes (Mapping): The changes of each element, by index.
        source (str): An expression for the list, such as ``'_base_.model.auxiliary_head'``.
    """
    return [changed(change, f'{source}[{index}]') for index, change in changes.items()]


def changed(changes: Any, source: str) -> str:
    """Format an expression for a value with changes.

    Args:
        changes (Any): A new value, or the changes of a dict or list.
        source (str): An expression for the value, such as ``'_base_.model.auxiliary_head[0]'``.

    Returns:
        str: An expression such as ``'dict(_base_.model.auxiliary_head[0], num_classes=10)'``.
    """
    if not isinstance(changes, Mapping) or is_list(changes):
        return as_text(changes, source)
    if changes.get('_delete_'):
        return as_text({key: value for key, value in changes.items() if key != '_delete_'})
    if not changes:
        return source
    parts = [f'{key}={changed(value, f"{source}.{key}")}' for key, value in changes.items()]
    return f'dict({source}, {", ".join(parts)})'


def inheriting(path: str, python_style: bool = False) -> list[str]:
    """Return the first lines of a config that inherits another one in the same folder (list[str])."""
    if python_style:
        imported = f'    from .{Path(path).stem} import *'
        return ['from mmengine.config import read_base', '', 'with read_base():', imported, '']
    return [f'_base_ = {Path(path).name!r}']


def as_text(value: Any, source: str = '') -> str:
    """Format a value or changes as in a config.

    Args:
        value (Any): The value.
        source (str): An expression for the value to change, of which a list's elements are taken. Defaults
            to ''.
    """
    if is_list(value):
        several = list(value.values())
        if len(several) > 1 and all(each == several[0] for each in several):
            return f'[{changed(several[0], "each")} for each in {source}]'
        return f'[{", ".join(elements(value, source))}]'
    if isinstance(value, Mapping):
        parts = [f'{key}={as_text(item, f"{source}.{key}")}' for key, item in value.items()]
        return f'dict({", ".join(parts)})'
    if isinstance(value, list):
        return f'[{", ".join(map(as_text, value))}]'
    if isinstance(value, tuple):
        return f'({", ".join(map(as_text, value))}{"," if len(value) == 1 else ""})'
    if callable(value):  # a type in pure Python style
        return value.__name__
    return repr(value)


def as_table(findings: Iterable[Finding], python_style: bool = False) -> list[str]:
    """Format findings as lines of text, with the advice below each finding (list[str])."""
    lines = []
    for finding in findings:
        start = f'{finding.level:<9}{finding.subject:<13}'
        below = ' ' * len(start)
        texts = [line for part in finding.text.splitlines() for line in textwrap.wrap(part, 88)]
        advice = textwrap.wrap(finding.advice, 88)
        lines += [(start if not index else below) + text for index, text in enumerate(texts)]
        lines += [below + text for text in advice]
        lines += [f'{below}    {line}' for line in config_lines(finding.mend, python_style)]
        if finding.other:
            lines.append(f'{below}Alternatively, if finer maps cost too much:')
            lines += [f'{below}    {line}' for line in config_lines(finding.other, python_style)]
    return lines


def as_json(finding: Finding, python_style: bool = False) -> dict[str, Any]:
    """Convert a finding to JSON-serialisable values; changes become config lines (dict)."""
    values = finding._asdict()
    return {**values, **{key: config_lines(values[key], python_style) for key in ('mend', 'other')}}
