/* The load of bench/kafka: one request over and over on each of some connections, each waiting for its response.
 *
 *     kafka_load ADDRESS PORT CONNECTIONS SECONDS THREADS REQUEST RESPONSE
 *
 * REQUEST and RESPONSE are files with a whole frame each; only the correlation id differs from one to the next. A
 * response of another length or that begins otherwise (with an error, say) is counted as failed. Prints one line of JSON
 * in the form of wrk.lua's.
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
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define COMPARED 96 /* bytes of a response: all of its errors are there */
#define ROOM (256 << 10)

struct frame {
    char *bytes;
    size_t length;
};

static struct frame request, response;
static struct sockaddr_in server;
static int connections, threads;
static double seconds;

struct connection {
    int fd;
    uint32_t correlation;
    size_t sent, got;
    double begun;
    char head[COMPARED];
};

struct worker {
    pthread_t thread;
    int number;
    size_t count, failed, room;
    float *times; /* microseconds */
    double took;
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* As much of the request as the socket takes. The correlation id is the only part that is not the file's. */
static void push(struct connection *c)
{
    while (c->sent < request.length) {
        char begin[12];
        const char *from = request.bytes + c->sent;
        size_t length = request.length - c->sent;
        struct iovec parts[2];
        int used = 0;
        if (c->sent < sizeof begin) {
            uint32_t id = htonl(c->correlation);
            memcpy(begin, request.bytes, 8);
            memcpy(begin + 8, &id, 4);
            parts[used++] = (struct iovec){begin + c->sent, sizeof begin - c->sent};
            from = request.bytes + sizeof begin;
            length = request.length - sizeof begin;
        }
        parts[used++] = (struct iovec){(void *)from, length};
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)used};
        ssize_t sent = sendmsg(c->fd, &message, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN)
                return;
            die("kafka_load: the connection ended");
        }
        c->sent += (size_t)sent;
    }
}

static void begin(struct connection *c)
{
    c->correlation++;
    c->sent = c->got = 0;
    c->begun = now();
    push(c);
}

static int is_right(const struct connection *c)
{
    uint32_t id = htonl(c->correlation);
    size_t compared = response.length < COMPARED ? response.length : COMPARED;
    return !memcmp(c->head, response.bytes, 4) && !memcmp(c->head + 4, &id, 4)
        && !memcmp(c->head + 8, response.bytes + 8, compared - 8);
}

static void finish(struct worker *w, struct connection *c)
{
    if (w->count == w->room) {
        w->room = w->room ? 2 * w->room : 1 << 16;
        w->times = realloc(w->times, w->room * sizeof *w->times);
        if (!w->times)
            die("realloc");
    }
    w->times[w->count++] = (float)((now() - c->begun) * 1e6);
    w->failed += !is_right(c);
}

static void *work(void *argument)
{
    struct worker *w = argument;
    int poll = epoll_create1(EPOLL_CLOEXEC), on = 1;
    int mine = connections / threads + (w->number < connections % threads);
    struct connection *all = calloc((size_t)mine, sizeof *all);
    char *buffer = malloc(ROOM);
    if (poll < 0 || !all || !buffer)
        die("kafka_load");
    double start = now(), stop = start + seconds;
    for (int i = 0; i < mine; i++) {
        struct connection *c = &all[i];
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&server, sizeof server))
            die("kafka_load: cannot connect");
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event))
            die("epoll_ctl");
        begin(c);
    }
    for (int waiting = mine; waiting;) {
        struct epoll_event events[64];
        int count = epoll_wait(poll, events, 64, 5000);
        if (count <= 0) {
            fprintf(stderr, "kafka_load: no response in five seconds\n");
            exit(1);
        }
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->sent < request.length)
                push(c);
            for (;;) {
                ssize_t got = read(c->fd, buffer, ROOM);
                if (got < 0 && errno == EAGAIN)
                    break;
                if (got <= 0)
                    die("kafka_load: the connection ended");
                if (c->got < COMPARED) {
                    size_t count = COMPARED - c->got < (size_t)got ? COMPARED - c->got : (size_t)got;
                    memcpy(c->head + c->got, buffer, count);
                }
                c->got += (size_t)got;
                if (c->got > response.length) {
                    fprintf(stderr, "kafka_load: a response is too long\n");
                    exit(1);
                }
                if (c->got == response.length || (c->got >= 4 && memcmp(c->head, response.bytes, 4))) {
                    finish(w, c);
                    if (now() >= stop) {
                        waiting--;
                        break;
                    }
                    begin(c);
                }
                if (got < ROOM)
                    break; /* that was all there is; more raises an event */
            }
        }
    }
    w->took = now() - start;
    for (int i = 0; i < mine; i++)
        close(all[i].fd);
    return NULL;
}

static struct frame load(const char *file)
{
    struct stat found;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &found) || found.st_size < 12)
        die(file);
    struct frame f = {malloc((size_t)found.st_size), (size_t)found.st_size};
    if (!f.bytes || read(fd, f.bytes, f.length) != (ssize_t)f.length)
        die(file);
    close(fd);
    return f;
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc != 8) {
        fprintf(stderr, "usage: kafka_load ADDRESS PORT CONNECTIONS SECONDS THREADS REQUEST RESPONSE\n");
        return 2;
    }
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &server.sin_addr);
    connections = atoi(argv[3]);
    seconds = atof(argv[4]);
    threads = atoi(argv[5]);
    request = load(argv[6]);
    response = load(argv[7]);

    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!workers)
        die("calloc");
    for (int i = 0; i < threads; i++) {
        workers[i].number = i;
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
            die("pthread_create");
    }
    size_t count = 0, failed = 0;
    double took = 0;
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        count += workers[i].count;
        failed += workers[i].failed;
        took = workers[i].took > took ? workers[i].took : took;
    }
    float *times = malloc(count * sizeof *times);
    if (!times || !count)
        die("kafka_load: no response");
    size_t at = 0;
    for (int i = 0; i < threads; i++) {
        memcpy(times + at, workers[i].times, workers[i].count * sizeof *times);
        at += workers[i].count;
    }
    qsort(times, count, sizeof *times, by_size);
    printf("{\"requests\": %zu, \"microseconds\": %.0f, \"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"failed\": %zu}\n",
        count, took * 1e6, (double)times[count / 2], (double)times[count * 99 / 100],
        (double)times[count * 999 / 1000], failed);
    return 0;
}
