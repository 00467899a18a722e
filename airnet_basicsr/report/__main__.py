"""Write tables and a web page from the results of tests."""

from airnet_basicsr.report import _packages  # noqa: F401  (before what needs them)

# ruff: isort: split
import argparse
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import airnet_basicsr
from airnet_basicsr.errors import end_in_one_line
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.report import grids, outputs
from airnet_basicsr.report.figures import embedding_map, gain_histogram
from airnet_basicsr.report.pictures import choose_pictures, encode
from airnet_basicsr.report.published import SOURCE
from airnet_basicsr.report.runs import Run, read_runs
from airnet_basicsr.report.tables import comparisons, incomparable, measurements, metrics_apart, paper_tables
from airnet_basicsr.report.understanding import understand

PAPER, MEASURED, HARM, BESIDE, UNDERSTOOD = (
    'Published tables',
    'All measurements',
    'Harm',
    'Runs side by side',
    'Is the degradation understood?',
)


def write_report(runs: Sequence[Run], out: Path) -> None:
    """Write ``report.md``, ``.tex``, ``.json`` and ``.html`` into the folder ``out``."""
    pictures, notes = choose_pictures(runs)
    told: list[dict[str, Any]] = [
        {
            'name': run.name,
            'folder': str(run.folder),
            'summary': _summary(run),
            'run': run.info,
            'measurements': measurements(run),
            'understanding': understand(run.folder),
        }
        for run in runs
    ]
    report: dict[str, Any] = {
        'date': datetime.now().astimezone().isoformat(timespec='seconds'),
        'airnet_basicsr': airnet_basicsr.__version__,
        'source': SOURCE,
        'notes': [note for run in runs for note in run.notes] + metrics_apart(runs) + notes,
        'runs': told,
        'tables': paper_tables(runs),
        'comparisons': comparisons(runs),
        'pictures': [
            entry
            | {'choices': [{key: choice[key] for key in ('rank', 'image', 'gains')} for choice in entry['choices']]}
            for entry in pictures
        ],
    }
    understood = [run for run in told if not run['understanding']['reason']]
    by_run = groupby(report['comparisons'], lambda entry: entry['second'])
    sections = {
        PAPER: [grids.paper_grid(table) for table in report['tables']],
        MEASURED: [grids.measurement_grid(run) for run in told],
        HARM: [grid for grid in (grids.harm_grid(told),) if grid.rows],
        BESIDE: [grids.comparison_grid(list(entries)) for _, entries in by_run],
        UNDERSTOOD: [grids.understanding_grid(told), *(grids.confusion_grid(run) for run in understood)],
    }
    sections = {title: found for title, found in sections.items() if found}
    encode([choice for entry in pictures for choice in entry['choices']])
    for entry in pictures:
        entry['histogram'] = gain_histogram(runs, entry['dataset'])
        having = [run for run in runs if entry['dataset'] in run.images]
        reasons = [incomparable(having[0], run, entry['dataset']) for run in having[1:]]
        entry['apart'] = [reason for reason in reasons if reason]
    maps = {run['name']: embedding_map(run['understanding']) for run in understood}
    write_whole(out / 'report.md', outputs.to_markdown(report, sections))
    write_whole(out / 'report.tex', outputs.to_latex(report, sections))
    write_whole(out / 'report.json', outputs.to_json(report))
    write_whole(out / 'report.html', outputs.to_html(report, sections, pictures, maps))


def _summary(run: Run) -> dict[str, str]:
    info = run.info
    checkpoint = info.get('checkpoint')
    told = {
        'model': info.get('model_type'),
        'network': (info.get('network') or {}).get('type'),
        'parameters': f'{info["parameters"]:,}' if info.get('parameters') else None,
        'checkpoint': checkpoint and f'{checkpoint["path"]} (SHA-256 {checkpoint["sha256"]})',
        'option file': info.get('option_file'),
        'reproduces': run.paper and ', '.join(f'{key} {value}' for key, value in run.paper.items()),
        'tested': info.get('date'),
        'device': info.get('device'),
        'deformable convolution': info.get('dcn_backend') and f'{info["dcn_backend"]} backend',
        'tiles': _tiles(run),
        'versions': ', '.join(f'{name} {version}' for name, version in (info.get('versions') or {}).items()),
    }
    return {key: str(value) for key, value in told.items() if value}


def _tiles(run: Run) -> str | None:
    """Which images were not restored in one piece: results may differ a little from those that were."""
    sides = [record.get('tile') for records in run.images.values() for record in records]
    used = sorted({side for side in sides if side})
    if not used:
        return None
    count = sum(side is not None for side in sides)
    return f'{count} of {len(sides)} images, of at most {" or ".join(map(str, used))} pixels a side'


def main() -> None:
    """Read the runs that the command line names and write their report."""
    end_in_one_line()
    parser = argparse.ArgumentParser(prog='airnet report', description=__doc__)
    parser.add_argument(
        'runs', nargs='+', metavar='results/NAME', help='folder of a test; the others are compared with the first'
    )
    parser.add_argument('--out', type=Path, help='folder to write to; default: report in the first test')
    arguments = parser.parse_args()
    runs = read_runs(arguments.runs)
    out = arguments.out or Path(arguments.runs[0]) / 'report'
    write_report(runs, out)
    for note in (note for run in runs for note in run.notes):
        print(f'Note: {note}')
    print(f'Written: {out / "report.html"}, and report.md, report.tex, report.json beside it')


if __name__ == '__main__':
    main()
