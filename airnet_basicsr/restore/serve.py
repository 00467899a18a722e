"""``airnet serve``: a page on this machine that does what ``airnet restore`` does, for people who type no commands."""

import argparse
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Before Gradio's import, which reads it.
os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airnet_basicsr.errors import InputError, message_of
from airnet_basicsr.restore import command
from airnet_basicsr.restore.image_files import FORMATS, READ_ONLY, read_picture
from airnet_basicsr.restore.restorer import DEFAULT_MODEL, Restorer

USER = 'airnet'
PASSWORD_VARIABLE = 'AIRNET_SERVE_PASSWORD'
LOCAL = ('127.0.0.1', 'localhost', '::1')
PREVIEW_SIDE = 2000
# Seconds between two looks for files nobody needs, and the age at which they go.
FORGET = (3600, 24 * 3600)
# Beside the page's own: what it shows and downloads (blob:, data:), and scripts and styles that stand in its HTML.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:; frame-ancestors 'self'"
EPILOG = f"""examples:
  airnet serve
  airnet serve -m model.pth other.onnx
  {PASSWORD_VARIABLE}=... airnet serve --host 0.0.0.0

Pictures stay on this machine. The page's copies of them are deleted when the program ends. Ctrl-C ends it.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='airnet serve',
        description='Restore pictures on a page in the browser: drag them in, compare, download.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('-m', '--model', nargs='+', default=[str(DEFAULT_MODEL)], help='models to choose from, as for airnet restore')
    add(
        '--host',
        default='127.0.0.1',
        help="address to listen on; any but this machine's own asks visitors for a password",
    )
    add('--port', type=int, help='default: the first free port from 7860')
    add('--limit', type=int, default=1000, metavar='MB', help='largest file accepted; default: 1000')
    add('--device', help='cpu, cuda, cuda:1, ...; default: the GPU where there is one')
    return parser


class OwnHostOnly:
    """Has browsers load nothing from other hosts, whatever Gradio's page, or a name of a file on it, asks for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message['type'] == 'http.response.start':
                MutableHeaders(scope=message)['Content-Security-Policy'] = POLICY
            await send(message)

        await self.app(scope, receive, send_with_policy)


@dataclass
class Restored:
    """One picture of a batch, and what is told of it."""

    name: str
    file: Path
    views: tuple[str, str]
    """Before and after, as files that browsers show."""
    kinds: dict[str, float] | None
    """Probability of each degradation, where the model can tell."""
    remarks: str


@dataclass
class Batch:
    """The pictures that somebody gave at once."""

    folder: Path
    waiting: list[Path]
    settings: list[str]
    """Options of ``airnet restore``."""
    total: int = 0
    restored: list[Restored] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stopped: bool = False

    def stop(self) -> None:
        self.stopped = True

    def forget(self) -> None:
        self.stopped = True
        shutil.rmtree(self.folder, ignore_errors=True)

    def names(self) -> list[tuple[str, int]]:
        return [(restored.name, i) for i, restored in enumerate(self.restored)]

    def summary(self) -> str:
        left = self.total - len(self.restored) - len(self.failures)
        counts = [f'{len(self.restored)} of {self.total} restored']
        counts += [f'{len(self.failures)} failed'] if self.failures else []
        counts += [f'{left} not done'] if self.stopped and left else []
        return '\n'.join([', '.join(counts), *self.failures])


def restore_next(batch: Batch, device: str | None, progress: Any) -> None:
    """The next picture of ``batch``, by what ``airnet restore`` does."""
    source = batch.waiting.pop(0)
    at = f'{batch.total - len(batch.waiting)} of {batch.total}: {source.name}'
    progress(0, desc=at)

    def watch(done: int, total: int) -> None:
        if batch.stopped:
            raise InputError('stopped')
        progress((done, total), desc=at, unit='tiles')

    folder = batch.folder / str(len(batch.waiting))
    folder.mkdir()
    args = command.parser().parse_args([str(source), '-o', str(folder / 'restored'), *batch.settings])
    done = command.Done([], [], {})
    try:
        restorer = command.restorer_of(args, device)
        args.explain = restorer.explainer is not None
        jobs, failures = command.plan(args)
        done.failures.extend(failures)
        command.run(jobs, restorer, args, done, watch)
    except InputError as error:
        done.failures.append((str(source), message_of(error)))
    # People know their file by its name, not by where this program put it.
    for _, reason in done.failures:
        reason = reason.replace(f'{source.parent}{os.sep}', '')
        batch.failures.append(reason if source.name in reason else f'{source.name}: {reason}')
    if not done.written:
        return
    (job,) = jobs
    remarks, kinds = [], None
    if job.explanation:
        explanation = json.loads(job.explanation.read_text())
        kinds = {kind.replace('_', ' '): share for kind, share in explanation['probabilities'].items()}
        if explanation['kind'] == 'noise':
            remarks.append(f'Noise of about sigma {explanation["sigma"]:.0f}.')
        if explanation['left_alone']:
            remarks.append(f'Left alone: {explanation["left_alone"]}.')
    remarks.extend(f'The new file cannot hold this: {what}.' for what in done.left_out)
    views = [folder / f'{side}.jpg' for side in ('before', 'after')]
    for path, view in zip((source, job.target), views, strict=True):
        picture = read_picture(path)
        image = Image.fromarray(command.for_a_screen(picture.pixels))
        image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        command.write_view(view, np.asarray(image), picture)
    batch.restored.append(
        Restored(job.target.name, job.target, (str(views[0]), str(views[1])), kinds, '\n'.join(remarks))
    )


