/* A disk that refuses, preloaded into a daemon: what is written below REFUSED fails with the number in the file REFUSAL. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ssize_t write(int fd, const void *data, size_t size)
{
    static ssize_t (*next)(int, const void *, size_t);
    char link[64], path[4096];
    const char *order = getenv("REFUSAL"), *refused = getenv("REFUSED");
    int number = 0;
    if (!next)
        next = dlsym(RTLD_NEXT, "write");
    if (order && refused) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length > 0) {
            path[length] = 0;
            if (!strncmp(path, refused, strlen(refused))) {
                FILE *file = fopen(order, "re");
                if (file) {
                    if (fscanf(file, "%d", &number) != 1)
                        number = 0;
                    fclose(file);
                }
            }
        }
    }
    if (number) {
        errno = number;
        return -1;
    }
    return next(fd, data, size);
}
