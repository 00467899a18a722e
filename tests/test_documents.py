"""The documents say what is so: their files run, their commands have those options, their links lead somewhere."""

import json
import re
import shlex
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import ROOT, run_python, write_image

from airnet_basicsr.plugin.option_page import json_schema, page

PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').rglob('*.md'))]
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
# A guide's training runs, shortened.
SHORTER = {
    'total_iter: 600': 'total_iter: 2',
    'total_iter: 1000': 'total_iter: 2',
    'warmup: 50': 'warmup: 1',
    'periods: [600]': 'periods: [2]',
    'val_freq: 500': 'val_freq: 2',
    'gt_size: 64': 'gt_size: 32',
}


def commands(document):
    """What the page's console blocks have behind their prompts, without comments."""
    for kind, _, text in BLOCK.findall(document.read_text()):
        if kind == 'console':
            yield from (shlex.split(line[2:], comments=True) for line in text.splitlines() if line.startswith('$ '))


def airnet_commands():
    for document in PAGES:
        for words in commands(document):
            words = [word for word in words if not re.match(r'[A-Z_]+=', word)]
            if words[0] == 'airnet':
                yield document.name, words[1:]


def test_every_command_of_the_documents_has_its_options():
    used = list(airnet_commands())
    assert len(used) > 20
    parsers = {tuple(words[: 2 if words[0] in ('model', 'prepare') else 1]) for _, words in used}
    # In one process: each of them imports PyTorch.
    program = """
import sys
from airnet_basicsr.__main__ import main
for words in sys.argv[1:]:
    print('\\f' + words)
    sys.argv[:] = ['airnet', *words.split(), '--help']
    try:
        main()
    except SystemExit as end:
        assert not end.code, words
"""
    done = run_python('-c', program, *(' '.join(words) for words in sorted(parsers)), cwd=ROOT)
    assert done.returncode == 0, done.stdout
    helps = {tuple(part.split('\n')[0].split()): part for part in done.stdout.split('\f')[1:]}
    assert set(helps) == parsers
    for document, words in used:
        told = next(text for command, text in helps.items() if tuple(words[: len(command)]) == command)
        for option in (word for word in words if re.match(r'--?[a-z]', word)):
            known = re.search(rf'(?<![\w-]){re.escape(option)}(?![\w-])', told)
            assert known, f'{document}: airnet {" ".join(words)}'


@pytest.mark.parametrize('document', PAGES, ids=lambda document: document.stem)
def test_files_that_a_page_names_are_there(document):
    text = document.read_text()
    for link in re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', text):
        assert (document.parent / link).exists(), link
    for name in re.findall(
        r'(?<![\w/.-])((?:options|tests|benchmarks|datasets_prep|airnet_basicsr)/[\w/.]+\.\w+)', text
    ):
        assert (ROOT / name).exists(), name


def test_the_page_and_the_schema_of_all_keys_are_up_to_date():
    assert (ROOT / 'docs/option_keys.md').read_text().strip() == page().strip(), 'make keys'
    assert json.loads((ROOT / 'docs/option_keys.schema.json').read_text()) == json_schema(), 'make keys'


def pictures(folder, photos, names):
    for name in names:
        write_image(folder / f'{name}.png', photos[name])


@pytest.fixture
def place(tmp_path, photos):
    """A folder with the pictures that the guides begin with."""
    names = list(photos)
    snowy = {}
    for name, photo in photos.items():
        flakes = np.random.default_rng(len(name)).random(photo.shape[:2]) < 0.02
        snowy[name] = np.where(cv2.dilate(np.uint8(flakes), np.ones((3, 3)))[..., None] > 0, 230, photo).astype(
            np.uint8
        )
    pictures(tmp_path / 'my/clean', photos, names[:5])
    pictures(tmp_path / 'my/snowy', snowy, names[:5])
    pictures(tmp_path / 'my/val/clean', photos, names[5:])
    pictures(tmp_path / 'my/val/snowy', snowy, names[5:])
    pictures(tmp_path / 'my/photos', photos, names[:2])
    return tmp_path


def shape(line):
    """A line of output without its figures: times, sizes and PSNR differ."""
    return re.sub(r'\s+', ' ', re.sub(r'\d[\d,.:]*(?:e[+-]\d+)?', '0', line)).strip()


@pytest.mark.parametrize('guide', ['own_data', 'own_degradation', 'own_network'])
def test_a_guide_works_as_it_is_written(guide, place):
    text = (ROOT / f'docs/guides/{guide}.md').read_text()
    for kind, name, content in BLOCK.findall(text):
        if name:
            for long, short in SHORTER.items():
                content = content.replace(long, short)
            (place / name).write_text(content)
        if kind == 'console':
            for command, expected in re.findall(r'^\$ (.*)\n((?:(?!\$ ).*\n)*)', content, re.MULTILINE):
                follow(command, expected, place)


def follow(command, expected, folder):
    """Run a command as a reader would; every line that the guide shows must be printed, in that order."""
    airnet = f'python() {{ PYTHONPATH="$PYTHONPATH:{ROOT}" {shlex.quote(sys.executable)} "$@"; }}\n'
    airnet += 'airnet() { python -m airnet_basicsr "$@"; }\n'
    done = subprocess.run(
        ['bash', '-c', airnet + command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f'{command}\n{done.stdout[-3000:]}'
    printed = iter([shape(line) for line in re.split(r'[\n\r]', done.stdout)])
    for line in expected.splitlines():
        assert line == '...' or shape(line) in printed, f'{command}\nnot printed: {line}\n{done.stdout[-3000:]}'


def test_no_guide_lost_its_files():
    titled = [name for document in PAGES for _, name, _ in BLOCK.findall(document.read_text()) if name]
    assert len(titled) >= 7 and len(set(titled)) == len(titled)