def _zip(batch: Batch) -> str:
    path = batch.folder / 'restored.zip'
    taken: set[str] = set()
    with zipfile.ZipFile(path, 'w') as file:  # stored: pictures are compressed already
        for restored in batch.restored:
            name, number = restored.name, 1
            while name in taken:
                number += 1
                name = f'{Path(restored.name).stem} {number}{Path(restored.name).suffix}'
            taken.add(name)
            file.write(restored.file, name)
    return str(path)


def _models(names: Sequence[str], device: str | None) -> dict[str, bool]:
    """By name of the file, whether the network is told the noise level.

    Raises:
        InputError: One of them cannot be used.
    """
    told = {}
    for name in names:
        name = os.path.expanduser(name)
        try:
            Restorer(name, device=device)
            told[name] = False
        except InputError as error:
            try:
                Restorer(name, device=device, sigma=25)
            except InputError:
                raise error from None
            told[name] = True
    return told


class Work:
    """What is being done on a page."""

    def __init__(self) -> None:
        self.batches: dict[str | None, Batch] = {}
        """The latest of each visitor."""
        self.network = threading.Lock()
        """Held while a picture goes through the network."""

    def stop(self) -> None:
        """Stop everything, and wait until the tile at work is done: PyTorch aborts a process that ends in one."""
        for batch in list(self.batches.values()):
            batch.stop()
        with self.network:
            pass


