/* What serve takes: for its table and for bellglass-serve. */
#pragma once

enum {
    SERVE_LISTEN = 1,
    SERVE_TOKEN_FILE,
    SERVE_HOST_NAME,
    SERVE_IMAGE,
    SERVE_CPUS,
    SERVE_ALLOW,
    SERVE_REGION,
    SERVE_UPSTREAM_CA,
    SERVE_JSON,
    SERVE_MAX_SANDBOXES,
    SERVE_MAX_MEMORY,
    SERVE_MAX_LIFETIME,
    SERVE_NESTED,
    SERVE_METRICS,
    SERVE_TLS_CERT,
    SERVE_TLS_KEY,
    SERVE_WITHOUT_TLS,
};
