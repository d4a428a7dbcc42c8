/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "functions.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <gelf.h>

#include "message.h"
#include "tracepoints.h"

#define TRACEFS "/sys/kernel/tracing"
#define LISTED TRACEFS "/available_filter_functions"
#define LISTED_WITH_ADDRESSES LISTED "_addrs" /* since Linux 6.5 */
#define KERNEL_NAME 512
#define ENTRY_REACH 16 /* bytes of a function before the place that ftrace patches */

/* --------------------------------------------------------------------------------------- a list */

/* Names of compilers' making have dots, which the schema has not; others are cut. */
static void set_name(char *to, const char *name)
{
	size_t i = 0;

	if (!isalpha((unsigned char)*name) && *name != '_')
		to[i++] = '_';
	for (; *name && i < HTRACE_NAME_MAX - 1; name++)
		to[i++] = isalnum((unsigned char)*name) ? *name : '_';
	to[i] = 0;
}

static int add(struct functions *f, const char *name, __u64 address, const char *path)
{
	size_t room = f->room ? 2 * f->room : 256;
	struct function *at, *p;

	if (f->nr == f->room) {
		p = realloc(f->at, room * sizeof(*p));
		if (!p)
			return -1;
		f->at = p;
		f->room = room;
	}
	at = &f->at[f->nr];
	*at = (struct function){ .address = address, .path = path ? strdup(path) : NULL };
	if (path && !at->path)
		return -1;
	set_name(at->name, name);
	f->nr++;
	return 0;
}

static int by_place(const void *a, const void *b)
{
	const struct function *x = a, *y = b;
	int order = x->path && y->path ? strcmp(x->path, y->path) : 0;

	if (order)
		return order;
	if (x->address != y->address)
		return x->address < y->address ? -1 : 1;
	return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b)
{
	int order = strcmp(((const struct function *)a)->name, ((const struct function *)b)->name);

	return order ? order : by_place(a, b);
}

static bool has_name(const struct functions *f, const char *name)
{
	for (size_t i = 0; i < f->nr; i++)
		if (!strcmp(f->at[i].name, name))
			return true;
	return false;
}

/* Several have the name: the second is NAME_2, unless another one is called so. */
static void number_names(struct functions *f)
{
	char base[HTRACE_NAME_MAX] = "", name[HTRACE_NAME_MAX], suffix[16];
	unsigned int same = 0;

	for (size_t i = 0; i < f->nr; i++) {
		if (strcmp(f->at[i].name, base) != 0) {
			memcpy(base, f->at[i].name, sizeof(base));
			same = 1;
			continue;
		}
		do {
			size_t len = (size_t)snprintf(suffix, sizeof(suffix), "_%u", ++same), at = strlen(base);

			at = at + len < sizeof(name) ? at : sizeof(name) - 1 - len;
			memcpy(name, base, at);
			memcpy(name + at, suffix, len + 1);
		} while (has_name(f, name));
		memcpy(f->at[i].name, name, sizeof(name));
	}
}

void functions_sort(struct functions *f)
{
	size_t nr = 0;

	qsort(f->at, f->nr, sizeof(*f->at), by_place);
	for (size_t i = 0; i < f->nr; i++) {
		struct function *last = nr ? &f->at[nr - 1] : NULL;

		if (last && last->address == f->at[i].address &&
		    (!last->path || !strcmp(last->path, f->at[i].path)))
			free(f->at[i].path);
		else
			f->at[nr++] = f->at[i];
	}
	f->nr = nr;
	qsort(f->at, f->nr, sizeof(*f->at), by_name);
	number_names(f);
}

void functions_free(struct functions *f)
{
	if (!f)
		return;
	for (size_t i = 0; i < f->nr; i++)
		free(f->at[i].path);
	while (f->nr_patterns)
		free(f->pattern[--f->nr_patterns].glob);
	free(f->at);
	free(f);
}

/* ------------------------------------------------------------------------------------- the kernel's */

/* What the kernel can trace of what matches. */
struct listed {
	struct place {
		char *name;
		unsigned long long address; /* 0: not told */
	} *at;
	size_t nr, room;
};

