/* Between a node and its C library: syncs that fail or take their time, and a wall clock that is elsewhere.
 *
 * Told through a file that both sides map, named by CHAOS_SHIM; its numbers are 64 bits each, see shim.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct orders {
    int64_t sync_error;       /* errno of each sync, or 0 */
    int64_t sync_delay_us;    /* before each sync */
    int64_t clock_offset_ns;  /* added to the wall clock */
    int64_t failed_count;     /* syncs that were failed, counted here */
    int64_t delayed_count;    /* syncs that were held up, counted here */
};

static struct orders none;
static volatile struct orders *orders = &none;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CHAOS_SHIM");
    int handle = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (handle < 0) return;
    void *mapped = mmap(NULL, sizeof(struct orders), PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
    if (mapped != MAP_FAILED) orders = mapped;
    close(handle);
}

static int refused(void) {
    int64_t delay_us = orders->sync_delay_us;
    if (delay_us > 0) {
        struct timespec wait = {delay_us / 1000000, (delay_us % 1000000) * 1000};
        __atomic_add_fetch(&orders->delayed_count, 1, __ATOMIC_RELAXED);
        nanosleep(&wait, NULL);
    }
    int64_t error = orders->sync_error;
    if (error == 0) return 0;
    __atomic_add_fetch(&orders->failed_count, 1, __ATOMIC_RELAXED);
    errno = (int)error;
    return -1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int fsync(int handle) {
    static int (*next)(int);
    if (!next) next = NEXT(fsync);
    return refused() ? -1 : next(handle);
}

int fdatasync(int handle) {
    static int (*next)(int);
    if (!next) next = NEXT(fdatasync);
    return refused() ? -1 : next(handle);
}

static void shift(struct timespec *time) {
    int64_t total_ns = time->tv_nsec + orders->clock_offset_ns % 1000000000;
    time->tv_sec += orders->clock_offset_ns / 1000000000;
    if (total_ns < 0) {
        total_ns += 1000000000;
        time->tv_sec -= 1;
    } else if (total_ns >= 1000000000) {
        total_ns -= 1000000000;
        time->tv_sec += 1;
    }
    time->tv_nsec = total_ns;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = NEXT(clock_gettime);
    int result = next(clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) shift(time);
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec time;
    int result = clock_gettime(CLOCK_REALTIME, &time);
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return result;
}

time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place) *place = now.tv_sec;
    return now.tv_sec;
}
