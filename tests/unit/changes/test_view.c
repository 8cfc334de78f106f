/* The three-way view, and what of it apply would do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "host/changes/plan.h"

struct sides {
    struct entries base, host, guest;
    struct view view;
};

/* "f PATH [STAMP]": a file (d folder, l link, r removed, o opaque folder, s special, x executable);
 * two with one stamp are the same file. A '|' between them. */
static void fill(struct entries *entries, const char *text)
{
    BG_AUTOFREE char *copy = strdup(text);
    for (char *rest = copy, *item; (item = strsep(&rest, "|"));) {
        char type = item[0];
        if (!type)
            continue;
        char *path = item + 2, *stamp = strchr(path, ' ');
        if (stamp)
            *stamp++ = '\0';
        struct bg_change c = {.type = type == 'f' || type == 'x'   ? BG_CHANGE_FILE
                                      : type == 'd' || type == 'o' ? BG_CHANGE_FOLDER
                                      : type == 'l'                ? BG_CHANGE_SYMLINK
                                      : type == 'r'                ? BG_CHANGE_REMOVED
                                                                   : BG_CHANGE_SPECIAL,
                              .flags = type == 'o' ? BG_CHANGE_OPAQUE : 0,
                              .mode = type == 'd' || type == 'o' || type == 'x' ? 0755 : 0644,
                              .size = type == 'f' || type == 'x' ? 4 : 0,
                              .inode = stamp ? strtoull(stamp, NULL, 10) : 1};
        (void)snprintf(c.path, sizeof c.path, "%s", path);
        if (type == 'l')
            (void)snprintf(c.target, sizeof c.target, "%s", stamp ? stamp : "target");
        struct entry *entry = entries_add(entries, &c);
        assert_non_null(entry);
        entry->has_hash = type == 'f' || type == 'x';
    }
    entries_sort(entries);
}

/* Contents are the same if the stamps are. */
static int equal(void *owner, const struct entry *host, const struct entry *guest)
{
    (void)owner;
    return host->inode == guest->inode;
}

static void make(struct sides *s, const char *base, const char *host, const char *guest)
{
    *s = (struct sides){0};
    fill(&s->base, base);
    fill(&s->host, host ? host : base);
    fill(&s->guest, guest);
    assert_int_equal(view_make(&s->base, &s->host, &s->guest, equal, NULL, &s->view), 0);
}

static void done(struct sides *s)
{
    view_done(&s->view);
    entries_done(&s->base);
    entries_done(&s->host);
    entries_done(&s->guest);
}

/* "M one|D two!": '!' is a conflict. Then what is settled, behind a ';'. */
static const char *text_of(const struct sides *s)
{
    static char text[4096];
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < s->view.count; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%c %s%s", i ? "|" : "",
                                 s->view.list[i].kind, s->view.list[i].path,
                                 s->view.list[i].conflict ? "!" : "");
    for (size_t i = 0; i < s->view.same_count; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, ";%s", s->view.same[i]->path);
    assert_true(used < sizeof text);
    return text;
}

