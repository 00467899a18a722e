"""The paper's figures: the same result is printed in several tables, and Table 4 has averages."""

import pytest

from airnet_basicsr.report.published import TABLES

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


def test_each_table_has_all_its_methods_and_datasets():
    sizes = {number: (len(table.rows), len(table.columns)) for number, table in TABLES.items()}
    assert sizes == {1: (6, 6), 2: (6, 1), 3: (6, 1), 4: (12, 5), 5: (7, 5), 6: (7, 1), 7: (3, 6)}
    gaps = sum(values is None for values in (cell for row in TABLES[5].rows.values() for cell in row))
    assert gaps == 2 + 4 + 4 + 1 + 1 + 3
    assert all(table.ours in table.rows for table in TABLES.values())
