"""What the report says, as grids of text that Markdown, LaTeX and the page share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from airnet_basicsr.report.harm import CAP, MARGIN
from airnet_basicsr.report.tables import QUANTITIES

GAP = '—'
DIGITS = {'psnr': 2, 'ssim': 4}  # the paper's
LOGGED_DIGITS = 4  # BasicSR's log's


@dataclass(frozen=True)
class Text:
    """A piece of a cell; ``tone`` is better, worse or nothing."""

    text: str
    tone: str = ''


Cell = list[Text]


@dataclass
class Row:
    """``kind``: published, reference (the published row compared with), input, run, or detail (of the row above)."""

    kind: str
    cells: list[Cell]


@dataclass
class Grid:
    """A table; its first ``words`` columns hold words, the others figures."""

    title: str
    header: list[str]
    rows: list[Row]
    words: int = 1
    warnings: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def number(value: float | None, digits: int, signed: bool = False) -> str:
    """With a fixed number of digits; infinite and undefined values in words."""
    if value is None:
        return GAP
    if not math.isfinite(value):
        return str(value)
    text = f'{value:{"+" if signed else ""}.{digits}f}'
    if float(text) == 0:
        text = text.lstrip('+-')
    return text.replace('-', '−')


def _tone(value: float | None, digits: int, lower_is_better: bool = False) -> str:
    if value is None or not math.isfinite(value) or round(value, digits) == 0:
        return ''
    return 'better' if (value > 0) != lower_is_better else 'worse'


def _shown(mean: dict[str, Any] | None, digits: int) -> str:
    if mean is None:
        return GAP
    value = mean['value'] if math.isfinite(mean['value']) else mean['logged']
    return number(value, digits) + ('*' if mean.get('left_out') else '')


def _interval(mean: dict[str, Any] | None, digits: int) -> str:
    half = mean.get('interval') if mean else None
    return GAP if half is None else f'±{number(half, digits)}'


def _pair(cell: dict[str, Any] | None, show: Any) -> Cell:
    if cell is None:
        return [Text(GAP)]
    return [show(cell[quantity], DIGITS[quantity]) for quantity in QUANTITIES if cell[quantity] is not None]


def _difference(mean: dict[str, Any], digits: int) -> Text:
    value = mean.get('difference')
    return Text(number(value, digits, signed=True), _tone(value, digits))


def paper_grid(table: dict[str, Any]) -> Grid:
    """A table of :func:`~airnet_basicsr.report.tables.paper_tables`."""
    header = ['Method', 'Protocol', *(column['heading'] for column in table['columns'])]
    if table['with_average']:
        header.append('Average')
    rows = []

    def add(kind: str, label: str, cells: Sequence[Any], show: Any, protocol: str = '') -> None:
        rows.append(Row(kind, [[Text(label)], [Text(protocol)], *(_pair(cell, show) for cell in cells)]))

    def measured(mean: dict[str, Any] | None, digits: int) -> Text:
        return Text(_shown(mean, digits))

    def printed(mean: dict[str, Any] | None, digits: int) -> Text:
        return Text(_shown(mean, min(digits, table['ssim_digits'])))

    for row in table['rows']:
        cells = row['cells'] + ([row['average']] if table['with_average'] else [])
        kind = 'reference' if row.get('reference') else row['kind']
        label = f'{row["label"]} ({row["model"]})' if row.get('model') else row['label']
        add(kind, label, cells, printed if row['kind'] == 'published' else measured, row['protocol'])
        if row['kind'] == 'published':
            continue
        add('detail', '95 % confidence', cells, lambda mean, digits: Text(_interval(mean, digits)))
        if 'compared_with' in row:
            add('detail', f'difference to {row["compared_with"]}, published', cells, _difference)
    title = table['title']
    if isinstance(table['number'], int):
        title = f'Table {table["number"]} of the paper: {title[0].lower()}{title[1:]}'
    remarks = (
        [*table['remarks'], f'Sources: {table["source"]}.'] if isinstance(table['number'], str) else table['remarks']
    )
    return Grid(f'{title} (PSNR in dB/SSIM)', header, rows, 2, table['warnings'], remarks)


def measurement_grid(run: dict[str, Any]) -> Grid:
    """All metrics of a run, to the digits of BasicSR's log."""
    header = ['Dataset', 'Metric', 'Protocol', 'Images', 'Input', 'Restored', '95 %', 'Gain', '95 %', 's/image']
    rows = []
    for measured in run['measurements']:
        for metric in measured['metrics']:
            restored, gain = metric['restored'], metric['gain']
            shown = gain['value'] if gain else None
            cells = [
                Text(measured['dataset']),
                Text(metric['name']),
                Text(f'{measured["protocol"]}; {metric["metric"]}'),
                Text(str(measured['images'])),
                Text(_shown(metric['input'], LOGGED_DIGITS)),
                Text(_shown(restored, LOGGED_DIGITS)),
                Text(_interval(restored, LOGGED_DIGITS)),
                Text(number(shown, LOGGED_DIGITS, True), _tone(shown, LOGGED_DIGITS, metric['lower_is_better'])),
                Text(_interval(gain, LOGGED_DIGITS)),
                Text(number(measured['seconds'], 2)),
            ]
            rows.append(Row('run', [[cell] for cell in cells]))
    return Grid(f'All that {run["name"]} measured', header, rows, 3)


