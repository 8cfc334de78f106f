/* Every maximum of what the guest, the network or a client can make us hold, in one list. */
#pragma once

/* Streams (docs/protocol.md). */
#define BG_STREAM_BODY_MAX   (1024 * 1024) /* header body; larger: the stream is reset */
#define BG_REPLY_TEXT_MAX    4096          /* reply body; larger: the stream is reset */
#define BG_FRAME_SIZE_MAX    (64 * 1024)  /* payload of one exec, copy or session frame; likewise */
#define BG_EXEC_STDIN_WINDOW (256 * 1024) /* stdin bytes in flight to the agent; sender waits */
#define BG_EXEC_STRINGS_MAX  4096         /* argv + env entries of one exec; refused */
#define BG_NAME_MAX          255          /* host names, user names */
#define BG_PATH_MAX          4096         /* paths on the wire, with their NUL */

/* The vsock device. A wrong ring or message ends the device, a wrong packet its connection. */
#define BG_VSOCK_CONNS_MAX   1024          /* connections per guest; further ones are reset */
#define BG_VSOCK_BUFFER_MAX  (256 * 1024)  /* receive buffer of a connection; reset */
#define BG_VSOCK_BUFFER_MIN  (32 * 1024)   /* the same when there are many connections */
#define BG_VSOCK_WINDOW_MAX  (1024 * 1024) /* bytes not read by the guest yet; we wait */
#define BG_VSOCK_PACKET_MAX  (64 * 1024)   /* payload of one packet; larger: connection is reset */
#define BG_VSOCK_RESETS_MAX  256           /* RSTs to nobody's packets that wait; tx is not read */
#define BG_VSOCK_REGIONS_MAX 8             /* regions in QEMU's memory table; device fails */
#define BG_VSOCK_QUEUE_MAX   256           /* entries of a virtqueue; device fails */
#define BG_VSOCK_CHAIN_MAX   64            /* descriptors of one buffer; device fails */
#define BG_VSOCK_LOG_LINES   20            /* lines that a guest causes, per minute; dropped */
#define BG_AGENT_LOG_LINES   60 /* lines that the agent sends for the log, per minute; dropped */

/* Trees as tar streams. */
#define BG_TREE_DEPTH_MAX 512 /* folders in folders when packing; -ENAMETOOLONG */
#define BG_TREE_LINKS_MAX                                                                          \
    100000 /* names of multiply linked files remembered; then packed twice                         \
            */

/* The agent. */
#define BG_AGENT_STREAMS_MAX  1024         /* streams at once; further ones get -EMFILE */
#define BG_AGENT_OUT_MAX      (256 * 1024) /* unsent bytes of a stream; its source is not read */
#define BG_AGENT_EXECS_MAX    2048 /* commands that run, or whose end was not told; refused */
#define BG_AGENT_ENDED_MAX    16 /* of these, ended with nobody attached; the oldest is forgotten */
#define BG_AGENT_KEEP_MAX     (256 * 1024) /* output of one without a reader; then it waits */
#define BG_AGENT_FREEZE_MS    500          /* for all commands to stand still; then we go on */
#define BG_AGENT_PUMP_MAX     (128 * 1024) /* bytes on their way, each direction; reading stops */
#define BG_AGENT_GROUPS_MAX   256          /* supplementary groups of a user; the rest is dropped */
#define BG_AGENT_ACCOUNTS_MAX (1024 * 1024) /* /etc/passwd, /etc/group; larger: exec fails */
#define BG_AGENT_MODULES_MAX  256           /* lines of bellglass.load; the rest is not loaded */
#define BG_AGENT_SHUTDOWN_MS  3000          /* between SIGTERM and SIGKILL, and after SIGKILL */
#define BG_AGENT_CONNECT_S    60            /* to the host, which may be busy; then a reset */
#define BG_AGENT_EGRESS_MAX   960           /* TCP connections of the guest; further ones wait */
#define BG_DNS_MESSAGE_MAX    4096          /* one query; larger: not read, answered by nothing */
#define BG_DNS_NAMES_MAX      8192          /* names with a synthetic address; the oldest goes */
#define BG_DNS_CLIENTS_MAX    64            /* DNS over TCP at once; further ones are closed */

