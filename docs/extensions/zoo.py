"""``{zoo-table} DATASET``: the models of the metafiles that have results on a dataset, or none.

With the option ``:metric:``, only models that have this metric.
"""

import json
from pathlib import Path

import yaml
from docutils.parsers.rst.directives import unchanged_required
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
SHORT = {'Top 1 Accuracy': 'top-1', 'Top 5 Accuracy': 'top-5'}


def load_models():
    """Models of all metafiles in the order of the index (list[dict]), each with the folder of its page."""
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))
    return [
        dict(model, folder=Path(metafile).parent)
        for metafile in index['Import']
        for model in yaml.safe_load((ROOT / metafile).read_text(encoding='utf-8'))['Models']
    ]


def results_on(model, dataset):
    """Metrics of a model on a dataset (dict), or None; of one without results the dataset is ``'none'``."""
    found = {}
    for result in model.get('Results', []):
        if result['Dataset'] == dataset:
            found.update(result['Metrics'])
    return found if found or (dataset == 'none' and 'Results' not in model) else None


def amount(number):
    """A number in millions or, from 1e9 on, thousand millions (str), such as ``'9.08 M'``."""
    unit = ('G', 1e9) if number >= 1e9 else ('M', 1e6)
    return f'{number / unit[1]:.2f}\N{NO-BREAK SPACE}{unit[0]}'


def row_of(model, metrics, names, weights):
    """Cells of one model (list[str])."""
    metadata, config = model['Metadata'], Path(model['Config'])
    cells = [f'[{model["Name"]}](/repository/{model["folder"].as_posix()}/README.md)']
    cells += [f'{metrics[name]:.1f}' if name in metrics else '' for name in names]
    cells.append(amount(metadata['Parameters']))
    if names:
        cells.append(amount(metadata['FLOPs']))
    if weights:
        cells.append(f'`mobilemamba://{weights[config.stem]}`')
    cells.append(f'[config](source:{config.as_posix()})')
    return cells


class ZooTable(SphinxDirective):
    """One table of models; its argument is the dataset in the metafiles, or ``none``."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {'metric': unchanged_required}

    def run(self):
        dataset = self.arguments[0]
        found = [(model, results_on(model, dataset)) for model in load_models()]
        metric = self.options.get('metric')
        found = [
            (model, metrics) for model, metrics in found if metrics is not None and metric in (None, *metrics)
        ]
        if not found:
            raise self.error(
                f'no model of the metafiles has results on {dataset}, {metric or "of any metric"}'
            )
        table = json.loads((ROOT / 'mmmobilemamba/weights/weights.json').read_text(encoding='utf-8'))
        stems = {Path(model['Config']).stem for model, _ in found}
        weights = {entry['config']: entry['name'] for entry in table if entry['config'] in stems}
        names = list(dict.fromkeys(name for _, metrics in found for name in metrics))
        head = ['model', *(SHORT.get(name, name) for name in names), 'parameters']
        head += [*(['FLOPs'] if names else []), *(['weights'] if weights else []), '']
        lines = [head, ['---'] * len(head)]
        lines += [row_of(model, metrics, names, weights) for model, metrics in found]
        text = StringList([f'| {" | ".join(cells)} |' for cells in lines], source='metafiles')
        found = self.parse_text_to_nodes(text)
        for node in found:
            node['classes'].append('zoo')
        return found


def setup(app):
    app.add_directive('zoo-table', ZooTable)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
