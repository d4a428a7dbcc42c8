/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "symbols.h"

#include <stdlib.h>
#include <string.h>

#ifdef HAVE_ZLIB
#include <zlib.h>
#endif

#include "elf_symbols.h"

#define MAX_FUNCTIONS (1u << 20)
#define MAX_MAPPINGS 65536u
#define MAX_NAME 512u /* of a function with its module; of a file */
#define KERNEL_REACH (1u << 20) /* what is further behind a function's start lies in another */
#define MODULE_REACH (1u << 16)

struct function {
	__u64 address;
	__u32 order; /* of aliases the first one is shown */
	__u32 name, module; /* in text; module 0: the kernel */
};

struct mapping {
	struct htrace_schema_mapping m;
	__u32 order;
	char *file; /* the last component of its path, or NULL */
};

struct symbols {
	struct function *function; /* by address; of each address one */
	size_t nr, room;
	char *text; /* all lines, cut into NUL-terminated words; byte 0 is a NUL of its own */
	size_t text_len;
	struct mapping *by_place; /* pid, start, order */
	struct mapping **by_id;   /* build-id, order */
	size_t nr_mappings, mappings_room;
	struct elf_symbols *elf;
};

struct symbols *symbols_new(void)
{
	struct symbols *s = calloc(1, sizeof(*s));

	if (s)
		s->elf = elf_symbols_new();
	return s;
}

void symbols_free(struct symbols *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->nr_mappings; i++)
		free(s->by_place[i].file);
	elf_symbols_free(s->elf);
	free(s->function);
	free(s->text);
	free(s->by_place);
	free(s->by_id);
	free(s);
}

/* -------------------------------------------------------------------------- the kernel's symbols */

static int compare_functions(const void *a, const void *b)
{
	const struct function *x = a, *y = b;

	if (x->address != y->address)
		return x->address < y->address ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

static int add_function(struct symbols *s, __u64 address, const char *name, const char *module)
{
	size_t room = s->room ? 2 * s->room : 65536;
	void *p;

	if (s->nr == s->room) {
		p = realloc(s->function, room * sizeof(*s->function));
		if (!p)
			return -1;
		s->function = p;
		s->room = room;
	}
	s->function[s->nr] = (struct function){
		.address = address,
		.order = (__u32)s->nr,
		.name = (__u32)(name - s->text),
		.module = module ? (__u32)(module - s->text) : 0,
	};
	s->nr++;
	return 0;
}

/* A number in hexadecimal that ends in a blank; moves *@at behind it. */
static bool parse_distance(char **at, __u64 *v)
{
	char *p = *at;

	*v = 0;
	for (; p - *at < 16; p++) {
		int digit = *p >= '0' && *p <= '9' ? *p - '0' :
			    *p >= 'a' && *p <= 'f' ? *p - 'a' + 10 : -1;

		if (digit < 0)
			break;
		*v = *v << 4 | (__u64)digit;
	}
	if (p == *at || *p != ' ')
		return false;
	*at = p + 1;
	return true;
}

/* The @len bytes at @lines, which a NUL follows. NULL or what is wrong. */
static const char *parse_lines(struct symbols *s, char *lines, size_t len)
{
	char *end = lines + len, *next;
	__u64 address = 0, distance;

	if (memchr(lines, 0, len))
		return "its symbols hold NULs";
	for (char *at = lines; at < end; at = next) {
		char *module;

		next = at + strcspn(at, "\n");
		if (next < end)
			*next++ = 0;
		if (!parse_distance(&at, &distance) || !*at || strlen(at) > MAX_NAME ||
		    distance > ~address)
			return "a line of its symbols is none";
		address += distance;
		module = strchr(at, ' ');
		if (module)
			*module++ = 0;
		if (s->nr == MAX_FUNCTIONS)
			return "its kernel has more symbols than this reader takes";
		if (add_function(s, address, at, module))
			return "out of memory for its symbols";
	}
	return NULL;
}

#ifdef HAVE_ZLIB
static const char *add_symbols(struct symbols *s, const char *at, size_t len)
{
	size_t from = s->text_len ? s->text_len : 1;
	size_t room = from < HTRACE_SYMBOLS_MAX ? HTRACE_SYMBOLS_MAX - from : 0;
	struct htrace_schema_symbols e;
	uLongf raw;
	char *text;

	if (len < sizeof(e))
		return "an entry of symbols is too short";
	memcpy(&e, at, sizeof(e));
	if (!e.raw || e.raw > room || e.packed > len - sizeof(e))
		return "an entry of symbols is too large";
	text = realloc(s->text, from + e.raw + 1);
	if (!text)
		return "out of memory for its symbols";
	s->text = text;
	text[0] = 0;
	raw = e.raw; /* no more than that is unpacked, whatever it would be */
	if (uncompress((Bytef *)text + from, &raw, (const Bytef *)at + sizeof(e), e.packed) != Z_OK ||
	    raw != e.raw)
		return "an entry of symbols cannot be unpacked";
	text[from + raw] = 0;
	s->text_len = from + raw + 1;
	return parse_lines(s, text + from, raw);
}
#else
static const char *add_symbols(struct symbols *s, const char *at, size_t len)
{
	return "this reader was built without zlib, and cannot read its kernel's symbols";
}
#endif

/* Of aliases the first one stays: a guest may give one address a million names. */
static void sort_functions(struct symbols *s)
{
	size_t to = 0;

	qsort(s->function, s->nr, sizeof(*s->function), compare_functions);
	for (size_t i = 0; i < s->nr; i++) {
		if (to && s->function[to - 1].address == s->function[i].address)
			continue;
		s->function[to] = s->function[i];
		s->function[to].order = (__u32)to; /* before all that come later */
		to++;
	}
	s->nr = to;
}

static const struct function *find_function(const struct symbols *s, __u64 address)
{
	size_t low = 0, high = s ? s->nr : 0;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (s->function[mid].address <= address)
			low = mid + 1;
		else
			high = mid;
	}
	if (!low)
		return NULL;
	if (address - s->function[low - 1].address >=
	    (s->function[low - 1].module ? MODULE_REACH : KERNEL_REACH))
		return NULL;
	return &s->function[low - 1];
}

