/* Echoes: file events of the host for changes of the guest. Linux makes inotify events only for
 * operations on the host, so a process of ours (echoer.h) does each change once more on the mount,
 * and what that asks of the file system is answered here: the guest has done it already and hears
 * nothing of it.
 *
 * One operation runs at a time. While it does, requests of that process are recognised by its
 * process id and must be what the operation needs; anything else of it that would change something
 * is refused, and nothing of it that changes anything is ever forwarded. Files that it "makes", and
 * those that it removes and we do not know, are stand-ins: nodes without a file on the server,
 * given out for no time at all, so that whoever looks finds the real one or none.
 *
 * Echoes are made in folders that the kernel knows (one that is watched is), never for hidden
 * names, after a pause in which changes to one name are gathered, and at a limited rate. When there
 * are more, only the folder is touched. For the relay's own files. */
#pragma once

#include "fs/proto/change.h"
#include "fs/relay/state.h"

/* Queues what a record of the server says, names checked. */
void fs_echo_add(struct fs_relay *relay, const struct fs_change *change, uint64_t now_ms);

/* Starts the next operation if it is time. Returns in how many ms to come again; UINT64_MAX: when
 * something happens. */
uint64_t fs_echo_tick(struct fs_relay *relay, uint64_t now_ms);

/* True if the request is the process's and has been answered or refused. */
bool fs_echo_answers(struct fs_relay *relay, const struct fs_request *request, uint64_t now_ms);

/* Ids of stand-ins on the server's side, which no server of ours gives out. */
bool fs_echo_is_stand_in(uint64_t server_id);

void fs_echo_done(struct fs_relay *relay);
