/* The system's bundle of trusted certificates, and our CA's in it. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* Adds the certificate to the bundle unless it is in it. file: what was added last; if that is
 * another one, since the host has a new CA, it is taken out again. A golden snapshot has it, so
 * that its forks only compare. Errors: errno of the calls. */
int trust_certificate(const char *file, const char *bundle, const uint8_t *pem, size_t size,
                      struct bg_err *err) BG_MUST_CHECK;
