/* The system's bundle of trusted certificates, and our CA's in it. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct trust_paths {
    const char *file;     /* what was added last */
    const char *bundle;   /* of PEM certificates; made if it is not there */
    const char *keystore; /* Java's; left alone if it is not there, or not as keystore.h has it */
};

/* Adds the certificate to the stores unless it is in them. If another one was added last, since the
 * host has a new CA, it is taken out again. A golden snapshot has it, so that its forks only
 * compare. Errors: errno of the calls. */
int trust_certificate(const struct trust_paths *paths, const uint8_t *pem, size_t size,
                      struct bg_err *err) BG_MUST_CHECK;
