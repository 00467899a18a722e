"""The report as Markdown, LaTeX, JSON and HTML."""

import json
import re
from collections.abc import Iterable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from airnet_basicsr.report.grids import GAP, Grid
from airnet_basicsr.report.tables import plain

CAPTION = (
    'Rows marked "published" are figures that papers print; all others were measured by this software. '
    'Differences are to the named published row. 95 % confidence: half the width of the interval of the mean, from '
    f"Student's t over images. {GAP}: not measured, or not published. *: images without a finite value are left out."
)
PROTOCOLS = (
    'The paper does not say how its noise was made or which SSIM it took. The figures of its denoising baselines agree '
    'with unclipped noise (float) and the Gaussian-window SSIM (calculate_ssim); the official release tests with noise '
    'clipped and truncated to 8 bits (uint8), crops to multiples of 16, and the 7x7 SSIM (calculate_ssim_release). '
    'Figures of different protocols differ by up to 1.7 dB on the same network and cannot be compared.'
)
UNDERSTOOD = (
    "k-NN accuracy: each image's dataset is guessed from the k nearest embeddings of other photographs, so that having "
    'seen the same picture does not help. Silhouette: -1 to 1, above 0 where datasets form clusters. Features are '
    'brought to mean 0 and deviation 1 first.'
)


def to_markdown(report: dict[str, Any], sections: dict[str, list[Grid]]) -> str:
    """GitHub's Markdown; pictures are on the page alone."""
    lines = ['# Test report', '', CAPTION, '', PROTOCOLS, '', *_markdown_runs(report['runs'])]
    if report['notes']:
        lines += ['**Notes**', '', *(f'- {_escape_markdown(note)}' for note in report['notes']), '']
    for title, grids in sections.items():
        lines += [f'## {title}', '']
        if grids and title.startswith('Is the'):
            lines += [UNDERSTOOD, '']
        for grid in grids:
            lines += _markdown_grid(grid)
    lines += [f'Published figures: {report["source"]}.', '', 'Pictures and histograms: report.html.', '']
    return '\n'.join(lines)


def _markdown_runs(runs: list[dict[str, Any]]) -> Iterable[str]:
    for run in runs:
        told = '; '.join(f'{key}: {value}' for key, value in run['summary'].items())
        yield f'- **{_escape_markdown(run["name"])}**: {_escape_markdown(told)}'
    yield ''


def _escape_markdown(text: str) -> str:
    # GitHub reads $ as mathematics, ~~ as struck out, &lt; as <, and # at a heading's end as its close.
    return re.sub(r'([\\`*_|<>\[\]&$~#])', r'\\\1', _in_one_line(text))


def _in_one_line(text: str) -> str:
    """A name may hold line breaks, which would end a row, an item or a comment."""
    return ' '.join(text.splitlines())


def _markdown_grid(grid: Grid) -> list[str]:
    lines = [f'### {_escape_markdown(grid.title)}', '']
    lines += [f'> ⚠ {_escape_markdown(warning)}\n' for warning in grid.warnings]
    if grid.rows:
        lines.append('| ' + ' | '.join(map(_escape_markdown, grid.header)) + ' |')
        lines.append('|' + ''.join(' --- |' if i < grid.words else ' ---: |' for i in range(len(grid.header))))
    marks = {'better': ' ▲', 'worse': ' ▼'}
    for row in grid.rows:
        cells = [
            '/'.join(_escape_markdown(part.text) + marks.get(part.tone, '') for part in cell) for cell in row.cells
        ]
        mark = {'reference': '**', 'detail': '*'}.get(row.kind, '')
        cells[0] = f'{mark}{cells[0]}{mark}'
        lines.append('| ' + ' | '.join(cells) + ' |')
    return [*lines, '', *(f'{_escape_markdown(remark)}\n' for remark in grid.remarks), '']


LATEX_SPECIAL = {
    '\\': r'\textbackslash{}',
    **{character: f'\\{character}' for character in '&%$#_{}'},
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    # In LaTeX's default fonts these three are an inverted !, an inverted ? and a dash, the sign of a gap here.
    '<': r'\textless{}',
    '>': r'\textgreater{}',
    '|': r'\textbar{}',
    '−': '$-$',
    '±': r'$\pm$',
    'σ': r'$\sigma$',
    '—': '---',
}


def _escape_latex(text: str) -> str:
    # Behind \\, [ would begin an argument and * be swallowed.
    guard = '{}' if text[:1] in ('[', '*') else ''
    return guard + ''.join(LATEX_SPECIAL.get(character, character) for character in _in_one_line(text))


def to_latex(report: dict[str, Any], sections: dict[str, list[Grid]]) -> str:
    """Tables to include in a document that loads booktabs, graphicx and xcolor."""
    lines = [
        '% \\usepackage{booktabs,graphicx,xcolor} and \\usepackage[utf8]{inputenc}, then \\input{report}.',
        *(f'% {_in_one_line(note)}' for note in report['notes']),
        '\\providecolor{better}{HTML}{0072B2}',
        '\\providecolor{worse}{HTML}{C24E00}',
    ]
    for grids in sections.values():
        for grid in grids:
            if grid.rows:
                lines += _latex_grid(grid)
    return '\n'.join([*lines, f'% Published figures: {report["source"]}.', ''])


def _latex_grid(grid: Grid) -> list[str]:
    def cell(parts: list[Any]) -> str:
        shown = (
            f'\\textcolor{{{part.tone}}}{{{_escape_latex(part.text)}}}' if part.tone else _escape_latex(part.text)
            for part in parts
        )
        return '/'.join(shown)

    def line(kind: str, cells: list[str]) -> str:
        style = {'reference': '\\bfseries ', 'detail': '\\footnotesize\\itshape '}.get(kind, '')
        return ' & '.join([style + cells[0], *cells[1:]]) + ' \\\\'

    told = ' '.join([grid.title + '.', *grid.warnings, *grid.remarks])
    kinds = ['published' if row.kind == 'reference' else row.kind for row in grid.rows]
    body = []
    for i, row in enumerate(grid.rows):
        if i and kinds[i] != kinds[i - 1] and 'detail' not in (kinds[i], kinds[i - 1]):
            body.append('\\midrule')
        body.append(line(row.kind, [cell(parts) for parts in row.cells]))
    return [
        '\\begin{table}',
        '\\centering',
        f'\\caption{{{_escape_latex(told)}}}',
        '\\resizebox{\\textwidth}{!}{%',
        f'\\begin{{tabular}}{{{"l" * grid.words}{"r" * (len(grid.header) - grid.words)}}}',
        '\\toprule',
        ' & '.join(map(_escape_latex, grid.header)) + ' \\\\',
        '\\midrule',
        *body,
        '\\bottomrule',
        '\\end{tabular}}',
        '\\end{table}',
        '',
    ]


def to_json(report: dict[str, Any]) -> str:
    """Everything but the pictures; infinite and undefined values as ``"inf"`` and ``"nan"``."""
    return json.dumps(plain(report), indent=1, ensure_ascii=False) + '\n'


def to_html(report: dict[str, Any], sections: dict[str, list[Grid]], pictures: list[dict[str, Any]], maps: Any) -> str:
    """One page, with all that it shows inside it."""
    environment = Environment(
        loader=PackageLoader('airnet_basicsr', 'report'), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    texts = {'caption': CAPTION, 'protocols': PROTOCOLS, 'understood': UNDERSTOOD}
    return environment.get_template('page.html').render(
        report=report, sections=sections, pictures=pictures, maps=maps, **texts
    )
