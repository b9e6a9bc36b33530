"""Figures of what a network computes, each a ``matplotlib.figure.Figure`` for a notebook or a file."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from .erf import square_sides
from .maps import BANDS, pca_colors

PANEL = 2.4  # inches a side
FAINTEST = 1e-4  # of the largest value of a field, which has the darkest colour
OUTLINED = {0.5: 'solid', 0.99: 'dotted'}  # shares that squares are drawn of


def erf_figure(fields: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Effective receptive fields beside each other, each relative to its largest value, on one scale.

    Args:
        fields (dict[str, dict[str, ndarray]]): Fields (H, W) by row, such as a network, and by column, such
            as a stage.
    """
    columns = max(map(len, fields.values()))
    figure = Figure(figsize=(PANEL * columns + 1.3, PANEL * len(fields) + 0.9), layout='constrained')
    panels = figure.subplots(len(fields), columns, squeeze=False)
    for row, (name, by_column) in zip(panels, fields.items()):
        for panel in row[len(by_column) :]:
            panel.set_axis_off()
        for panel, (title, field) in zip(row, by_column.items()):
            image = panel.imshow(
                np.maximum(field / field.max(), FAINTEST), cmap='inferno', norm=LogNorm(FAINTEST, 1)
            )
            sides = square_sides(field, list(OUTLINED))
            for side, style in zip(sides, OUTLINED.values()):
                outline(panel, field.shape, side, style)
            panel.set_title(f'{title}\n50 %: {sides[0]} px, 99 %: {sides[1]} px', fontsize=8)
            bare(panel)
        row[0].set_ylabel(name, fontsize=9)
    height, width = next(iter(next(iter(fields.values())).values())).shape
    figure.suptitle(f'Effective receptive field of the centre, image of {height} x {width} px', fontsize=10)
    bar = figure.colorbar(image, ax=panels, shrink=min(1.0, 1.5 / len(fields) + 0.25), extend='min')
    bar.set_label('contribution, of the largest (log scale)', fontsize=8)
    return figure


def outline(panel: Axes, size: tuple[int, ...], side: int, style: str) -> None:
    """Draw the square of a side around the centre of an image of a size (height, width)."""
    corner = (size[1] // 2 - side / 2, size[0] // 2 - side / 2)
    frame = dict(fill=False, edgecolor='cyan', linewidth=0.9, linestyle=style)
    panel.add_patch(Rectangle(corner, side, side, **frame))
    panel.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))


def stage_figure(images: Tensor, maps: Mapping[str, Tensor]) -> Figure:
    """Maps of stages beside their images, in colours by principal components, see :func:`pca_colors`.

    Colours are alike in all images of a stage, and mean nothing from one stage to another.

    Args:
        images (Tensor): (N, C, H, W) from 0 to 1, C 1 or 3.
        maps (dict[str, Tensor]): (N, C', H', W') by title.
    """
    figure, panels = image_grid(images, len(maps))
    for column, (title, values) in enumerate(maps.items(), start=1):
        colors, shares = pca_colors(values)
        percent = ' + '.join(f'{100 * share:.0f}' for share in shares)
        panels[0, column].set_title(f'{title}\nred + green + blue: {percent} %', fontsize=8)
        for panel, color in zip(panels[:, column], colors):
            panel.imshow(color.numpy(), interpolation='nearest')
    figure.suptitle('Maps of the stages, three principal components (share of the variance)', fontsize=10)
    return figure


def band_figure(images: Tensor, before: Tensor, after: Tensor) -> Figure:
    """The wavelet sub-bands of a block, root mean square over channels: as they are, and as it filters them.

    Each of the eight has one scale for all images.

    Args:
        images (Tensor): (N, C, H, W) from 0 to 1, C 1 or 3.
        before, after (Tensor): (N, 4, C', H', W') each, see :func:`sub_bands`.
    """
    columns = {
        f'{band}, {state}': values[:, index]
        for state, values in (('in', before), ('filtered', after))
        for index, band in enumerate(BANDS)
    }
    figure = strength_figure(images, columns)
    figure.suptitle('Wavelet sub-bands, root mean square over the channels', fontsize=10)
    return figure


def scan_figure(images: Tensor, delta: Tensor, states: Tensor) -> Figure:
    """Step sizes and states of both directions of a scan, root mean square over channels.

    Args:
        images (Tensor): (N, C, H, W) from 0 to 1, C 1 or 3.
        delta, states (Tensor): (N, 2, E, H', W') each, see :func:`scan_states`.
    """
    ways = ('first to last', 'last to first')
    columns = {
        f'{name},\n{way}': values[:, index]
        for name, values in (('step size', delta), ('state', states))
        for index, way in enumerate(ways)
    }
    figure = strength_figure(images, columns)
    figure.suptitle('The scan along the image, root mean square over the channels', fontsize=10)
    return figure


def strength_figure(images: Tensor, columns: Mapping[str, Tensor]) -> Figure:
    """Maps beside their images, root mean square over channels, one scale a column.

    Args:
        images (Tensor): (N, C, H, W) from 0 to 1, C 1 or 3.
        columns (dict[str, Tensor]): (N, C', H', W') by title.
    """
    figure, panels = image_grid(images, len(columns))
    for column, (title, values) in enumerate(columns.items(), start=1):
        strengths = values.double().square().mean(1).sqrt().cpu().numpy()
        limits = dict(vmin=strengths.min(), vmax=strengths.max())
        for panel, strength in zip(panels[:, column], strengths):
            drawn = panel.imshow(strength, cmap='viridis', interpolation='nearest', **limits)
        panels[0, column].set_title(title, fontsize=8)
        bar = figure.colorbar(drawn, ax=panels[:, column], orientation='horizontal', pad=0.02, aspect=12)
        bar.ax.tick_params(labelsize=7)
    return figure


def image_grid(images: Tensor, columns: int) -> tuple[Figure, np.ndarray]:
    """A figure with a row for each image, which is at the left, and the panels (N, 1 + columns)."""
    pictures = images.detach().cpu().permute(0, 2, 3, 1).numpy()
    size = (0.7 * PANEL * (columns + 1), 0.7 * PANEL * len(images) + 1.1)
    figure = Figure(figsize=size, layout='constrained')
    panels = figure.subplots(len(images), columns + 1, squeeze=False)
    panels[0, 0].set_title('image', fontsize=8)
    for panel, picture in zip(panels[:, 0], pictures):
        panel.imshow(picture, cmap='gray', vmin=0, vmax=1)
    for panel in panels.flat:
        bare(panel)
    return figure, panels


def bare(panel: Axes) -> None:
    """No ticks."""
    panel.set(xticks=(), yticks=())
