/* openapi: the OpenAPI document of the routes, openapi.json beside this file, as it is in the
 * program. */
#pragma once

#include <stddef.h>

extern const unsigned char openapi_text[];
extern const size_t openapi_size;
