/* A disk that fails on request: loaded in front of libc, it counts what a process does to files below one folder, whoever
 * does it (Python, Rust, C++), and at a chosen operation kills the process, refuses, lies or waits. See disk.py, which arms it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { CREATE = 1, WRITE = 2, SYNC = 4, RENAME = 8, REMOVE = 16, MKDIR = 32, OPEN = 64, READ = 128 };
enum action { NOTHING, KILL_BEFORE, KILL_AFTER, KILL_WITHIN, FAIL_BEFORE, FAIL_AFTER, FALL_SHORT, LIE, WAIT, FAIL_EITHER };

static const char *NAMES[] = {"create", "write", "sync", "rename", "remove", "mkdir", "open", "read"};

#define FILES 4096
static struct {
    char root[PATH_MAX], grave[PATH_MAX];
    size_t length;
    int armed, log, kinds, action, error;
    long first, last, milliseconds, count, hits, most;
    uint32_t share; /* of 2**32: how often a random fault comes; 0 for none */
    uint64_t seed;
} disk;
static char *names[FILES]; /* of open files below the root */
static unsigned char lying[FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

/* Returns whether a path lies below the root, and writes it out in full. */
static int below(int folder, const char *path, char *full) {
    if (!disk.armed || path == NULL) return 0;
    if (path[0] == '/') {
        if (strlen(path) >= PATH_MAX) return 0;
        strcpy(full, path);
    } else {
        char base[PATH_MAX], link[64];
        ssize_t n;
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        if ((n = readlink(link, base, sizeof base - 1)) < 0) return 0;
        base[n] = 0;
        if (snprintf(full, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
    }
    return strncmp(full, disk.root, disk.length) == 0 && (full[disk.length] == '/' || full[disk.length] == 0);
}

static const char *name_of(int file) { return file >= 0 && file < FILES && disk.armed ? names[file] : NULL; }

static void remember(int file, const char *path) {
    if (file < 0 || file >= FILES) return;
    free(names[file]);
    names[file] = path ? strdup(path) : NULL;
    lying[file] = 0;
}

static long inode(const char *path) {
    struct stat found;
    return lstat(path, &found) == 0 ? (long)found.st_ino : 0;
}

/* Keeps the bytes of a file that is about to lose its name. */
static void bury(const char *path) {
    char link_name[PATH_MAX + 32];
    long number = disk.grave[0] ? inode(path) : 0;
    if (!number) return;
    snprintf(link_name, sizeof link_name, "%s/%ld", disk.grave, number);
    int before = errno;
    if (link(path, link_name) != 0) errno = before;
}

static uint64_t mixed(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* Counts an operation and returns what is to become of it. The lock is held from here to `over`. */
static int due(enum kind kind) {
    pthread_mutex_lock(&lock);
    if (!(disk.kinds & kind)) return NOTHING;
    disk.count++;
    int action = NOTHING;
    if (disk.share) {
        uint64_t chance = mixed(disk.seed + (uint64_t)disk.count);
        if ((uint32_t)chance < disk.share && (!disk.most || disk.hits < disk.most)) action = disk.action;
        if (action == FAIL_EITHER) action = chance >> 63 ? FAIL_BEFORE : FAIL_AFTER;
    } else if (disk.count >= disk.first && disk.count <= disk.last) {
        action = disk.action;
    }
    if (action != NOTHING) disk.hits++;
    if (action == KILL_BEFORE) kill(getpid(), SIGKILL);
    if (action == WAIT) {
        struct timespec pause = {disk.milliseconds / 1000, disk.milliseconds % 1000 * 1000000};
        pthread_mutex_unlock(&lock);
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&lock);
    }
    return action;
}

static void note(enum kind kind, const char *path, const char *other, long number, long result) {
    if (disk.log < 0) return;
    char line[2 * PATH_MAX + 96];
    int n = snprintf(line, sizeof line, "%ld\t%s\t%ld\t%ld\t%s\t%s\n", disk.count, NAMES[__builtin_ctz(kind)], number, result,
                     path + disk.length, other ? other + disk.length : "");
    if (syscall(SYS_write, disk.log, line, (size_t)n) != n) kill(getpid(), SIGKILL);
}

static void over(int action) {
    if (action == KILL_AFTER || action == KILL_WITHIN) kill(getpid(), SIGKILL);
    pthread_mutex_unlock(&lock);
    if (action == FAIL_AFTER) errno = disk.error;
}

/* An operation on names: `kind` is counted, `call` done, `path` and `other` noted. */
#define NAMED(kind, path, other, number, call)                                                                     \
    do {                                                                                                           \
        int action_ = due(kind);                                                                                   \
        if (action_ == FAIL_BEFORE) {                                                                              \
            pthread_mutex_unlock(&lock);                                                                           \
            errno = disk.error;                                                                                    \
            return -1;                                                                                             \
        }                                                                                                          \
        long number_ = (number);                                                                                   \
        int result_ = (call), error_ = errno;                                                                      \
        if (disk.kinds & (kind)) note(kind, path, other, number_, result_);                                        \
        errno = error_;                                                                                            \
        over(action_);                                                                                             \
        return action_ == FAIL_AFTER ? -1 : result_;                                                               \
    } while (0)

void volumetool_disk_arm(const char *root, const char *grave, int log, int kinds, int action, int error, long first, long last,
                         long milliseconds, double share, uint64_t seed, long most) {
    pthread_mutex_lock(&lock);
    snprintf(disk.root, sizeof disk.root, "%s", root);
    snprintf(disk.grave, sizeof disk.grave, "%s", grave);
    disk.length = strlen(root);
    disk.log = log, disk.kinds = kinds, disk.action = action, disk.error = error;
    disk.first = first, disk.last = last, disk.milliseconds = milliseconds;
    disk.share = (uint32_t)(share * 4294967295.0), disk.seed = mixed(seed), disk.most = most;
    disk.count = disk.hits = 0;
    disk.armed = 1;
    pthread_mutex_unlock(&lock);
}

long volumetool_disk_count(void) { return disk.count; }
long volumetool_disk_hits(void) { return disk.hits; }

static int opened(int folder, const char *path, int flags, mode_t mode, const char *full) {
    enum kind kind = flags & O_CREAT ? CREATE : OPEN;
    int action = due(kind), file = -1;
    if (action == FAIL_BEFORE) {
        errno = disk.error;
    } else {
        int fresh = (flags & O_CREAT) && !inode(full);
        file = REAL(openat)(folder, path, flags, mode);
        int error = errno;
        remember(file, file < 0 ? NULL : full);
        if (file >= 0 && action == LIE) lying[file] = 1;
        if ((disk.kinds & kind) && file >= 0) note(kind, full, NULL, inode(full), fresh);
        errno = error;
        if (action == FAIL_AFTER && file >= 0) {
            remember(file, NULL);
            REAL(close)(file);
            file = -1;
        }
    }
    over(action);
    return file;
}

#define OPENING(folder, path)                                                                                      \
    mode_t mode = 0;                                                                                               \
    char full[PATH_MAX];                                                                                           \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                           \
        va_list more;                                                                                              \
        va_start(more, flags);                                                                                     \
        mode = va_arg(more, mode_t);                                                                               \
        va_end(more);                                                                                              \
    }                                                                                                              \
    if (!below(folder, path, full)) return REAL(openat)(folder, path, flags, mode);                                \
    return opened(folder, path, flags, mode, full)

int open(const char *path, int flags, ...) { OPENING(AT_FDCWD, path); }
int open64(const char *path, int flags, ...) { OPENING(AT_FDCWD, path); }
int openat(int folder, const char *path, int flags, ...) { OPENING(folder, path); }
int openat64(int folder, const char *path, int flags, ...) { OPENING(folder, path); }

int close(int file) {
    if (name_of(file)) {
        pthread_mutex_lock(&lock);
        remember(file, NULL);
        pthread_mutex_unlock(&lock);
    }
    return REAL(close)(file);
}

static int synced(int file, int (*call)(int)) {
    const char *path = name_of(file);
    if (!path) return call(file);
    struct stat found;
    NAMED(SYNC, path, NULL, fstat(file, &found) == 0 ? (long)found.st_ino : 0, call(file));
}
int fsync(int file) { return synced(file, REAL(fsync)); }
int fdatasync(int file) { return synced(file, REAL(fdatasync)); }

int rename(const char *path, const char *other) {
    char from[PATH_MAX], to[PATH_MAX];
    if (!below(AT_FDCWD, path, from) || !below(AT_FDCWD, other, to)) return REAL(rename)(path, other);
    NAMED(RENAME, from, to, (bury(from), bury(to), inode(from)), REAL(rename)(path, other));
}

int unlinkat(int folder, const char *path, int flags) {
    char full[PATH_MAX];
    if (!below(folder, path, full)) return REAL(unlinkat)(folder, path, flags);
    NAMED(REMOVE, full, NULL, (bury(full), inode(full)), REAL(unlinkat)(folder, path, flags));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int folder, const char *path, mode_t mode) {
    char full[PATH_MAX];
    if (!below(folder, path, full)) return REAL(mkdirat)(folder, path, mode);
    NAMED(MKDIR, full, NULL, 0, REAL(mkdirat)(folder, path, mode));
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

ssize_t writev(int file, const struct iovec *parts, int count) {
    const char *path = name_of(file);
    if (!path) return REAL(writev)(file, parts, count);
    size_t size = 0;
    for (int i = 0; i < count; i++) size += parts[i].iov_len;
    char *bytes = malloc(size + 1), *end = bytes;
    for (int i = 0; i < count; i++) end = mempcpy(end, parts[i].iov_base, parts[i].iov_len);
    int action = due(WRITE);
    ssize_t done = -1;
    if (action == FAIL_BEFORE) {
        errno = disk.error;
    } else {
        if (action == KILL_WITHIN || action == FALL_SHORT) size = (size + 1) / 2;
        if (action == LIE && size) bytes[size / 2] ^= 4;
        done = REAL(write)(file, bytes, size);
        int error = errno;
        struct stat found;
        if (disk.kinds & WRITE) note(WRITE, path, NULL, fstat(file, &found) == 0 ? (long)found.st_ino : 0, (long)done);
        errno = error;
    }
    over(action);
    free(bytes);
    return action == FAIL_AFTER ? -1 : done;
}
ssize_t write(int file, const void *bytes, size_t size) {
    struct iovec part = {(void *)bytes, size};
    return name_of(file) ? writev(file, &part, 1) : REAL(write)(file, bytes, size);
}

/* Reads fall short and lie for as long as the file stays open. */
static ssize_t read_at(int file, void *bytes, size_t size, off_t offset, int placed) {
    const char *path = name_of(file);
    if (!path) return placed ? REAL(pread)(file, bytes, size, offset) : REAL(read)(file, bytes, size);
    int action = due(READ);
    ssize_t done = -1;
    if (action == FAIL_BEFORE) {
        errno = disk.error;
    } else {
        if (action == FALL_SHORT && size > 1) size /= 2;
        done = placed ? REAL(pread)(file, bytes, size, offset) : REAL(read)(file, bytes, size);
        int error = errno;
        if (action == LIE) lying[file] = 1;
        if (lying[file] && done > 0) ((char *)bytes)[done / 2] ^= 4;
        if (disk.kinds & READ) note(READ, path, NULL, 0, (long)done);
        errno = error;
    }
    over(action);
    return action == FAIL_AFTER ? -1 : done;
}
ssize_t read(int file, void *bytes, size_t size) { return read_at(file, bytes, size, 0, 0); }
ssize_t pread(int file, void *bytes, size_t size, off_t offset) { return read_at(file, bytes, size, offset, 1); }
ssize_t pread64(int file, void *bytes, size_t size, off64_t offset) { return read_at(file, bytes, size, offset, 1); }
