#!/usr/bin/python3 -B
"""search.py SECRET_FILE (FILE | --memory PID)...: prints the forms in which the secret is in the files or
in a process's memory, one a line, each once and sorted; what it finds no trace of it says nothing about."""

import base64
import codecs
import re
import sys
import zlib

AREA_MAX = 1 << 30  # of a larger one (a sanitizer's shadow) reading fills page tables
BLOCK = 4 << 20
PART = 12  # of the secret's bytes that chance does not put anywhere


def spread(data, form, between=b""):
    return between.join(form.format(byte).encode() for byte in data)


def inner_base64(secret, before):
    """What of its base64 depends on nothing but the secret, with that many bytes before it."""
    text = base64.b64encode(b"\0" * before + secret)
    return text[(0, 2, 3)[before]:len(text) - len(text) % 4 - 4]


def forms(secret):
    found = {
        "plain": secret, "reversed": secret[::-1],
        "rot13": codecs.encode(secret.decode(), "rot13").encode(), "upper": secret.upper(),
        "hex": secret.hex().encode(), "hex-upper": secret.hex().upper().encode(),
        "hex-colons": secret.hex(":").encode(), "hex-spaces": secret.hex(" ").encode(),
        "hex-0x": spread(secret, "0x{:02x}", b", "), "percent": spread(secret, "%{:02X}"),
        "json": spread(secret, "\\u{:04x}"), "entities": spread(secret, "&#{};"),
        "entities-hex": spread(secret, "&#x{:x};"), "quoted-printable": spread(secret, "={:02X}"),
        "octal": spread(secret, "\\{:03o}"),
    }
    for before in range(3):
        found[f"base64-{before}"] = inner_base64(secret, before)
    return {form: [data] for form, data in found.items()}


def parts(secret):
    """Most of it would be as bad."""
    return [secret[at:at + PART] for at in range(len(secret) - PART + 1)]


def unpacked(data):
    """What is compressed in it, two layers deep."""
    for at in (m.start() for m in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x9c\xda]", data)):
        packed = data[at:]
        for _ in range(2):
            try:
                packed = zlib.decompressobj(wbits=47).decompress(packed, 1 << 20)
            except zlib.error:
                break
            yield packed


def file_blocks(name):
    with open(name, "rb") as f:
        data = f.read()
    yield data
    yield b"".join(data.split())  # over line breaks
    yield from unpacked(data)


def memory_blocks(pid):
    with open(f"/proc/{pid}/mem", "rb", 0) as memory, open(f"/proc/{pid}/maps", encoding="ascii") as maps:
        for line in maps:
            area, mode = line.split()[:2]
            at, end = (int(n, 16) for n in area.split("-"))
            if mode[0] != "r" or "[v" in line or end - at > AREA_MAX:
                continue
            tail = b""
            while at < end:
                try:
                    memory.seek(at)
                    block = memory.read(min(end - at, BLOCK))
                except OSError:
                    break
                if not block:
                    break
                at += len(block)
                if block.count(0) != len(block):
                    yield tail + block
                tail = block[-4096:]


def main():
    with open(sys.argv[1], "rb") as f:
        secret = f.read()
    wanted = forms(secret)
    wanted["part"] = parts(secret)
    arguments, found = sys.argv[2:], set()
    while arguments:
        name = arguments.pop(0)
        for block in memory_blocks(arguments.pop(0)) if name == "--memory" else file_blocks(name):
            found |= {form for form, texts in wanted.items() if any(text in block for text in texts)}
    print("".join(form + "\n" for form in sorted(found)), end="")


main()
