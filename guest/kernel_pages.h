/* kernel_pages: finds where our kernel keeps its page records (common/page_records.h), so that the
 * host can leave free pages out of a snapshot. The kernel says how they look in the note VMCOREINFO
 * of /proc/kcore, which is there for such readers; where they are in physical memory its page
 * tables say. Before anything is told, what they say about free pages is compared with
 * /proc/kpageflags: a kernel that we misread is not told of, and everything is saved. */
#pragma once

#include "common/page_records.h"

/* kcore_fd, flags_fd: /proc/kcore and /proc/kpageflags. Errors: -ENOTSUP with what is missing or
 * does not agree; of reading. */
int kernel_pages_find(int kcore_fd, int flags_fd, struct bg_page_records *ret,
                      struct bg_err *err) BG_MUST_CHECK;
