/* flock, POSIX locks and locks of open file descriptions, between processes. */
#include "tests/integration/fs/posix_check.h"

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/file.h>

/* Another process, which does one thing at a time: it is told a number and answers with one. */
struct other {
    pid_t pid;
    int to, from;
};

enum {
    WANT_LOCK,
    WANT_UNLOCK,
    WANT_TEST,
    WANT_FLOCK,
    WANT_FLOCK_SHARED,
    WANT_FLOCK_WAIT,
    WANT_CLOSE,
    WANT_WAIT,
    WANT_END
};

struct order {
    int what;
    off_t start, size;
};

static int lock_range(int fd, int command, short type, off_t start, off_t size)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = size};
    if (fcntl(fd, command, &lock) < 0)
        return errno;
    return command == F_GETLK ? lock.l_type : 0;
}

static int carry_out(int *fd, const struct order *order)
{
    switch (order->what) {
    case WANT_LOCK:
        return lock_range(*fd, F_SETLK, F_WRLCK, order->start, order->size);
    case WANT_UNLOCK:
        return lock_range(*fd, F_SETLK, F_UNLCK, order->start, order->size);
    case WANT_TEST:
        return lock_range(*fd, F_GETLK, F_WRLCK, order->start, order->size);
    case WANT_WAIT:
        return lock_range(*fd, F_SETLKW, F_WRLCK, order->start, order->size);
    case WANT_FLOCK:
        return flock(*fd, LOCK_EX | LOCK_NB) < 0 ? errno : 0;
    case WANT_FLOCK_WAIT:
        return flock(*fd, LOCK_EX) < 0 ? errno : 0;
    case WANT_FLOCK_SHARED:
        return flock(*fd, LOCK_SH | LOCK_NB) < 0 ? errno : 0;
    default: {
        int r = close(*fd) < 0 ? errno : 0;
        *fd = open("f", O_RDWR | O_CLOEXEC);
        return r;
    }
    }
}

