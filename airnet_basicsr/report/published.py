"""The results of the AirNet paper's Tables 1 to 7, of all methods, as printed there.

B. Li, X. Liu, P. Hu, Z. Wu, J. Lv, X. Peng: "All-In-One Image Restoration for Unknown Corruption", CVPR 2022. The paper
does not say how its noise was made (clipped or not) nor which SSIM it took; docs/evaluation.md says what is known.
"""

from dataclasses import dataclass

SOURCE = (
    'B. Li, X. Liu, P. Hu, Z. Wu, J. Lv, X. Peng: All-In-One Image Restoration for Unknown Corruption (AirNet), '
    'CVPR 2022'
)


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper: PSNR in dB and SSIM of every method.

    Attributes:
        number: The paper's.
        title: What it shows.
        columns: Heading by the name that the dataset has in our test files, in the paper's order.
        rows: By name of the row, a (PSNR, SSIM) for each column; None where the paper has no result.
        averages: By name of the row, the printed average over the columns; only Table 4 has them.
        ours: The row that a run is compared with unless its option file says ``paper: {table: N, row: NAME}``.
        remarks: On figures that cannot be quite as meant; they are kept as printed.
    """

    number: int
    title: str
    columns: dict[str, str]
    rows: dict[str, list[tuple[float, float] | None]]
    ours: str
    averages: dict[str, tuple[float, float]]
    remarks: tuple[str, ...] = ()


def _table(
    number: int,
    title: str,
    columns: dict[str, str],
    printed: str,
    ours: str,
    averages: bool = False,
    remarks: tuple[str, ...] = (),
) -> PublishedTable:
    """From lines ``name | PSNR/SSIM | ...``, with ``-`` for no result and, where told, an average last."""
    rows: dict[str, list[tuple[float, float] | None]] = {}
    means: dict[str, tuple[float, float]] = {}
    for line in printed.strip().splitlines():
        name, *cells = (part.strip() for part in line.split('|'))
        values = [None if cell == '-' else _pair(cell) for cell in cells]
        if averages:
            means[name] = _pair(cells[-1])
            del values[-1]
        assert len(values) == len(columns), line
        rows[name] = values
    return PublishedTable(number, title, columns, rows, ours, means, remarks)


def _pair(cell: str) -> tuple[float, float]:
    psnr, ssim = map(float, cell.split('/'))
    return psnr, ssim


_BSD68 = {f'CBSD68_sigma{sigma}': f'BSD68, σ = {sigma}' for sigma in (15, 25, 50)}
_URBAN100 = {f'Urban100_sigma{sigma}': f'Urban100, σ = {sigma}' for sigma in (15, 25, 50)}
_RAIN = {'Rain100L': 'Rain100L'}
_HAZE = {'SOTS_outdoor': 'SOTS outdoor'}

_TABLES = (
    _table(
        1,
        'Image denoising',
        _BSD68 | _URBAN100,
        """
        CBM3D [5]   | 33.50/0.9215 | 30.69/0.8672 | 27.36/0.7626 | 33.93/0.9408 | 31.36/0.9092 | 27.93/0.8404
        DnCNN [53]  | 33.89/0.9290 | 31.23/0.8830 | 27.92/0.7896 | 32.98/0.9314 | 30.81/0.9015 | 27.59/0.8331
        IRCNN [54]  | 33.87/0.9285 | 31.18/0.8824 | 27.88/0.7898 | 27.59/0.8331 | 31.20/0.9088 | 27.70/0.8396
        FFDNet [55] | 33.87/0.9290 | 31.21/0.8821 | 27.96/0.7887 | 33.83/0.9418 | 31.40/0.9120 | 28.05/0.8476
        BRDNet [40] | 34.10/0.9291 | 31.43/0.8847 | 28.16/0.7942 | 34.42/0.9462 | 31.99/0.9194 | 28.56/0.8577
        AirNet      | 34.14/0.9356 | 31.48/0.8928 | 28.23/0.8057 | 34.40/0.9487 | 32.10/0.9240 | 28.88/0.8702
        """,
        'AirNet',
        remarks=('IRCNN at σ = 15 on Urban100 is printed with the figures of DnCNN at σ = 50: a slip, by the look.',),
    ),
    _table(
        2,
        'Image deraining',
        _RAIN,
        """
        DIDMDN [52] | 23.79/0.7731
        UMRL [50]   | 32.39/0.9210
        SIRR [46]   | 32.37/0.9258
        MSPFN [17]  | 33.50/0.9480
        LPNet [11]  | 33.61/0.9583
        AirNet      | 34.90/0.9660
        """,
        'AirNet',
    ),
    _table(
        3,
        'Image dehazing',
        _HAZE,
        """
        DehazeNet [1] | 22.46/0.8514
        MSCNN [37]    | 22.06/0.9078
        AODNet [21]   | 20.29/0.8765
        EPDN [35]     | 22.57/0.8630
        FDGAN [7]     | 23.15/0.9207
        AirNet        | 23.18/0.9000
        """,
        'AirNet',
    ),
    _table(
        4,
        'Three degradations, one by one and all in one',
        _BSD68 | _RAIN | _HAZE,
        """
        One-By-One, BRDNet [40] |34.10/0.9291|31.43/0.8847|28.16/0.7942|33.15/0.9490|23.31/0.9116|30.30/0.8937
        One-By-One, LPNet [11]  |32.31/0.9236|27.87/0.8674|25.71/0.7656|33.61/0.9583|21.43/0.8631|28.19/0.8756
        One-By-One, FDGAN [7]   |31.11/0.9147|29.57/0.8770|27.12/0.7895|31.14/0.9422|23.15/0.9207|28.42/0.8888
        One-By-One, MPRNet [51] |34.01/0.9334|31.34/0.8892|28.10/0.8014|38.26/0.9816|28.21/0.9672|31.98/0.9146
        One-By-One, DL [8]      |33.25/0.9225|30.38/0.8679|26.68/0.7415|33.94/0.9456|24.68/0.9243|29.79/0.8804
        One-By-One, AirNet      |34.14/0.9356|31.48/0.8928|28.23/0.8057|34.90/0.9660|23.18/0.9000|30.38/0.9000
        All-In-One, BRDNet [40] |32.26/0.8977|29.76/0.8355|26.34/0.6934|27.42/0.8952|23.23/0.8952|27.80/0.8434
        All-In-One, LPNet [11]  |26.47/0.7780|24.77/0.7477|21.26/0.5522|24.88/0.7837|20.84/0.8277|23.64/0.7379
        All-In-One, FDGAN [7]   |30.25/0.9103|28.81/0.8682|26.43/0.7757|29.89/0.9329|24.71/0.9294|28.02/0.8833
        All-In-One, MPRNet [51] |33.54/0.9274|30.89/0.8797|27.56/0.7792|33.57/0.9542|25.28/0.9545|30.17/0.8990
        All-In-One, DL [8]      |33.05/0.9140|30.41/0.8606|26.90/0.7401|32.62/0.9314|26.92/0.9314|29.98/0.8755
        All-In-One, AirNet      |33.92/0.9329|31.26/0.8884|28.00/0.7974|34.90/0.9675|27.94/0.9615|31.20/0.9095
        """,
        'All-In-One, AirNet',
        averages=True,
        remarks=("The average PSNR of One-By-One, BRDNet is printed as 30.30; the row's mean is 30.03.",),
    ),
    _table(
        5,
        'AirNet trained on combinations of degradations',
        _BSD68 | _RAIN | _HAZE,
        """
        noise           | 34.14/0.9355 | 31.49/0.8928 | 28.23/0.8058 | -            | -
        rain            | -            | -            | -            | 34.90/0.9657 | -
        haze            | -            | -            | -            | -            | 23.18/0.9000
        noise+rain      | 34.11/0.9352 | 31.46/0.8923 | 28.19/0.8042 | 38.31/0.9824 | -
        noise+haze      | 33.97/0.9337 | 31.32/0.8891 | 28.06/0.7992 | -            | 23.72/0.9375
        rain+haze       | -            | -            | -            | 32.50/0.9465 | 26.78/0.9577
        noise+rain+haze | 33.92/0.9330 | 31.26/0.8881 | 28.01/0.7976 | 34.90/0.9675 | 27.94/0.9615
        """,
        'noise+rain+haze',
    ),
    _table(
        6,
        'Spatially variant noise: four regions of BSD68 with σ = 0, 15, 25, 50',
        {'CBSD68_spatial': 'BSD68, σ = 0, 15, 25, 50'},
        """
        CBM3D [5]   | 25.09/0.6457
        DnCNN [53]  | 23.83/0.5037
        IRCNN [54]  | 22.78/0.3883
        FFDNet [55] | 22.71/0.3790
        BRDNet [40] | 27.26/0.7410
        DL [8]      | 26.10/0.7528
        Ours        | 31.42/0.8922
        """,
        'Ours',
    ),
    _table(
        7,
        'AirNet without parts of its blocks',
        _BSD68 | _URBAN100,
        """
        w.o. SFT | 34.12/0.9354 | 31.47/0.8924 | 28.22/0.8051 | 34.37/0.9484 | 32.07/0.9234 | 28.84/0.8691
        w.o. DCN | 34.03/0.9342 | 31.36/0.8898 | 28.08/0.7985 | 34.21/0.9467 | 31.83/0.9197 | 28.49/0.8597
        Ours     | 34.14/0.9355 | 31.49/0.8928 | 28.23/0.8058 | 34.40/0.9487 | 32.10/0.9241 | 28.88/0.8699
        """,
        'Ours',
    ),
)
TABLES = {table.number: table for table in _TABLES}
