"""A headless Chromium, told what to do through its debugging pipe."""

import base64
import io
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')


class Browser:
    """One page of a browser, width x 900 pixels."""

    def __init__(self, profile: Path, width: int) -> None:
        read_there, write_here = os.pipe()
        read_here, write_there = os.pipe()
        options = f'--headless=new --no-sandbox --disable-gpu --remote-debugging-pipe --user-data-dir={profile}'
        self.process = subprocess.Popen(
            ['bash', '-c', f'exec "{CHROMIUM}" {options} about:blank 3<&{read_there} 4>&{write_there}'],
            pass_fds=(read_there, write_there),
            stderr=subprocess.DEVNULL,
        )
        os.close(read_there)
        os.close(write_there)
        self.input, self.output, self.received, self.number, self.session = write_here, read_here, b'', 0, None
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        size = {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False}
        self.call('Emulation.setDeviceMetricsOverride', **size)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        message = {'id': self.number, 'method': method, 'params': parameters}
        if self.session:
            message['sessionId'] = self.session
        os.write(self.input, json.dumps(message).encode() + b'\0')
        while True:
            while b'\0' not in self.received:
                part = os.read(self.output, 1 << 20)
                assert part, 'the browser ended'
                self.received += part
            line, _, self.received = self.received.partition(b'\0')
            answer = json.loads(line)
            if answer.get('id') == self.number:
                assert 'error' not in answer, answer
                return answer['result']

    def open(self, path: Path) -> None:
        self.call('Page.navigate', url=path.as_uri())
        ended = time.monotonic() + 120
        while self.run('document.readyState + location.protocol') != 'completefile:':
            assert time.monotonic() < ended, 'the page does not load'
            time.sleep(0.2)

    def run(self, script: str) -> Any:
        answer = self.call('Runtime.evaluate', expression=script, returnByValue=True)
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    def mouse(self, kind: str, x: float, y: float, clicks: int = 1) -> None:
        button = {'button': 'left', 'buttons': 1, 'clickCount': clicks}
        self.call('Input.dispatchMouseEvent', type=kind, x=x, y=y, **button)

    def picture(self, x: float, y: float, width: float, height: float) -> np.ndarray:
        """A part of the window: H x W x 3."""
        content = self.call('Page.captureScreenshot', format='png')['data']
        window = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert('RGB'))
        return window[round(y) : round(y + height), round(x) : round(x + width)]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        os.close(self.input)
        os.close(self.output)
