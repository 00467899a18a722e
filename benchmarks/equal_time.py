"""Networks trained for the same processor time on the same patches, then tested alike.

    python benchmarks/equal_time.py --datasets datasets/reference                     all networks, seeds 0 and 1
    python benchmarks/equal_time.py --datasets datasets/reference --networks dncnn --seeds 1

Each training run is the project's own program on one thread, data included, with an option file of options/equal_time/.
Short runs first measure a network's seconds of processor time per iteration; these decide how many iterations fit into
the budget, and all lengths of the option file (learning rate schedule, warm-up) are scaled to them. The time that a run
really took, all of its processes together, is recorded and stands in the table.

Every call resumes what --out holds; Ctrl-C or SIGTERM saves the run at work. Each piece of a run starts the program
anew, which counts. Measure the iterations (--measure) on a quiet machine: beside other programs each costs more.
datasets_prep/reference.sh makes the data. The table of all runs that are complete is OUT/table.md, and OUT/table.json.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

import airnet_basicsr.plugin  # noqa: F401 (repairs BasicSR, which is imported below)
from airnet_basicsr.errors import InputError, end_in_one_line
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.plugin.models.interruption import EXIT_STATUS
from airnet_basicsr.plugin.options import load_options
from airnet_basicsr.report.runs import Run, read_run

OPTIONS = Path(__file__).resolve().parents[1] / 'options'
NETWORKS = [path.stem.removeprefix('train_') for path in sorted((OPTIONS / 'equal_time').glob('train_*.yml'))]
DATASETS = 'datasets/reference/'  # as the option files name them
ONE_THREAD = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENCV_FOR_THREADS_NUM'), '1')
LEFT_OUT = ('clean_Rain100L', 'clean_SOTS', 'clean_photos')  # of the test sets
LEAST = 0.02  # share of the budget that a measurement of iterations takes at least


class Comparison:
    """The runs below one folder."""

    def __init__(self, out: Path, datasets: Path, budget: float) -> None:
        self.out, self.datasets, self.budget = out.resolve(), datasets.resolve(), budget
        self.out.mkdir(parents=True, exist_ok=True)
        for needed in ('Kodak12.lmdb', 'weather/weather.json'):
            if not (self.datasets / needed).exists():
                raise InputError(
                    f'--datasets {datasets}: there is no {needed} in it; datasets_prep/reference.sh makes the data'
                )
        before = self.record('budget')
        if before and before['seconds'] != budget:
            raise InputError(
                f'--out {out} holds a comparison of {before["seconds"]:g} seconds each, not {budget:g}: choose another'
            )
        self.keep('budget', {'seconds': budget})

    # ---- Records -------------------------------------------------------------------------------------------------

    def record(self, name: str) -> dict[str, Any]:
        """What was kept under a name; empty if nothing was."""
        path = self.out / f'{name}.json'
        return json.loads(path.read_text()) if path.is_file() else {}

    def keep(self, name: str, record: dict[str, Any]) -> None:
        write_whole(self.out / f'{name}.json', (json.dumps(record, indent=1) + '\n').encode())

    # ---- Runs ----------------------------------------------------------------------------------------------------

    def program(self, which: str, name: str, options: dict[str, Any], *arguments: str) -> tuple[int, float]:
        """Run ``airnet train`` or ``airnet test``; its exit status and its seconds of processor time."""
        plugin = "plugin: !!python/name:airnet_basicsr.plugin.__name__ ''\n"
        file = self.out / f'{which}_{name}.yml'
        plain = {key: value for key, value in self.placed(options).items() if key != 'plugin'}
        file.write_text(plugin + yaml.safe_dump(plain | {'name': name}, sort_keys=False))
        command = [sys.executable, '-m', f'airnet_basicsr.{which}', '-opt', file.name, *arguments]
        with open(file.with_suffix('.log'), 'ab') as log:
            # Of its own session: a Ctrl-C comes here alone, and from here once.
            child = subprocess.Popen(
                command,
                cwd=self.out,
                env=os.environ | ONE_THREAD,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: child.send_signal(number))
        _, status, usage = os.wait4(child.pid, 0)  # with the processes that it has started and waited for
        child.returncode = os.waitstatus_to_exitcode(status)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if child.returncode not in (0, EXIT_STATUS):
            if child.returncode < 0:
                sys.exit(128 - child.returncode)
            tail = file.with_suffix('.log').read_text(errors='replace').strip().splitlines()[-1:]
            raise InputError(
                f'{" ".join(command[1:])} in {self.out} ended with status {child.returncode}: {"".join(tail)}'
            )
        return child.returncode, usage.ru_utime + usage.ru_stime

    def placed(self, options: Any) -> Any:
        """The options with the data where they are."""
        if isinstance(options, dict):
            return {key: self.placed(value) for key, value in options.items()}
        if isinstance(options, list):
            return [self.placed(value) for value in options]
        if isinstance(options, str) and options.startswith(DATASETS):
            return str(self.datasets / options.removeprefix(DATASETS))
        return options

    def speed(self, network: str) -> dict[str, float]:
        """Seconds of processor time of a network's start and of each iteration, measured once."""
        name = f'speed_{network}'
        found = self.record(name)
        if found:
            return found
        counts, seconds = [8], []
        while True:
            status, taken = self.program('train', name, scaled(network, counts[-1], seed=0))
            shutil.rmtree(self.out / 'experiments' / name)
            if status:
                sys.exit(status)
            seconds.append(taken)
            if seconds[-1] - seconds[0] > LEAST * self.budget:
                break
            counts.append(4 * counts[-1])
        each = (seconds[-1] - seconds[0]) / (counts[-1] - counts[0])
        found = {'start': max(0.0, seconds[0] - each * counts[0]), 'iteration': each}
        self.keep(name, found)
        return found

    def train(self, network: str, seed: int) -> None:
        """Train for the budget, or what is left of it."""
        name = f'{network}_seed{seed}'
        record = self.record(name)
        if record.get('trained'):
            return
        if not record:
            speed = self.speed(network)
            iterations = int((self.budget - speed['start']) / speed['iteration'])
            if iterations < 1:
                raise InputError(f'--budget {self.budget:g}: {network} needs {speed["start"]:.0f} seconds to start')
            record = {'network': network, 'seed': seed, 'iterations': iterations, 'seconds': [], 'at_work': False}
        elif record['at_work']:
            print(f'{name} was ended without saving, and its time is not known: it starts anew', flush=True)
            shutil.rmtree(self.out / 'experiments' / name, ignore_errors=True)
            record['seconds'] = []
        self.keep(name, record | {'at_work': True})
        print(f'{name}: {record["iterations"]} iterations', flush=True)
        status, taken = self.program('train', name, scaled(network, record['iterations'], seed), '--auto_resume')
        record['seconds'].append(taken)
        self.keep(name, record | {'trained': status == 0, 'at_work': False})
        if status:
            sys.exit(status)

    def test(self, network: str, seed: int) -> None:
        """Test a trained network as the one that ships is tested, but for some sets and metrics."""
        name = f'{network}_seed{seed}'
        record = self.record(name)
        if record.get('tested'):
            return
        options, trained = load_options(OPTIONS / 'reference/test_reference.yml'), load_options(_file(network))
        options |= {key: trained[key] for key in ('model_type', 'network_g')}
        options['path'] |= {'pretrain_network_g': f'experiments/{name}/models/net_g_latest.pth'}
        # Eight tests take hours otherwise.
        options['datasets'] = {
            phase: data for phase, data in options['datasets'].items() if data['name'] not in LEFT_OUT
        }
        options['val']['metrics'] = {name: options['val']['metrics'][name] for name in ('psnr', 'ssim')}
        options['val']['save_img'] = False
        status, _ = self.program('test', name, options)
        if status:
            sys.exit(status)
        self.keep(name, record | {'tested': True})

    # ---- The table -----------------------------------------------------------------------------------------------

    def table(self) -> None:
        """Write the table of all complete runs."""
        rows = []
        for network in NETWORKS:
            records = [self.record(path.stem) for path in sorted(self.out.glob(f'{network}_seed*.json'))]
            records = [record for record in records if record.get('tested')]
            runs = [read_run(self.out / 'results' / f'{network}_seed{record["seed"]}') for record in records]
            if runs and not rows:
                rows.append({'network': 'input'} | _measured(runs[:1], 'input'))
            if runs:
                rows.append(
                    {
                        'network': network,
                        'parameters': runs[0].info['parameters'],
                        'seeds': [record['seed'] for record in records],
                        'iterations': [record['iterations'] for record in records],
                        'seconds': [sum(record['seconds']) for record in records],
                    }
                    | _measured(runs, 'metrics')
                )
        self.keep('table', {'budget': self.budget, 'rows': rows})
        if rows:
            text = _markdown(rows, self.budget)
            write_whole(self.out / 'table.md', text.encode())
            print(text, end='')


