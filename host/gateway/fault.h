/* fault: what goes wrong in a sandbox, as an error that the client's SDK throws again
 * (docs/deno-protocol.md, "Errors"). Pure. */
#pragma once

#include <jansson.h>

/* The class that Deno has for an error of the system ("NotFound"); "Error" if it has none. */
const char *fault_class(int code);

/* For a negative errno. doing: what was tried, such as "stat '/x'"; may be NULL. NULL when memory
 * is out, as from the others; texts need not be UTF-8. */
json_t *fault_errno(int code, const char *doing);

/* An error of this class: "TypeError", "NotSupported", ... */
json_t *fault_new(const char *class_name, const char *text);

/* A DOMException of this name, such as "AbortError". */
json_t *fault_dom(const char *name, const char *text);
