/* npm_folder: what a package-lock.json names, for tests that run Node or Deno. */
#pragma once

#include "tests/lib/vm.h"

/* The environment variable names a folder with it, or npm makes one, which it then names. sources:
 * the folder with package.json and package-lock.json; what: "the client libraries". Returns 0, or
 * what main is to return: 77, or 1 if BG_TEST_REQUIRE has npm in it; why was printed. */
int npm_folder_begin(const char *sources, const char *variable, const char *what);
/* Removes the one that was made. */
void npm_folder_end(void);

/* A copy of sources/NAME in the test's folder, with node_modules beside it, where Node looks. */
const char *npm_folder_script(struct vm *vm, const char *sources, const char *variable,
                              const char *name);
