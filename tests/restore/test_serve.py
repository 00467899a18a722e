"""The page of `airnet serve`, in a browser as its users have it, beside what the command makes of the same pictures."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_python
from PIL import Image
from skimage import data
from small_models import save, small_network

from airnet_basicsr.restore.command import main as restore

pytest.importorskip('gradio', reason='needs airnet-basicsr[web]')
PATIENCE = 180  # seconds, for machines with other things to do
# Runs the command, and writes down what it connects to.
PROGRAM = """
import sys
def hook(event, args):
    if event == 'socket.connect' and isinstance(args[1], tuple):
        print('connects to', args[1][0], file=sys.stderr, flush=True)
sys.addaudithook(hook)
from airnet_basicsr.__main__ import main
sys.argv[0] = 'airnet'
sys.exit(main())
"""


class Server:
    """`airnet serve` as a process of its own; its copies of pictures lie in ``folder``."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder, self.log = folder, folder.with_suffix('.log')
        folder.mkdir()
        settings = os.environ | {'PYTHONPATH': str(ROOT), 'TMPDIR': str(folder), 'PYTHONUNBUFFERED': '1'} | environment
        with self.log.open('w') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-c', PROGRAM, 'serve', *arguments], env=settings, stdout=log, stderr=log
            )
        ends = time.monotonic() + PATIENCE
        while not (found := re.search(r'AirNet is at (http://\S+)', self.log.read_text())):
            assert self.process.poll() is None and time.monotonic() < ends, self.log.read_text()
            time.sleep(0.2)
        self.address = found[1]

    def resident(self) -> int:
        """Memory in use, in bytes."""
        return 1024 * int(re.search(r'VmRSS:\s+(\d+)', Path(f'/proc/{self.process.pid}/status').read_text())[1])

    def end(self, how: int = signal.SIGINT) -> int:
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    served = Server(tmp_path_factory.mktemp('serve') / 'copies')
    yield served
    if served.process.poll() is None:
        served.end()


