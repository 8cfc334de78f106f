#!/usr/bin/env -S python3 -B
"""Writes the dashboard's pages as C: embed.py OUT TERMINAL FILE... TERMINAL is a folder that npm has put
@xterm/xterm and @xterm/addon-fit into, or one without them: the page then says that the terminal was left
out."""

import os
import sys

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}

# Path that a browser asks for -> file of npm's.
FOREIGN = {
    "/web/xterm.js": "@xterm/xterm/lib/xterm.js",
    "/web/xterm.css": "@xterm/xterm/css/xterm.css",
    "/web/xterm-fit.js": "@xterm/addon-fit/lib/addon-fit.js",
    "/web/xterm-licence.txt": "@xterm/xterm/LICENSE",
}
LEFT_OUT = b"/* left out of this build */\n"


def literal(data):
    """Bytes as the elements of an array, some a line."""
    rows = (data[i : i + 32] for i in range(0, len(data), 32))
    return "\n".join("    " + "".join(f"{byte}," for byte in row) for row in rows)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def own(data):
    """Where the sources of a file of npm's would be is nothing that the gateway has."""
    return b"\n".join(line for line in data.split(b"\n") if not line.startswith(b"//# sourceMappingURL="))


def main():
    out, terminal, *files = sys.argv[1:]
    has_terminal = all(os.path.exists(os.path.join(terminal, name)) for name in FOREIGN.values())
    pages = {}
    for file in files:
        name = os.path.basename(file)
        pages["/" if name == "index.html" else "/web/" + name] = read(file)
    for path, name in FOREIGN.items():
        pages[path] = own(read(os.path.join(terminal, name))) if has_terminal else LEFT_OUT
    with open(out, "w", encoding="ascii") as file:
        file.write('#include "host/gateway/web.h"\n\n')
        for index, data in enumerate(pages.values()):
            file.write(f"static const uint8_t page_{index}[] = {{\n{literal(data)}\n    0,\n}};\n")
        file.write("\nconst struct web_page web_pages[] = {\n")
        for index, (path, data) in enumerate(pages.items()):
            kind = TYPES[os.path.splitext(path)[1] or ".html"]
            file.write(f'    {{"{path}", "{kind}", page_{index}, {len(data)}}},\n')
        file.write("    {0},\n};\n")
        file.write(f"const bool web_has_terminal = {'true' if has_terminal else 'false'};\n")


main()
