"""The files that tests (:mod:`airnet_basicsr.plugin.models.restoration_model`) leave, read and checked."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from airnet_basicsr.errors import InputError
from airnet_basicsr.report.harm import Harm

RECORD_KEYS = {
    'dataset': str,
    'image': str,
    'index': int,
    'protocol': str | None,
    'seed': int | None,
    'crop_multiple': int,
    'lq_crc32': int,
    'metrics': dict,
    'input': dict,
}
OPTIONAL_KEYS = {
    'images': int | None,
    'tile': int | None,
    'picture': str | None,
}  # tests before this version did not write them
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mean:
    """The mean of the finite ones among some values.

    Attributes:
        value: The mean; nan where no value is finite.
        interval: Half the width of the mean's 95 % confidence interval (Student's t over the images); None for fewer
            than two.
        count: How many values were finite.
        left_out: The others, by image.
        logged: The mean of all values, as BasicSR's log has it.
    """

    value: float
    interval: float | None
    count: int
    left_out: dict[str, float]
    logged: float

    @classmethod
    def of(cls, values: dict[str, float]) -> 'Mean':
        """Of values by image."""
        finite = [value for value in values.values() if math.isfinite(value)]
        count = len(finite)
        # Summed one by one, as BasicSR does: the last digit logged must be ours too.
        mean = sum(finite) / count if count else math.nan
        interval = None
        if count > 1:
            variance = sum((value - mean) ** 2 for value in finite) / (count - 1)
            interval = float(student.ppf((1 + CONFIDENCE) / 2, count - 1)) * math.sqrt(variance / count)
        left_out = {image: value for image, value in values.items() if not math.isfinite(value)}
        return cls(mean, interval, count, left_out, sum(values.values()) / len(values) if values else math.nan)


@dataclass(frozen=True)
class Pair:
    """A PSNR and the SSIM that goes with it, as ``val: metrics`` names them, and in words what they are."""

    psnr: str
    ssim: str | None
    protocol: str


@dataclass
class Run:
    """One test.

    Attributes:
        folder: Where its files are.
        info: What ``run.json`` says.
        images: The records of each dataset, in the dataset's order; ``key`` is the image's name, with its number where
            several images of the dataset have that name.
        notes: What a reader should know about missing or odd results.
    """

    folder: Path
    info: dict[str, Any]
    images: dict[str, list[dict[str, Any]]]
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.info['name']

    @property
    def options(self) -> dict[str, Any]:
        return self.info['options']

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """By name: BasicSR's ``type`` and parameters."""
        return self.info['metrics']

    @property
    def paper(self) -> dict[str, Any]:
        """``table`` and ``row`` of the paper that the run reproduces, or nothing."""
        return self.info.get('paper') or {}

    @cached_property
    def pairs(self) -> list[Pair]:
        """PSNR with SSIM, of one family and with the same parameters."""
        found = []
        for name, metric in self.metrics.items():
            if metric['type'] not in ('calculate_psnr', 'calculate_psnr_release'):
                continue
            partner = metric | {'type': metric['type'].replace('psnr', 'ssim')}
            ssim = self.named(partner)
            protocol = describe_metric(metric)
            found.append(Pair(name, ssim, protocol.replace('psnr', 'psnr/ssim') if ssim else protocol))
        return found

    def values(self, dataset: str, metric: str, which: str = 'metrics') -> dict[str, float]:
        """A metric by image: of the restored images (``metrics``), the degraded ones (``input``) or their ``gain``."""
        records = self.images.get(dataset, [])
        if which == 'gain':
            return {
                record['key']: record['metrics'][metric] - record['input'][metric]
                for record in records
                if metric in record['metrics'] and metric in record['input']
            }
        return {record['key']: record[which][metric] for record in records if metric in record[which]}

    def named(self, metric: dict[str, Any]) -> str | None:
        """What this run calls a metric that another run may call otherwise; None if it has not measured it."""
        wanted = describe_metric(metric)
        return next((name for name, candidate in self.metrics.items() if describe_metric(candidate) == wanted), None)

    def harm(self, dataset: str) -> Harm | None:
        """By the first PSNR; None without one, or without inputs."""
        if not self.pairs:
            return None
        metric = self.pairs[0].psnr
        return Harm.of(self.values(dataset, metric), self.values(dataset, metric, 'input'))

    def mean(self, dataset: str, metric: str | None, which: str = 'metrics') -> Mean | None:
        """None without values."""
        values = self.values(dataset, metric, which) if metric else {}
        return Mean.of(values) if values else None

    def making(self, dataset: str) -> tuple[str | None, int, int]:
        """How the inputs were made: noise protocol (None where nothing was drawn), crop multiple and seed."""
        record = self.images[dataset][0]
        drawn = record['protocol'] is not None
        return record['protocol'], record['crop_multiple'], record['seed'] if drawn else 0

    def checksums(self, dataset: str) -> dict[str, int]:
        """Of the degraded images that the network was given."""
        return {record['key']: record['lq_crc32'] for record in self.images[dataset]}


