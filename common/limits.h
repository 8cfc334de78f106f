/* Every maximum of what the guest, the network or a client can make us hold, in one list. */
#pragma once

/* Streams (docs/protocol.md). */
#define BG_STREAM_BODY_MAX (1024 * 1024)  /* header body; larger: the stream is reset */
#define BG_REPLY_TEXT_MAX 4096            /* reply body; larger: the stream is reset */
#define BG_FRAME_SIZE_MAX (64 * 1024)     /* payload of one exec, copy or session frame; likewise */
#define BG_EXEC_STDIN_WINDOW (256 * 1024) /* stdin bytes in flight to the agent; sender waits */
#define BG_EXEC_STRINGS_MAX 4096          /* argv + env entries of one exec; refused */
#define BG_NAME_MAX 255                   /* host names, user names */
#define BG_PATH_MAX 4096                  /* paths on the wire, with their NUL */

/* The vsock device. */
#define BG_VSOCK_CONNS_MAX 1024                 /* connections per guest; further ones are reset */
#define BG_VSOCK_BUFFER_MAX (256 * 1024)        /* receive buffer per connection = credit given */

/* Control socket. */
#define BG_CONTROL_LINE_MAX (256 * 1024) /* one JSON request or answer; client is closed */
#define BG_CONTROL_CLIENTS_MAX 256       /* clients at once; further ones wait in the backlog */

/* State files. */
#define BG_MANIFEST_MAX (1024 * 1024) /* any JSON file of ours; refused as damaged */

/* Sandboxes. */
#define BG_SANDBOX_CPUS_MAX   64                 /* refused when asked for */
#define BG_SANDBOX_MEMORY_MIN (128ull << 20)     /* a guest with less does not boot; refused */
#define BG_SANDBOX_MEMORY_MAX (1024ull << 30)    /* refused */
