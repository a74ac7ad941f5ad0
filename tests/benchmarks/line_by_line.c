/* Writes lines of 100 bytes without end, each by a write(2) of its own, as programs do that flush each line. */
#include <string.h>
#include <unistd.h>

int main(void)
{
    char line[100];

    memset(line, 'x', sizeof line);
    line[sizeof line - 1] = '\n';
    while (write(STDOUT_FILENO, line, sizeof line) > 0)
        ;
    return 1;
}
