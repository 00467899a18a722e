"""Published figures: the same result is printed in several tables, and averages are those of their rows."""

import math
from pathlib import Path

import pytest

from airnet_basicsr.report.grids import paper_grid
from airnet_basicsr.report.published import TABLES
from airnet_basicsr.report.runs import Run
from airnet_basicsr.report.tables import _table, paper_tables

PRINTED_WRONGLY = {'One-By-One, BRDNet [40]'}  # 30.30 for 30.03; kept as printed, with a remark


def test_table_4_s_averages_are_those_of_its_rows():
    table = TABLES[4]
    assert len(table.rows) == len(table.averages) == 12
    for name, row in table.rows.items():
        for quantity, tolerance in ((0, 0.0101), (1, 0.000101)):
            mean = sum(values[quantity] for values in row) / 5
            if quantity == 0 and name in PRINTED_WRONGLY:
                assert table.averages[name][0] == 30.30 and mean == pytest.approx(30.03, abs=0.005)
            else:
                assert table.averages[name][quantity] == pytest.approx(mean, abs=tolerance)


@pytest.mark.parametrize(
    ('number', 'row', 'in_table_4', 'columns'),
    [
        (1, 'BRDNet [40]', 'One-By-One, BRDNet [40]', slice(0, 3)),
        (1, 'AirNet', 'One-By-One, AirNet', slice(0, 3)),
        (2, 'LPNet [11]', 'One-By-One, LPNet [11]', slice(3, 4)),
        (2, 'AirNet', 'One-By-One, AirNet', slice(3, 4)),
        (3, 'FDGAN [7]', 'One-By-One, FDGAN [7]', slice(4, 5)),
        (3, 'AirNet', 'One-By-One, AirNet', slice(4, 5)),
        (5, 'noise+rain+haze', 'All-In-One, AirNet', slice(3, 5)),
    ],
)
def test_results_printed_twice_agree(number, row, in_table_4, columns):
    values = TABLES[number].rows[row]
    assert (values if len(values) < 5 else values[columns])[:3] == TABLES[4].rows[in_table_4][columns]


@pytest.mark.parametrize(
    ('number', 'row', 'dataset', 'published'),
    [
        (1, 'DnCNN [53]', 'CBSD68_sigma25', 31.23),
        (2, 'LPNet [11]', 'Rain100L', 33.61),
        (3, 'AODNet [21]', 'SOTS_outdoor', 20.29),
        (4, 'All-In-One, MPRNet [51]', 'Rain100L', 33.57),
    ],
)
def test_a_measured_row_stands_beside_the_published_ones_and_is_compared_with_its_own(number, row, dataset, published):
    metrics = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': False}}
    record = {'protocol': None, 'crop_multiple': 1, 'seed': 0, 'lq_crc32': 0, 'key': 'a', 'index': 0}
    record |= {'metrics': {'psnr': 30.0}, 'input': {'psnr': 20.0}}
    info = {'name': 'mine', 'options': {}, 'metrics': metrics, 'paper': {'table': number, 'row': row}}
    (table,) = (table for table in paper_tables([Run(Path(), info, {dataset: [record]})]) if table['number'] == number)
    place = [column['dataset'] for column in table['columns']].index(dataset)
    cells = {each['label']: each['cells'][place] for each in table['rows']}
    assert list(cells)[: len(TABLES[number].rows)] == list(TABLES[number].rows)
    assert cells[row]['psnr']['value'] == published
    assert cells['mine']['psnr']['value'] == 30
    assert cells['mine']['psnr']['difference'] == pytest.approx(30 - published)


