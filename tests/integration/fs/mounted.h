/* A folder, a file server over it, and a mount of what it serves: without a VM. Every process is
 * ours and ended by its pid; a test that hangs is ended by an alarm. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define MOUNTED_ARGS_MAX 8

struct mounted {
    char base[64], source[96], mount[96];
    pid_t server, keeper;
    uid_t user; /* who serves and mounts */
};

struct mounted_opts {
    const char *source; /* NULL: a fresh folder */
    int stream;         /* >= 0: a server of the test's own is at the other end; taken */
    uid_t user;         /* 0: as the test itself */
    unsigned files_max; /* RLIMIT_NOFILE of the server; 0: as it is */
    const char *serve[MOUNTED_ARGS_MAX], *mount[MOUNTED_ARGS_MAX]; /* further arguments */
};

/* The usual options: stream -1. */
struct mounted_opts mounted_usual(void);

/* Makes the folders, starts both programs and waits until the mount is ready. */
struct mounted *mounted_new(const struct mounted_opts *opts);

/* Ends the keeper by SIGTERM, checks that nothing is mounted any more and that it ended well, and
 * removes the folders. */
void mounted_free(struct mounted *m);

/* Starts a file server over source; returns our end of its stream. */
int mounted_serve(const struct mounted_opts *opts, const char *source, pid_t *ret_pid);

/* Starts bellglass-mount and gives what it wrote to the ready fd; the caller frees nothing. */
pid_t mounted_start(const struct mounted_opts *opts, int stream, const char *mountpoint,
                    char *ret_line, size_t line_size);

/* Runs this test program again, with that user's rights and these arguments; it must exit with 0.
 */
void mounted_run_self_as(uid_t user, const char *mode, const char *folder);

/* Waits for a child; it must end by itself. Returns its exit status. */
int mounted_wait(pid_t pid);

/* True when something is mounted there. */
bool mounted_is(const char *path);

/* The relay: the keeper's only child. */
pid_t mounted_relay(const struct mounted *m);
/* The first of a process's children, which must have one. */
pid_t mounted_child(pid_t parent);

/* First in main. Takes BG_TEST_ONLY into account: a substring of the tests to run. Skips the whole
 * program (77) if FUSE cannot be had here, unless BG_TEST_REQUIRE names fuse. */
void mounted_need_fuse(void);

void mounted_remove_all(const char *path);

/* FOLDER/NAME. */
void mounted_path(const char *folder, const char *name, char out[256]);
/* Makes the file, or writes it anew. */
void mounted_put(const char *folder, const char *name, const char *text);
/* What is in it, or the error's text; until the next call. */
const char *mounted_get(const char *folder, const char *name);