/* Disks of what does not run, in a helper's guest. Times for guests without KVM that are busy. */
#define BG_DISK_WAIT_MS    60000  /* until a plugged disk is there; then the mount fails */
#define BG_DISK_MOUNT_MS   900000 /* check and mount; then the helper is ended */
#define BG_DISK_END_MS     300000 /* write back, unmount and check; then the helper is ended */
#define BG_DISK_BUSY_MS    20000  /* for what has files of it open to end; then it is detached */
#define BG_DISK_OUTPUT_MAX 4096   /* of the checking program; the rest is dropped */

/* Control socket. */
#define BG_CONTROL_LINE_MAX (256 * 1024) /* one JSON request or answer; client is closed */
#define BG_FORWARD_CONNECTIONS_MAX                                                                 \
    200                            /* of one `bellglass forward`; further ones wait likewise       \
                                    */
#define BG_CONTROL_CLIENTS_MAX 256 /* clients at once; further ones wait in the backlog */

/* State files. */
#define BG_MANIFEST_MAX (1024 * 1024) /* any JSON file of ours; refused as damaged */

/* Memory layers. */
#define BG_MEMORY_EXTENTS_MAX                                                                      \
    (4u << 20) /* of one file; a save writes clean pages too before there are so many */

/* Page records: one span has at least 128 MiB of RAM, and as a rule all of it. */
#define BG_PAGE_SPANS_MAX 128 /* further ones are left out: their free pages are saved */

/* Snapshots. */
#define BG_DISK_LAYERS_MAX    64           /* of one chain; each costs QEMU an open file; refused */
#define BG_FLATTEN_LAYERS     24           /* of a disk; with more, a snapshot has it flattened */
#define BG_FLATTEN_LEFT       8            /* layers that may stay below what is copied into one */
#define BG_FLATTEN_HURRY      48           /* layers; with more, it is done at full speed */
#define BG_FLATTEN_SPEED      (64u << 20)  /* bytes a second, of what nobody waits for */
#define BG_FLATTEN_SPACE_MIN  (512u << 20) /* left free on the host's disk; it is put off */
#define BG_MEMORY_LAYERS_MAX  8            /* of one chain, likewise */
#define BG_SNAPSHOT_NOTE_MAX  1024         /* bytes of a note; refused */
#define BG_SNAPSHOT_STATE_MAX (256u << 20) /* devices' state, some KiB as a rule; damaged */

/* Volumes. */
#define BG_VOLUMES_MAX         1024        /* of an installation, with their snapshots; refused */
#define BG_VOLUME_BYTES_MIN    (16u << 20) /* room for a file system; refused */
#define BG_VOLUME_BYTES_MAX    (1ull << 40)
#define BG_VOLUME_LAYERS_MAX   32    /* of one volume's chain, as BG_DISK_LAYERS_MAX; refused */
#define BG_SANDBOX_VOLUMES_MAX 8     /* of one sandbox: each has a slot of its machine; refused */
#define BG_VOLUME_PATH_MAX     1024  /* bytes of where one is mounted; refused */
#define BG_VOLUME_GRACE_MS     20000 /* for a guest that has volumes to write them back */

/* Sandboxes. */
#define BG_SANDBOX_SECONDS_MAX 315360000      /* ten years, of a lifetime or of idleness; refused */
#define BG_SANDBOX_CPUS_MAX    64             /* refused when asked for */
#define BG_POOL_MEMBERS_MAX    16             /* ready at once in one pool; refused */
#define BG_SANDBOX_MEMORY_MIN  (128ull << 20) /* a guest with less does not boot; refused */
#define BG_SANDBOX_MEMORY_MAX  (1024ull << 30) /* refused */
#define BG_SECRET_INHERITED_MAX                                                                    \
    16 /* placeholders of a secret that a fork has from before; the oldest mean nothing more */

