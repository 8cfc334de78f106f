#include "guest/names.h"

#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/limits.h"

#define ADDRESSES (NAMES_LAST - NAMES_FIRST)
#define BUCKETS   4096u

/* fd62:656c:6c67::/96: "bellg" in a unique local prefix (RFC 4193). */
static const uint8_t v6_prefix[12] = {0xfd, 0x62, 0x65, 0x6c, 0x6c, 0x67};

struct entry {
    TAILQ_ENTRY(entry) use;   /* in names.uses, the latest first */
    LIST_ENTRY(entry) bucket; /* by name */
    uint32_t address;
    char name[];
};

struct names {
    TAILQ_HEAD(uses, entry) uses;
    LIST_HEAD(, entry) buckets[BUCKETS];
    struct entry *by_address[ADDRESSES]; /* untouched parts of it cost nothing */
    size_t count;
    uint32_t next; /* index of the address to give next */
};

struct names *names_new(void)
{
    struct names *names = calloc(1, sizeof *names);
    if (names)
        TAILQ_INIT(&names->uses);
    return names;
}

static void remove_entry(struct names *names, struct entry *entry)
{
    TAILQ_REMOVE(&names->uses, entry, use);
    LIST_REMOVE(entry, bucket);
    names->by_address[entry->address - NAMES_FIRST] = NULL;
    names->count--;
    free(entry);
}

void names_free(struct names *names)
{
    if (!names)
        return;
    struct entry *entry;
    while ((entry = TAILQ_FIRST(&names->uses)))
        remove_entry(names, entry);
    free(names);
}

/* FNV-1a: the guest that could make it collide slows down only itself. */
static uint32_t hash(const char *name)
{
    uint32_t h = 2166136261u;
    for (const char *at = name; *at; at++)
        h = (h ^ (uint8_t)*at) * 16777619u;
    return h % BUCKETS;
}

static void touch(struct names *names, struct entry *entry)
{
    TAILQ_REMOVE(&names->uses, entry, use);
    TAILQ_INSERT_HEAD(&names->uses, entry, use);
}

uint32_t names_address(struct names *names, const char *name)
{
    uint32_t bucket = hash(name);
    struct entry *entry;
    LIST_FOREACH(entry, &names->buckets[bucket], bucket)
    {
        if (strcmp(entry->name, name) == 0) {
            touch(names, entry);
            return entry->address;
        }
    }
    size_t size = strlen(name) + 1;
    entry = malloc(sizeof *entry + size);
    if (!entry)
        return 0;
    if (names->count >= BG_DNS_NAMES_MAX)
        remove_entry(names, TAILQ_LAST(&names->uses, uses));
    /* There are many more addresses than names: this ends. */
    while (names->by_address[names->next])
        names->next = (names->next + 1) % ADDRESSES;
    memcpy(entry->name, name, size);
    entry->address = NAMES_FIRST + names->next;
    names->by_address[names->next] = entry;
    names->next = (names->next + 1) % ADDRESSES;
    names->count++;
    TAILQ_INSERT_HEAD(&names->uses, entry, use);
    LIST_INSERT_HEAD(&names->buckets[bucket], entry, bucket);
    return entry->address;
}

const char *names_find(struct names *names, uint32_t address)
{
    if (address < NAMES_FIRST || address >= NAMES_LAST)
        return NULL;
    struct entry *entry = names->by_address[address - NAMES_FIRST];
    if (!entry)
        return NULL;
    touch(names, entry);
    return entry->name;
}

void names_to_v6(uint32_t address, uint8_t ret[16])
{
    memcpy(ret, v6_prefix, sizeof v6_prefix);
    for (int i = 0; i < 4; i++)
        ret[12 + i] = (uint8_t)(address >> (24 - 8 * i));
}

bool names_from_v6(const uint8_t v6[16], uint32_t *ret_address)
{
    if (memcmp(v6, v6_prefix, sizeof v6_prefix) != 0)
        return false;
    *ret_address = (uint32_t)v6[12] << 24 | (uint32_t)v6[13] << 16 | (uint32_t)v6[14] << 8 | v6[15];
    return true;
}

bool names_is_synthetic(uint32_t address)
{
    return address >> (32 - NAMES_BITS) == NAMES_NETWORK >> (32 - NAMES_BITS);
}
