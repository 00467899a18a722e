"""From runs to the paper's tables and to comparisons of the runs, as plain mappings that every output is made from.

A cell is None (a gap) or a mapping with ``psnr`` and ``ssim``; either may be None. Of runs each is ``{value, interval,
count, left_out, difference}``, of published rows ``{value}``. ``difference`` is to the paper's AirNet.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

from airnet_basicsr.errors import InputError
from airnet_basicsr.report.published import SOURCE, TABLES, Cell, PublishedTable
from airnet_basicsr.report.runs import Mean, Pair, Run, describe_making, describe_metric

QUANTITIES = ('psnr', 'ssim')


def paper_tables(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The paper's tables that the runs belong to, and one of all datasets that are in none of these.

    A run belongs to the table that its option file names (``paper: {table: N}``), else to all of the paper that have
    one of its datasets, and to those of later settings all of whose datasets it has. In a table that is shown at all,
    all runs with one of its datasets have rows.

    Raises:
        InputError: A run names a table or row that the paper does not have.
    """
    wanted = set()
    for run in runs:
        number = run.paper.get('table')
        _check_paper(run)
        wanted |= {number} if number else {n for n, table in TABLES.items() if _belongs(table, run)}
    tables = [_table(table, runs) for number, table in TABLES.items() if number in wanted]
    shown = {column['dataset'] for table in tables for column in table['columns']}
    others = {name: name for run in runs for name in run.images if name not in shown}
    if others:
        tables.append(_table(PublishedTable(0, 'Datasets that these tables do not have', others, {}, '', {}, {}), runs))
    return tables


def _belongs(table: PublishedTable, run: Run) -> bool:
    """By one dataset to a table of the paper; to one of a later setting, whose sets are others' too, by all."""
    columns = set(table.columns)
    return bool(columns & set(run.images)) if table.is_the_paper_s else columns <= set(run.images)


def _check_paper(run: Run) -> None:
    number, row = run.paper.get('table'), run.paper.get('row')
    known: dict[Any, Collection[str]] = {None: (), **{table.number: table.rows for table in TABLES.values()}}
    for key, value, choices in (('table', number, list(known)), ('row', row, list(known.get(number, ())))):
        if value is not None and value not in choices:
            raise InputError(
                f'{run.folder / "run.json"}: `paper` names the {key} {value!r}, which the paper does not have '
                f'({", ".join(str(choice) for choice in choices if choice)}): correct the option file and test again'
            )


def _table(paper: PublishedTable, runs: Sequence[Run]) -> dict[str, Any]:
    columns = list(paper.columns)
    rows = [
        {
            'kind': 'published',
            'label': name,
            'reference': name == paper.ours,
            'protocol': 'published',
            'cells': [_published(values) for values in row],
            'average': _published(paper.averages.get(name)),
        }
        for name, row in paper.rows.items()
    ]
    inputs: list[dict[str, Any]] = []
    measured: list[dict[str, Any]] = []
    for run in runs:
        compared = run.paper.get('row') if run.paper.get('table') == paper.number else None
        compared = compared or paper.ours
        for making, datasets in _by_making(run, columns).items():
            for pair in run.pairs:
                for which, found in (('input', inputs), ('metrics', measured)):
                    row = _row(run, which, pair, making, datasets, columns)
                    if row is None:
                        continue
                    if paper.averages:
                        row['average'] = _average(row['cells'])
                    if which == 'metrics' and compared:
                        row['compared_with'] = compared
                        _subtract(row['cells'], [_published(values) for values in paper.rows[compared]])
                        _subtract([row.get('average')], [_published(paper.averages.get(compared))])
                    found.append(row)
    # Each once: runs with the same inputs agree, and NoRestoration has them as its own.
    seen = [_figures(row) for row in measured if row['model'] == 'NoRestoration']
    shown = []
    for row in inputs:
        if _figures(row) not in seen:
            seen.append(_figures(row))
            shown.append(row)
    return {
        'number': paper.number or None,
        'title': paper.title,
        'source': _source(paper),
        'columns': [{'dataset': name, 'heading': heading} for name, heading in paper.columns.items()],
        'with_average': bool(paper.averages),
        'ssim_digits': paper.ssim_digits,
        'rows': rows + shown + measured,
        'remarks': list(paper.remarks),
        'warnings': _differing(runs, columns),
    }


