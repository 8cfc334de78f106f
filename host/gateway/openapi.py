#!/usr/bin/env python3
"""openapi.py IN OUT: a JSON document, without its spaces, as the C source of openapi.h."""

import json
import sys

with open(sys.argv[1], encoding="utf-8") as f:
    text = json.dumps(json.load(f), separators=(",", ":")).encode()
with open(sys.argv[2], "w", encoding="ascii") as f:
    f.write('#include "host/gateway/openapi.h"\n\nconst unsigned char openapi_text[] = {')
    f.write(",".join(map(str, text)))
    f.write("};\nconst size_t openapi_size = sizeof openapi_text;\n")