def harm_grid(runs: Sequence[dict[str, Any]]) -> Grid:
    """How much each run harms the images of each dataset; see :class:`~airnet_basicsr.report.harm.Harm`."""
    header = ['Run', 'Dataset', 'Images', 'Made worse', 'Worst loss', 'of', 'Clean ones come back at', 'the worst']
    grid = Grid('Images that end worse than they came', header, [], 2)
    for run in runs:
        for measured in run['measurements']:
            harm = measured['harm']
            if harm is None:
                continue
            share, worst = harm['share_made_worse'], harm['worst_loss']
            clean = harm['clean_given_back'] is not None
            cells = [
                Text(run['name']),
                Text(measured['dataset']),
                Text(str(harm['images'])),
                Text(GAP if clean else f'{100 * share:.1f} %', 'worse' if share and not clean else ''),
                Text(GAP if clean or worst <= 0 else number(worst, 2)),
                Text(GAP if clean or worst <= 0 else harm['worst_image']),
                Text(number(harm['clean_given_back'], 2)),
                Text(number(harm['clean_least'], 2)),
            ]
            grid.rows.append(Row('run', [[cell] for cell in cells]))
    if grid.rows:
        grid.remarks.append(
            f'By PSNR in dB. Losses up to {MARGIN} dB are not counted. Of datasets whose inputs are the clean images: '
            f'the mean and the lowest PSNR of what comes back, each capped at {CAP:g} dB.'
        )
    return grid


def comparison_grid(comparisons: Sequence[dict[str, Any]]) -> Grid:
    """One run against another; see :func:`~airnet_basicsr.report.tables.comparisons`."""
    first, second = comparisons[0]['first'], comparisons[0]['second']
    header = ['Dataset', 'Metric', 'Images', first, second, 'Difference', '95 %']
    grid = Grid(f'{second} against {first}', header, [], 2)
    for entry in comparisons:
        for told in (entry['refused'], entry['note']):
            if told:
                grid.warnings.append(f'{"Not compared" if told == entry["refused"] else "Common images only"}: {told}.')
        for metric in entry['metrics']:
            difference = metric['difference']['value']
            cells = [
                Text(entry['dataset']),
                Text(metric['metric']),
                Text(str(metric['images'])),
                Text(_shown(metric['first'], LOGGED_DIGITS)),
                Text(_shown(metric['second'], LOGGED_DIGITS)),
                Text(
                    number(difference, LOGGED_DIGITS, True),
                    _tone(difference, LOGGED_DIGITS, metric['lower_is_better']),
                ),
                Text(_interval(metric['difference'], LOGGED_DIGITS)),
            ]
            grid.rows.append(Row('run', [[cell] for cell in cells]))
    return grid


def understanding_grid(runs: Sequence[dict[str, Any]]) -> Grid:
    """How well each run's embeddings tell the datasets apart."""
    header = ['Run', 'Images', 'Photographs', 'k', 'k-NN accuracy', 'mean over datasets', 'if always the largest']
    grid = Grid('Neighbours and clusters', [*header, 'Silhouette'], [])
    for run in runs:
        found = run['understanding']
        if found['reason']:
            grid.warnings.append(f'{run["name"]}: no answer, as {found["reason"]}.')
            continue
        percent = (f'{100 * found[key]:.1f} %' for key in ('accuracy', 'balanced_accuracy', 'chance'))
        counts = (str(found[key]) for key in ('images', 'photographs', 'neighbours'))
        cells = [run['name'], *counts, *percent, number(found['silhouette'], 3)]
        grid.rows.append(Row('run', [[Text(cell)] for cell in cells]))
        if found['left_out']:
            grid.warnings.append(
                f'{run["name"]}: {found["left_out"]} embeddings are not finite (nan or inf) and are left out.'
            )
        if found['shared'] < found['photographs']:
            grid.remarks.append(
                f'{run["name"]}: {found["shared"]} of {found["photographs"]} photographs are in several datasets. '
                'Where datasets show different photographs, what they show can help to tell them apart.'
            )
    return grid


def confusion_grid(run: dict[str, Any]) -> Grid:
    """What the images of each dataset were taken for."""
    found = run['understanding']
    rows = [
        Row('run', [[Text(name)], *([Text(str(count))] for count in counts)])
        for name, counts in zip(found['datasets'], found['confusion'], strict=True)
    ]
    return Grid(f'{run["name"]}: what the images of a dataset (row) were taken for', ['', *found['datasets']], rows)
