/* A child that does its first act at once, and ends at once when it is told to. Each act is a line in the file that it
   is given: what, seconds on CLOCK_BOOTTIME, and its pid. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static void act(int file, const char *what) {
    struct timespec now;
    char line[128];
    clock_gettime(CLOCK_BOOTTIME, &now);
    int length = snprintf(line, sizeof line, "%s %ld.%09ld %d\n", what, (long)now.tv_sec, now.tv_nsec, getpid());
    if (write(file, line, length) != length) _exit(1);
}

int main(int count, char **arguments) {
    sigset_t awaited;
    int signum, file = count > 1 ? open(arguments[1], O_WRONLY | O_APPEND | O_CREAT, 0666) : -1;
    if (file < 0) return 1;
    sigemptyset(&awaited);
    sigaddset(&awaited, SIGTERM);
    sigprocmask(SIG_BLOCK, &awaited, NULL);
    act(file, "begins");
    sigwait(&awaited, &signum);
    act(file, "ends");
    return 0;
}
