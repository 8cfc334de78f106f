/* sdk_folder: a folder with what package-lock.json here names, for tests that run Node. */
#pragma once

/* BG_TEST_SDK names it, or npm makes one, which it then names. Returns 0, or what main is to
 * return: 77, or 1 if BG_TEST_REQUIRE has npm in it; why was printed. */
int sdk_folder_begin(const char *sources);
/* Removes it if it was made here. */
void sdk_folder_end(void);
