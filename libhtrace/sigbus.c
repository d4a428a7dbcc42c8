/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * A peer may shrink the file behind a mapping; the next access then raises SIGBUS. The handler
 * puts anonymous zero pages in place of what is gone, so that the reader carries on, sees zeroes
 * that do not validate, and finds the flag.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core.h"

#define MAX_GUARDS 256

/* A slot is live while len is not 0; the handler reads it without a lock, len last written. */
static struct guard {
	uintptr_t start;
	size_t len;
	bool writable;
	volatile bool *shrunk;
} guards[MAX_GUARDS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction chained;
static bool installed;
static uintptr_t page_mask;

static void pass_on(int sig, siginfo_t *info, void *ctx)
{
	if (chained.sa_flags & SA_SIGINFO) {
		chained.sa_sigaction(sig, info, ctx);
	} else if (chained.sa_handler != SIG_DFL && chained.sa_handler != SIG_IGN) {
		chained.sa_handler(sig);
	} else {
		/* Not ours: die of it as if we were not here, on return from the handler. */
		signal(sig, SIG_DFL);
	}
}

static bool put_zeroes(const struct guard *g, uintptr_t from, size_t len)
{
	return mmap((void *)from, g->start + len - from,
		    PROT_READ | (g->writable ? PROT_WRITE : 0),
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

static void on_sigbus(int sig, siginfo_t *info, void *ctx)
{
	uintptr_t at = (uintptr_t)info->si_addr;
	int saved = errno;

	for (int i = 0; i < MAX_GUARDS; i++) {
		size_t len = __atomic_load_n(&guards[i].len, __ATOMIC_ACQUIRE);
		struct guard *g = &guards[i];

		if (!len || at < g->start || at - g->start >= len)
			continue;
		*g->shrunk = true;
		/*
		 * The rest of the range goes with it: one fault, not one per page. All of it where a
		 * part cannot be replaced (huge pages).
		 */
		if (!put_zeroes(g, at & page_mask, len) && !put_zeroes(g, g->start, len))
			break;
		errno = saved;
		return;
	}
	errno = saved;
	pass_on(sig, info, ctx);
}

static int install(void)
{
	struct sigaction sa = { .sa_sigaction = on_sigbus,
				.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };

	if (installed)
		return 0;
	page_mask = ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
	sigemptyset(&sa.sa_mask);
	if (sigaction(SIGBUS, &sa, &chained))
		return -errno;
	installed = true;
	return 0;
}

int htrace_sigbus_guard(void *mem, size_t len, bool writable, volatile bool *shrunk, char *err,
			size_t errlen)
{
	int ret;

	pthread_mutex_lock(&lock);
	ret = install();
	if (ret)
		htrace_errf(err, errlen, "cannot handle SIGBUS: %s", strerror(-ret));
	for (int i = 0; !ret; i++) {
		struct guard *g = &guards[i];

		if (i == MAX_GUARDS) {
			htrace_errf(err, errlen, "this process has %d mappings of regions; close a view "
				    "first", MAX_GUARDS);
			ret = -EMFILE;
		} else if (!g->len) {
			g->start = (uintptr_t)mem;
			g->writable = writable;
			g->shrunk = shrunk;
			__atomic_store_n(&g->len, len, __ATOMIC_RELEASE);
			break;
		}
	}
	pthread_mutex_unlock(&lock);
	return ret;
}

void htrace_sigbus_unguard(void *mem)
{
	pthread_mutex_lock(&lock);
	for (int i = 0; i < MAX_GUARDS; i++)
		if (guards[i].len && guards[i].start == (uintptr_t)mem)
			__atomic_store_n(&guards[i].len, 0, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&lock);
}
