/* A user database that hangs, preloaded into a daemon: for each name that stands in the file HUNG_NAMES names. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int stands_there(const char *name)
{
    char line[64];
    const char *path = getenv("HUNG_NAMES");
    FILE *file = path ? fopen(path, "re") : NULL;
    int found = 0;
    while (file && !found && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        found = !strcmp(line, name);
    }
    if (file)
        fclose(file);
    return found;
}

static void wait_for(const char *name)
{
    while (stands_there(name))
        usleep(20000);
}

int getpwnam_r(const char *name, struct passwd *entry, char *data, size_t size, struct passwd **found)
{
    int (*next)(const char *, struct passwd *, char *, size_t, struct passwd **) = dlsym(RTLD_NEXT, "getpwnam_r");
    wait_for(name);
    return next(name, entry, data, size, found);
}

int getpwuid_r(uid_t uid, struct passwd *entry, char *data, size_t size, struct passwd **found)
{
    int (*next)(uid_t, struct passwd *, char *, size_t, struct passwd **) = dlsym(RTLD_NEXT, "getpwuid_r");
    char name[16];
    snprintf(name, sizeof name, "%u", uid);
    wait_for(name);
    return next(uid, entry, data, size, found);
}

int getgrnam_r(const char *name, struct group *entry, char *data, size_t size, struct group **found)
{
    int (*next)(const char *, struct group *, char *, size_t, struct group **) = dlsym(RTLD_NEXT, "getgrnam_r");
    char group[64];
    snprintf(group, sizeof group, "group %s", name);
    wait_for(group);
    return next(name, entry, data, size, found);
}

int getgrouplist(const char *name, gid_t group, gid_t *groups, int *count)
{
    int (*next)(const char *, gid_t, gid_t *, int *) = dlsym(RTLD_NEXT, "getgrouplist");
    char key[64];
    snprintf(key, sizeof key, "groups of %s", name);
    wait_for(key);
    return next(name, group, groups, count);
}