static void every_pair_of_sides_has_its_kind(void **state)
{
    (void)state;
    static const struct {
        const char *base, *host, *guest, *expected;
    } cases[] = {
        {"f a 1", NULL, "", ""},
        {"", NULL, "f a 2", "A a"},
        {"f a 1", NULL, "f a 2", "M a"},
        {"f a 1", NULL, "r a", "D a"},
        {"f a 1", NULL, "x a 1", "P a"},
        {"f a 1", NULL, "f a 1", ";a"},
        {"", NULL, "r a", ";a"},
        {"", NULL, "l a x", "A a"},
        {"l a x", NULL, "l a y", "M a"},
        {"l a x", NULL, "l a x", ";a"},
        {"l a x", NULL, "f a 2", "T a"},
        {"f a 1", NULL, "l a x", "T a"},
        {"f a 1", NULL, "s a", "T a"},
        {"", NULL, "s a", "A a"},
        /* folders */
        {"d a|f a/b 1", NULL, "d a", ""},
        {"d a|f a/b 1|d a/c|f a/c/d 1", NULL, "r a", "D a|D a/b|D a/c|D a/c/d"},
        {"f a 1", NULL, "d a|f a/b 2", "T a|A a/b"},
        {"d a|f a/b 1", NULL, "f a 2", "T a|D a/b"},
        {"d a|f a/b 1|f a/c 1", NULL, "o a|f a/b 2", "M a/b|D a/c"},
        {"d a|f a/b 1|f a/c 1", NULL, "o a|f a/b 1", "D a/c"},
        {"d a|f a/b 1|d a/c|f a/c/d 1|f a/c/e 1", NULL, "o a|d a/c|f a/c/e 2",
         "D a/b|D a/c/d|M a/c/e"},
        {"d a", NULL, "o a", ";a"},
        {"d a|f a/b 1", NULL, "o a|f a/b 1", ";a;a/b"},
        {"d a|f a/b 1", NULL, "o a|r a/b", "D a/b"},
        /* names that begin alike are not below */
        {"d a|f a/b 1|f a-b 1|f a.b 1", NULL, "r a", "D a|D a/b"},
        /* both sides */
        {"f a 1", "f a 2", "f a 3", "M a!"},
        {"f a 1", "f a 2", "r a", "D a!"},
        {"f a 1", "", "f a 3", "A a!"},
        {"f a 1", "", "r a", ";a"},
        {"", "f a 2", "f a 3", "M a!"},
        {"", "f a 2", "f a 2", ";a"},
        {"f a 1", "f a 2", "f a 2", ";a"},
        {"f a 1", "d a", "f a 3", "T a!"},
        {"d a|f a/b 1", "d a|f a/b 1|f a/new 1", "r a", "D a|D a/b|D a/new!"},
        {"d a", "d a|f a/b 1", "d a|f a/c 2", "A a/c"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sides s;
        make(&s, cases[i].base, cases[i].host, cases[i].guest);
        if (strcmp(text_of(&s), cases[i].expected) != 0)
            fail_msg("%zu: base %s host %s guest %s: %s, want %s", i, cases[i].base, cases[i].host,
                     cases[i].guest, text_of(&s), cases[i].expected);
        done(&s);
    }
}

static void a_torn_file_is_never_the_same(void **state)
{
    (void)state;
    struct sides s = {0};
    fill(&s.base, "f a 1");
    fill(&s.host, "f a 1");
    fill(&s.guest, "f a 1");
    s.guest.list[0].torn = true;
    assert_int_equal(view_make(&s.base, &s.host, &s.guest, equal, NULL, &s.view), 0);
    assert_string_equal(text_of(&s), "M a");
    assert_true(s.view.list[0].marks & MARK_TORN);
    done(&s);
}

static void the_new_base_is_old_where_the_guest_was(void **state)
{
    (void)state;
    struct sides s;
    struct entries base;
    make(&s, "f a 1|f b 1|f c 1|f gone 1|f here 1", "f a 2|f b 2|f c 2|f new 1|f here 1",
         "f b 3|f c 2|r here|f gone 3");
    assert_string_equal(text_of(&s), "M b!|A gone!|D here;c");
    assert_int_equal(view_new_base(&s.view, &s.base, &s.host, &base), 0);
    assert_int_equal(base.count, 6);
    assert_int_equal(entries_find(&base, "a")->inode, 2);
    assert_int_equal(entries_find(&base, "b")->inode, 1);
    assert_int_equal(entries_find(&base, "c")->inode, 2);
    assert_int_equal(entries_find(&base, "gone")->inode, 1);
    assert_non_null(entries_find(&base, "new"));
    entries_done(&base);
    done(&s);
}

/* ---- plan ---- */

/* "+a" is done, "-a" is refused, what was not asked for is left out. */
static const char *choice(const struct sides *s, const struct plan_opts *opts)
{
    static char text[4096];
    const char *reasons[64];
    size_t used = 0;
    assert_true(s->view.count < 64);
    plan_choose(&s->view, &s->host, opts, reasons);
    text[0] = '\0';
    for (size_t i = 0; i < s->view.count; i++)
        if (!reasons[i] || *reasons[i])
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%c%s", used ? " " : "",
                                     reasons[i] ? '-' : '+', s->view.list[i].path);
    assert_true(used < sizeof text);
    return text;
}