def _source(paper: PublishedTable) -> str | None:
    if not paper.rows:
        return None
    rows: dict[str, list[str]] = {}
    for name, source in paper.sources.items():
        rows.setdefault(source, []).append(name)
    return (
        SOURCE if paper.is_the_paper_s else '; '.join(f'{", ".join(names)}: {source}' for source, names in rows.items())
    )


def _figures(row: dict[str, Any]) -> tuple[Any, ...]:
    means = [cell and [cell[quantity] and cell[quantity]['value'] for quantity in QUANTITIES] for cell in row['cells']]
    return row['protocol'], means


def _published(values: Cell | None) -> dict[str, Any] | None:
    if values is None:
        return None
    return {name: None if value is None else {'value': value} for name, value in zip(QUANTITIES, values, strict=True)}


def _by_making(run: Run, columns: Sequence[str]) -> dict[tuple[str | None, int, int], list[str]]:
    """The run's datasets among ``columns`` by how their inputs were made: each has a row of its own.

    Where nothing is drawn there is no noise protocol to tell apart: such datasets go into the first row that has their
    crop and seed.
    """
    groups: dict[tuple[str | None, int, int], list[str]] = {}
    drawn = [name for name in columns if name in run.images and run.making(name)[0]]
    for name in drawn:
        groups.setdefault(run.making(name), []).append(name)
    for name in columns:
        if name in run.images and name not in drawn:
            making = run.making(name)
            fitting = next((group for group in groups if group[1] == making[1]), making)
            groups.setdefault(fitting, []).append(name)
    return groups


def _row(
    run: Run,
    which: str,
    pair: Pair,
    making: tuple[str | None, int, int],
    datasets: Sequence[str],
    columns: Sequence[str],
) -> dict[str, Any] | None:
    cells = []
    for name in columns:
        means = {
            quantity: run.mean(name, metric, which) if name in datasets else None
            for quantity, metric in zip(QUANTITIES, (pair.psnr, pair.ssim), strict=True)
        }
        cells.append({key: plain_mean(mean) for key, mean in means.items()} if any(means.values()) else None)
    if not any(cells):
        return None
    named: dict[str, Any] = {'kind': 'input', 'label': 'Input, no restoration'}
    if which == 'metrics':
        named = {'kind': 'run', 'label': run.name, 'model': run.info.get('model_type')}
    return named | {'protocol': f'{describe_making(*making)}; {pair.protocol}', 'cells': cells, 'average': None}


def plain_mean(mean: Mean | None) -> dict[str, Any] | None:
    """As JSON knows it."""
    if mean is None:
        return None
    return {
        'value': mean.value,
        'interval': mean.interval,
        'count': mean.count,
        'left_out': mean.left_out,
        'logged': mean.logged,
    }


def plain(value: Any) -> Any:
    """As JSON knows it: infinite and undefined values in words."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _average(cells: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Over all columns; a gap in a row leaves its average a gap too."""
    averages: dict[str, dict[str, Any] | None] = {}
    for quantity in QUANTITIES:
        values = [cell[quantity]['value'] if cell and cell[quantity] else math.nan for cell in cells]
        mean = sum(values) / len(values)
        left_out: dict[str, float] = {}
        for cell in cells:
            if cell and cell[quantity]:
                left_out |= cell[quantity]['left_out']
        averages[quantity] = None if math.isnan(mean) else {'value': mean, 'interval': None, 'left_out': left_out}
    return averages if any(averages.values()) else None


def _subtract(cells: Sequence[dict[str, Any] | None], published: Sequence[dict[str, Any] | None]) -> None:
    for cell, other in zip(cells, published, strict=True):
        for quantity in QUANTITIES:
            if cell and cell[quantity]:
                theirs = other[quantity] if other else None
                difference = cell[quantity]['value'] - theirs['value'] if theirs else math.nan
                cell[quantity]['difference'] = difference if math.isfinite(difference) else None


def _differing(runs: Sequence[Run], columns: Sequence[str]) -> list[str]:
    """What keeps the runs' figures in a table from being compared with each other."""
    warnings = []
    for name in columns:
        having = [run for run in runs if name in run.images]
        for run in having[1:]:
            reason = incomparable(having[0], run, name)
            if reason:
                warnings.append(f'Not to be compared with each other: {reason}.')
                continue
            alone = images_apart(having[0], run, name)
            if alone:
                warnings.append(
                    f'{alone}. The means in this table are over all images of each run; '
                    '"Runs side by side" compares the common ones.'
                )
    return warnings


