"""The pictures of a page stay within its size, however many and large they are."""

import base64

import cv2
import numpy as np
import pytest

from airnet_basicsr.report.pictures import encode

PAGE = 20_000_000


@pytest.mark.parametrize(('choices', 'layers', 'size'), [(27, 3, (768, 1024)), (60, 5, (300, 400))])
def test_the_page_stays_below_its_size(choices, layers, size):
    """Noise is what JPEG can do least about."""
    noise = np.random.RandomState(0).randint(0, 256, (*size, 3), np.uint8)
    found = [{'layers': [{'picture': noise} for _ in range(layers)]} for _ in range(choices)]
    encode(found)
    assert sum(len(layer['uri']) for choice in found for layer in choice['layers']) < 0.9 * PAGE
    assert min(found[0]['shown']) >= 160


def test_large_pictures_are_cut_not_scaled():
    picture = np.zeros((1500, 2000, 3), np.uint8)
    picture[700:800, 900:1100] = 255
    choice = {'layers': [{'picture': picture}]}
    encode([choice])
    assert choice['shown'] == [1024, 1024]
    content = base64.b64decode(choice['layers'][0]['uri'].partition(',')[2])
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.sum(shown > 128) == 100 * 200
