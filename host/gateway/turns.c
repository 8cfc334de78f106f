#include "host/gateway/turns.h"

uint64_t turns_mark(const struct turns *turns)
{
    return turns->sent + 1;
}

uint64_t turns_ping(struct turns *turns)
{
    if (turns->sent != turns->answered)
        return 0;
    turns->heard_before = turns->heard;
    return ++turns->sent;
}

bool turns_pong(struct turns *turns, uint64_t number)
{
    if (turns->sent == turns->answered || number != turns->sent)
        return false;
    turns->answered = number;
    turns->settled = turns->heard_before;
    return true;
}

void turns_message(struct turns *turns)
{
    turns->heard = turns->answered;
}

/* The mark's own ping was read in the same turn, or in a later one, and so were the answers to the
 * reads - 1 after it: the next read is not in that turn. */
bool turns_later(const struct turns *turns, uint64_t mark)
{
    return turns->heard >= mark || turns->answered + 1 >= mark + turns->reads;
}

bool turns_over(const struct turns *turns, uint64_t mark)
{
    return turns->settled >= mark || turns->answered >= mark + turns->reads;
}