static void listed_free(struct listed *l)
{
	for (size_t i = 0; i < l->nr; i++)
		free(l->at[i].name);
	free(l->at);
}

static int list(struct listed *l, const char *name, unsigned long long address)
{
	size_t room = l->room ? 2 * l->room : 1024;
	void *p;

	if (l->nr == l->room) {
		p = realloc(l->at, room * sizeof(*l->at));
		if (!p)
			return -1;
		l->at = p;
		l->room = room;
	}
	l->at[l->nr].address = address;
	l->at[l->nr].name = strdup(name);
	return l->at[l->nr++].name ? 0 : -1;
}

static int compare_places(const void *a, const void *b)
{
	return strcmp(((const struct place *)a)->name, ((const struct place *)b)->name);
}

/* Does @name match one of the patterns? Notes of all that it matches what is known of it. */
static bool is_wanted(struct functions *f, const char *name, bool there, bool hidden, bool found)
{
	bool yes = false;

	for (size_t i = 0; i < f->nr_patterns; i++) {
		struct functions_pattern *p = &f->pattern[i];

		if (fnmatch(p->glob, name, 0))
			continue;
		yes = true;
		p->there |= there;
		p->hidden |= hidden;
		p->found |= found;
	}
	return yes;
}

/* Cuts "WORD ..." at @*at behind its first word, and moves @*at to the next. */
static char *next_word(char **at)
{
	char *word = *at;

	*at += strcspn(*at, " \t\n");
	if (**at)
		*(*at)++ = 0;
	*at += strspn(*at, " \t");
	return word;
}

static int read_listed(struct listed *l, struct functions *wanted)
{
	FILE *f = fopen(LISTED_WITH_ADDRESSES, "re");
	bool addresses = f != NULL;
	char line[KERNEL_NAME + 100];
	int err = 0;

	if (!f)
		f = fopen(LISTED, "re");
	if (!f) {
		say("cannot read " LISTED ": %s; functions need root and a kernel with "
		    "CONFIG_DYNAMIC_FTRACE", strerror(errno));
		return -1;
	}
	while (!err && fgets(line, sizeof(line), f)) {
		char *at = line, *address = addresses ? next_word(&at) : NULL, *name = next_word(&at);

		if (is_wanted(wanted, name, false, false, false))
			err = list(l, name, address ? strtoull(address, NULL, 16) : 0);
	}
	fclose(f);
	if (err)
		say("out of memory");
	else if (l->nr)
		qsort(l->at, l->nr, sizeof(*l->at), compare_places);
	return err;
}

static bool is_listed(const struct listed *l, char *name, unsigned long long address)
{
	struct place key = { .name = name };
	const struct place *p = l->nr ? bsearch(&key, l->at, l->nr, sizeof(key), compare_places) : NULL;

	while (p && p > l->at && !strcmp(p[-1].name, name))
		p--;
	for (; p && p < l->at + l->nr && !strcmp(p->name, name); p++)
		if (!p->address || p->address - address < ENTRY_REACH)
			return true;
	return false;
}

static int check_found(const struct functions *f)
{
	for (size_t i = 0; i < f->nr_patterns; i++) {
		const struct functions_pattern *p = &f->pattern[i];

		if (p->found)
			continue;
		if (p->hidden)
			say("--events: function:%s: the kernel hides its functions' addresses; sysctl "
			    "kernel.kptr_restrict=0 before the agent starts", p->glob);
		else if (p->there)
			say("--events: function:%s: the kernel has it, but cannot trace it: it is kept "
			    "from tracers (notrace), or is in " LISTED " by another of its names; "
			    "choose that, or one that calls it", p->glob);
		else
			say("--events: function:%s: the kernel has no such function, or the compiler put "
			    "it into those that call it; " LISTED " lists what can be traced", p->glob);
		return -1;
	}
	return 0;
}