def describe_metric(metric: dict[str, Any]) -> str:
    """The metric's registered name, with the parameters that make it another one than the colour one of all pixels."""
    quiet = {'crop_border': 0, 'test_y_channel': False, 'better': metric.get('better')}
    changed = [
        f'{key}={value}' for key, value in sorted(metric.items()) if key != 'type' and quiet.get(key, ...) != value
    ]
    return metric['type'] + (f' ({", ".join(changed)})' if changed else '')


def describe_making(protocol: str | None, crop_multiple: int, seed: int) -> str:
    """A dataset's protocol in words."""
    parts = [f'{protocol} noise'] if protocol else []
    if seed:
        parts.append(f'seed {seed}')
    parts.append(f'cropped to multiples of {crop_multiple}' if crop_multiple > 1 else 'not cropped')
    return ', '.join(parts)


def read_runs(folders: Iterable[str]) -> list[Run]:
    """Read several tests' folders.

    Raises:
        InputError: A folder or file is missing or damaged, holds no metrics, or two tests have the same name.
    """
    runs: dict[str, Run] = {}
    for folder in folders:
        run = read_run(Path(folder))
        if run.name in runs:
            raise InputError(
                f'{runs[run.name].folder} and {run.folder} are two runs named {run.name!r}, which no table could tell '
                'apart: give them one at a time, or test again with another name (--force_yml name=...)'
            )
        runs[run.name] = run
    return list(runs.values())


def read_run(folder: Path) -> Run:
    """Read one test's folder; see :func:`read_runs`."""
    if not folder.is_dir():
        raise InputError(f'there is no folder {folder}: give the folder of a test, results/NAME')
    path = folder / 'run.json'
    info = _read_json(_text(path), str(path))
    _check_info(info, path)
    images = _read_images(folder / 'per_image.jsonl')
    run = Run(folder, info, images)
    expected = [opt.get('name') for opt in (info['options'].get('datasets') or {}).values()]
    for name in expected:
        if name not in images:
            run.notes.append(f'{run.name}: no results of the dataset {name}. Was the test interrupted?')
    for name, records in images.items():
        numbers = [record['index'] for record in records]
        count = records[0].get('images') or 0  # of the dataset; without it, an end that is missing cannot be seen
        of = f'{count}' if count > numbers[-1] else f'first {numbers[-1] + 1}'
        lost = max(count, numbers[-1] + 1) - len(numbers)
        if lost:
            first_lost = next((place for place, number in enumerate(numbers) if place != number), len(numbers))
            run.notes.append(
                f'{run.name}: {lost} of the {of} images of {name} have no results (the first is '
                f'number {first_lost}). Was the test interrupted, or per_image.jsonl edited?'
            )
        makings = {(record['protocol'], record['crop_multiple'], record['seed']) for record in records}
        if len(makings) > 1:
            raise InputError(f'{folder / "per_image.jsonl"}: the images of {name} were made under several protocols')
    if not run.pairs:
        run.notes.append(f'{run.name}: no PSNR was measured (calculate_psnr in val:metrics), so no table has its rows.')
    for name, records in images.items():
        for metric in run.metrics:
            for which, label in (('metrics', ''), ('input', ' of the input')):
                mean = run.mean(name, metric, which)
                known = len(run.values(name, metric, which))
                if 0 < known < len(records):
                    run.notes.append(
                        f'{run.name}: {metric}{label} was measured on {known} of the {len(records)} images of {name} '
                        'only, and its mean is over these. Was per_image.jsonl edited?'
                    )
                if mean and mean.left_out:
                    first, value = next(iter(mean.left_out.items()))
                    run.notes.append(
                        f'{run.name}: {metric}{label} is not finite for {len(mean.left_out)} of the '
                        f'{len(run.images[name])} images of {name} (the first is {first}: {value}). They are left out '
                        f"of the mean, marked *; the log's mean is {mean.logged}."
                    )
    return run


