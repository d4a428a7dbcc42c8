/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "elf_symbols.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef HAVE_LIBELF
#include <fcntl.h>
#include <gelf.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILES 128 /* a guest chooses which: so many are read, then no more */
#define MAX_SYMBOLS (1u << 20) /* of a file; of all four times as many */
#define MAX_MISSING 4096 /* files that are nowhere: so many are looked for */
#define MAX_FILE_SIZE (4LL << 30)
#define ID_LEN 20
#define UNSIZED_REACH 256
#define HEX_LEN (2 * ID_LEN)

struct function {
	__u64 address, size;
	__u32 name; /* in text */
};

struct file {
	__u8 id[ID_LEN];
	struct function *function; /* by address */
	size_t nr;
	char *text;
	size_t len;
	__u64 bias; /* of addresses above offsets, as far as the file tells */
	bool bias_is_told;
};

struct elf_symbols {
	struct file file[MAX_FILES];
	size_t nr, nr_functions;
	__u8 (*missing)[ID_LEN]; /* sorted; room for MAX_MISSING */
	size_t nr_missing;
};

struct elf_symbols *elf_symbols_new(void)
{
	struct elf_symbols *s = calloc(1, sizeof(*s));

	elf_version(EV_CURRENT);
	if (s)
		s->missing = malloc(MAX_MISSING * sizeof(*s->missing));
	if (s && !s->missing) {
		free(s);
		return NULL;
	}
	return s;
}

void elf_symbols_free(struct elf_symbols *s)
{
	for (size_t i = 0; s && i < s->nr; i++) {
		free(s->file[i].function);
		free(s->file[i].text);
	}
	if (s)
		free(s->missing);
	free(s);
}

/* ----------------------------------------------------------------------------- finding the file */

static const char *const places[] = {
	/* %1: first byte, %2: the rest of the build-id, %3: all of it, in hexadecimal */
	"/usr/lib/debug/.build-id/%.2s/%s.debug",
	"/usr/lib/debug/.build-id/%.2s/%s",
	"~/.debug/.build-id/%.2s/%s/elf",
	"~/.debug/.build-id/%.2s/%s",
};

static const char *const cached[] = { "debuginfo", "executable" };

static int open_regular(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0)
		return -1;
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size <= MAX_FILE_SIZE)
		return fd;
	close(fd);
	return -1;
}

static int open_place(const char *place, const char *hex)
{
	const char *home = getenv("HOME");
	char path[4096];
	int at = 0;

	if (*place == '~') {
		if (!home)
			return -1;
		at = snprintf(path, sizeof(path), "%s", home);
		place++;
	}
	if (at < 0 || at > (int)sizeof(path) - 200)
		return -1;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(path + at, sizeof(path) - (size_t)at, place, hex, hex + 2);
#pragma GCC diagnostic pop
	return open_regular(path);
}

/* What debuginfod's client has fetched, for gdb or perf, say. */
static int open_cached(const char *name, const char *hex)
{
	const char *own = getenv("DEBUGINFOD_CACHE_PATH"), *xdg = getenv("XDG_CACHE_HOME");
	const char *home = getenv("HOME");
	char path[4096];

	if (own)
		snprintf(path, sizeof(path), "%s/%s/%s", own, hex, name);
	else if (xdg)
		snprintf(path, sizeof(path), "%s/debuginfod_client/%s/%s", xdg, hex, name);
	else if (home)
		snprintf(path, sizeof(path), "%s/.cache/debuginfod_client/%s/%s", home, hex, name);
	else
		return -1;
	return open_regular(path);
}

static bool has_id(Elf *elf, const __u8 *id, size_t len)
{
	size_t nr;

	if (elf_getphdrnum(elf, &nr))
		return false;
	for (size_t i = 0; i < nr && i < 64; i++) {
		size_t at = 0, name, desc;
		GElf_Phdr p;
		Elf_Data *d;
		GElf_Nhdr n;

		if (!gelf_getphdr(elf, (int)i, &p) || p.p_type != PT_NOTE)
			continue;
		d = elf_getdata_rawchunk(elf, (int64_t)p.p_offset, p.p_filesz, ELF_T_NHDR);
		while (d && (at = gelf_getnote(d, at, &n, &name, &desc)) > 0)
			if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == 4 && n.n_descsz == len &&
			    !memcmp((char *)d->d_buf + name, "GNU", 4))
				return !memcmp((char *)d->d_buf + desc, id, len);
	}
	return false;
}

