/* Java's trust store, in the form in which Debian keeps it ("JKS", version 2): a list of named
 * certificates with a digest behind, over a password that everybody knows and the list. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* Makes a copy in which the certificate (DER) stands under our name, in place of one that does
 * already. *ret: heap, the caller's. Errors: -EUCLEAN the store is not in that form, or its digest
 * is wrong; -E2BIG; -ENOMEM. */
int keystore_trust(const uint8_t *store, size_t size, const uint8_t *der, size_t der_size,
                   uint64_t now_ms, uint8_t **ret, size_t *ret_size,
                   struct bg_err *err) BG_MUST_CHECK;

/* The DER in the first certificate of a PEM text, which must have room for it: ret, at least size
 * bytes. Errors: -EINVAL there is none. */
int keystore_read_pem(const uint8_t *pem, size_t size, uint8_t *ret,
                      size_t *ret_size) BG_MUST_CHECK;
