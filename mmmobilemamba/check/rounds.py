"""Checks feature maps in rounds: the changes that one round suggests are applied before the next one.

A neck that expects other channels, for example, hides that the strides are wrong, too. Each round builds the
model of the changed config, so that one run of the check finds both.
"""

from __future__ import annotations

from typing import NamedTuple

from mmengine.config import Config
from torch import nn

from .build import build_model
from .failures import FAILURES
from .finding import Finding, change, has_error, merge
from .maps import MapsError, Part, maps_of, parts_of
from .segmentors import check_segmentor
from .sides import check_sides
from .strides import SIDE, check_strides
from .widths import check_heads, check_masking, check_neck

ROUNDS = 5


class Mended(NamedTuple):
    """A config and its model after all suggested changes.

    Args:
        findings (list[Finding]): The findings of all rounds.
        config (Config): The config with the changes.
        model (nn.Module, optional): Its model; None if it cannot be built.
        runs (bool): Whether it has none of the errors any more.
    """

    findings: list[Finding]
    config: Config
    model: nn.Module | None
    runs: bool


def check_maps(part: Part, config: Config) -> list[Finding]:
    """Check strides, levels and channels of a model's feature maps, and the image sizes it supports.

    Args:
        part (Part): The model, or the part of it that has the backbone.
        config (Config): The whole config.
    """
    masking = check_masking(part)
    if masking:
        return masking
    try:
        maps = maps_of(part, SIDE, SIDE)
    except MapsError as error:
        return [check_neck(part, config, str(error))]
    return [
        *check_strides(part, config),
        *check_heads(part, config, maps),
        *check_segmentor(part, config, maps),
        *check_sides(part, config),
    ]


def check_in_rounds(config: Config, kind: type[nn.Module], model: nn.Module | None = None) -> Mended:
    """Check a model, apply the suggested changes, and repeat until nothing new is found.

    Args:
        config (Config): The whole config; not modified.
        kind (type[nn.Module]): The type of the backbone.
        model (nn.Module, optional): Its model. Defaults to None: build it.
    """
    findings: list[Finding] = []
    for _ in range(ROUNDS):
        built = build_model(config) if model is None else model
        model = None
        if isinstance(built, Finding):
            found = [built]
        else:
            found = [each for part in parts_of(built, kind) for each in check_maps(part, config)]
        known = {each.text.removeprefix(AFTER) for each in findings}
        new = [each for each in found if each.text not in known]
        if findings:  # what is right only after the changes is not reported
            new = [each._replace(text=AFTER + each.text) for each in new if each.level != 'ok']
        findings += new
        mend = merge(each.mend for each in new if each.level == 'error')
        if not mend:
            break
        try:
            config = change(config, mend)
        except FAILURES:  # a value that mmengine cannot merge into
            break
    return Mended(findings, config, None if isinstance(built, Finding) else built, not has_error(found))


AFTER = 'After these fixes: '  # begins the findings of later rounds
