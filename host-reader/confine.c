/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "confine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/types.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef HAVE_LIBCAP_NG
#include <cap-ng.h>
#endif

#include "confine_calls.h"
#include "confine_links.h"

static void append(char *said, size_t len, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static void append(char *said, size_t len, const char *fmt, ...)
{
	size_t at = strlen(said);
	va_list args;

	va_start(args, fmt);
	vsnprintf(said + at, len - at, fmt, args);
	va_end(args);
}

/* ------------------------------------------------------------------------------------- capabilities */

#ifdef HAVE_LIBCAP_NG

static int keep_only(const unsigned int *keep, size_t nr)
{
	bool have[64] = { false };

	capng_get_caps_process();
	for (size_t i = 0; i < nr; i++)
		have[i] = capng_have_capability(CAPNG_EFFECTIVE, keep[i]) == 1;
	capng_clear(CAPNG_SELECT_CAPS);
	for (size_t i = 0; i < nr; i++)
		if (have[i])
			capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, keep[i]);
	return capng_apply(CAPNG_SELECT_CAPS) ? -EPERM : 0;
}

/* Would we, without capabilities, be allowed to make files there? */
static bool needs_override(const char *dir)
{
	struct stat st;

	return stat(dir, &st) || st.st_uid != geteuid() || (st.st_mode & (S_IWUSR | S_IXUSR)) != (S_IWUSR | S_IXUSR);
}

static int drop_capabilities(const struct confine_plan *plan, char *said, size_t len)
{
	unsigned int keep[2];
	size_t nr = 0;

	/* Of the files, what Landlock allows is left of it. */
	for (unsigned int i = 0; i < plan->nr_outdirs && !nr; i++)
		if (needs_override(plan->outdir[i]))
			keep[nr++] = CAP_DAC_OVERRIDE;
	if (plan->bpf)
		keep[nr++] = CAP_BPF; /* where kernel.unprivileged_bpf_disabled means maps, too: before Linux 5.19 */
	append(said, len, "capabilities: %s%s%s", nr ? "" : "none",
	       nr && keep[0] == CAP_DAC_OVERRIDE ? "dac_override" : "",
	       plan->bpf ? (nr > 1 ? ", bpf" : "bpf") : "");
	return keep_only(keep, nr);
}

/* With it (since Linux 5.9) links in map_files need nothing else; else they need all that CAP_SYS_ADMIN is. */
static bool has_checkpoint_restore(void)
{
	capng_get_caps_process();
	return capng_have_capability(CAPNG_EFFECTIVE, CAP_CHECKPOINT_RESTORE) == 1;
}

static int drop_finders_capabilities(const struct confine_finder_plan *plan)
{
	unsigned int keep[] = { CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_CHECKPOINT_RESTORE,
				CAP_SYS_ADMIN };
	size_t nr = sizeof(keep) / sizeof(*keep);

	return keep_only(keep, has_checkpoint_restore() && !plan->bpf_stats ? nr - 1 : nr);
}

#else

static int drop_capabilities(const struct confine_plan *plan, char *said, size_t len)
{
	append(said, len, "capabilities: kept (built without libcap-ng)");
	return 0;
}

static int drop_finders_capabilities(const struct confine_finder_plan *plan)
{
	return 0;
}

#endif

/* ----------------------------------------------------------------------------------------- Landlock */

/*
 * By its numbers: headers are older than kernels. Rights of a version that the kernel does not have
 * are left out.
 */
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif
#define ABI_QUERY 1u /* LANDLOCK_CREATE_RULESET_VERSION */
#define PATH_BENEATH 1

#define FS_WRITE_FILE (1ULL << 1)
#define FS_READ_FILE (1ULL << 2)
#define FS_READ_DIR (1ULL << 3)
#define FS_REMOVE_DIR (1ULL << 4)
#define FS_REMOVE_FILE (1ULL << 5)
#define FS_MAKE_DIR (1ULL << 7)
#define FS_MAKE_REG (1ULL << 8)
#define FS_REFER (1ULL << 13)
#define FS_TRUNCATE (1ULL << 14)

#define RIGHTS_READ (FS_READ_FILE | FS_READ_DIR)
#define RIGHTS_WRITE \
	(RIGHTS_READ | FS_WRITE_FILE | FS_REMOVE_DIR | FS_REMOVE_FILE | FS_MAKE_DIR | FS_MAKE_REG | FS_REFER | FS_TRUNCATE)

struct ruleset {
	__u64 fs, net, scoped; /* what is forbidden unless a rule allows it */
};

