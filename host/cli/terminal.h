/* terminal: the user's terminal in raw mode while a command in a sandbox has it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <termios.h>

#include "common/cleanup.h"

struct terminal {
    int fd; /* borrowed; -1: there is none, and everything here does nothing */
    bool raw;
    struct termios saved; /* as it was, valid if raw */
};

/* Takes the terminal that stdin is; -1 in fd if it is none. */
void terminal_init(struct terminal *terminal, int fd);

/* Raw mode: every key is the guest's. From the background it would stop us, so there it waits until
 * terminal_raw() is called again (on SIGCONT). */
void terminal_raw(struct terminal *terminal);

/* Puts it back as it was; more than once is fine. */
void terminal_restore(struct terminal *terminal);

/* Its size; 0 x 0 if fd is no terminal. */
void terminal_size(int fd, uint16_t *ret_rows, uint16_t *ret_columns);
