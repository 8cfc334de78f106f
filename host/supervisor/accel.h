/* Which accelerator QEMU shall use. */
#pragma once

#include "common/err.h"

enum accel { ACCEL_KVM, ACCEL_TCG };

/* Decides: $BELLGLASS_ACCEL (kvm or tcg) if set, else KVM when it can really run a 64-bit guest: a
 * node that opens is not enough, since some hosts offer a /dev/kvm whose virtual CPU lacks what
 * x86-64 kernels need. why (may be NULL) gets one line for a person: the reason for TCG, or what
 * was checked. Errors: -EINVAL a bad value of the variable. */
int accel_probe(enum accel *ret, struct bg_err *why) BG_MUST_CHECK;

const char *accel_name(enum accel accel); /* "kvm", "tcg": QEMU's words */
