/* A system that lacks something, for whoever has it in LD_PRELOAD.

   REFUSED names the calls that fail, each with the number that they fail with: "flock=37 sync_folder=22". It is read at
   each call, so that a process may change it.

     flock         flock
     record_lock   fcntl's locks, which SQLite keeps processes apart by
     link          hard and symbolic links
     sync_folder   fsync and fdatasync of a folder
     sync_file     of anything else
     map           shared mmap of a file
     user          the list of users has no entry (for 0), or cannot be read

   become(UID) makes the process another user's, of no group, who may read what root may: Python is often in a folder of
   root's. 0: it is.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* The number after "NAME=", or -1. */
static int refused(const char *name) {
    const char *at = getenv("REFUSED");
    size_t length = strlen(name);
    while (at && *at) {
        if (!strncmp(at, name, length) && at[length] == '=') return atoi(at + length + 1);
        at = strchr(at, ' ');
        if (at) at++;
    }
    return -1;
}

#define REFUSE_AS(name)                                                                                                \
    do {                                                                                                               \
        int number = refused(name);                                                                                    \
        if (number > 0) {                                                                                              \
            errno = number;                                                                                            \
            return -1;                                                                                                 \
        }                                                                                                              \
    } while (0)

int flock(int file, int operation) {
    REFUSE_AS("flock");
    return REAL(flock)(file, operation);
}

static int is_lock(int command) {
    return command == F_SETLK || command == F_SETLKW || command == F_GETLK || command == F_OFD_SETLK ||
           command == F_OFD_SETLKW || command == F_OFD_GETLK;
}

#define FCNTL(name)                                                                                                    \
    int name(int file, int command, ...) {                                                                             \
        va_list list;                                                                                                  \
        va_start(list, command);                                                                                       \
        void *argument = va_arg(list, void *);                                                                         \
        va_end(list);                                                                                                  \
        if (is_lock(command)) REFUSE_AS("record_lock");                                                                \
        return REAL(name)(file, command, argument);                                                                    \
    }

FCNTL(fcntl)
FCNTL(fcntl64)

int link(const char *from, const char *to) {
    REFUSE_AS("link");
    return REAL(link)(from, to);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    REFUSE_AS("link");
    return REAL(linkat)(from_folder, from, to_folder, to, flags);
}

int symlink(const char *target, const char *path) {
    REFUSE_AS("link");
    return REAL(symlink)(target, path);
}

int symlinkat(const char *target, int folder, const char *path) {
    REFUSE_AS("link");
    return REAL(symlinkat)(target, folder, path);
}

static const char *kind_of(int file) {
    struct stat found;
    return !fstat(file, &found) && S_ISDIR(found.st_mode) ? "sync_folder" : "sync_file";
}

int fsync(int file) {
    REFUSE_AS(kind_of(file));
    return REAL(fsync)(file);
}

int fdatasync(int file) {
    REFUSE_AS(kind_of(file));
    return REAL(fdatasync)(file);
}

#define MMAP(name)                                                                                                     \
    void *name(void *at, size_t length, int protection, int flags, int file, off_t offset) {                           \
        int number = refused("map");                                                                                   \
        if (number > 0 && (flags & MAP_SHARED) && !(flags & MAP_ANONYMOUS)) {                                          \
            errno = number;                                                                                            \
            return MAP_FAILED;                                                                                         \
        }                                                                                                              \
        return REAL(name)(at, length, protection, flags, file, offset);                                                \
    }

MMAP(mmap)
MMAP(mmap64)

#define USER(name, key)                                                                                                \
    struct passwd *name(key) {                                                                                         \
        int number = refused("user");                                                                                  \
        if (number < 0) return REAL(name)(wanted);                                                                     \
        errno = number;                                                                                                \
        return NULL;                                                                                                   \
    }                                                                                                                  \
    int name##_r(key, struct passwd *entry, char *buffer, size_t size, struct passwd **result) {                       \
        int number = refused("user");                                                                                  \
        if (number < 0) return REAL(name##_r)(wanted, entry, buffer, size, result);                                    \
        *result = NULL;                                                                                                \
        return number;                                                                                                 \
    }

USER(getpwuid, uid_t wanted)
USER(getpwnam, const char *wanted)

int become(uid_t user) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    unsigned reads = 1u << CAP_DAC_READ_SEARCH;
    struct __user_cap_data_struct kept[2] = {{reads, reads, reads}, {0, 0, 0}};
    return prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) || setgroups(0, NULL) || setresgid(user, user, user) ||
           setresuid(user, user, user) || syscall(SYS_capset, &header, kept) ||
           prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0);
}