/* Egress. Times in milliseconds; each is the longest that the proxy waits in that phase. */
#define BG_EGRESS_CONNS_MAX   1024        /* guest connections at once; further ones: -EAGAIN */
#define BG_EGRESS_RULES_MAX   1024        /* --allow rules of a sandbox; refused at start */
#define BG_EGRESS_SECRETS_MAX 64          /* secrets of a sandbox; refused at start */
#define BG_EGRESS_BUDGETS_MAX 64          /* budgets of its secrets; a set fits a word; likewise */
#define BG_EGRESS_HELLO_MAX   (16 * 1024) /* a TLS ClientHello; connection closed */
#define BG_EGRESS_HEAD_MAX    (64 * 1024) /* an HTTP head, chunk line or trailers; 431 or 502 */
#define BG_EGRESS_FIELDS_MAX  128         /* header fields of one head; 431 or 502 */
#define BG_EGRESS_INTERIM_MAX 16          /* 1xx answers to one request; 502 */
#define BG_EGRESS_BODY_MAX    (16 << 20)  /* a body's max in a policy file; refused there */
#define BG_EGRESS_BODY_SIZE   (1 << 20)   /* a body in which secrets may stand, without max; 413 */
#define BG_EGRESS_BODIES_MAX  (64 << 20)  /* memory for all such bodies in one proxy; 503 */
#define BG_EGRESS_QUEUE_MAX                                                                        \
    (512 * 1024) /* bytes queued to one peer; cannot be passed, see conn.c */
#define BG_EGRESS_QUEUE_PAUSE      (64 * 1024) /* at it the other side is not read */
#define BG_EGRESS_LEAVES_MAX       256         /* certificates kept; the oldest goes */
#define BG_EGRESS_MINT_BURST       1024        /* certificates for new names, at once; refused */
#define BG_EGRESS_MINT_RATE        32          /* and a second; refused */
#define BG_EGRESS_MINT_ALLOWED     256         /* of those at once, for allowed hosts only */
#define BG_EGRESS_ADDRESSES_MAX    8       /* addresses of a name that are tried; others dropped */
#define BG_EGRESS_AUDIT_TEXT       512     /* a path or host in an audit line; cut */
#define BG_EGRESS_PEEK_MS          300     /* for a client that speaks first */
#define BG_EGRESS_HANDSHAKE_MS     180000  /* a TLS handshake, from its first byte; slow guests */
#define BG_EGRESS_GREET_MS         60000   /* the same with an upstream; 504 */
#define BG_EGRESS_HEAD_MS          30000   /* a request head, from its first byte; 408 */
#define BG_EGRESS_IDLE_MS          120000  /* between requests; closed */
#define BG_EGRESS_RESOLVE_MS       10000   /* a name; 504 */
#define BG_EGRESS_CONNECT_MS       10000   /* after the last address was begun with; 504 */
#define BG_EGRESS_RESPONSE_MS      600000  /* an upstream that says nothing; 504 or cut */
#define BG_EGRESS_STALL_MS         120000  /* a guest that neither sends its body nor reads; cut */
#define BG_EGRESS_TCP_IDLE_MS      7200000 /* a pass-through without bytes; cut */
#define BG_EGRESS_LINGER_MS        2000    /* for the guest to read a last answer */
#define BG_EGRESS_UPSTREAM_IDLE_MS 30000   /* a kept upstream connection; closed */
#define BG_EGRESS_IDLE_MAX         64      /* kept idle ones of HTTP/1.1; the oldest goes */
#define BG_EGRESS_IDLE_HOST_MAX    8       /* of these, to one host and port; as above */
#define BG_EGRESS_H2_STREAMS_MAX   100     /* on one connection; refused */
#define BG_EGRESS_H2_WINDOW_GUEST                                                                  \
    (64 * 1024) /* sent and not taken up yet, a stream; the guest waits */
#define BG_EGRESS_H2_WINDOW_UPSTREAM   (384 * 1024)      /* the same for upstreams, which are far */
#define BG_EGRESS_H2_WINDOW_CONNECTION (4 * 1024 * 1024) /* the same of all streams */
#define BG_EGRESS_H2_ACKS_MAX          100 /* answers to PING and SETTINGS unsent; GOAWAY */
#define BG_EGRESS_H2_RESETS_MAX        200 /* streams that the guest resets, at once; GOAWAY */
#define BG_EGRESS_H2_RESETS_RATE       33  /* and a second; GOAWAY */
#define BG_SECRET_SIZE_MAX             (64 * 1024)   /* a secret's value; refused by secret set */
#define BG_SECRETS_FILE_MAX            (1024 * 1024) /* values in one file; refused at start */
#define BG_PROXY_WORKERS_MAX           256 /* processes of a proxy on its own; refused at start */
#define BG_PROXY_OLD_MAX               1024 /* of them those that end what they began; the oldest is ended */
#define BG_PROXY_RETIRE_MS             5000 /* for connections that have asked for nothing yet; closed */

