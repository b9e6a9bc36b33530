"""Figures of the analyses, as ``matplotlib.figure.Figure`` for notebooks or files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from torch import Tensor

from .erf import square_sides
from .maps import BANDS, pca_colors

PANEL = 2.4  # inches, side of a receptive field
SIDE, WIDTH = 1.7, 11.0  # inches, largest width of a panel in an image grid, and of a row
FAINTEST = 1e-4  # lower end of the colour scale, relative to the largest value
WHOLE = 'as it is'  # label of the complete network among variants without some branches
OUTLINED = {0.5: 'solid', 0.99: 'dotted'}  # shares marked by squares, and their line styles


def erf_figure(fields: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw effective receptive fields, each relative to its largest value, on a common scale.

    Squares mark the areas that contain 50 % and 99 % of each field.

    Args:
        fields (dict[str, dict[str, ndarray]]): Fields (H, W) by row, such as a network, and by column, such
            as a stage. If every row has a single column, all fields are drawn in one row.
    """
    common, names = short_names(list(fields))
    grid = [
        [(name, title, field) for title, field in by_column.items()]
        for name, by_column in zip(names, fields.values())
    ]
    in_one_line = all(len(row) == 1 for row in grid)
    if in_one_line:
        grid = [[row[0] for row in grid]]
    columns = max(map(len, grid))
    figure = Figure(figsize=(PANEL * columns + 1.2, PANEL * len(grid) + 0.9), layout='constrained')
    panels = figure.subplots(len(grid), columns, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for row, line in zip(panels, grid):
        for panel, (name, title, field) in zip(row, line):
            image = draw_field(panel, field)
            panel.set_title(f'{name}\n{title}' if in_one_line else title, fontsize=8)
        if not in_one_line:
            row[0].set_ylabel(name, fontsize=8)
    height, width = grid[0][0][2].shape
    figure.suptitle(
        f'Effective receptive field of the central pixel of a map; {common}image of {height} x {width} px',
        fontsize=9,
    )
    bar = figure.colorbar(image, ax=panels, shrink=min(1.0, 1.5 / len(grid) + 0.25), extend='min')
    bar.set_label('contribution relative to\nthe largest (log scale)', fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def short_names(names: Sequence[str]) -> tuple[str, list[str]]:
    """Split names into their common prefix and the rest of each name, with one part per line.

    Args:
        names (Sequence[str]): Names with parts separated by ``', '``: the network, its weights, and the
            branches that are disabled.
    """
    parts = [name.split(', ') for name in names]
    common = list(takewhile(lambda column: len(set(column)) == 1, zip(*parts)))
    rests = [',\n'.join(each[len(common) :]) for each in parts]
    whole = WHOLE if len(names) > 1 else ''
    return ''.join(f'{column[0]}, ' for column in common), [rest or whole for rest in rests]


def draw_field(panel: Axes, field: np.ndarray) -> AxesImage:
    """Draw one field (H, W) of :func:`erf_figure`, with the sides of its squares as the label."""
    panel.set_axis_on()
    bare(panel)
    image = panel.imshow(np.maximum(field / field.max(), FAINTEST), cmap='inferno', norm=LogNorm(FAINTEST, 1))
    sides = square_sides(field, list(OUTLINED))
    for side, style in zip(sides, OUTLINED.values()):
        outline(panel, field.shape, side, style)
    texts = (f'{100 * share:g} % in {side} px' for share, side in zip(OUTLINED, sides))
    panel.set_xlabel(', '.join(texts), fontsize=8)
    return image


def outline(panel: Axes, size: tuple[int, ...], side: int, style: str) -> None:
    """Draw a square at the centre of an image.

    Args:
        panel (Axes): The axes of the image.
        size (tuple[int, int]): Height and width of the image in px.
        side (int): Side of the square in px.
        style (str): Line style.
    """
    corner = (size[1] // 2 - side / 2, size[0] // 2 - side / 2)
    frame = dict(fill=False, edgecolor='cyan', linewidth=0.9, linestyle=style)
    panel.add_patch(Rectangle(corner, side, side, **frame))
    panel.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))


def stage_figure(images: Tensor, maps: Mapping[str, Tensor]) -> Figure:
    """Draw feature maps beside their images, coloured by principal components, see :func:`pca_colors`.

    Colours are comparable between images, but not between stages.

    Args:
        images (Tensor): Images (N, C, H, W) from 0 to 1, C = 1 or 3.
        maps (dict[str, Tensor]): Maps (N, C', H', W') by title.
    """
    figure, panels, bars = image_grid(images, len(maps))
    for column, (title, values) in enumerate(maps.items(), start=1):
        colors, shares = pca_colors(values)
        percent = ' + '.join(f'{100 * share:.0f}' for share in shares)
        panels[0, column].set_title(f'{title}\n{percent} %', fontsize=8)
        for panel, color in zip(panels[:, column], colors):
            panel.imshow(color.numpy(), interpolation='nearest')
        bars[column].set_axis_off()
    figure.suptitle(
        'Maps of the stages: three principal components as red, green and blue,\n'
        'and their shares of the variance',
        fontsize=9,
    )
    return figure


def band_figure(images: Tensor, before: Tensor, after: Tensor) -> Figure:
    """Draw the RMS over channels of a block's wavelet sub-bands, before and after filtering.

    Each of the eight columns has one scale for all images.

    Args:
        images (Tensor): Images (N, C, H, W) from 0 to 1, C = 1 or 3.
        before, after (Tensor): Sub-bands (N, 4, C', H', W'), see :func:`sub_bands`.
    """
    columns = {
        f'{band},\n{state}': values[:, index]
        for state, values in (('input', before), ('filtered', after))
        for index, band in enumerate(BANDS)
    }
    figure = strength_figure(images, columns)
    figure.suptitle('Wavelet sub-bands of a block, root mean square over the channels', fontsize=9)
    return figure


def scan_figure(images: Tensor, delta: Tensor, states: Tensor) -> Figure:
    """Draw the RMS over channels of a scan's step sizes and states, for both directions.

    Args:
        images (Tensor): Images (N, C, H, W) from 0 to 1, C = 1 or 3.
        delta, states (Tensor): (N, 2, E, H', W'), see :func:`scan_states`.
    """
    ways = ('first pixel to last', 'last pixel to first')
    columns = {
        f'{name},\n{way}': values[:, index]
        for name, values in (('step size', delta), ('state', states))
        for index, way in enumerate(ways)
    }
    figure = strength_figure(images, columns)
    figure.suptitle('The scan of a block along the image, root mean square over the channels', fontsize=9)
    return figure


def strength_figure(images: Tensor, columns: Mapping[str, Tensor]) -> Figure:
    """Draw the RMS over channels of maps beside their images, with one scale per column.

    Args:
        images (Tensor): Images (N, C, H, W) from 0 to 1, C = 1 or 3.
        columns (dict[str, Tensor]): Maps (N, C', H', W') by title.
    """
    figure, panels, bars = image_grid(images, len(columns))
    for column, (title, values) in enumerate(columns.items(), start=1):
        strengths = values.double().square().mean(1).sqrt().cpu().numpy()
        limits = dict(vmin=strengths.min(), vmax=strengths.max())
        for panel, strength in zip(panels[:, column], strengths):
            drawn = panel.imshow(strength, cmap='viridis', interpolation='nearest', **limits)
        panels[0, column].set_title(title, fontsize=8)
        bar = figure.colorbar(drawn, cax=bars[column], orientation='horizontal', format='%.3g')
        bar.set_ticks(drawn.get_clim())
        for label, side in zip(bar.ax.get_xticklabels(), ('left', 'right')):
            label.set(fontsize=7, horizontalalignment=side)
    return figure


def image_grid(images: Tensor, columns: int) -> tuple[Figure, np.ndarray, np.ndarray]:
    """Create a figure with one row per image, the image on the left.

    Args:
        images (Tensor): Images (N, C, H, W) from 0 to 1, C = 1 or 3.
        columns (int): Number of columns in addition to the images.

    Returns:
        tuple[Figure, ndarray, ndarray]: The figure, its axes (N, 1 + columns), and the axes of the colour
        bars below the columns (1 + columns,).
    """
    pictures = images.detach().cpu().permute(0, 2, 3, 1).numpy()
    side = min(SIDE, WIDTH / (columns + 1))
    height = side * pictures.shape[1] / pictures.shape[2]
    size = (side * (columns + 1), (height + 0.05) * len(pictures) + 1.0)
    figure = Figure(figsize=size, layout='constrained')
    ratios = [1.0] * len(pictures) + [0.06]
    grid = figure.subplots(len(pictures) + 1, columns + 1, squeeze=False, height_ratios=ratios)
    panels, bars = grid[:-1], grid[-1]
    bars[0].set_axis_off()
    panels[0, 0].set_title('image', fontsize=8)
    for panel, picture in zip(panels[:, 0], pictures):
        panel.imshow(picture, cmap='gray', vmin=0, vmax=1)
    for panel in panels.flat:
        bare(panel)
    return figure, panels, bars


def bare(panel: Axes) -> None:
    """Remove the ticks."""
    panel.set(xticks=(), yticks=())
