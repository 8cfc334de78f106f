#include "host/cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

/* In the background a change of the terminal stops us. One that does not control us never does. */
static bool in_background(int fd)
{
    pid_t foreground = tcgetpgrp(fd);
    return foreground >= 0 && foreground != getpgrp();
}

void terminal_init(struct terminal *terminal, int fd)
{
    *terminal = (struct terminal){.fd = isatty(fd) ? fd : -1};
}

void terminal_raw(struct terminal *terminal)
{
    struct terminal *t = terminal;
    if (t->fd < 0 || in_background(t->fd))
        return;
    if (!t->raw && tcgetattr(t->fd, &t->saved) < 0)
        return; /* it is gone; reading from it will tell */
    struct termios raw = t->saved;
    cfmakeraw(&raw);
    t->raw = tcsetattr(t->fd, TCSADRAIN, &raw) == 0 || t->raw;
}

void terminal_restore(struct terminal *terminal)
{
    /* Not from the background: the foreground has set it as it wants it. */
    if (terminal->raw && !in_background(terminal->fd))
        (void)tcsetattr(terminal->fd, TCSADRAIN, &terminal->saved); /* else it is gone */
    terminal->raw = false;
}

void terminal_size(int fd, uint16_t *ret_rows, uint16_t *ret_columns)
{
    struct winsize size = {0};
    if (ioctl(fd, TIOCGWINSZ, &size) < 0)
        size = (struct winsize){0};
    *ret_rows = size.ws_row;
    *ret_columns = size.ws_col;
}