/* Links to upstreams. */
#define BG_EGRESS_MESSAGE_PART  (64 * 1024) /* of a WebSocket message; the rest comes next */
#define BG_EGRESS_SESSIONS_MAX  64          /* TLS tickets of upstreams kept; the oldest goes */
#define BG_EGRESS_SESSIONS_EACH 4           /* of these, for one host and port; likewise */
#define BG_EGRESS_SESSION_MS    3600000     /* since its certificate was verified; not resumed */
#define BG_EGRESS_RACE_MS       250         /* RFC 8305; then the next address is tried too */
#define BG_EGRESS_TURN_MS       2000        /* likewise, and the address before is given up */
#define BG_EGRESS_RACING_MAX    32          /* sockets that race, in all; more: one by one */

/* Content codings that are taken off. */
#define BG_EGRESS_CODINGS_MAX  2           /* of one body; 502, or sent on unread */
#define BG_EGRESS_UNFOLD_FREE  (16u << 20) /* bytes that a body may unfold to in any case */
#define BG_EGRESS_UNFOLD_RATIO 256         /* times its size, beyond; the answer is cut */

/* The CA, and the audit log. */
#define BG_CA_OLD_MAX      8           /* CAs kept for running sandboxes; rotate refuses */
#define BG_AUDIT_FILES_MAX 4           /* files of an audit log; the oldest goes */
#define BG_AUDIT_FILE_SIZE (64u << 20) /* of one; turned over. At twice that: as if full */
#define BG_AUDIT_LAST_MAX  100000      /* audit -n, which it holds in memory; refused */

/* Files: the FUSE stream, the server and the relay. */
#define BG_FS_IO_MAX          (1024 * 1024)         /* one READ or WRITE; larger: -EINVAL, EIO */
#define BG_FS_MESSAGE_MAX     (BG_FS_IO_MAX + 4096) /* one message; larger: the stream ends */
#define BG_FS_NAME_MAX        255                   /* one name; longer: ENAMETOOLONG */
#define BG_FS_XATTR_MAX       (64 * 1024)           /* one value or list; larger: E2BIG, EIO */
#define BG_FS_DIR_REPLY_MAX   (64 * 1024)           /* one answer to READDIR; the rest comes next */
#define BG_FS_WINDOW          64                    /* requests in flight; /dev/fuse is not read */
#define BG_FS_WINDOW_BYTES    (16 * 1024 * 1024)    /* unsent to the server; likewise */
#define BG_FS_SLOW_MAX        256                   /* SETLKW and FSYNC in flight; ENOLCK, EIO */
#define BG_FS_LATE_MAX        1024               /* given up, unanswered; the stream is dropped */
#define BG_FS_GATHER_FILE_MAX (4 * 1024 * 1024)  /* acknowledged, not done; writers wait */
#define BG_FS_GATHER_MAX      (32 * 1024 * 1024) /* the same of all files; likewise */
#define BG_FS_AHEAD_MAX       (64 * 1024)        /* of a file, with the answer to OPEN; none */
#define BG_FS_AHEAD_ALL_MAX   (8 * 1024 * 1024)  /* of these unread; no more are asked for */
#define BG_FS_NODES_MAX       (1024 * 1024)      /* known to the relay; ENFILE */
#define BG_FS_HANDLES_MAX     65536              /* open through one mount; ENFILE */
#define BG_FS_DEPTH_MAX       128                /* folders in folders; ENAMETOOLONG */
#define BG_FS_DIR_ENTRIES_MAX 1000000            /* from one opendir; EIO */
#define BG_FS_DIR_WAIT_MAX_MS 60000              /* for all answers to one opendir; EIO */
#define BG_FS_WALKS_MAX       64                 /* readers of links at once; moves upwards wait */
#define BG_FS_MOVES_MAX       1024               /* folders that change their depth; renames wait */
#define BG_FS_HELD_MAX        256                /* requests that wait for either; EBUSY */
#define BG_FS_ODD_REPLIES_MAX 8                  /* replies nobody asked for; stream is dropped */
#define BG_FS_REBIND_MAX      65536              /* found again on a new server; others: ESTALE */
#define BG_FS_SERVER_FDS      4096               /* inode fds that the server keeps; reopened */
#define BG_FS_LOCK_WAITS_MAX  64                 /* threads that wait for locks; ENOLCK */
#define BG_FS_LOCK_OWNERS_MAX 1024               /* fds that hold POSIX locks; ENOLCK */