def _check_info(info: Any, path: Path) -> None:
    for key, kind in (('name', str), ('options', dict), ('metrics', dict)):
        if not isinstance(info, dict) or not isinstance(info.get(key), kind):
            raise InputError(f'{path} has no `{key}`: it is not what a test of this package writes; test again')
    if not info['metrics']:
        raise InputError(f'{path}: the test measured nothing; set val:metrics in its option file and test again')
    parts = {
        **{key: (info.get(key), dict | None) for key in ('network', 'checkpoint', 'versions')},
        'parameters': (info.get('parameters'), int | None),
        **{f'options:{key}': (info['options'].get(key), dict | None) for key in ('datasets', 'val')},
        **{f'metrics:{name}': (metric, dict) for name, metric in info['metrics'].items()},
    }
    _check_kinds(parts, path)
    paper = info.get('paper') or {}
    if (
        not isinstance(paper, dict)
        or paper.keys() - {'table', 'row'}
        or not isinstance(paper.get('table'), int | str | None)
    ):
        raise InputError(
            f'{path} has {paper!r} as `paper`, which should be {{table: ..., row: ...}}: correct the option file and '
            'test again'
        )
    inner: dict[str, tuple[Any, Any]] = {
        f'metrics:{name}:type': (metric.get('type'), str) for name, metric in info['metrics'].items()
    }
    for name, opt in (info['options'].get('datasets') or {}).items():
        inner[f'options:datasets:{name}'] = (opt, dict)
    for key in ('path', 'sha256') if info.get('checkpoint') else ():
        inner[f'checkpoint:{key}'] = (info['checkpoint'].get(key), str)
    _check_kinds(inner, path)


def _check_kinds(parts: dict[str, tuple[Any, Any]], where: object) -> None:
    for key, (value, kind) in parts.items():
        if not isinstance(value, kind):
            raise InputError(
                f'{where} has {value!r} as `{key}`: it is not what a test of this package writes; test again'
            )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8')
    except FileNotFoundError as error:
        raise InputError(
            f'there is no {path}: a test with this package (model_type AirNetModel, RestorationModel, NoRestoration or '
            'CBM3D) writes it; test again'
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path} cannot be read: {error}. Test again.') from error


def _read_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f'{where} is not whole JSON ({error}): the file was cut off or edited; test again') from error


def _read_images(path: Path) -> dict[str, list[dict[str, Any]]]:
    images: dict[str, dict[int, dict[str, Any]]] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        where = f'{path}, line {number},'
        record = _read_json(line, where)
        missing = [key for key in RECORD_KEYS if not isinstance(record, dict) or key not in record]
        if missing:
            raise InputError(f'{where} has no `{missing[0]}`: it is not what a test of this package writes; test again')
        _check_kinds({key: (record.get(key), kind) for key, kind in (RECORD_KEYS | OPTIONAL_KEYS).items()}, where)
        if record['index'] < 0:
            raise InputError(
                f'{where} has an `index` below 0: it is not what a test of this package writes; test again'
            )
        for which in ('metrics', 'input'):
            try:
                record[which] = {name: float(value) for name, value in record[which].items()}
            except (TypeError, ValueError) as error:
                raise InputError(f'{where} `{which}` holds something that is no number: {error}; test again') from error
        known = images.setdefault(record['dataset'], {})
        if record['index'] in known:
            raise InputError(
                f'{where} has image {record["index"]} of {record["dataset"]} a second time: two tests wrote to '
                f'{path.parent} at once; test again'
            )
        known[record['index']] = record
    if not images:
        raise InputError(f'{path} is empty: the test was interrupted before its first image; test again')
    # Several processes write in the order in which they finish.
    found = {name: [records[index] for index in sorted(records)] for name, records in images.items()}
    for records in found.values():
        times = Counter(record['image'] for record in records)
        for record in records:
            name = record['image']
            record['key'] = name if times[name] == 1 else f'{name} (number {record["index"]})'
    return found
