/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "helper_process.h"

#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SAFE 64 /* descriptors are moved away to there first, so that none lies where another one has to be */

static void leave_files(const int *keep, int nr)
{
	int null = open("/dev/null", O_RDWR), high[8];

	for (int i = 0; i < nr && i < 8; i++)
		high[i] = fcntl(keep[i], F_DUPFD, SAFE);
	for (int fd = 0; fd < HELPER_FD; fd++)
		dup2(null, fd);
	for (int i = 0; i < nr && i < 8; i++)
		dup2(high[i], HELPER_FD + i);
	if (syscall(SYS_close_range, (unsigned int)(HELPER_FD + nr), ~0U, 0))
		for (int fd = HELPER_FD + nr; fd < 65536; fd++)
			close(fd);
}

void helper_process_begin(const char *name, const int *keep, int nr)
{
	static const int ignored[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGXFSZ };

	for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++)
		signal(ignored[i], SIG_IGN);
	prctl(PR_SET_NAME, name);
	leave_files(keep, nr);
}