/* Files: changes that others make. */
#define BG_FS_CHANGES_SIZE       (64 * 1024) /* one message about changes; the rest comes next */
#define BG_FS_CHANGES_RATE       50000 /* records a second that are looked at; caches are short */
#define BG_FS_NOTICES_MAX        1024  /* to the kernel, not taken yet; caches are short */
#define BG_FS_NOTICES_MISSED_MAX 256   /* that are told again; the oldest is given up */
#define BG_FS_ECHOES_MAX         1024  /* that wait; from half of it on only folders are touched */
#define BG_FS_ECHOES_RATE        2000  /* operations a second; the others wait */

/* Guarded files of a mount (fs/guard). */
#define BG_GUARD_FILE_MAX     (1024 * 1024)      /* one approved or filtered file; EFBIG, EACCES */
#define BG_GUARD_FILES_MAX    1024               /* approved files of a sandbox; ENOSPC */
#define BG_GUARD_BYTES_MAX    (16 * 1024 * 1024) /* of them together; ENOSPC */
#define BG_GUARD_SETTINGS_MAX 4096               /* of one git configuration; EACCES */
#define BG_GUARD_HIDDEN_MAX   512  /* of these, kept when the host writes it; more are lost */
#define BG_GUARD_COPIES_MAX   256  /* files just written, to be renamed; the oldest goes */
#define BG_GUARD_NODES_MAX    4096 /* known to the kernel; ENFILE */
#define BG_GUARD_HANDLES_MAX  1024 /* open at once; ENFILE */
#define BG_GUARD_ERRANDS_MAX  64   /* exchanges with the guest at once; EIO */

/* Shares of host folders. */
#define BG_SHARES_MAX             64             /* of one sandbox; refused */
#define BG_SHARE_PATTERNS_MAX     256            /* --hide and --show of one share; refused */
#define BG_SHARE_NODES_MAX        (2048 * 1024)  /* files that the guest knows; ENFILE */
#define BG_SHARE_SPACE_MIN        (256ull << 20) /* left free on the host's disk; ENOSPC */
#define BG_SHARE_WRITE_MAX        (4ull << 40)   /* bytes written through one share; EDQUOT */
#define BG_SHARE_INODES_MAX       20000000ull    /* files made through one share; EDQUOT */
#define BG_SHARE_FILE_MAX         (1ull << 40)   /* size of one file; EFBIG */
#define BG_SHARE_ALLOCATE_MAX     (1ull << 30)   /* one fallocate; EFBIG */
#define BG_SHARE_MOVE_ENTRIES_MAX 20000          /* in a folder that moves upwards; EXDEV */
#define BG_SHARE_SCAN_ENTRIES_MAX                                                                  \
    4000000 /* looked through for hard links; then those with several names are hidden */
#define BG_SHARE_MEMORY_MAX (3ull << 30) /* address space of one server; ENOMEM */

/* Copy-on-write shares. */
#define BG_CHANGES_RECORDS_MAX 200000       /* in one layer; diff refuses and says so */
#define BG_CHANGES_LIST_MAX    (64u << 20)  /* bytes of all its records; likewise */
#define BG_CHANGES_DEPTH_MAX   128          /* folders in folders; likewise */
#define BG_CHANGES_BYTES_MAX   (8ull << 30) /* contents fetched from one layer; likewise */
#define BG_CHANGES_INDEX_MAX   1000000      /* files in the shared folder; refused */
#define BG_CHANGES_TEXT_MAX    (4u << 20)   /* a file that is shown as a patch; else as a binary */
#define BG_CHANGES_WAIT_MS     600000       /* for the guest to say anything; the command fails */