def _file(network: str) -> Path:
    return OPTIONS / f'equal_time/train_{network}.yml'


def scaled(network: str, iterations: int, seed: int) -> dict[str, Any]:
    """The network's options for a training run of this length."""
    options = load_options(_file(network))
    options['manual_seed'] = seed
    train = options['train']
    share = iterations / train['total_iter']
    for key in ('warmup_iter', 'encoder_warmup_iter'):
        if key in train:
            train[key] = round(share * train[key])
    train['total_iter'] = iterations
    train['scheduler']['periods'] = [iterations]
    options['logger'] |= {'save_checkpoint_freq': max(1, iterations // 10), 'print_freq': max(1, iterations // 20)}
    return options


def _measured(runs: list[Run], which: str) -> dict[str, Any]:
    """PSNR and SSIM by dataset and seed; harm to degraded pictures, and what becomes of clean ones."""
    degraded = [name for name in runs[0].images if not name.startswith('clean_')]
    clean = [name for name in runs[0].images if name.startswith('clean_')]
    found: dict[str, Any] = {
        metric: {name: [run.mean(name, metric, which).value for run in runs] for name in degraded}
        for metric in ('psnr', 'ssim')
    }
    if which == 'metrics':
        harm = [[run.harm(name) for name in degraded] for run in runs]
        found['made_worse'] = [
            sum(each.share * each.count for each in of_run) / sum(each.count for each in of_run) for of_run in harm
        ]
        back = [[run.harm(name) for name in clean] for run in runs]
        found['clean_given_back'] = [
            sum(each.given_back * each.count for each in of_run) / sum(each.count for each in of_run) for of_run in back
        ]
    return found


def _spread(values: list[float], digits: int, factor: float = 1) -> str:
    """The mean, and half the range between the seeds."""
    mean = factor * statistics.mean(values)
    half = factor * (max(values) - min(values)) / 2
    return f'{mean:.{digits}f} ± {half:.{digits}f}' if len(values) > 1 else f'{mean:.{digits}f}'


def _markdown(rows: list[dict[str, Any]], budget: float) -> str:
    names = list(rows[0]['psnr'])
    heads = ['network', 'parameters', 'seeds', 'iterations', 'processor seconds', *names, 'made worse', 'clean']
    lines = [
        f'PSNR in dB, mean ± half of the range over the seeds, after {budget:g} seconds of processor time. Made worse: '
        'share of these pictures that lose more than 0.05 dB. Clean: PSNR at which clean pictures come back.',
        '',
        f'| {" | ".join(heads)} |',
        f'|{" --- |" * len(heads)}',
    ]
    for row in rows:
        psnr = [_spread(row['psnr'][name], 2) for name in names]
        if row['network'] == 'input':
            cells = ['input', '', '', '', '', *psnr, '', '']
        else:
            cells = [row['network'], f'{row["parameters"]:,}', ', '.join(map(str, row['seeds']))]
            cells += [_spread(row['iterations'], 0), _spread(row['seconds'], 0), *psnr]
            cells += [_spread(row['made_worse'], 1, 100) + ' %', _spread(row['clean_given_back'], 2)]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def main() -> None:
    end_in_one_line()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--datasets', type=Path, required=True, help='folder with Kodak12.lmdb and weather/')
    parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=NETWORKS)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1])
    parser.add_argument(
        '--budget', type=float, default=1800, help='seconds of processor time of each run (default: 1800)'
    )
    parser.add_argument('--out', type=Path, default=Path('results/equal_time'))
    parser.add_argument(
        '--measure', action='store_true', help='only measure the iterations, while the machine is quiet'
    )
    args = parser.parse_args()
    comparison = Comparison(args.out, args.datasets, args.budget)
    for network in args.networks:
        if args.measure:
            print(network, comparison.speed(network))
            continue
        for seed in args.seeds:
            comparison.train(network, seed)
            comparison.test(network, seed)
    comparison.table()


if __name__ == '__main__':
    main()