def incomparable(first: Run, second: Run, dataset: str) -> str | None:
    """Why the two runs' results on a dataset cannot be compared; None where they can."""
    makings = [run.making(dataset) for run in (first, second)]
    if makings[0] != makings[1]:
        told = [f'{run.name}: {describe_making(*making)}' for run, making in zip((first, second), makings, strict=True)]
        return f'{dataset} was made under different protocols ({"; ".join(told)})'
    checksums = first.checksums(dataset), second.checksums(dataset)
    common = [key for key in checksums[0] if key in checksums[1]]
    if not common:
        return f'{first.name} and {second.name} have no image of {dataset} in common'
    changed = [key for key in common if checksums[0][key] != checksums[1][key]]
    if changed:
        return (
            f'{len(changed)} of the {len(common)} images of {dataset} that {first.name} and {second.name} share were '
            f'degraded differently (the first is {changed[0]})'
        )
    return None


def metrics_apart(runs: Sequence[Run]) -> list[str]:
    """Which runs share no dataset or no PSNR with the first, so that nothing can stand beside it."""
    first = runs[0]
    alone = [run.name for run in runs[1:] if not run.images.keys() & first.images.keys()]
    return [f'{name} and {first.name} have no dataset in common: they are not compared' for name in alone] + [
        f'{run.name} has measured no PSNR that {first.name} has measured too ({run.pairs[0].protocol}, '
        f'{first.pairs[0].protocol}): their gains are not shown side by side'
        for run in runs[1:]
        if run.pairs and first.pairs and not any(first.named(run.metrics[pair.psnr]) for pair in run.pairs)
    ]


def images_apart(first: Run, second: Run, dataset: str) -> str | None:
    """Which images of a dataset only one of two runs has."""
    checksums = first.checksums(dataset), second.checksums(dataset)
    parts = []
    for run, mine, others in ((first, checksums[0], checksums[1]), (second, checksums[1], checksums[0])):
        alone = [key for key in mine if key not in others]
        if alone:
            parts.append(f'{len(alone)} only in {run.name} (the first is {alone[0]})')
    return f'{dataset}: images {", ".join(parts)}' if parts else None


def measurements(run: Run) -> list[dict[str, Any]]:
    """All metrics of a run on all datasets: of the restored images, the input, and the gain."""
    rows = []
    for dataset, records in run.images.items():
        harm = run.harm(dataset)
        seconds = [record['seconds'] for record in records if isinstance(record.get('seconds'), int | float)]
        rows.append(
            {
                'dataset': dataset,
                'degradation': records[0].get('degradation'),
                'protocol': describe_making(*run.making(dataset)),
                'images': len(records),
                'seconds': sum(seconds) / len(seconds) if seconds else None,
                'harm': harm and harm.plain(),
                'metrics': [
                    {
                        'name': name,
                        'metric': describe_metric(metric),
                        'lower_is_better': metric.get('better') == 'lower',
                        'restored': plain_mean(run.mean(dataset, name)),
                        'input': plain_mean(run.mean(dataset, name, 'input')),
                        'gain': plain_mean(run.mean(dataset, name, 'gain')),
                    }
                    for name, metric in run.metrics.items()
                ],
            }
        )
    return rows


def comparisons(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each further run against the first, image by image over the images that both have."""
    found = []
    first = runs[0]
    for run in runs[1:]:
        for dataset in run.images:
            if dataset not in first.images:
                continue
            reason = incomparable(first, run, dataset)
            entry: dict[str, Any] = {'dataset': dataset, 'first': first.name, 'second': run.name, 'refused': reason}
            entry |= {'metrics': [], 'note': None if reason else images_apart(first, run, dataset)}
            for name, metric in run.metrics.items():
                its_name = first.named(metric)
                if reason or its_name is None:
                    continue
                values = first.values(dataset, its_name), run.values(dataset, name)
                common = [
                    key
                    for key in values[0]
                    if key in values[1] and math.isfinite(values[0][key]) and math.isfinite(values[1][key])
                ]
                if common:
                    entry['metrics'].append(
                        {
                            'name': name,
                            'metric': describe_metric(metric),
                            'lower_is_better': metric.get('better') == 'lower',
                            'images': len(common),
                            'first': plain_mean(Mean.of({key: values[0][key] for key in common})),
                            'second': plain_mean(Mean.of({key: values[1][key] for key in common})),
                            'difference': plain_mean(Mean.of({key: values[1][key] - values[0][key] for key in common})),
                        }
                    )
            if not reason and not entry['metrics']:
                entry['refused'] = f'{first.name} and {run.name} share no metric with finite values of {dataset}'
            found.append(entry)
    return found
