/* ssh_greeting: the line that a guest sends before its sshd speaks (docs/protocol.md, "ssh"): the
 * host key that this sshd has. Pure; every byte is the guest's. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

/* An ed25519 key as ssh writes it: base64 of 4 + 11 + 4 + 32 bytes, and a NUL. */
#define SSH_KEY_SIZE 69

/* The line with its newline; longer: refused. */
#define SSH_GREETING_MAX 128

struct ssh_greeting {
    char line[SSH_GREETING_MAX];
    size_t used;
    bool done;
    char key[SSH_KEY_SIZE]; /* when done */
};

/* Takes bytes up to the end of the line. Returns how many it took; it is complete when done is set.
 * Not to be called after that. Errors: -EPROTO it is none. */
ssize_t ssh_greeting_feed(struct ssh_greeting *greeting, const uint8_t *bytes, size_t size,
                          struct bg_err *err) BG_MUST_CHECK;

/* Reads "ssh-ed25519 KEY" and what may follow behind a space, as in a .pub file; the newline is
 * gone. Errors: -EPROTO. */
int ssh_key_parse(const char *text, char ret_key[SSH_KEY_SIZE], struct bg_err *err) BG_MUST_CHECK;
