/* The machine's end: every process gets SIGTERM, after a while SIGKILL, then the disk is synced and
 * mounted read-only, and the power goes off. PID 1 only. */
#pragma once

struct agent;
struct power;

/* Begins; a second call is a no-op. */
void power_off(struct agent *agent);

/* The agent has no child left, so there is no other process. */
void power_all_ended(struct power *power);

/* Syncs and switches the machine off, now. Does not return. */
void power_cut(void) __attribute__((noreturn));
