/* signal_name: signals by the names that clients use. Pure. */
#pragma once

/* Linux's number of "SIGTERM", or 0. */
int signal_number(const char *name);
/* "SIGTERM"; "SIG33" for one without a name. text: 16 bytes. */
const char *signal_name(int number, char text[16]);
