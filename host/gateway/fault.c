#include "host/gateway/fault.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "host/gateway/text.h"

static const struct {
    int code;
    const char *class_name;
} classes[] = {
    {ENOENT, "NotFound"},
    {ESRCH, "NotFound"},
    {EACCES, "PermissionDenied"},
    {EPERM, "PermissionDenied"},
    {EROFS, "PermissionDenied"},
    {EEXIST, "AlreadyExists"},
    {EISDIR, "IsADirectory"},
    {ENOTDIR, "NotADirectory"},
    {ELOOP, "FilesystemLoop"},
    {EBUSY, "Busy"},
    {ETXTBSY, "Busy"},
    {EINVAL, "InvalidData"},
    {EILSEQ, "InvalidData"},
    {EPIPE, "BrokenPipe"},
    {ETIMEDOUT, "TimedOut"},
    {ETIME, "TimedOut"},
    {EINTR, "Interrupted"},
    {EAGAIN, "WouldBlock"},
    {EBADF, "BadResource"},
    {EOPNOTSUPP, "NotSupported"},
    {ENOSYS, "NotSupported"},
    {ECONNREFUSED, "ConnectionRefused"},
    {ECONNRESET, "ConnectionReset"},
    {ECONNABORTED, "ConnectionAborted"},
    {ENOTCONN, "NotConnected"},
    {EADDRINUSE, "AddrInUse"},
    {EADDRNOTAVAIL, "AddrNotAvailable"},
    {ENETUNREACH, "NetworkUnreachable"},
};

const char *fault_class(int code)
{
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++)
        if (classes[i].code == -code)
            return classes[i].class_name;
    return "Error";
}

static json_t *make(const char *class_name, const char *text, const char *code, const char *name)
{
    return json_pack("{s:s, s:o, s:s?, s:s?, s:n, s:n, s:n, s:n, s:n}", "constructorName",
                     class_name, "message", text_lossy(text, strlen(text)), "code", code, "name",
                     name, "stack", "cause", "errors", "error", "suppressed");
}

json_t *fault_errno(int code, const char *doing)
{
    char text[8192];
    const char *meaning = strerrordesc_np(-code);
    (void)snprintf(text, sizeof text, "%s (os error %d)%s%s", meaning ? meaning : "Unknown error",
                   -code, doing ? ": " : "", doing ? doing : "");
    return make(fault_class(code), text, strerrorname_np(-code), NULL);
}

json_t *fault_new(const char *class_name, const char *text)
{
    return make(class_name, text, NULL, NULL);
}

json_t *fault_dom(const char *name, const char *text)
{
    return make("DOMException", text, NULL, name);
}