/* Debug files have lost what their segments hold, and keep the note in a section. */
static bool has_id_section(Elf *elf, const __u8 *id, size_t len)
{
	Elf_Scn *scn = NULL;

	while ((scn = elf_nextscn(elf, scn)) != NULL) {
		size_t at = 0, name, desc;
		GElf_Shdr sh;
		Elf_Data *d;
		GElf_Nhdr n;

		if (!gelf_getshdr(scn, &sh) || sh.sh_type != SHT_NOTE)
			continue;
		d = elf_getdata(scn, NULL);
		while (d && d->d_buf && (at = gelf_getnote(d, at, &n, &name, &desc)) > 0)
			if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == 4 && n.n_descsz == len &&
			    !memcmp((char *)d->d_buf + name, "GNU", 4))
				return !memcmp((char *)d->d_buf + desc, id, len);
	}
	return false;
}

/* ---------------------------------------------------------------------------- reading its symbols */

static int by_address(const void *a, const void *b)
{
	const struct function *x = a, *y = b;

	if (x->address != y->address)
		return x->address < y->address ? -1 : 1;
	return x->size < y->size ? -1 : x->size > y->size;
}

static int add_function(struct file *f, size_t *room, size_t *text_room, const GElf_Sym *sym,
			const char *name)
{
	size_t len = strnlen(name, 1024);
	void *p;

	if (f->nr == *room) {
		*room = *room ? 2 * *room : 1024;
		p = realloc(f->function, *room * sizeof(*f->function));
		if (!p)
			return -1;
		f->function = p;
	}
	if (f->len + len + 1 > *text_room) {
		*text_room = 2 * (f->len + len + 1);
		p = realloc(f->text, *text_room);
		if (!p)
			return -1;
		f->text = p;
	}
	f->function[f->nr++] = (struct function){ sym->st_value, sym->st_size, (__u32)f->len };
	memcpy(f->text + f->len, name, len);
	f->text[f->len + len] = 0;
	f->len += len + 1;
	return 0;
}

static void read_table(struct file *f, Elf *elf, Elf_Scn *scn, const GElf_Shdr *sh)
{
	Elf_Data *d = elf_getdata(scn, NULL);
	size_t room = 0, text_room = 0, nr;

	if (!d || !sh->sh_entsize)
		return;
	nr = sh->sh_size / sh->sh_entsize;
	for (size_t i = 0; i < nr && f->nr < MAX_SYMBOLS; i++) {
		const char *name;
		GElf_Sym sym;
		int type;

		if (!gelf_getsym(d, (int)i, &sym))
			break;
		type = GELF_ST_TYPE(sym.st_info);
		if ((type != STT_FUNC && type != STT_GNU_IFUNC) || sym.st_shndx == SHN_UNDEF ||
		    !sym.st_value)
			continue;
		name = elf_strptr(elf, sh->sh_link, sym.st_name);
		if (name && *name && add_function(f, &room, &text_room, &sym, name))
			break;
	}
	if (f->nr)
		qsort(f->function, f->nr, sizeof(*f->function), by_address);
}

static void read_symbols(struct file *f, Elf *elf, GElf_Word kind)
{
	Elf_Scn *scn = NULL;
	GElf_Shdr sh;

	while (!f->nr && (scn = elf_nextscn(elf, scn)) != NULL)
		if (gelf_getshdr(scn, &sh) && sh.sh_type == kind)
			read_table(f, elf, scn, &sh);
}

/*
 * Where the code's segment still says where in the file it lay; else linkers lay out offsets as they
 * do addresses, but for the first segment's.
 */
static void read_bias(struct file *f, Elf *elf)
{
	bool any = false;
	size_t nr;

	if (f->bias_is_told || elf_getphdrnum(elf, &nr))
		return;
	for (size_t i = 0; i < nr && i < 64; i++) {
		GElf_Phdr p;

		if (!gelf_getphdr(elf, (int)i, &p) || p.p_type != PT_LOAD)
			continue;
		if (!any)
			f->bias = p.p_vaddr & ~0xfffULL;
		any = true;
		if (p.p_flags & PF_X && p.p_filesz) {
			f->bias = p.p_vaddr - p.p_offset;
			f->bias_is_told = true;
			return;
		}
	}
}

