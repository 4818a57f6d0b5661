/* An open-loop load: sends GETs by the clock, whether or not earlier ones were answered, on keep-alive connections.
 *
 *     paced ADDRESS PORT PATH RATE CONNECTIONS SECONDS
 *
 * A request's latency counts from the moment it was due, so that a server that stalls is charged for every request that
 * had to wait meanwhile (a closed loop would just ask less often). Prints one line of JSON; latencies in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 64
#define SECOND 1000000000LL
#define PATIENCE (10 * SECOND) /* for what is unanswered at the end */

struct connection {
    int fd;
    size_t held;
    int64_t due; /* of the request that is under way */
    char answer[4096];
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* 1 for a whole answer with status 200, 0 for one that is not whole yet, -1 for anything else. */
static int read_answer(struct connection *c)
{
    ssize_t got = read(c->fd, c->answer + c->held, sizeof c->answer - 1 - c->held);
    if (got <= 0)
        return got < 0 && errno == EAGAIN ? 0 : -1;
    c->held += (size_t)got;
    c->answer[c->held] = 0;
    char *end = strstr(c->answer, "\r\n\r\n");
    if (!end)
        return c->held < sizeof c->answer - 1 ? 0 : -1;
    char *length = strcasestr(c->answer, "\r\ncontent-length:");
    if (strncmp(c->answer, "HTTP/1.1 200 ", 13) || !length || length > end)
        return -1;
    size_t whole = (size_t)(end + 4 - c->answer) + strtoul(length + 17, NULL, 10);
    return c->held == whole ? 1 : c->held < whole ? 0 : -1;
}

static int connected(const struct sockaddr_in *there)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)there, sizeof *there))
        die("paced: cannot connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: paced ADDRESS PORT PATH RATE CONNECTIONS SECONDS\n");
        return 2;
    }
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &there.sin_addr) != 1)
        die("paced: not an IPv4 address");
    long rate = atol(argv[4]), connections = atol(argv[5]), total = rate * atol(argv[6]);
    if (rate < 1 || connections < 1 || total < 1)
        return 2;

    char request[512];
    size_t length = (size_t)snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", argv[3], argv[1]);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    struct connection **idle = calloc((size_t)connections, sizeof *idle); /* a ring: each has its turn */
    int64_t *latencies = calloc((size_t)total, sizeof *latencies);
    int poll = epoll_create1(EPOLL_CLOEXEC);
    if (!all || !idle || !latencies || poll < 0)
        die("paced");
    for (long i = 0; i < connections; i++) {
        idle[i] = &all[i];
        all[i].fd = connected(&there);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[i]};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, all[i].fd, &event))
            die("paced: epoll");
    }
    prctl(PR_SET_TIMERSLACK, 1);

    long sent = 0, answered = 0, failed = 0, free_from = 0, free_count = connections;
    int64_t start = now(), last = start + total * SECOND / rate + PATIENCE;
    while (answered + failed < total) {
        int64_t at = now(), due = start + sent * SECOND / rate;
        if (at > last) {
            failed = total - answered;
            break;
        }
        while (sent < total && free_count && due <= at) {
            struct connection *c = idle[free_from];
            free_from = (free_from + 1) % connections;
            free_count--;
            c->due = due;
            c->held = 0;
            if (send(c->fd, request, length, MSG_NOSIGNAL) != (ssize_t)length)
                failed++; /* the connection is lost: it stays out of the ring */
            due = start + ++sent * SECOND / rate;
        }
        if (!free_count && failed >= connections)
            break;
        int64_t wait = sent < total && free_count ? due - now() : SECOND / 10;
        struct timespec until = {0, wait > 0 ? wait : 0};
        if (wait >= SECOND)
            until = (struct timespec){wait / SECOND, wait % SECOND};
        struct epoll_event events[EVENTS];
        int count = epoll_pwait2(poll, events, EVENTS, &until, NULL);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            int whole = read_answer(c);
            if (whole > 0) {
                latencies[answered++] = now() - c->due;
                idle[(free_from + free_count++) % connections] = c;
            } else if (whole < 0) {
                epoll_ctl(poll, EPOLL_CTL_DEL, c->fd, NULL);
                failed++;
            }
        }
    }
    int64_t took = now() - start;
    qsort(latencies, (size_t)answered, sizeof *latencies, ascending);
    double share[] = {0.5, 0.99, 0.999}, at[3] = {0};
    for (int i = 0; i < 3 && answered; i++)
        at[i] = (double)latencies[(long)(share[i] * (double)(answered - 1))] / 1000;
    printf("{\"requests\": %ld, \"microseconds\": %lld, \"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"failed\": %ld}\n",
        answered, (long long)took / 1000, at[0], at[1], at[2], failed);
    return 0;
}