def test_an_average_of_means_that_leave_images_out_is_marked_too():
    images = [{'protocol': None, 'crop_multiple': 1, 'seed': 0, 'lq_crc32': 0, 'key': key, 'index': 0} for key in 'ab']
    images[0] |= {'metrics': {'psnr': 30.0}, 'input': {}}
    images[1] |= {'metrics': {'psnr': math.inf}, 'input': {}}
    info = {'name': 'mine', 'options': {}, 'metrics': {'psnr': {'type': 'calculate_psnr'}}, 'paper': {'table': 4}}
    (grid,) = map(paper_grid, paper_tables([Run(Path(), info, dict.fromkeys(TABLES[4].columns, images))]))
    mine = next(row for row in grid.rows if row.cells[0][0].text == 'mine')
    assert [cell[0].text for cell in mine.cells[2:]] == 6 * ['30.00*']


def test_each_table_has_all_its_methods_and_datasets():
    paper = [table for table in TABLES.values() if table.is_the_paper_s]
    sizes = {table.number: (len(table.rows), len(table.columns)) for table in paper}
    assert sizes == {1: (6, 6), 2: (6, 1), 3: (6, 1), 4: (12, 5), 5: (7, 5), 6: (7, 1), 7: (3, 6)}
    gaps = sum(values is None for values in (cell for row in TABLES[5].rows.values() for cell in row))
    assert gaps == 2 + 4 + 4 + 1 + 1 + 3
    assert all(table.ours in table.rows for table in TABLES.values())


# Printed averages that are not those of their rows; remarks beside them say so.
LISTED = {'five-task': {('MIRAGE', 0): 30.694}}


@pytest.mark.parametrize('setting', [number for number in TABLES if isinstance(number, str)])
def test_later_averages_are_those_of_their_rows(setting):
    table = TABLES[setting]
    wrong = {}
    for name, average in table.averages.items():
        for quantity, step in ((0, 0.01), (1, 0.001)):
            values = [cell[quantity] for cell in table.rows[name] if cell]
            if average[quantity] is None or None in values:
                continue
            mean = sum(values) / len(table.columns)
            # Figures of three or more digits behind the point are averaged as they are, others were rounded first.
            if abs(mean - average[quantity]) > step * 1.01:
                wrong[name, quantity] = round(mean, 4)
    assert wrong == LISTED.get(setting, {})


def test_later_settings_quote_what_the_paper_has():
    """The three-task row is Table 4's, at three digits of SSIM, but for the contradiction that is listed."""
    later, paper = TABLES['three-task'], TABLES[4]
    row = dict(zip(paper.columns, paper.rows['All-In-One, AirNet'], strict=True))
    for dataset, cell in zip(later.columns, later.rows['AirNet'], strict=True):
        assert cell[0] == row[dataset][0] and cell[1] == pytest.approx(row[dataset][1], abs=0.00051)
    five, noise = TABLES['five-task'], TABLES['five-task-noise']
    assert five.rows['AirNet'][2][0] == noise.rows['AirNet'][1][0] == 30.91
    assert all(table.sources.keys() == table.rows.keys() for table in TABLES.values())
    assert '(second hand)' in TABLES['all-weather'].sources['AirNet']
    widths = [len(table.columns) for table in TABLES.values() if not table.is_the_paper_s]
    assert widths == [5, 5, 9, 11, 3, 4, 3, 1, 1]


def test_a_later_setting_s_table_says_whence_and_what_may_not_be_compared():
    grid = paper_grid(_table(TABLES['five-task'], []))
    assert grid.title.startswith('Five tasks') and 'of the paper' not in grid.title
    remarks = ' '.join(grid.remarks)
    for words in ('MIRAGE: README of', '(second hand)', 'is not to be compared', "MIRAGE: The row's mean is 30.69"):
        assert words in remarks, words
    # SSIM to the digits that are printed.
    (airnet,) = (row for row in grid.rows if row.cells[0][0].text == 'AirNet')
    assert [part.text for part in airnet.cells[2]] == ['21.04', '0.884']
    # A row of both figures, and one without SSIM.
    rows = paper_grid(_table(TABLES['foundir'], [])).rows
    shown = {row.cells[0][0].text: [part.text for part in row.cells[2]] for row in rows}
    assert shown['Input'][:2] == ['18.40', '0.6033'] and len(shown['Input']) == 2 and shown['PromptIR'] == ['22.49']
