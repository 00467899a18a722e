"""The pictures of a page stay within its size, however many and large they are."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest

from airnet_basicsr.report import pictures


@pytest.mark.parametrize(('choices', 'layers', 'size'), [(9, 3, (200, 300)), (20, 5, (100, 120))])
def test_a_page_stays_within_its_size(monkeypatch, choices, layers, size):
    """Noise is what JPEG can do least about."""
    monkeypatch.setattr(pictures, 'BYTES', 700_000)
    noise = np.random.RandomState(0).randint(0, 256, (*size, 3), np.uint8)
    found = [{'layers': [{'picture': noise} for _ in range(layers)]} for _ in range(choices)]
    pictures.encode(found)
    written = sum(
        len(base64.b64decode(layer['uri'].partition(',')[2])) for choice in found for layer in choice['layers']
    )
    assert 200_000 < written < 700_000


def test_large_pictures_are_cut_not_scaled():
    picture = np.zeros((1500, 2000, 3), np.uint8)
    picture[700:800, 900:1100] = 255
    choice = {'layers': [{'picture': picture}]}
    pictures.encode([choice])
    assert choice['shown'] == [1024, 1024]
    content = base64.b64decode(choice['layers'][0]['uri'].partition(',')[2])
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.sum(shown > 128) == 100 * 200


def test_results_may_lie_in_the_root_folder():
    """As in a container, where a volume is mounted at /results."""
    assert pictures._located({'dataroot_gt': 'no/such'}, Path('/results')) == {'dataroot_gt': 'no/such'}
