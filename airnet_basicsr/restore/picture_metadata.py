"""What a picture's file says beside its pixels, kept true when the picture is turned upright or changes its format."""

import re
import struct
from collections.abc import Container
from typing import TypedDict, cast

ORIENTATION = 0x0112
_WIDTHS, _HEIGHTS = (0x0100, 0xA002, 0x1001), (0x0101, 0xA003, 0x1002)
_RESOLUTIONS = ((0x011A, 0x011B), (0xA20E, 0xA20F))
_EXIF, _INTEROPERABILITY = 0x8769, 0xA005
_GAIN_MAPS = (
    b'http://ns.adobe.com/hdr-gain-map/1.0/',
    b'http://ns.apple.com/HDRGainMap/1.0/',
    b'http://ns.google.com/photos/1.0/container/',
    b'http://ns.google.com/photos/1.0/container/item/',
)


class Metadata(TypedDict, total=False):
    """Each as bytes of its standard, but for ``dpi`` and ``aspect``."""

    icc_profile: bytes
    exif: bytes
    xmp: bytes
    photoshop: bytes
    """Image resources, IPTC among them."""
    comment: bytes
    dpi: tuple[float, float]
    """Pixels per inch, horizontally and vertically."""
    aspect: tuple[float, float]
    """Pixels per unknown unit, where the two differ."""
    png: list[tuple[bytes, bytes]]
    """Other chunks of a PNG: type and data."""
    jpeg: list[tuple[int, bytes]]
    """Other segments of a JPEG: marker (its second byte) and data."""


def only(metadata: Metadata, keys: Container[str]) -> Metadata:
    """What ``metadata`` has under ``keys``."""
    return cast(Metadata, {key: value for key, value in metadata.items() if key in keys})


def upright_exif(exif: bytes, size: tuple[int, int], turned: bool) -> bytes | None:
    """``exif`` of the picture turned upright, h x w = ``size``; None where it breaks the rules.

    Orientation becomes 1, sizes those of the picture; where it was ``turned`` by a quarter, horizontal and vertical
    resolution change places. The thumbnail, which shows the picture of before, is unlinked. All else stays where it is,
    since the notes of camera makers hold absolute positions.
    """
    prefix = b'Exif\0\0' if exif.startswith(b'Exif\0\0') else b''
    data = bytearray(exif[len(prefix) :])
    order = {b'II*\0': '<', b'MM\0*': '>'}.get(bytes(data[:4]))
    if order is None:
        return None

    def visit(at: int, depth: int) -> int:
        (count,) = struct.unpack_from(f'{order}H', data, at)
        places: dict[int, int] = {}
        for number in range(count):
            entry = at + 2 + 12 * number
            tag, kind = struct.unpack_from(f'{order}HH', data, entry)
            field = places[tag] = entry + 8
            struct.unpack_from(f'{order}I', data, field)
            if tag == ORIENTATION:
                struct.pack_into(f'{order}HIHH', data, entry + 2, 3, 1, 1, 0)
            elif tag in _WIDTHS + _HEIGHTS and kind in (3, 4):
                struct.pack_into(f'{order}HII', data, entry + 2, 4, 1, size[tag in _WIDTHS])
            elif tag in (_EXIF, _INTEROPERABILITY) and depth < 2:
                visit(struct.unpack_from(f'{order}I', data, field)[0], depth + 1)
        for across, down in _RESOLUTIONS if turned else ():
            if across in places and down in places:
                one, other = slice(places[across], places[across] + 4), slice(places[down], places[down] + 4)
                data[one], data[other] = data[other], data[one]
        return at + 2 + 12 * count

    try:
        following = visit(struct.unpack_from(f'{order}I', data, 4)[0], 0)
        if following + 4 <= len(data):
            data[following : following + 4] = bytes(4)
    except struct.error:
        return None
    return prefix + bytes(data)


def upright_xmp(xmp: bytes, size: tuple[int, int], turned: bool) -> bytes:
    """``xmp`` of the picture turned upright: as :func:`upright_exif`."""
    height, width = (b'%d' % side for side in size)
    xmp = _set(xmp, rb'tiff:Orientation', b'1')
    for name, value in ((rb'exif:PixelXDimension', width), (rb'exif:PixelYDimension', height)):
        xmp = _set(xmp, name, value)
    for name, value in ((rb'tiff:ImageWidth', width), (rb'tiff:ImageLength', height)):
        xmp = _set(xmp, name, value)
    return re.sub(rb'tiff:([XY])Resolution', _other_axis, xmp) if turned else xmp


def _set(xmp: bytes, name: bytes, value: bytes) -> bytes:
    return re.sub(rb'(' + name + rb'\s*(?:=\s*["\']|>)\s*)\d+', rb'\g<1>' + value, xmp)


def _other_axis(match: re.Match) -> bytes:
    return b'tiff:%sResolution' % (b'Y' if match[1] == b'X' else b'X')


def without_companions(xmp: bytes) -> bytes | None:
    """``xmp`` without the announcement of pictures that were in the same file (an HDR gain map, say).

    None: it does nothing but announce, or cannot be cut without breaking it.
    """
    prefixes = [
        match[1] for match in re.finditer(rb'xmlns:([\w.-]+)\s*=\s*["\']([^"\']+)["\']', xmp) if match[2] in _GAIN_MAPS
    ]
    cut = xmp
    for prefix in map(re.escape, prefixes):
        cut = re.sub(rb'<(' + prefix + rb':[\w.-]+)(?:\s[^>]*)?(?:/>|(?<!/)>.*?</\1\s*>)', b'', cut, flags=re.DOTALL)
        cut = re.sub(rb'\s' + prefix + rb':[\w.-]+\s*=\s*(?:"[^"]*"|\'[^\']*\')', b'', cut)
    if cut == xmp:
        return xmp
    # Whatever is not whole any more is worth less than none.
    opened = len(re.findall(rb'<[^/?!][^>]*[^/]>', cut)), len(re.findall(rb'</', cut))
    return cut if opened[0] == opened[1] else None


def without_extension(xmp: bytes) -> bytes:
    """``xmp`` without its word that more of it is in other segments of a JPEG."""
    return re.sub(rb'\sxmpNote:HasExtendedXMP\s*=\s*(?:"[^"]*"|\'[^\']*\')', b'', xmp)


def announces_companions(xmp: bytes) -> bool:
    """Whether ``xmp`` speaks of other pictures in the same file."""
    return any(b'"' + name + b'"' in xmp or b"'" + name + b"'" in xmp for name in _GAIN_MAPS)


def profile_fits(profile: bytes, channels: int) -> bool:
    """Whether an ICC profile is for grey (1 or 2 channels) or RGB (3 or 4), as the pixels are."""
    return profile[16:20] == (b'GRAY' if channels < 3 else b'RGB ')
