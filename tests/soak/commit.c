/* Loaded into a process that is to die between writing a table's files and committing them: SIGKILL instead of the commit. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void die_if_asked(const char *target) {
    const char *table = getenv("ESTEIRA_DIE_AT_COMMIT");
    if (table && *table && strstr(target, table) && strstr(target, "_delta_log/") && strstr(target, ".json"))
        kill(getpid(), SIGKILL);
}

int link(const char *source, const char *target) {
    die_if_asked(target);
    return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "link"))(source, target);
}

int linkat(int from, const char *source, int to, const char *target, int flags) {
    die_if_asked(target);
    return ((int (*)(int, const char *, int, const char *, int))dlsym(RTLD_NEXT, "linkat"))(from, source, to, target, flags);
}

int rename(const char *source, const char *target) {
    die_if_asked(target);
    return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(source, target);
}