/* Gateway. */
#define BG_GATEWAY_CONNS_MAX       512 /* connections at once; further ones are closed */
#define BG_GATEWAY_SANDBOXES_MAX   256 /* made by it and not yet removed; 429 */
#define BG_GATEWAY_WAITS_MAX       8   /* creations that wait for a volume; further: 409 */
#define BG_GATEWAY_MEMORY_DEFAULT  (1280ll << 20) /* of a sandbox whose client does not say */
#define BG_GATEWAY_TOKENS_MAX      256            /* in its file; refused */
#define BG_GATEWAY_HEAD_MAX        (128 * 1024)   /* a request without its body; 431 */
#define BG_GATEWAY_BODY_MAX        (256 * 1024)   /* of a request; 413 */
#define BG_GATEWAY_MESSAGE_MAX     (96u << 20)    /* one WebSocket message; the connection ends */
#define BG_GATEWAY_OUT_MAX         (4u << 20)     /* unsent bytes of a client; its sources wait */
#define BG_GATEWAY_IN_MAX          (64u << 20) /* bytes that the guest has not taken; client waits */
#define BG_GATEWAY_CHUNK_MAX       (64 * 1024) /* of a stream, before base64 */
#define BG_GATEWAY_STREAMS_MAX     1024        /* of a client's connection; it ends */
#define BG_GATEWAY_ENDS_MAX        4096  /* streams whose end waits for a ping's answer; it ends */
#define BG_GATEWAY_PATTERN_MAX     4096  /* bytes of one of walk's or expandGlob's; refused */
#define BG_GATEWAY_PATTERNS_MAX    64    /* of one call; refused */
#define BG_GATEWAY_MATCH_MAX       20000 /* steps of one pattern on one path; the call fails */
#define BG_GATEWAY_MATCH_HEAP_KIB  1024  /* likewise, of memory */
#define BG_GATEWAY_TURN_MS         5     /* of a walk, before others have their turn */
#define BG_GATEWAY_PROCESSES_MAX   256   /* likewise; the call fails */
#define BG_GATEWAY_FILES_MAX       256   /* open files, and files under way; likewise */
#define BG_GATEWAY_READ_MAX        (256u << 20) /* a file that is read whole; likewise */
#define BG_GATEWAY_ENTRIES_MAX     100000       /* of one folder; likewise */
#define BG_GATEWAY_LOGINS_MAX      64           /* browsers that are logged in; the oldest goes */
#define BG_GATEWAY_LOGIN_MS        43200000u /* how long one is: a working day; then it is over */
#define BG_GATEWAY_LOGIN_TRIES_MAX 10        /* wrong tokens at once; 429 */
#define BG_GATEWAY_LOGIN_TRY_MS    6000u     /* each of those is forgotten after this */
#define BG_GATEWAY_JOBS_MAX        16        /* of extra routes at once: half of the threads; 429 */
#define BG_GATEWAY_FORKS_MAX       16        /* of one request; refused */
#define BG_GATEWAY_AUDIT_MAX       (256 * 1024) /* bytes of an audit log in one answer; the rest next */
#define BG_GATEWAY_METRICS_MAX     128 /* names of one kind: methods; the rest is "other" */
#define BG_GATEWAY_LABELS_MAX      64  /* of a sandbox; refused */
#define BG_GATEWAY_LABEL_MAX       256 /* bytes of one's key or value; refused */

/* Reads of a client's loop in one turn (host/gateway/turns.h): Deno's, and what must do for one on
 * another machine. More: a stream that it leaves can break its connection. */
#define BG_GATEWAY_TURN_READS     32
#define BG_GATEWAY_TURN_READS_FAR 4

/* MCP server. */
#define BG_MCP_LINE_MAX      (16u << 20)  /* one message; passed over, and an error is sent */
#define BG_MCP_CALLS_MAX     64           /* calls of tools under way; refused */
#define BG_MCP_UNSENT_MAX    (8u << 20)   /* unsent bytes; no more messages are read meanwhile */
#define BG_MCP_SANDBOXES_MAX 256          /* that --max may allow */
#define BG_MCP_SNAPSHOTS_MAX 64           /* of one server, not yet removed; refused */
#define BG_MCP_COMMAND_MAX   (128 * 1024) /* bytes of shell text, Linux's limit; refused */
#define BG_MCP_STRINGS_MAX   1024         /* arguments or variables of a command; refused */
#define BG_MCP_CONTENT_MAX   (8u << 20)   /* of a file or stdin in one call; refused, or cut */
#define BG_MCP_OUTPUT_MIN    1024         /* of each output that a call may ask for */
#define BG_MCP_OUTPUT_MAX    (1u << 20)   /* likewise; the middle of a longer one is left out */
#define BG_MCP_ENTRIES_MAX   1000         /* of one folder; the rest is only counted */
#define BG_MCP_LIST_MAX      (16u << 20)  /* bytes of a folder's names; the call fails */
#define BG_MCP_TIMEOUT_S_MAX 86400        /* of a command */
#define BG_MCP_TEXT_MAX      8192         /* that a command of ours says; the rest is dropped */
