/* repl: repl.js as a text, which the build makes. */
#pragma once

extern const char repl_js[];