def build(models: dict[str, bool], folder: Path, limit: int, device: str | None, work: Work) -> gr.Blocks:
    """The page.

    Args:
        models: Files to choose from, each with whether its network is told the noise level.
        folder: Where the pictures are kept while somebody works on them.
        limit: Largest file that is taken, in MB; only told here.
        device: As for :class:`~airnet_basicsr.restore.restorer.Restorer`.
        work: Where it is noted what is being done.
    """
    kept, read = (', '.join(dict.fromkeys(kinds)) for kinds in (FORMATS.values(), (s[1:].upper() for s in READ_ONLY)))

    def begin(
        files: list[str] | None, model: str, strength: float, alone: bool, sigma: float, before: Batch | None,
        turn: int, request: gr.Request,
    ) -> dict[Any, Any]:  # fmt: skip
        if not files:
            raise gr.Error('Drop pictures into the field first.', print_exception=False)
        if before:
            before.forget()
        settings = ['--model', model, '--strength', str(strength)]
        settings += [] if alone else ['--no-leave-alone']
        settings += ['--sigma', str(sigma)] if models[model] else []
        waiting = [Path(file) for file in files]
        batch = Batch(Path(tempfile.mkdtemp(dir=folder)), waiting, settings, len(files))
        work.batches[request.session_hash] = batch
        return {
            batch_state: batch,
            turn_state: turn + 1,
            start: gr.Button(visible=False),
            stop: gr.Button(visible=True),
            summary: batch.summary(),
            chosen: gr.Dropdown(choices=[], value=None, visible=False),
            every: gr.DownloadButton(visible=False),
            **show(None, batch),
        }

    def show(number: int | None, batch: Batch | None) -> dict[Any, Any]:
        if number is None or batch is None:
            return {
                slider: None,
                kinds: gr.Label(visible=False),
                remarks: gr.Textbox(visible=False),
                one: gr.DownloadButton(visible=False),
            }
        restored = batch.restored[number]
        return {
            slider: restored.views,
            kinds: gr.Label(restored.kinds, visible=restored.kinds is not None),
            remarks: gr.Textbox(restored.remarks, visible=bool(restored.remarks)),
            one: gr.DownloadButton(f'Download {restored.name}', str(restored.file), visible=True),
        }

    def ended(batch: Batch) -> dict[Any, Any]:
        several = len(batch.restored) > 1
        return {
            start: gr.Button(visible=True),
            stop: gr.Button(visible=False),
            summary: batch.summary(),
            every: gr.DownloadButton(value=_zip(batch) if several else None, visible=several),
        }

    def take_turn(batch: Batch, turn: int, progress: Any = gr.Progress()) -> dict[Any, Any]:  # noqa: B008
        with work.network:
            count = len(batch.restored)
            if not batch.stopped:
                restore_next(batch, device, progress)
        if batch.stopped:
            return {summary: gr.skip()}
        update: dict[Any, Any] = {summary: batch.summary()}
        if len(batch.restored) > count:
            update[chosen] = gr.Dropdown(choices=batch.names(), value=count, visible=True)
            update |= show(count, batch)
        # Whoever waits has a turn before this batch's next picture.
        return update | ({turn_state: turn + 1} if batch.waiting else ended(batch))

    def halt(batch: Batch) -> dict[Any, Any]:
        batch.stop()
        return ended(batch)

    def leave(request: gr.Request) -> None:
        batch = work.batches.pop(request.session_hash, None)
        if batch:
            batch.stop()

    with gr.Blocks(title='AirNet', analytics_enabled=False, delete_cache=FORGET) as page:
        batch_state = gr.State(None, delete_callback=lambda batch: batch and batch.forget())
        turn_state = gr.State(0)
        gr.Markdown(
            '# AirNet\nRemoves noise, rain and haze from pictures. They stay on the machine that serves this page.'
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                files = gr.File(
                    label=f'Pictures, up to {limit} MB each', file_count='multiple', height=200, elem_id='pictures'
                )
                gr.Markdown(f'<small>{kept} keep their format; {read} come back as PNG.</small>')
                names = [(Path(name).name, name) for name in models]
                model = gr.Dropdown(names, value=names[0][1], label='Model', visible=len(names) > 1)
                strength = gr.Slider(0, 1, 1, step=0.05, label='Strength')
                alone = gr.Checkbox(
                    True, label='Leave alone what looks clean or like nothing the model knows', container=False
                )
                sigma = gr.Slider(
                    0, 255, 25, step=1, label='Noise level, for a model that is told it', visible=any(models.values())
                )
                start = gr.Button('Restore', variant='primary')
                stop = gr.Button('Stop', variant='stop', visible=False)
                summary = gr.Textbox(label='Progress', lines=3, interactive=False, elem_id='progress')
            with gr.Column(scale=2, min_width=300):
                chosen = gr.Dropdown([], label='Picture', visible=False)
                slider = gr.ImageSlider(
                    label='Before and after',
                    type='filepath',
                    interactive=False,
                    buttons=['fullscreen'],
                    elem_id='comparison',
                )
                with gr.Row():
                    one = gr.DownloadButton('Download', variant='primary', visible=False)
                    every = gr.DownloadButton('Download all', visible=False)
                kinds = gr.Label(label='What the picture suffers from', num_top_classes=4, visible=False)
                remarks = gr.Textbox(label='Remarks', interactive=False, visible=False)

        shown = [slider, kinds, remarks, one]
        buttons = [start, stop, summary, every]
        inputs = [files, model, strength, alone, sigma, batch_state, turn_state]
        quick: dict[str, Any] = {'queue': False, 'show_progress': 'hidden', 'api_visibility': 'private'}
        start.click(
            begin,
            inputs,
            [batch_state, turn_state, chosen, *buttons, *shown],
            concurrency_limit=None,
            show_progress='hidden',
            api_visibility='private',
        )
        working = turn_state.change(
            take_turn, [batch_state, turn_state], [turn_state, chosen, *buttons, *shown],
            concurrency_limit=1, trigger_mode='multiple', show_progress_on=summary, api_visibility='private',
        )  # fmt: skip
        stop.click(halt, batch_state, buttons, cancels=working, **quick)
        chosen.input(show, [chosen, batch_state], shown, **quick)
        page.unload(leave)
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    command.set_up()
    args = _parser().parse_args(argv)
    if args.limit < 1:
        raise InputError(f'--limit {args.limit}: expected at least 1 MB')
    if args.port is not None and not 0 < args.port < 65536:
        raise InputError(f'--port {args.port}: expected 1 to 65535')
    models = _models(args.model, args.device)
    auth = None
    if args.host not in LOCAL:
        password = os.environ.get(PASSWORD_VARIABLE) or secrets.token_urlsafe(9)
        auth = (USER, password)
        print(
            f'Warning: anyone who reaches {args.host} and knows the password can use this machine. Connections are not '
            'encrypted: others on the network can read pictures and password.',
            file=sys.stderr,
        )
        if PASSWORD_VARIABLE not in os.environ:
            print(f'User {USER}, password {password} (${PASSWORD_VARIABLE} sets another)')
    # A service is ended by SIGTERM, and its pictures must not stay either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix='airnet-serve-') as folder:
        os.environ['GRADIO_TEMP_DIR'] = os.path.join(folder, 'gradio')
        page = build(models, Path(folder), args.limit, args.device, work := Work())
        try:
            _, address, _ = page.launch(
                server_name=args.host,
                server_port=args.port,
                auth=auth,
                max_file_size=f'{args.limit}mb',
                app_kwargs={'middleware': [Middleware(OwnHostOnly)]},
                theme=gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['monospace']),
                footer_links=[],
                share=False,
                ssr_mode=False,
                quiet=True,
                prevent_thread_lock=True,
            )
            print(f'AirNet is at {address} (Ctrl-C ends it)', flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:
            print('\nEnded.')
        except OSError as error:
            raise InputError(f'--host {args.host} --port {args.port}: {error}') from error
        finally:
            work.stop()
            page.close(verbose=False)
    return 0