/* All but the innermost are where a call returns to: what they are in is what comes before. */
static __u64 within(__u64 address, __u32 i)
{
	return i && address ? address - 1 : address;
}

static void describe(const struct symbols *s, __u64 address, const struct function *at, struct frame *f)
{
	memset(f, 0, sizeof(*f));
	f->address = address;
	f->has_address = true;
	if (!at)
		return;
	f->symbol = s->text + at->name;
	f->offset = address - at->address;
	f->module = at->module ? s->text + at->module : NULL;
}

void symbols_kernel_address(const struct symbols *s, __u64 address, struct frame *f)
{
	describe(s, address, find_function(s, address), f);
}

void symbols_kernel_frame(const struct symbols *s, const struct stack *st, __u32 i, struct frame *f)
{
	__u64 address = st->address[i];

	describe(s, address, find_function(s, within(address, i)), f);
}

static bool is_own(const char *symbol)
{
	static const char *const prefix[] = {
		"bpf_prog_", "bpf_trampoline_", "bpf_trace_run", "__bpf_trace_", "__traceiter_",
		"bpf_get_stack", "bpf_get_task_stack", "__bpf_get_stack", "__bpf_get_task_stack",
		"perf_trace_", "trace_call_bpf",
		/* from a kprobe to the function that it is in */
		"kprobe_", "aggr_pre_handler", "arch_ftrace_ops_list_func", "ftrace_",
	};

	for (size_t i = 0; i < sizeof(prefix) / sizeof(*prefix); i++)
		if (!strncmp(symbol, prefix[i], strlen(prefix[i])))
			return true;
	return false;
}

__u32 symbols_own_frames(const struct symbols *s, const struct stack *st)
{
	__u32 own = 0;

	for (__u32 i = 0; i < st->nr; i++) {
		const struct function *at = find_function(s, within(st->address[i], i));

		if (at && is_own(s->text + at->name))
			own = i + 1;
		else if (at) /* one without a name may be of a program that came since */
			break;
	}
	return own < st->nr ? own : 0;
}

/* ------------------------------------------------------------------------ what processes have mapped */