static void read_file(struct file *f, int fd, const __u8 *id, size_t len, GElf_Word kind)
{
	Elf *elf = elf_begin(fd, ELF_C_READ, NULL);

	if (elf && elf_kind(elf) == ELF_K_ELF &&
	    (has_id(elf, id, len) || has_id_section(elf, id, len))) {
		read_symbols(f, elf, kind);
		read_bias(f, elf);
	}
	elf_end(elf);
}

static void try_fd(struct file *f, int fd, const char *hex, GElf_Word kind)
{
	if (fd < 0)
		return;
	read_file(f, fd, f->id, strlen(hex) / 2, kind);
	close(fd);
}

/* Build-ids shorter than 20 bytes come with zeros behind. */
static size_t id_length(const __u8 *id)
{
	static const __u8 zero[12];

	return !memcmp(id + 8, zero, 12) ? 8 : !memcmp(id + 16, zero, 4) ? 16 : ID_LEN;
}

/*
 * .symtab has all functions, .dynsym those that others may call: that is for when no place has a
 * file with the former.
 */
static void load(struct elf_symbols *s, const __u8 *id)
{
	static const GElf_Word kinds[] = { SHT_SYMTAB, SHT_DYNSYM };
	struct file *f = &s->file[s->nr];
	char hex[HEX_LEN + 1] = "";
	size_t len = id_length(id);

	memset(f, 0, sizeof(*f));
	memcpy(f->id, id, ID_LEN);
	for (size_t i = 0; i < len; i++)
		snprintf(hex + 2 * i, 3, "%02x", id[i]);
	for (size_t k = 0; k < sizeof(kinds) / sizeof(*kinds); k++) {
		for (size_t i = 0; i < sizeof(places) / sizeof(*places) && !f->nr; i++)
			try_fd(f, open_place(places[i], hex), hex, kinds[k]);
		for (size_t i = 0; i < sizeof(cached) / sizeof(*cached) && !f->nr; i++)
			try_fd(f, open_cached(cached[i], hex), hex, kinds[k]);
	}
	if (f->nr) {
		s->nr++;
		s->nr_functions += f->nr;
	}
}

/* Was it looked for in vain? If not, *@at is its place among those that were. */
static bool is_missing(const struct elf_symbols *s, const __u8 *id, size_t *at)
{
	size_t low = 0, high = s->nr_missing;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int c = memcmp(s->missing[mid], id, ID_LEN);

		if (!c)
			return true;
		if (c < 0)
			low = mid + 1;
		else
			high = mid;
	}
	*at = low;
	return false;
}

/* Of most files of most guests there are no symbols here; each is looked for once, not per frame. */
static struct file *find_file(struct elf_symbols *s, const __u8 *id)
{
	size_t nr = s->nr, at;

	for (size_t i = 0; i < nr; i++)
		if (!memcmp(s->file[i].id, id, ID_LEN))
			return &s->file[i];
	if (nr == MAX_FILES || s->nr_functions > 3 * MAX_SYMBOLS || s->nr_missing == MAX_MISSING ||
	    is_missing(s, id, &at))
		return NULL;
	load(s, id);
	if (s->nr > nr)
		return &s->file[nr];
	memmove(s->missing[at + 1], s->missing[at], (s->nr_missing - at) * sizeof(*s->missing));
	memcpy(s->missing[at], id, ID_LEN);
	s->nr_missing++;
	return NULL;
}

const char *elf_symbols_find(struct elf_symbols *s, const __u8 build_id[20], __u64 file_offset,
			     const __s64 *bias, __u64 *offset)
{
	const struct file *f = s ? find_file(s, build_id) : NULL;
	size_t low = 0, high = f ? f->nr : 0;
	const struct function *at;
	__u64 address;

	if (!f)
		return NULL;
	address = file_offset + (bias ? (__u64)*bias : f->bias);
	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (f->function[mid].address <= address)
			low = mid + 1;
		else
			high = mid;
	}
	if (!low)
		return NULL;
	at = &f->function[low - 1];
	/* Those without a size are hand-written, and short. */
	if (address - at->address >= (at->size ? at->size : UNSIZED_REACH))
		return NULL;
	*offset = address - at->address;
	return f->text + at->name;
}

#else

struct elf_symbols *elf_symbols_new(void)
{
	return NULL;
}

void elf_symbols_free(struct elf_symbols *s)
{
}

const char *elf_symbols_find(struct elf_symbols *s, const __u8 build_id[20], __u64 file_offset,
			     const __s64 *bias, __u64 *offset)
{
	return NULL;
}

#endif