@pytest.fixture
def visit(browser):
    """Opens the page as somebody who was never there, and records the hosts that anything is asked of."""
    contexts, hosts = [], set()

    def open_page(address, width=1280, **options):
        context = browser.new_context(viewport={'width': width, 'height': 900}, **options)
        context.set_default_timeout(1000 * PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on('request', lambda request: hosts.add(re.match(r'\w+:/*([^/]*)', request.url)[1]))
        page.goto(address)
        page.get_by_role('button', name='Restore').wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert {host for host in hosts if not host.startswith('127.0.0.1:')} == set()


def give(page, *pictures):
    page.locator('input[type=file]').first.set_input_files([str(picture) for picture in pictures])
    for picture in pictures:
        page.get_by_test_id('download-link').locator(f'xpath=self::*[@download="{picture.name}"]').wait_for()


def progress(page, text):
    """Wait until the page says so."""
    page.wait_for_function('text => document.querySelector("#progress textarea").value.includes(text)', arg=text)


def downloaded(page, button, folder):
    with page.expect_download() as download:
        page.get_by_role('button', name=button).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


@pytest.fixture
def album(tmp_path):
    """Small pictures, of which little is usual."""
    folder = tmp_path / 'album'
    folder.mkdir()
    photo = data.astronaut()[:96, 150:254]
    noise = np.random.default_rng(0).normal(0, 25, photo.shape)
    noisy = np.clip(photo + noise, 0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[0x010F] = 'A camera'
    Image.fromarray(noisy).save(folder / 'Grüße (1).jpg', exif=exif, dpi=(300, 300))
    Image.fromarray(np.uint16(noisy[..., 1]) * 257).save(folder / 'deep.png')
    Image.fromarray(np.dstack((noisy, noisy[..., 0]))).save(folder / 'alpha.tif')
    return folder


@pytest.mark.parametrize('width', [1280, 400])
def test_dropped_compared_and_downloaded_as_the_command_writes_it(server, visit, album, tmp_path, width):
    page = visit(server.address, width)
    content = (album / 'Grüße (1).jpg').read_bytes()
    dropped = page.evaluate_handle(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], 'Grüße (1).jpg', {type: 'image/jpeg'}));
            return data;
        }""",
        list(content),
    )
    page.locator('#pictures button').first.dispatch_event('drop', {'dataTransfer': dropped})
    page.get_by_test_id('download-link').wait_for()
    page.get_by_role('button', name='Restore').click()
    progress(page, '1 of 1 restored')
    page.get_by_text('What the picture suffers from').wait_for()
    assert page.evaluate('document.documentElement.scrollWidth') <= width

    # Left of the divider lies what was given, right of it what was made of it.
    view = page.locator('#comparison')
    view.scroll_into_view_if_needed()
    divider = view.locator('[role=none].outer, .outer').first
    start = divider.bounding_box()
    x, y = start['x'] + start['width'] / 2, start['y'] + start['height'] / 2
    right = x + 0.15 * width
    before = view.screenshot()
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(right, y, steps=5)
    page.mouse.up()
    for _ in range(50):  # a busy machine follows the mouse late
        moved = divider.bounding_box()
        if abs(moved['x'] + moved['width'] / 2 - right) < 15:
            break
        page.wait_for_timeout(100)
    assert abs(moved['x'] + moved['width'] / 2 - right) < 15
    assert view.screenshot() != before

    got = downloaded(page, 'Download Grüße (1).jpg', tmp_path)
    assert restore([str(album / 'Grüße (1).jpg'), '-o', str(tmp_path / 'command')]) == 0
    assert got.read_bytes() == (tmp_path / 'command/Grüße (1).jpg').read_bytes()
    assert got.read_bytes() != content


def test_all_at_once_with_a_broken_one_among_them(server, visit, album, tmp_path):
    (album / 'broken.png').write_bytes((album / 'deep.png').read_bytes()[:900])
    page = visit(server.address)
    give(page, *sorted(album.iterdir()))
    page.get_by_label('number input for Strength').fill('0.5')
    page.get_by_label('number input for Strength').blur()
    page.get_by_role('button', name='Restore').click()
    progress(page, '3 of 4 restored, 1 failed\nbroken.png is damaged')
    archive = zipfile.ZipFile(downloaded(page, 'Download all', tmp_path))
    out = tmp_path / 'command'
    assert restore([str(album), '-o', str(out), '--strength', '0.5']) == 1
    assert {name: archive.read(name) for name in archive.namelist()} == {p.name: p.read_bytes() for p in out.iterdir()}


def test_two_people_take_turns_and_see_their_place(server, visit, album, tmp_path):
    large = np.tile(np.asarray(Image.open(album / 'Grüße (1).jpg')), (4, 4, 1))
    for name in 'abcd':
        Image.fromarray(np.roll(large, ord(name))).save(album / f'{name}.png')
    first, second = visit(server.address), visit(server.address)
    give(first, *(album / f'{name}.png' for name in 'abcd'))
    give(second, album / 'deep.png')
    first.get_by_role('button', name='Restore').click()
    progress(first, '0 of 4 restored')
    second.get_by_role('button', name='Restore').click()
    second.get_by_text(re.compile('queue: 1/1')).first.wait_for()  # more than one part of the page may show it
    progress(second, '1 of 1 restored')
    # Between two of the other's pictures, not after the last.
    assert first.get_by_role('button', name='Stop').is_visible()
    got = downloaded(second, 'Download deep.png', tmp_path)
    first.get_by_role('button', name='Stop').click()
    progress(first, 'not done')
    first.get_by_role('button', name='Restore').wait_for()
    assert restore([str(album / 'deep.png'), '-o', str(tmp_path / 'command')]) == 0
    assert got.read_bytes() == (tmp_path / 'command/deep.png').read_bytes()


def test_ten_in_a_row_leave_memory_flat(server, visit, album):
    for i in range(10):
        shutil.copy(album / 'Grüße (1).jpg', album / f'{i}.jpg')
    page = visit(server.address)
    give(page, *(album / f'{i}.jpg' for i in range(10)))
    used = []
    for _ in range(2):
        page.get_by_role('button', name='Restore').click()
        progress(page, '0 of 10 restored')
        progress(page, '10 of 10 restored')
        used.append(server.resident())
    assert used[1] - used[0] < 32 * 2**20


@pytest.mark.slow
def test_a_hundred_megapixels(visit, tmp_path):
    model = save(small_network(num_feat=8), tmp_path / 'model.pth')
    photo = data.astronaut()
    Image.fromarray(np.tile(photo, (20, 20, 1))[:10_000, :10_000]).save(tmp_path / 'large.jpg')
    server = Server(tmp_path / 'copies', '-m', str(model))
    try:
        page = visit(server.address)
        page.set_default_timeout(3_600_000)
        give(page, tmp_path / 'large.jpg')
        page.get_by_role('button', name='Restore').click()
        page.get_by_text(re.compile(r'[1-9]\d*/\d+ tiles')).first.wait_for()
        progress(page, '1 of 1 restored')
        got = downloaded(page, 'Download large.jpg', tmp_path / 'copies')
        assert server.resident() < 4 * 2**30
    finally:
        server.process.kill()
    assert Image.open(got).size == (10_000, 10_000)


def test_the_limit_is_said_and_kept(visit, tmp_path):
    server = Server(tmp_path / 'copies', '--limit', '1')
    try:
        page = visit(server.address)
        page.get_by_text('Pictures, up to 1 MB each').wait_for()
        (tmp_path / 'large.png').write_bytes(bytes(2**20 + 1))
        page.locator('input[type=file]').first.set_input_files(tmp_path / 'large.png')
        page.get_by_text(re.compile('exceeds? (the )?maximum', re.IGNORECASE)).first.wait_for()
    finally:
        server.end()


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM])
def test_the_end_comes_cleanly_in_the_middle_of_a_picture(visit, album, tmp_path, how):
    # A clean picture would be left alone, and the network have nothing to do.
    noisy = np.asarray(Image.open(album / 'Grüße (1).jpg'))
    Image.fromarray(np.tile(noisy, (6, 6, 1))).save(album / 'large.png')
    server = Server(tmp_path / 'copies')
    page = visit(server.address)
    give(page, album / 'large.png')
    page.get_by_role('button', name='Restore').click()
    progress(page, '0 of 1 restored')
    page.get_by_text('1 of 1: large.png').first.wait_for()
    assert server.end(how) == 0
    log = server.log.read_text()
    assert 'Ended.' in log and 'Traceback' not in log
    # Gradio makes an empty folder of its own at its import.
    assert [path for path in server.folder.rglob('*') if path.is_file()] == []
    assert list(server.folder.glob('airnet-serve*')) == []
    assert set(re.findall('connects to (.*)', log)) <= {'127.0.0.1'}


def test_other_hosts_need_the_password(tmp_path):
    server = Server(tmp_path / 'copies', '--host', '0.0.0.0', AIRNET_SERVE_PASSWORD='secret word')
    try:
        log = server.log.read_text()
        assert 'Warning: anyone who reaches 0.0.0.0' in log and 'secret word' not in log
        address = server.address.replace('0.0.0.0', '127.0.0.1')
        with pytest.raises(urllib.error.HTTPError, match='401'):
            urllib.request.urlopen(f'{address}config')
        login = urllib.request.Request(f'{address}login', data=b'username=airnet&password=secret+word')
        with urllib.request.urlopen(login) as answer:
            assert answer.status == 200
    finally:
        server.end()


def test_a_model_that_cannot_be_used_ends_it_before_it_begins(tmp_path):
    done = run_python('-m', 'airnet_basicsr', 'serve', '-m', 'none.pth', cwd=tmp_path)
    assert done.returncode == 1 and done.stdout.strip().splitlines()[-1].startswith('Error: ')
    assert 'none.pth' in done.stdout and 'Traceback' not in done.stdout
