"""Published results, as printed: those of the AirNet paper's Tables 1 to 7 and of the settings that came after it.

They stand in ``published.json``, with their sources. The AirNet paper does not say how its noise was made (clipped or
not) nor which SSIM it took; docs/evaluation.md says what is known.
"""

import json
from dataclasses import dataclass
from pathlib import Path

_READ = json.loads((Path(__file__).parent / 'published.json').read_text(encoding='utf-8'))

SOURCE: str = _READ['sources']['AirNet']['where']

Cell = tuple[float, float | None]
"""PSNR in dB, and SSIM where it is published."""


@dataclass(frozen=True)
class PublishedTable:
    """One table: PSNR in dB and SSIM of every method.

    Attributes:
        number: The AirNet paper's, or the name of a later setting.
        title: What it shows.
        columns: Heading by the name that the dataset has in our test files, in the paper's order.
        rows: By name of the row, a cell for each column; None where there is no result.
        averages: By name of the row, the printed average over the columns, where one is.
        ours: The row that a run is compared with unless its option file says ``paper: {table: N, row: NAME}``.
        sources: By name of the row, where it stands; of the paper's own tables, the paper.
        remarks: On figures that cannot be quite as meant (they are kept as printed), that contradict each other, or
            that may not be compared.
        ssim_digits: Behind the point, as printed.
    """

    number: int | str
    title: str
    columns: dict[str, str]
    rows: dict[str, list[Cell | None]]
    ours: str
    averages: dict[str, Cell]
    sources: dict[str, str]
    remarks: tuple[str, ...] = ()
    ssim_digits: int = 4

    @property
    def is_the_paper_s(self) -> bool:
        """Whether it is one of the AirNet paper's own."""
        return isinstance(self.number, int)


def _cell(values: list[float | None] | None) -> Cell | None:
    if values is None or values[0] is None:
        return None
    return values[0], values[1]


def _table(read: dict) -> PublishedTable:
    averages = {row['name']: _cell(row.get('average')) for row in read['rows']}
    remarks = [f'{row["name"]}: {row["remark"]}' for row in read['rows'] if 'remark' in row]
    return PublishedTable(
        number=read['number'],
        title=read['title'],
        columns=read['columns'],
        rows={row['name']: [_cell(values) for values in row['values']] for row in read['rows']},
        ours=read['ours'],
        averages={name: average for name, average in averages.items() if average},
        sources={row['name']: _source(row['source']) for row in read['rows']},
        remarks=(*([read['protocol']] if read['protocol'] else []), *read['remarks'], *remarks),
        ssim_digits=read.get('ssim_digits', 4),
    )


def _source(key: str) -> str:
    source = _READ['sources'][key]
    return f'{source["where"]} (second hand)' if source['second_hand'] else source['where']


TABLES = {table.number: table for table in map(_table, _READ['tables'])}
