/* bare_qemu: QEMU by itself, with the machine, memory, state and disks of a snapshot and without
 * our device, for a comparison with what QEMU can do on its own. A failure ends the program. */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "common/state/paths.h"
#include "common/state/snapshot.h"

struct bare_qemu {
    pid_t pid;
    int monitor_fd, vsock_fd, console_fd;
};

/* Starts it from the snapshot, its CPUs running when this returns. top_path: its disk's top, made.
 * incoming_fd: what `migrate` wrote, in place of the snapshot's state and memory; -1: none. */
struct bare_qemu bare_qemu_start(const struct bg_paths *paths, const struct bg_snapshot *snapshot,
                                 const char *top_path, int incoming_fd);

/* A monitor command; arguments (taken) may be NULL. fd goes with it unless -1. A new reference to
 * what it returns. */
json_t *bare_qemu_ask(const struct bare_qemu *qemu, const char *command, json_t *arguments, int fd);

/* A command for people (`savevm x`), which must not have anything to say. */
void bare_qemu_say(const struct bare_qemu *qemu, const char *line);

void bare_qemu_end(struct bare_qemu *qemu);
