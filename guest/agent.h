/* The agent: one loop that listens for streams of the host and reaps the guest's processes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/types.h>

#include <uv.h>

#include "common/err.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/page_records.h"
#include "common/wire.h"
#include "guest/env.h"

struct agent;
struct exec;
struct stream;

/* The struct that *pointer is the member of. */
#define CONTAINER_OF(pointer, type, member)                                                        \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

struct live;

/* How a stream is cut and goes on (guest/parking.h). */
struct parkable {
    bool (*park)(struct live *live);     /* no more bytes are sent; false: the stream is over */
    bool (*is_quiet)(struct live *live); /* and none is just being sent; NULL: at once */
    /* What was read and written on the stream, if it is parked; nothing is read from then on.
     * Errors: -EAGAIN not known at this moment, parking_changed() comes; -ENOENT it has ended. */
    int (*counts)(struct live *live, uint64_t *ret_read, uint64_t *ret_written);
    void (*swap)(struct live *live, int fd); /* another connection, nonblocking; taken */
    void (*go_on)(struct live *live);        /* with the connection that it has */
};

/* Whatever lives for one of the host's connections: a stream, a pair of sockets, a worker. */
struct live {
    LIST_ENTRY(live) link;
    void (*drop)(struct live *live); /* ends it; it unlinks itself, now or later */
    bool dropped;
    const struct parkable *parkable; /* NULL: it ends with its connection */
    uint16_t kind;                   /* of the stream, if it is parkable */
    uint32_t id;
    bool parked;
};

/* A process that somebody waits for. */
struct child {
    LIST_ENTRY(child) link;
    pid_t pid;
    void (*on_exit)(struct child *child, int wait_status); /* already unlinked */
};

/* See guest/parking.h; zeroed until parking_open(). */
struct parking {
    uv_poll_t event;               /* of event_fd: a worker's gate has changed */
    uv_poll_t network;             /* of network_fd */
    int event_fd, network_fd;      /* -1: none */
    bool network_busy;             /* it was told to park and has not said that it is done */
    void (*on_quiet)(void *owner); /* NULL: nobody waits */
    void *owner;
    LIST_HEAD(, resumption) resumptions; /* that wait */
};

struct agent_opts {
    int listen_fd;            /* listening socket, nonblocking; taken */
    bool vsock;               /* it is AF_VSOCK: only the host may connect */
    bool pid1;                /* we are the guest's init */
    const char *cgroup_path;  /* folder for the cgroups of execs; NULL: none, process groups only */
    const struct bg_log *log; /* borrowed */
    /* Starts the guest's network in a process of its own and returns its pid; restarted when it
     * ends. *ret_fd: its socket (guest/network.h), the caller's. NULL: there is no network. */
    pid_t (*start_network)(const struct agent_opts *opts, int *ret_fd);
    const char *egress_path; /* for start_network: a Unix socket instead of the host's vsock port */
};

/* Size of agent.scratch: a frame's header and its largest payload. */
#define AGENT_SCRATCH_SIZE (BG_FRAME_HEADER_SIZE + 2 * BG_FRAME_SIZE_MAX)

struct agent {
    uv_loop_t loop;
    struct agent_opts opts;
    const struct bg_log *log;
    uv_poll_t listener, signals;
    uv_timer_t sweep_timer;   /* removes cgroups that outlived their exec */
    uv_timer_t network_timer; /* before the network is started again */
    int signal_fd;
    int cgroup_fd; /* tree of the execs' cgroups, -1: none */
    uint32_t next_cgroup;
    bool cgroups_left; /* some outlived their exec */
    bool disk_frozen;  /* the root's file system, or it is about to be: PREPARE of a disk alone */
    bool frozen;       /* the processes of all execs stand still (agent_freeze) */
    bool stopping;     /* a development agent was told to end */
    LIST_HEAD(, live) live;
    unsigned live_count;
    LIST_HEAD(, exec) execs; /* those that run, or whose end nobody was told yet */
    unsigned exec_count;
    LIST_HEAD(, child) children;
    struct child network;
    uint64_t network_started_ms;
    struct parking parking;
    struct stream *session;        /* the supervisor's, or NULL */
    char identity[64 + 1];         /* the sandbox id that is in force; "": none yet */
    struct env env;                /* the identity's, for every exec */
    struct bg_page_records *pages; /* where the kernel has them; NULL: not found */
    bool pages_sought;
    struct power *power; /* not NULL: the machine is going down */
    uint8_t *scratch;    /* AGENT_SCRATCH_SIZE, for the callback at hand */
    bool scratch_busy;   /* frames in it are being handed out: no sending from it */
};

/* Runs until it is told to end by agent_stop, SIGTERM or SIGINT; an agent that is PID 1 ignores the
 * signals. listen_fd is taken. Returns 0 or negative errno. */
int agent_run(const struct agent_opts *opts, struct bg_err *err) BG_MUST_CHECK;

/* Ends the loop of an agent that is not PID 1, after everything in it. */
void agent_stop(struct agent *agent);

/* Takes every connection that waits. */
void agent_accept_all(struct agent *agent);

/* ---- for the streams ---- */

/* False if there are too many. */
bool agent_add_live(struct agent *agent, struct live *live) BG_MUST_CHECK;
void agent_remove_live(struct agent *agent, struct live *live);

/* Ends every stream but `except` (may be NULL). */
void agent_drop_streams(struct agent *agent, const struct live *except);

/* The same, and every process that an exec left. */
void agent_drop_all(struct agent *agent, const struct live *except);

/* Stops the processes of all execs, those that begin meanwhile too, until agent_thaw: while a
 * snapshot is taken, and in a child of it until it has an identity of its own. Nothing without
 * cgroups. Each may be called in any state. */
void agent_freeze(struct agent *agent);
void agent_thaw(struct agent *agent);

/* Calls child->on_exit when child->pid has ended. child: borrowed until then. */
void agent_watch_child(struct agent *agent, struct child *child);
void agent_forget_child(struct child *child);

/* An exec has ended but its cgroup could not be removed. */
void agent_sweep_later(struct agent *agent);
