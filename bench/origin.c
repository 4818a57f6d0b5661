/* The server behind every mode: answers each GET with the address of whoever connected, as fast as the kernel allows.
 *
 *     origin PORT THREADS
 *
 * One thread accepts and deals the connections out in turn, so that every thread gets its share of few connections.
 * The answer is made once for each connection; per request there is one read and one write.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 64

struct connection {
    int fd;
    size_t held; /* bytes of an unfinished request head */
    size_t answer_length;
    char answer[192];
    char head[8192];
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void end(struct connection *c)
{
    close(c->fd);
    free(c);
}

/* Answers every whole request head that has arrived. Returns 0 when the connection is over. */
static int serve(struct connection *c)
{
    ssize_t got = read(c->fd, c->head + c->held, sizeof c->head - c->held);
    if (got <= 0)
        return 0;
    c->held += (size_t)got;
    char *start = c->head, *found;
    while ((found = memmem(start, (size_t)(c->head + c->held - start), "\r\n\r\n", 4))) {
        start = found + 4;
        if (write(c->fd, c->answer, c->answer_length) != (ssize_t)c->answer_length)
            return 0;
    }
    c->held = (size_t)(c->head + c->held - start);
    memmove(c->head, start, c->held);
    return c->held < sizeof c->head;
}

static void *work(void *argument)
{
    int poll = *(int *)argument;
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (!serve(c))
                end(c);
        }
    }
    return NULL;
}

static struct connection *greet(int fd, const struct sockaddr_in6 *peer)
{
    struct connection *c = calloc(1, sizeof *c);
    if (!c)
        die("calloc");
    char text[INET6_ADDRSTRLEN];
    inet_ntop(AF_INET6, &peer->sin6_addr, text, sizeof text);
    const char *address = strncmp(text, "::ffff:", 7) ? text : text + 7;
    c->fd = fd;
    c->answer_length = (size_t)snprintf(c->answer, sizeof c->answer,
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %zu\r\n\r\n%s\n", strlen(address) + 1, address);
    return c;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: origin PORT THREADS\n");
        return 2;
    }
    int threads = atoi(argv[2]), on = 1, off = 0;
    int listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(argv[1]))};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 1024))
        die("origin: cannot listen");

    int *polls = calloc((size_t)threads, sizeof *polls);
    if (!polls)
        die("calloc");
    for (int i = 0; i < threads; i++) {
        pthread_t thread;
        polls[i] = epoll_create1(EPOLL_CLOEXEC);
        if (polls[i] < 0 || pthread_create(&thread, NULL, work, &polls[i]))
            die("origin: cannot start a thread");
    }
    for (unsigned turn = 0;; turn++) {
        struct sockaddr_in6 peer;
        socklen_t length = sizeof peer;
        int fd = accept4(listener, (struct sockaddr *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = greet(fd, &peer);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(polls[turn % (unsigned)threads], EPOLL_CTL_ADD, fd, &event))
            end(c);
    }
}
