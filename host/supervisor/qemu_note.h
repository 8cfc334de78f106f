/* qemu_note: what a QEMU program said of its version, kept with what the program's file was then:
 * to ask it takes as long as a tenth of the start of a fork. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define QEMU_VERSION_TEXT_SIZE 256

/* True if the note is of just this file; text is then what it said. Only of ELF files: a script may
 * stand for whatever program it likes. */
bool qemu_note_read(const char *note, const char *program, char text[QEMU_VERSION_TEXT_SIZE]);

/* Best effort: without it the program is asked again. */
void qemu_note_write(const char *note, const char *program, const char *text);
