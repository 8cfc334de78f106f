#include "guest/power.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "guest/agent.h"

struct power {
    uv_timer_t timer; /* never closed: the loop ends with the machine */
    bool killing;     /* SIGKILL was sent */
};

void power_cut(void)
{
    sync();
    /* Fails while somebody writes; the journal is synced all the same. */
    (void)mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
    (void)reboot(RB_POWER_OFF); /* returns only if the machine cannot be switched off */
    for (;;)
        (void)pause();
}

static void waited(uv_timer_t *timer)
{
    struct power *power = timer->data;
    if (power->killing)
        power_cut();
    power->killing = true;
    (void)kill(-1, SIGKILL); /* everything but us; fails if that is nothing */
    (void)uv_timer_start(&power->timer, waited, BG_AGENT_SHUTDOWN_MS, 0); /* not closing */
}

void power_all_ended(struct power *power)
{
    (void)power;
    power_cut();
}

void power_off(struct agent *agent)
{
    if (agent->power)
        return;
    agent->power = calloc(1, sizeof *agent->power);
    if (!agent->power)
        power_cut(); /* out of memory: without the grace */
    bg_log(agent->log, BG_LOG_INFO, "powering off");
    agent_thaw(agent); /* so that they can end by themselves */
    (void)uv_timer_init(&agent->loop, &agent->power->timer); /* cannot fail */
    agent->power->timer.data = agent->power;
    (void)kill(-1, SIGTERM); /* everything but us; fails if that is nothing */
    (void)kill(-1, SIGCONT); /* a stopped process could not end */
    (void)uv_timer_start(&agent->power->timer, waited, BG_AGENT_SHUTDOWN_MS, 0); /* not closing */
}