static void only_what_may_be_is_chosen(void **state)
{
    (void)state;
    static const struct {
        const char *base, *host, *guest, *paths[3];
        bool force, trusted;
        const char *expected;
    } cases[] = {
        {"f a 1", NULL, "f a 2|f b 2", {0}, 0, 0, "+a +b"},
        {"f a 1", NULL, "f a 2|f b 2|f bc 2", {"b"}, 0, 0, "+b"},
        {"f a 1", "f a 2", "f a 3|f b 1", {0}, 0, 0, "-a +b"},
        {"f a 1", "f a 2", "f a 3|f b 1", {0}, 1, 0, "+a +b"},
        /* folders come with what is in them, and not without being allowed to */
        {"", NULL, "d n|d n/m|f n/m/a 1|f n/b 1", {"n/m/a"}, 0, 0, "+n +n/m +n/m/a"},
        {"d n 1|f n/x 1", "f n 9", "d n|f n/a 2", {0}, 0, 0, "-n -n/a"},
        {"d d|f d/a 1|f d/b 1", "d d|f d/a 1|f d/b 2", "r d", {0}, 0, 0, "-d +d/a -d/b"},
        {"d d|f d/a 1|f d/b 1", NULL, "r d", {"d/a"}, 0, 0, "+d/a"},
        {"d d|f d/a 1|d d/e|f d/e/.env 1", NULL, "r d", {0}, 0, 0, "-d +d/a -d/e -d/e/.env"},
        {"d d|f d/a 1", NULL, "f d 2", {0}, 0, 0, "+d +d/a"},
        {"d d|f d/a 1", "d d|f d/a 2", "f d 2", {0}, 0, 0, "-d -d/a"},
        {"f f 1", NULL, "d f|f f/a 2", {0}, 0, 0, "+f +f/a"},
        /* by name */
        {"", NULL, "f .env 1|f .envrc 1", {0}, 0, 0, "-.env -.envrc"},
        {"", NULL, "f .env 1|f .envrc 1", {".env"}, 0, 0, "+.env"},
        {"", NULL, "f .env 1|f .envrc 1", {0}, 0, 1, "+.env +.envrc"},
        {"d .git|d .git/hooks",
         NULL,
         "d .git|d .git/hooks|x .git/hooks/post 1",
         {".git"},
         0,
         0,
         "-.git/hooks/post"},
        {"d .git|d .git/hooks",
         NULL,
         "d .git|d .git/hooks|x .git/hooks/post 1",
         {".git/hooks"},
         0,
         0,
         "+.git/hooks/post"},
        /* links and special files */
        {"", NULL, "l in a|l out /etc|s pipe", {0}, 0, 0, "+in -out -pipe"},
        {"", NULL, "l in a|l out /etc|s pipe", {0}, 1, 0, "+in +out -pipe"},
        {"", NULL, "f .bellglass-apply-x 1", {0}, 1, 1, "-.bellglass-apply-x"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sides s;
        make(&s, cases[i].base, cases[i].host, cases[i].guest);
        const struct plan_opts opts = {
            .paths = cases[i].paths, .force = cases[i].force, .trusted = cases[i].trusted};
        if (strcmp(choice(&s, &opts), cases[i].expected) != 0)
            fail_msg("%zu: %s, want %s", i, choice(&s, &opts), cases[i].expected);
        done(&s);
    }
}

static void steps_come_in_an_order_that_works(void **state)
{
    (void)state;
    struct sides s;
    const char *reasons[64];
    struct plan plan;
    make(&s, "d d|d d/e|f d/e/a 1|f t 1|f m 1", NULL, "r d|d t|f t/n 2|x m 1|d n|d n/o|f n/o/p 2");
    plan_choose(&s.view, &s.host, &(struct plan_opts){0}, reasons);
    assert_int_equal(plan_make(&s.view, &s.host, reasons, "token", &plan), 0);
    char text[1024] = "";
    size_t used = 0;
    for (size_t i = 0; i < plan.count; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%c%s ",
                                 "?-rd+lm"[plan.list[i].op], plan.list[i].path);
    assert_string_equal(text, "-t -d/e/a rd/e rd dn dn/o dt +n/o/p +t/n mt mn/o mn mm ");
    for (size_t i = 0; i < plan.count; i++) /* in a folder that is there before */
        if (strcmp(plan.list[i].path, "n/o/p") == 0)
            assert_null(strchr(plan.list[i].temporary, '/'));
        else if (strcmp(plan.list[i].path, "d/e/a") == 0)
            assert_memory_equal(plan.list[i].temporary, "d/e/.bellglass-apply-token-", 27);
    plan_done(&plan);
    done(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_of_sides_has_its_kind),
        cmocka_unit_test(a_torn_file_is_never_the_same),
        cmocka_unit_test(the_new_base_is_old_where_the_guest_was),
        cmocka_unit_test(only_what_may_be_is_chosen),
        cmocka_unit_test(steps_come_in_an_order_that_works),
    };
    return cmocka_run_group_tests_name("view", tests, NULL, NULL);
}
