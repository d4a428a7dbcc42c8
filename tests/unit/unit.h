/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What all unit tests share: one suite a program, TAP on stdout. */
#ifndef UNIT_H
#define UNIT_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

/* Runs and frees @s; returns main()'s exit status. CK_FORK, CK_RUN_CASE... apply as usual. */
static inline int unit_run(Suite *s)
{
	SRunner *r = srunner_create(s);
	int failed;

	srunner_set_tap(r, "-");
	srunner_run_all(r, CK_SILENT);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* Cases that are not run, since this machine lacks what they need; tests/expected-skips has to know. */
__attribute__((unused)) static inline void unit_skip(const char *what, const char *why)
{
	printf("# SKIP %s: %s\n", what, why);
	fflush(stdout);
}

/*
 * How many of so many equal rounds are run: all, or an even share of them where each takes long (HTRACE_UNIT_SHARE=n: a
 * n-th), as the same rounds are run in full elsewhere.
 */
static inline unsigned int unit_share(void)
{
	const char *share = getenv("HTRACE_UNIT_SHARE");
	int n = share ? atoi(share) : 1;

	return n > 1 ? (unsigned int)n : 1;
}

static inline unsigned int unit_some(unsigned int rounds)
{
	return rounds / unit_share() ? rounds / unit_share() : 1;
}

/* Deterministic pseudo-random numbers (splitmix64): a failure can be repeated. */
static inline unsigned long long unit_random(unsigned long long *state)
{
	unsigned long long z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

#endif /* UNIT_H */