int functions_want_kernel(struct functions *f, const char *pattern)
{
	char *glob = f->nr_patterns < FUNCTIONS_PATTERNS ? strdup(pattern) : NULL;

	if (!glob) {
		say("--events: function:%s: %s", pattern,
		    f->nr_patterns < FUNCTIONS_PATTERNS ? "out of memory" : "too many of them");
		return -1;
	}
	f->pattern[f->nr_patterns++].glob = glob;
	return 0;
}

static int add_symbol(struct functions *f, const struct listed *l, char *line)
{
	char *address = next_word(&line), *type = next_word(&line), *name = next_word(&line);
	unsigned long long at = strtoull(address, NULL, 16);

	if (!*type || !strchr("tTwW", *type) || !is_wanted(f, name, true, !at, false) || !at ||
	    !is_listed(l, name, at))
		return 0;
	is_wanted(f, name, true, false, true);
	return add(f, name, at, NULL);
}

/* Reading what the kernel tells takes a moment: once for all patterns. */
int functions_add_kernel(struct functions *f)
{
	char line[KERNEL_NAME + 100];
	struct listed l = { 0 };
	FILE *symbols;
	int err;

	err = tracepoints_check() || read_listed(&l, f) ? -1 : 0;
	symbols = err ? NULL : fopen("/proc/kallsyms", "re");
	if (!err && !symbols) {
		say("cannot read /proc/kallsyms: %s", strerror(errno));
		err = -1;
	}
	while (!err && fgets(line, sizeof(line), symbols)) {
		err = add_symbol(f, &l, line);
		if (err)
			say("out of memory");
	}
	if (symbols)
		fclose(symbols);
	listed_free(&l);
	return err ? err : check_found(f);
}

/* --------------------------------------------------------------------------------------- programs' */

/* Where in the file what is at @address is; 0: nowhere. */
static __u64 offset_of(Elf *elf, __u64 address)
{
	GElf_Phdr segment;
	size_t nr;

	if (elf_getphdrnum(elf, &nr))
		return 0;
	for (size_t i = 0; i < nr; i++)
		if (gelf_getphdr(elf, (int)i, &segment) && segment.p_type == PT_LOAD &&
		    address - segment.p_vaddr < segment.p_filesz)
			return address - segment.p_vaddr + segment.p_offset;
	return 0;
}

static int add_symbols(struct functions *f, Elf *elf, Elf_Scn *section, const char *path,
		       const char *pattern)
{
	Elf_Data *data = elf_getdata(section, NULL);
	GElf_Shdr head;
	GElf_Sym sym;
	int err = 0;

	if (!data || !gelf_getshdr(section, &head) || !head.sh_entsize ||
	    (head.sh_type != SHT_SYMTAB && head.sh_type != SHT_DYNSYM))
		return 0;
	for (int i = 0; !err && gelf_getsym(data, i, &sym); i++) {
		const char *name = elf_strptr(elf, head.sh_link, sym.st_name);
		__u64 offset;

		if (!name || GELF_ST_TYPE(sym.st_info) != STT_FUNC || sym.st_shndx == SHN_UNDEF ||
		    fnmatch(pattern, name, 0))
			continue;
		offset = offset_of(elf, sym.st_value);
		if (offset)
			err = add(f, name, offset, path);
	}
	if (err)
		say("out of memory");
	return err;
}

int functions_add_user(struct functions *f, const char *path, const char *pattern)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), err = 0;
	size_t before = f->nr;
	Elf_Scn *section = NULL;
	Elf *elf = NULL;

	if (fd < 0) {
		say("--events: function:%s:%s: cannot read the file: %s", path, pattern, strerror(errno));
		return -1;
	}
	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ, NULL);
	if (!elf || elf_kind(elf) != ELF_K_ELF) {
		say("--events: function:%s:%s: the file is no program or library (ELF)", path, pattern);
		err = -1;
	}
	while (!err && (section = elf_nextscn(elf, section)) != NULL)
		err = add_symbols(f, elf, section, path, pattern);
	if (!err && f->nr == before) {
		say("--events: function:%s:%s: the file has no such function; stripped files tell what they "
		    "export only (nm -D FILE)", path, pattern);
		err = -1;
	}
	elf_end(elf);
	close(fd);
	return err;
}
