"""``airnet``: one command for everything; its subcommands import what they need when they are used."""

import argparse
import io
import os
import sys
from importlib import import_module
from typing import Any

import airnet_basicsr
from airnet_basicsr.errors import end_in_one_line

# What a subcommand does, and the function that does it with the rest of the command line.
COMMANDS = {
    'restore': ('remove noise, rain and haze from pictures', 'airnet_basicsr.restore.command:main'),
    'serve': ('restore pictures on a page in the browser', 'airnet_basicsr.restore.serve:main'),
    'model': ('inspect, convert, shrink and export model files', 'airnet_basicsr.network.model_files:main'),
    'options': (
        'list and copy the option files for training and testing',
        'airnet_basicsr.prepare.option_files:main',
    ),
    'prepare': ('make and check the datasets that option files name', 'airnet_basicsr.prepare.command:run'),
    'sheet': ('draw samples of the degradations of a training run', 'airnet_basicsr.plugin.sheet:main'),
    'train': ('train a network in BasicSR', 'airnet_basicsr.plugin.training:main'),
    'test': ('test a network in BasicSR', 'airnet_basicsr.plugin.testing:main'),
    'report': ('write tables and a web page from test results', 'airnet_basicsr.report.__main__:main'),
    'score': ('measure folders of restored pictures, from any program', 'airnet_basicsr.report.score:main'),
}
# The one part of `airnet model` that reads datasets, and so needs BasicSR.
REFERENCE = 'airnet_basicsr.plugin.reference:main'


def run(command: str, **arguments: Any) -> int | None:
    """Run a subcommand on ``sys.argv[1:]``; gives its exit status. Every program of this package starts here."""
    # OpenMP's threads spin while they wait for each other, which costs a busy machine most of its time (see
    # docs/performance.md). Its library reads this once, when PyTorch is imported.
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    end_in_one_line()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')  # names of files need not be text
    place = COMMANDS[command][1]
    if command == 'model' and sys.argv[1:2] == ['reference']:
        sys.argv[:2] = ['airnet model reference']
        place = REFERENCE
    module, _, function = place.partition(':')
    status = getattr(import_module(module), function)(**arguments)
    sys.stdout.flush()  # while an error of it is still ours to explain
    return status


def main() -> int | None:
    """The program ``airnet``; gives its exit status."""
    parser = argparse.ArgumentParser(
        prog='airnet',
        description='AirNet: restore pictures; train and test networks in BasicSR.',
        epilog='airnet COMMAND --help describes a command.',
        usage='airnet [-h] [--version] COMMAND ...',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'airnet {airnet_basicsr.__version__}')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND', title='commands')
    for name, (does, _) in COMMANDS.items():
        commands.add_parser(name, help=does, add_help=False)
    # Of a subcommand only the name is parsed here: its options are its own.
    command = parser.parse_args(sys.argv[1:2]).command
    sys.argv[:2] = [f'airnet {command}']
    return run(command)


def restore() -> int | None:
    """The program ``airnet-restore``, which is ``airnet restore``."""
    return run('restore')


def model() -> int | None:
    """The program ``airnet-model``, which is ``airnet model``."""
    return run('model')


if __name__ == '__main__':
    sys.exit(main())
