"""Collect the results of ``tools/misc/zoo_demo.py`` in one table and one contact sheet.

    python tools/analysis_tools/zoo_table.py work_dirs/zoo retinanet mask_rcnn

Reads ``result.json`` and ``pictures/overview.png`` in these folders of the work dir. Writes ``table.md``,
``table.json`` and, if there are pictures, ``contact_sheet.jpg`` there, with the tasks in this order.
"""

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HEAD = ('task', 'config', 'trained on', 'score', 'training', 'testing', 'both', 'passed', 'parameters')
TITLE, MARGIN = 30, 8  # px
NOTE = (
    'Training and testing are the wall-clock times of `mim train`, with its validations, and of `mim test`, '
    'both with their start. A task has passed if its scores reach their targets and both times together stay '
    'within the limit, which is meant for 2 CPU cores. Parameters are the trainable ones.'
)


def table_row(state):
    """One row of the table, from the state (dict) of a task."""
    cells = [state['title'], f'`{" ".join([state["config"], *state["options"]])}`', state['training_data']]
    if 'summary' in state:
        minutes = [state['seconds'][step] / 60 for step in ('train', 'test')]
        limit = '' if state['limit'] is None else f' of {state["limit"]:g}'
        cells += [state['summary'], *(f'{number:.1f} min' for number in minutes)]
        cells += [f'{sum(minutes):.1f}{limit} min', 'yes' if state['passed'] else '**no**']
        cells += [f'{state["parameters"] / 1e6:.2f} M']
    else:
        verdict = f'**{state["failed"]} failed**' if 'failed' in state else 'not finished'
        cells += ['', '', '', '', verdict, '']
    return f'| {" | ".join(cells)} |'


def machine_line(machine):
    """Machine and versions, as a sentence."""
    versions = ', '.join(f'{name} {number}' for name, number in machine['versions'].items())
    return (
        f'Machine: {machine["cpu"]}, {machine["cores"]} cores, device {machine["device"]}, '
        f'{machine["threads"]} threads, {machine["dtype"]}; Python {machine["python"]}, {versions}.'
    )


def data_line(data):
    """The dataset, as a sentence; a task may train on the first scenes only."""
    return (
        f'Data: digits scenes, version {data["version"]}, seed {data["seed"]}, {data["size"]} pixels: '
        f'{data["train"]} training and {data["val"]} validation scenes, used as "trained on" says.'
    )


def write_table(work_dir, states):
    """Write ``table.json``, with all states (list[dict]), and ``table.md``."""
    (work_dir / 'table.json').write_text(json.dumps(states, indent=2) + '\n')
    notes = [data_line(state['data']) for state in states]
    notes += [machine_line(state['machine']) for state in states]  # they differ if the machine changed
    lines = ['# Small configs on the digits scenes', '', f'| {" | ".join(HEAD)} |', '|---' * len(HEAD) + '|']
    lines += [*map(table_row, states), '']
    for note in (*dict.fromkeys(notes), NOTE):
        lines += [note, '']
    (work_dir / 'table.md').write_text('\n'.join(lines[:-1]) + '\n')


def contact_sheet(rows):
    """One sheet with a row per task.

    Args:
        rows (list[tuple[str, Image]]): Title and picture of each task.

    Returns:
        Image: As wide as the widest row; each row has a title of ``TITLE`` px and a margin of ``MARGIN`` px.
    """
    width = max(picture.width for _, picture in rows)
    height = sum(TITLE + picture.height + MARGIN for _, picture in rows)
    sheet = Image.new('RGB', (width, height), 'white')
    canvas, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(size=20), 0
    for title, picture in rows:
        canvas.text((MARGIN, top + 3), title, fill='black', font=font)
        sheet.paste(picture, (0, top + TITLE))
        top += TITLE + picture.height + MARGIN
    return sheet


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('work_dir', type=Path, help='work dir of zoo_demo.py')
    parser.add_argument('tasks', nargs='+', help='folders in the work dir')
    args = parser.parse_args(argv)
    states = [json.loads((args.work_dir / task / 'result.json').read_text()) for task in args.tasks]
    write_table(args.work_dir, states)
    rows = []
    for task, state in zip(args.tasks, states):
        if 'draw' in state['done']:
            picture = Image.open(args.work_dir / task / 'pictures' / 'overview.png').convert('RGB')
            rows.append((f'{state["title"]}: {state["summary"]}', picture))
    if rows:
        contact_sheet(rows).save(args.work_dir / 'contact_sheet.jpg', quality=88)


if __name__ == '__main__':
    main()
