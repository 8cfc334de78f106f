/* route_pattern: a route as an OpenAPI document writes it, for the comparison of openapi.json with
 * the tables that requests are found by. */
#pragma once

struct route_pattern {
    const char *method;
    char path[64]; /* with {id}, {volume}, ... for what stands there */
};
