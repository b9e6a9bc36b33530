"""The result of a check, and config lines as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
        other (Mapping): An alternative to ``mend``. Defaults to {}.
    """

    level: str
    subject: str
    text: str
    advice: str = ''
    mend: Mapping[str, Any] = {}
    other: Mapping[str, Any] = {}


def merge(changes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge nested changes; later values override earlier ones (dict)."""
    merged: dict[str, Any] = {}
    for change in changes:
        for key, value in change.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = merge([merged[key], value]) if both else value
    return merged


def nest(path: str, value: Any) -> dict[str, Any]:
    """Nest ``value`` below the keys of a dotted path (dict)."""
    for key in reversed(path.split('.')):
        value = {key: value}
    return value


def config_lines(changes: Mapping[str, Any], python_style: bool = False) -> list[str]:
    """Format changes as the lines of a config that inherits the one to change.

    In the same file, ``model = dict(...)`` would replace the earlier value instead of being merged with it.

    Args:
        changes (Mapping): Nested keys and values.
        python_style (bool): Whether the config is in mmengine's pure Python style, where values are only
            merged by an explicit ``merge``. Defaults to False.
    """
    lines = []
    for key, value in changes.items():
        if not isinstance(value, Mapping):
            lines.append(f'{key} = {as_text(value)}')
            continue
        merged = python_style and key != 'custom_imports'
        start, end = (f'{key}.merge(dict(', '))') if merged else (f'{key} = dict(', ')')
        parts = [f'{name}={as_text(part)}' for name, part in value.items()]
        one_line = start + ', '.join(parts) + end
        if len(one_line) <= WIDTH:
            lines.append(one_line)
        else:
            lines += [start, *(f'    {part},' for part in parts), end]
    return lines


def inheriting(path: str, python_style: bool = False) -> list[str]:
    """Return the first lines of a config that inherits another one in the same folder (list[str])."""
    if python_style:
        imported = f'    from .{Path(path).stem} import *'
        return ['from mmengine.config import read_base', '', 'with read_base():', imported, '']
    return [f'_base_ = {Path(path).name!r}']


def as_text(value: Any) -> str:
    """Format a value as in a config (str)."""
    if isinstance(value, Mapping):
        return f'dict({", ".join(f"{key}={as_text(item)}" for key, item in value.items())})'
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
            lines.append(f'{below}or')
            lines += [f'{below}    {line}' for line in config_lines(finding.other, python_style)]
    return lines


def as_json(finding: Finding, python_style: bool = False) -> dict[str, Any]:
    """Convert a finding to JSON-serialisable values; changes become config lines (dict)."""
    values = finding._asdict()
    return {**values, **{key: config_lines(values[key], python_style) for key in ('mend', 'other')}}
