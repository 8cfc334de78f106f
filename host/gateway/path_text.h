/* path_text: paths as text, as the guest takes them and as JavaScript's library puts them together.
 * Pure. What is returned is heap, the caller's; NULL: out of memory. */
#pragma once

/* A folder and what is in it: no "./" in front, one slash between. */
char *path_join(const char *folder, const char *name);

/* An absolute path without "//", "." and "..": path, from root on if it is relative. */
char *path_resolve(const char *root, const char *path);

/* Its last name; "/" of the root. Borrowed from path. */
const char *path_name(const char *path);