struct path_rule {
	__u64 allowed;
	__s32 fd;
} __attribute__((packed));

static struct ruleset all_of(int abi)
{
	static const unsigned int rights[] = { 13, 13, 14, 15, 15, 16 }; /* of files, by version from 1 on */
	unsigned int newest = sizeof(rights) / sizeof(*rights);

	return (struct ruleset){
		.fs = (1ULL << rights[((unsigned int)abi < newest ? (unsigned int)abi : newest) - 1]) - 1,
		.net = abi >= 4 ? 3 : 0,    /* TCP: to bind, to connect */
		.scoped = abi >= 6 ? 3 : 0, /* abstract sockets, signals */
	};
}

static size_t size_of(int abi)
{
	return abi >= 6 ? sizeof(struct ruleset) : abi >= 4 ? 16 : 8;
}

/* A file has no rights of directories. */
static __u64 rights_of(int fd, __u64 rights)
{
	struct stat st;

	if (!fstat(fd, &st) && !S_ISDIR(st.st_mode))
		rights &= FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE;
	return rights;
}

static int allow(int ruleset, const char *path, __u64 rights)
{
	struct path_rule rule = { .fd = open(path, O_PATH | O_CLOEXEC) };
	int ret = 0;

	if (rule.fd < 0)
		return errno == ENOENT || errno == EACCES || errno == ENOTDIR ? 0 : -errno;
	rule.allowed = rights_of(rule.fd, rights);
	if (syscall(SYS_landlock_add_rule, ruleset, PATH_BENEATH, &rule, 0))
		ret = -errno;
	close(rule.fd);
	return ret;
}

struct linked {
	int ruleset;
	__u64 rights;
};

static int allow_linked(void *arg, const char *path)
{
	const struct linked *l = arg;

	return allow(l->ruleset, path, l->rights);
}

static int allow_paths(int ruleset, const struct confine_plan *plan, __u64 handled)
{
	struct linked linked = { ruleset, RIGHTS_READ & handled };
	int ret = 0;

	for (unsigned int i = 0; i < plan->nr_outdirs && !ret; i++)
		ret = allow(ruleset, plan->outdir[i], RIGHTS_WRITE & handled);
	for (unsigned int i = 0; i < plan->nr_read && !ret; i++)
		ret = allow(ruleset, plan->read[i], RIGHTS_READ & handled);
	if (!ret && plan->debug)
		ret = confine_links(plan->debug, allow_linked, &linked);
	return ret;
}

static int confine_files(const struct confine_plan *plan, char *said, size_t len)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, ABI_QUERY);
	struct ruleset all;
	int fd, ret;

	if (abi < 1) {
		append(said, len, "; files: not confined (no Landlock: %s)", strerror(errno));
		return 0;
	}
	all = all_of((int)abi);
	fd = (int)syscall(SYS_landlock_create_ruleset, &all, size_of((int)abi), 0);
	ret = fd < 0 ? -errno : allow_paths(fd, plan, all.fs);
	if (!ret && syscall(SYS_landlock_restrict_self, fd, 0))
		ret = -errno;
	if (fd >= 0)
		close(fd);
	append(said, len, "; files: those of the outputs (Landlock %ld)", abi);
	return ret;
}

/* ----------------------------------------------------------------------------------------------- all */

int confine(const struct confine_plan *plan, char *said, size_t len)
{
	int ret;

	*said = 0;
	/* Without it an unprivileged process gets neither of the latter two. */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	ret = drop_capabilities(plan, said, len);
	if (!ret)
		ret = confine_files(plan, said, len);
	if (!ret)
		ret = confine_calls(plan, said, len);
	return ret;
}

int confine_finder(const struct confine_finder_plan *plan)
{
	int ret;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	ret = drop_finders_capabilities(plan);
	return ret ? ret : confine_finder_calls(plan);
}

/* A process that has its descriptors, and nothing else. */
static int confine_helper(void)
{
	static const struct confine_plan nothing;
	char said[256] = "";
	int ret;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	ret = drop_capabilities(&nothing, said, sizeof(said));
	if (!ret)
		ret = confine_files(&nothing, said, sizeof(said));
	return ret;
}

int confine_keeper(void)
{
	int ret = confine_helper();

	return ret ? ret : confine_keeper_calls();
}

int confine_receiver(bool handed)
{
	int ret = confine_helper();

	return ret ? ret : confine_receiver_calls(handed);
}

int confine_connector_files(void)
{
	return confine_helper();
}

int confine_connector(int receiver)
{
	return confine_connector_calls(receiver);
}
