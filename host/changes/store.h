/* What the host keeps of a copy-on-write share (docs/protocol.md, "State files"), in
 * SANDBOX/cow/ID: base (the host's folder as it was), shown (the layer as it was last shown),
 * contents/HASH (its files), and apply's journal. */
#pragma once

#include "common/state/sandbox.h"
#include "host/changes/entry.h"

struct store {
    const struct bg_share *share; /* borrowed */
    int dir, contents, lock;      /* owned */
};

/* Makes the folder of a new share, with a base as base.new: host/cli/cow.c gives it its name.
 * What an earlier share of this number left goes. Errors: errno. */
int store_create(const struct bg_sandbox *sandbox, const struct bg_share *share,
                 struct bg_err *err) BG_MUST_CHECK;

/* Opens and locks it, waiting for nobody. Errors: -ENOENT; -EBUSY another command has it. */
int store_open(const struct bg_sandbox *sandbox, const struct bg_share *share, struct store *ret,
               struct bg_err *err) BG_MUST_CHECK;
void store_close(struct store *store);

/* The contents of a file, as they come. */
struct store_file {
    int fd; /* -1: none is open */
    struct bg_sha256 hash;
};
int store_begin(const struct store *store, struct store_file *file,
                struct bg_err *err) BG_MUST_CHECK;
int store_write(struct store_file *file, const void *bytes, size_t size,
                struct bg_err *err) BG_MUST_CHECK;
/* Keeps it under its hash. */
int store_keep(const struct store *store, struct store_file *file, uint8_t ret_hash[BG_SHA256_SIZE],
               struct bg_err *err) BG_MUST_CHECK;
void store_drop(const struct store *store, struct store_file *file);

/* Opens contents for reading, an fd. Errors: errno. */
int store_read(const struct store *store, const uint8_t hash[BG_SHA256_SIZE]) BG_MUST_CHECK;

/* Removes what no entry refers to. */
void store_sweep(const struct store *store, const struct entries *entries);