static int compare_places(const void *a, const void *b)
{
	const struct mapping *x = a, *y = b;

	if (x->m.pid != y->m.pid)
		return x->m.pid < y->m.pid ? -1 : 1;
	if (x->m.start != y->m.start)
		return x->m.start < y->m.start ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

static int compare_ids(const void *a, const void *b)
{
	const struct mapping *x = *(struct mapping *const *)a, *y = *(struct mapping *const *)b;
	int c = memcmp(x->m.build_id, y->m.build_id, sizeof(x->m.build_id));

	return c ? c : x->order < y->order ? -1 : x->order > y->order;
}

static const char *add_mapping(struct symbols *s, const char *at, size_t len)
{
	size_t room = s->mappings_room ? 2 * s->mappings_room : 256;
	const char *path, *slash;
	struct mapping m = { .order = (__u32)s->nr_mappings };
	size_t path_len;
	void *p;

	if (len < sizeof(m.m))
		return "an entry of a mapping is too short";
	memcpy(&m.m, at, sizeof(m.m));
	if (m.m.start >= m.m.end)
		return "a mapping ends before it begins";
	if (s->nr_mappings == MAX_MAPPINGS)
		return "it has more mappings than this reader takes";
	if (s->nr_mappings == s->mappings_room) {
		p = realloc(s->by_place, room * sizeof(*s->by_place));
		if (!p)
			return "out of memory for its mappings";
		s->by_place = p;
		s->mappings_room = room;
	}
	path = at + sizeof(m.m);
	path_len = strnlen(path, len - sizeof(m.m));
	slash = memrchr(path, '/', path_len);
	if (slash) {
		path_len -= (size_t)(slash + 1 - path);
		path = slash + 1;
	}
	m.file = path_len ? strndup(path, path_len < MAX_NAME ? path_len : MAX_NAME) : NULL;
	s->by_place[s->nr_mappings++] = m;
	return NULL;
}

static void sort_mappings(struct symbols *s)
{
	struct mapping **by_id = realloc(s->by_id, s->nr_mappings * sizeof(*by_id));

	qsort(s->by_place, s->nr_mappings, sizeof(*s->by_place), compare_places);
	if (!by_id) { /* frames are shown without their files' names */
		free(s->by_id);
		s->by_id = NULL;
		return;
	}
	s->by_id = by_id;
	for (size_t i = 0; i < s->nr_mappings; i++)
		by_id[i] = &s->by_place[i];
	qsort(by_id, s->nr_mappings, sizeof(*by_id), compare_ids);
}

static bool is_zero(const __u8 *id)
{
	static const __u8 zero[20];

	return !memcmp(id, zero, sizeof(zero));
}

/* One that holds @offset of the file if there is such, else any: the name is the same. */
static const struct mapping *find_by_id(const struct symbols *s, const __u8 *id, __u64 offset)
{
	size_t low = 0, high = s && s->by_id && !is_zero(id) ? s->nr_mappings : 0, nr = high;
	const struct mapping *any = NULL;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (memcmp(s->by_id[mid]->m.build_id, id, sizeof(s->by_id[mid]->m.build_id)) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	/* A file has a few pieces of code at most; it may be mapped by many processes. */
	for (int tries = 0; tries < 8 && low < nr; tries++, low++) {
		const struct mapping *m = s->by_id[low];

		if (memcmp(m->m.build_id, id, sizeof(m->m.build_id)) != 0)
			break;
		any = any ? any : m;
		if (offset >= m->m.offset && offset - m->m.offset < m->m.end - m->m.start)
			return m;
	}
	return any;
}

static const struct mapping *find_by_place(const struct symbols *s, __u32 pid, __u64 address)
{
	size_t low = 0, high = s ? s->nr_mappings : 0;
	const struct mapping *m;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		m = &s->by_place[mid];
		if (m->m.pid < pid || (m->m.pid == pid && m->m.start <= address))
			low = mid + 1;
		else
			high = mid;
	}
	m = low ? &s->by_place[low - 1] : NULL;
	return m && m->m.pid == pid && address < m->m.end ? m : NULL;
}

static void name_user_frame(struct symbols *s, const struct mapping *m, __u32 i, struct frame *f)
{
	__u64 offset = within(f->file_offset, i), in_function;

	f->file = m ? m->file : NULL;
	if (is_zero(f->build_id))
		return;
	f->symbol = elf_symbols_find(s->elf, f->build_id, offset, m ? &m->m.bias : NULL,
				     &in_function);
	if (f->symbol)
		f->offset = in_function + (f->file_offset - offset);
}

void symbols_user_frame(struct symbols *s, const struct stack *st, __u32 i, struct frame *f)
{
	const struct htrace_stack_file_frame *file = i < st->nr_files ? &st->file[i] : NULL;
	const struct mapping *m;

	memset(f, 0, sizeof(*f));
	f->address = st->address[i];
	f->has_address = true;
	if (!s)
		return;
	/*
	 * For an address that nothing is mapped at, the kernel takes the next mapping's file, and an
	 * offset below its start.
	 */
	if (file && file->status == HTRACE_FRAME_FILE && file->offset <= f->address) {
		memcpy(f->build_id, file->build_id, sizeof(f->build_id));
		f->file_offset = file->offset;
		m = find_by_id(s, f->build_id, f->file_offset);
	} else {
		m = find_by_place(s, st->pid, within(f->address, i));
		if (!m)
			return;
		memcpy(f->build_id, m->m.build_id, sizeof(f->build_id));
		f->file_offset = f->address - m->m.start + m->m.offset;
	}
	f->in_file = true;
	name_user_frame(s, m, i, f);
}

/* ---------------------------------------------------------------------------------------- loading */

const char *symbols_load(struct symbols *s, const void *entries, size_t len)
{
	size_t functions = s->nr, mappings = s->nr_mappings, done = 0;
	const char *at = entries, *wrong, *first = NULL;
	struct htrace_schema_entry e;

	/* The entries' lengths were checked when the schema was parsed; asked again, it is cheap. */
	for (; len - done >= sizeof(e); done += e.len) {
		memcpy(&e, at + done, sizeof(e));
		if (e.len < sizeof(e) || e.len > len - done)
			break;
		wrong = NULL;
		if (e.kind == HTRACE_SCHEMA_SYMBOLS)
			wrong = add_symbols(s, at + done, e.len);
		else if (e.kind == HTRACE_SCHEMA_MAPPING)
			wrong = add_mapping(s, at + done, e.len);
		first = first ? first : wrong;
	}
	if (s->nr > functions)
		sort_functions(s);
	if (s->nr_mappings > mappings)
		sort_mappings(s);
	return first;
}
