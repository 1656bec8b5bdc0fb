"""Colour profiles written from the standard (ICC.1:2022), as small as they can be."""

from __future__ import annotations

import struct
from itertools import product

SRGB = ((0.4360747, 0.2225045, 0.0139322), (0.3850649, 0.7168786, 0.0971045), (0.1430804, 0.0606169, 0.7141733))
"""XYZ of the primaries of sRGB, adapted to D50."""
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
"""XYZ of the primaries of Adobe RGB, as its profile has them; its gamma is 2.2."""
PAPER = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)  # the white of D50


def rgb_profile(primaries: tuple[tuple[float, float, float], ...] = ADOBE, gamma: float = 2.199) -> bytes:
    """Profile of three primaries and a gamma."""
    tags = {b"wtpt": PAPER}
    for name, xyz in zip("rgb", primaries, strict=True):
        tags[f"{name}XYZ".encode()] = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * v) for v in xyz))
        tags[f"{name}TRC".encode()] = _gamma(gamma)
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    """Profile of grey."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": PAPER, b"kTRC": _gamma(gamma)})


def cmyk_profile(cyan: tuple[float, float, float]) -> bytes:
    """Profile of inks: paper is white, cyan alone has this Lab, everything else is black."""
    clut = bytearray()
    for inks in product((0, 1), repeat=4):
        lightness, a, b = {(0, 0, 0, 0): (100.0, 0.0, 0.0), (1, 0, 0, 0): cyan}.get(inks, (0.0, 0.0, 0.0))
        clut += bytes([round(lightness * 2.55), round(a + 128), round(b + 128)])
    same = bytes(range(256))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + 4 * same + bytes(clut) + 3 * same
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": PAPER, b"A2B0": table})


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * value))


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    place = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", place + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    head = struct.pack(">I", place + len(data)) + bytes(4) + bytes([2, 0x40, 0, 0]) + kind + space + connection
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + PAPER[8:]
    return head.ljust(128, b"\0") + table + data
