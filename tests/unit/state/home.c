#include "tests/unit/state/home.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/state/folder.h"

int home_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    (void)snprintf(f->home, sizeof f->home, "/tmp/bg-test-XXXXXX");
    assert_non_null(mkdtemp(f->home));
    assert_int_equal(setenv("BELLGLASS_HOME", f->home, 1), 0);
    assert_int_equal(bg_paths_init(&f->paths, NULL), 0);
    *state = f;
    return 0;
}

int home_teardown(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(bg_folder_remove(AT_FDCWD, f->home), 0);
    bg_paths_done(&f->paths);
    free(f);
    return 0;
}