static struct other other_new(void)
{
    int to[2], from[2];
    struct other other;
    assert_ok(pipe2(to, O_CLOEXEC));
    assert_ok(pipe2(from, O_CLOEXEC));
    other.pid = fork();
    assert_ok(other.pid);
    if (other.pid == 0) {
        (void)close(to[1]);
        int fd = open("f", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        struct order order;
        while (read(to[0], &order, sizeof order) == sizeof order && order.what != WANT_END) {
            int r = carry_out(&fd, &order);
            if (write(from[1], &r, sizeof r) != sizeof r)
                break;
        }
        _exit(0);
    }
    (void)close(to[0]);
    (void)close(from[1]);
    other.to = to[1];
    other.from = from[0];
    return other;
}

static void tell(const struct other *other, int what, off_t start, off_t size)
{
    struct order order = {.what = what, .start = start, .size = size};
    assert_int_equal(write(other->to, &order, sizeof order), sizeof order);
}

static int answer_of(const struct other *other)
{
    int r;
    assert_int_equal(read(other->from, &r, sizeof r), sizeof r);
    return r;
}

static int ask(const struct other *other, int what, off_t start, off_t size)
{
    tell(other, what, start, size);
    return answer_of(other);
}

static void other_free(struct other *other)
{
    tell(other, WANT_END, 0, 0); /* closing is not enough: a later child has a copy */
    (void)close(other->to);
    (void)close(other->from);
    assert_int_equal(status_of(other->pid), 0);
}

static int open_it(void)
{
    int fd = open("f", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    assert_ok(fd);
    return fd;
}

static void ranges_are_locked_one_by_one(void)
{
    int fd = open_it();
    struct other other = other_new();
    assert_int_equal(lock_range(fd, F_SETLK, F_WRLCK, 10, 10), 0);
    assert_int_equal(ask(&other, WANT_LOCK, 0, 10), 0);
    assert_int_equal(ask(&other, WANT_LOCK, 20, 0), 0); /* to the end, wherever that is */
    assert_int_equal(ask(&other, WANT_LOCK, 15, 1), EAGAIN);
    assert_int_equal(ask(&other, WANT_LOCK, 5, 6), EAGAIN);
    assert_int_equal(ask(&other, WANT_TEST, 12, 1), F_WRLCK);
    assert_int_equal(lock_range(fd, F_SETLK, F_WRLCK, 1 << 30, 1), EAGAIN);
    assert_int_equal(lock_range(fd, F_SETLK, F_RDLCK, 10, 10), 0); /* weaker in place */
    assert_int_equal(ask(&other, WANT_LOCK, 15, 1), EAGAIN);
    assert_int_equal(lock_range(fd, F_SETLK, F_UNLCK, 13, 4), 0); /* a hole in the middle */
    assert_int_equal(ask(&other, WANT_LOCK, 13, 4), 0);
    assert_int_equal(ask(&other, WANT_LOCK, 12, 1), EAGAIN);
    assert_int_equal(ask(&other, WANT_LOCK, 17, 1), EAGAIN);
    assert_int_equal(ask(&other, WANT_UNLOCK, 0, 0), 0);
    assert_int_equal(lock_range(fd, F_SETLK, F_WRLCK, 0, 0), 0);
    assert_int_equal(lock_range(fd, F_SETLK, F_UNLCK, 0, 0), 0);
    assert_int_equal(ask(&other, WANT_TEST, 0, 0), F_UNLCK);
    other_free(&other);
    assert_ok(close(fd));
}

static void readers_share(void)
{
    int fd = open_it();
    struct other other = other_new();
    assert_int_equal(lock_range(fd, F_SETLK, F_RDLCK, 0, 10), 0);
    assert_int_equal(flock(fd, LOCK_SH), 0);
    assert_int_equal(ask(&other, WANT_FLOCK_SHARED, 0, 0), 0);
    assert_int_equal(ask(&other, WANT_FLOCK, 0, 0), EAGAIN);
    assert_int_equal(ask(&other, WANT_LOCK, 0, 1), EAGAIN);
    assert_int_equal(ask(&other, WANT_TEST, 0, 1), F_RDLCK);
    int only_reads = open("f", O_RDONLY | O_CLOEXEC);
    assert_ok(only_reads);
    assert_int_equal(lock_range(only_reads, F_SETLK, F_WRLCK, 50, 1), EBADF);
    assert_int_equal(lock_range(only_reads, F_SETLK, F_RDLCK, 50, 1), 0);
    other_free(&other);
    assert_ok(close(only_reads));
    assert_ok(close(fd));
}

static void closing_any_fd_of_the_file_ends_its_posix_locks(void)
{
    int fd = open_it(), again = open_it();
    struct other other = other_new();
    assert_int_equal(lock_range(fd, F_SETLK, F_WRLCK, 0, 0), 0);
    assert_int_equal(ask(&other, WANT_LOCK, 0, 0), EAGAIN);
    assert_ok(close(again)); /* POSIX wants it so */
    assert_int_equal(ask(&other, WANT_LOCK, 0, 0), 0);
    assert_int_equal(lock_range(fd, F_SETLK, F_WRLCK, 0, 0), EAGAIN);
    assert_int_equal(ask(&other, WANT_CLOSE, 0, 0), 0);
    assert_int_equal(lock_range(fd, F_SETLK, F_WRLCK, 0, 0), 0);
    other_free(&other);
    assert_ok(close(fd));
}

static void the_end_of_a_process_ends_its_locks(void)
{
    int fd = open_it();
    struct other other = other_new();
    assert_int_equal(ask(&other, WANT_LOCK, 0, 0), 0);
    assert_int_equal(ask(&other, WANT_FLOCK, 0, 0), 0);
    assert_int_equal(lock_range(fd, F_SETLK, F_WRLCK, 0, 0), EAGAIN);
    assert_errno(flock(fd, LOCK_EX | LOCK_NB), EAGAIN);
    (void)kill(other.pid, SIGKILL);
    int status;
    assert_int_equal(waitpid(other.pid, &status, 0), other.pid);
    (void)close(other.to);
    (void)close(other.from);
    assert_int_equal(lock_range(fd, F_SETLKW, F_WRLCK, 0, 0), 0);
    assert_ok(flock(fd, LOCK_EX)); /* both wait until its files are closed */
    assert_ok(close(fd));
}

static void who_waits_gets_the_lock_when_it_is_free(void)
{
    int fd = open_it();
    struct other a = other_new(), b = other_new();
    assert_int_equal(lock_range(fd, F_SETLK, F_WRLCK, 0, 10), 0);
    tell(&a, WANT_WAIT, 0, 5);
    tell(&b, WANT_WAIT, 5, 5);
    assert_int_equal(lock_range(fd, F_SETLK, F_UNLCK, 5, 5), 0);
    assert_int_equal(answer_of(&b), 0);
    assert_int_equal(lock_range(fd, F_SETLK, F_UNLCK, 0, 5), 0);
    assert_int_equal(answer_of(&a), 0);
    assert_int_equal(lock_range(fd, F_SETLK, F_WRLCK, 0, 1), EAGAIN);
    other_free(&a);
    other_free(&b);
    assert_ok(close(fd));
}

static void signal_seen(int number)
{
    (void)number;
}

static void waiting_is_ended_by_a_signal(void)
{
    for (int whole = 0; whole < 2; whole++) {
        int fd = open_it();
        struct other other = other_new();
        assert_int_equal(ask(&other, whole ? WANT_FLOCK : WANT_LOCK, 0, 0), 0);
        const struct sigaction action = {.sa_handler = signal_seen};
        struct sigaction before;
        assert_ok(sigaction(SIGUSR1, &action, &before)); /* without SA_RESTART */
        pid_t pid = fork();
        assert_ok(pid);
        if (pid == 0) {
            pid_t waiter = getppid();
            for (;;) { /* one may come before the wait begins */
                (void)poll(NULL, 0, 20);
                if (kill(waiter, SIGUSR1) < 0)
                    _exit(0);
            }
        }
        int r =
            whole ? (flock(fd, LOCK_EX) < 0 ? errno : 0) : lock_range(fd, F_SETLKW, F_WRLCK, 0, 0);
        (void)kill(pid, SIGKILL);
        int status;
        while (waitpid(pid, &status, 0) < 0)
            ;
        assert_ok(sigaction(SIGUSR1, &before, NULL));
        assert_int_equal(r, EINTR);
        other_free(&other);
        /* The wait left nothing behind: what a slow server gave it after all is given back, which
         * may take a moment. */
        other = other_new();
        assert_int_equal(ask(&other, whole ? WANT_FLOCK_WAIT : WANT_WAIT, 0, 0), 0);
        other_free(&other);
        assert_ok(close(fd));
    }
}

static void locks_of_open_files_belong_to_them(void)
{
    struct other other = other_new(); /* before: a child would share the open files */
    int a = open_it(), b = open_it(), same = dup(a);
    assert_ok(same);
    assert_int_equal(lock_range(a, F_OFD_SETLK, F_WRLCK, 0, 10), 0);
    assert_int_equal(lock_range(b, F_OFD_SETLK, F_WRLCK, 5, 1), EAGAIN); /* in one process */
    assert_int_equal(lock_range(same, F_OFD_SETLK, F_WRLCK, 5, 1), 0);
    assert_int_equal(ask(&other, WANT_LOCK, 0, 10), EAGAIN);
    assert_ok(close(a));
    assert_int_equal(ask(&other, WANT_LOCK, 0, 10), EAGAIN); /* same has it open */
    assert_ok(close(same));
    assert_int_equal(ask(&other, WANT_WAIT, 0, 10), 0); /* though b is open */
    other_free(&other);
    assert_int_equal(lock_range(b, F_OFD_SETLKW, F_WRLCK, 0, 0), 0);
    assert_ok(close(b));
}

static void flocks_belong_to_open_files(void)
{
    struct other other = other_new(); /* before: a child would share the open files */
    int a = open_it(), b = open_it(), same = dup(a);
    assert_ok(same);
    assert_ok(flock(a, LOCK_EX));
    assert_errno(flock(b, LOCK_EX | LOCK_NB), EAGAIN);
    assert_ok(flock(same, LOCK_SH)); /* the same lock, weaker now */
    assert_ok(flock(b, LOCK_SH | LOCK_NB));
    assert_ok(flock(b, LOCK_UN));
    assert_ok(close(a));
    assert_errno(flock(b, LOCK_EX | LOCK_NB), EAGAIN);
    assert_int_equal(ask(&other, WANT_FLOCK, 0, 0), EAGAIN);
    assert_ok(close(same));
    other_free(&other);
    assert_ok(flock(b, LOCK_EX));
    assert_ok(close(b));
}

static void both_kinds_of_lock_do_not_meet(void)
{
    int fd = open_it();
    struct other other = other_new();
    assert_int_equal(lock_range(fd, F_SETLK, F_WRLCK, 0, 0), 0);
    assert_int_equal(ask(&other, WANT_FLOCK, 0, 0), 0);
    other_free(&other);
    assert_ok(close(fd));
}

static const struct posix_case cases[] = {
    {"ranges_are_locked_one_by_one", ranges_are_locked_one_by_one, NULL},
    {"readers_share", readers_share, NULL},
    {"closing_any_fd_of_the_file_ends_its_posix_locks",
     closing_any_fd_of_the_file_ends_its_posix_locks, NULL},
    {"the_end_of_a_process_ends_its_locks", the_end_of_a_process_ends_its_locks, NULL},
    {"who_waits_gets_the_lock_when_it_is_free", who_waits_gets_the_lock_when_it_is_free, NULL},
    {"waiting_is_ended_by_a_signal", waiting_is_ended_by_a_signal, NULL},
    {"locks_of_open_files_belong_to_them", locks_of_open_files_belong_to_them, NULL},
    {"flocks_belong_to_open_files", flocks_belong_to_open_files, NULL},
    {"both_kinds_of_lock_do_not_meet", both_kinds_of_lock_do_not_meet, NULL},
};
const struct posix_table posix_locks = {cases, sizeof cases / sizeof *cases};
