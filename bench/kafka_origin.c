/* The broker behind every mode of bench/kafka: takes whatever is produced and answers each request with a response that
 * was made before, as fast as the kernel allows. It knows of Kafka where a frame ends, its API and its correlation id.
 *
 *     kafka_origin PORT THREADS PRODUCE FETCH
 *
 * PRODUCE and FETCH are files with the response to these two, length prefix and all; another API ends the connection.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define EVENTS 64
#define HEAD 12 /* length, API, version, correlation id */
#define ROOM (256 << 10)

struct response {
    char *bytes;
    size_t length;
};

static struct response responses[2];

struct connection {
    int fd;
    size_t held;    /* bytes of `head` */
    size_t skip;    /* bytes of the present request that have not come */
    char head[HEAD];
    char *pending;  /* of a response that the socket did not take whole */
    size_t left;
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void end(struct connection *c)
{
    close(c->fd);
    free(c->pending);
    free(c);
}

/* What the socket does not take waits; with the closed loop of the load there is never more than one response. */
static int answer(struct connection *c)
{
    unsigned api = (unsigned char)c->head[4] << 8 | (unsigned char)c->head[5];
    if (api > 1 || c->left)
        return 0;
    struct response *r = &responses[api];
    char *bytes = c->pending ? c->pending : malloc(ROOM);
    if (!bytes)
        die("malloc");
    c->pending = bytes;
    memcpy(bytes, r->bytes, r->length);
    memcpy(bytes + 4, c->head + 8, 4);
    ssize_t sent = write(c->fd, bytes, r->length);
    if (sent < 0)
        sent = 0;
    c->left = r->length - (size_t)sent;
    if (c->left)
        memmove(bytes, bytes + sent, c->left);
    return 1;
}

/* Returns 0 when the connection is over, 2 when there may be more to read. */
static int serve(struct connection *c, char *buffer)
{
    ssize_t got = read(c->fd, buffer, ROOM);
    if (got < 0 && errno == EAGAIN)
        return 1;
    if (got <= 0)
        return 0;
    for (char *at = buffer, *stop = buffer + got; at < stop;) {
        size_t count = (size_t)(stop - at);
        if (c->skip) {
            count = count < c->skip ? count : c->skip;
            c->skip -= count;
        } else {
            count = count < HEAD - c->held ? count : HEAD - c->held;
            memcpy(c->head + c->held, at, count);
            c->held += count;
            if (c->held < HEAD)
                break;
            uint32_t length;
            memcpy(&length, c->head, 4);
            c->skip = ntohl(length) - (HEAD - 4);
        }
        at += count;
        if (!c->skip) {
            c->held = 0;
            if (!answer(c))
                return 0;
        }
    }
    return got == ROOM ? 2 : 1;
}

static int flush(struct connection *c)
{
    ssize_t sent = write(c->fd, c->pending, c->left);
    if (sent > 0) {
        c->left -= (size_t)sent;
        memmove(c->pending, c->pending + sent, c->left);
    }
    return sent > 0;
}

static void *work(void *argument)
{
    int poll = *(int *)argument;
    struct epoll_event events[EVENTS];
    char *buffer = malloc(ROOM);
    if (!buffer)
        die("malloc");
    for (;;) {
        int count = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            int alive = 1;
            if (c->left && events[i].events & EPOLLOUT)
                alive = flush(c);
            if (alive && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                while ((alive = serve(c, buffer)) == 2)
                    ;
            if (!alive)
                end(c);
        }
    }
    return NULL;
}

static struct response load(const char *file)
{
    struct stat found;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &found) || found.st_size < 8 || found.st_size > ROOM)
        die(file);
    struct response r = {malloc((size_t)found.st_size), (size_t)found.st_size};
    if (!r.bytes || read(fd, r.bytes, r.length) != (ssize_t)r.length)
        die(file);
    close(fd);
    return r;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: kafka_origin PORT THREADS PRODUCE FETCH\n");
        return 2;
    }
    int threads = atoi(argv[2]), on = 1, off = 0;
    responses[0] = load(argv[3]);
    responses[1] = load(argv[4]);
    int listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(argv[1]))};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 1024))
        die("kafka_origin: cannot listen");

    int *polls = calloc((size_t)threads, sizeof *polls);
    if (!polls)
        die("calloc");
    for (int i = 0; i < threads; i++) {
        pthread_t thread;
        polls[i] = epoll_create1(EPOLL_CLOEXEC);
        if (polls[i] < 0 || pthread_create(&thread, NULL, work, &polls[i]))
            die("kafka_origin: cannot start a thread");
    }
    for (unsigned turn = 0;; turn++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = calloc(1, sizeof *c);
        if (!c)
            die("calloc");
        c->fd = fd;
        /* Edge for writing only would need a second look at what was read; a socket that is writable is no news here. */
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
        if (epoll_ctl(polls[turn % (unsigned)threads], EPOLL_CTL_ADD, fd, &event))
            end(c);
    }
}
