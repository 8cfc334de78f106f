/* A home of its own for each test of what lies in files: $BELLGLASS_HOME is a fresh folder. */
#pragma once

#include "common/state/paths.h"

struct fixture {
    char home[64];
    struct bg_paths paths;
};

/* cmocka's set-up and teardown: *state is a struct fixture. */
int home_setup(void **state);
int home_teardown(void **state);
