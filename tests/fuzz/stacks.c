// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Stacks and what names their frames: the guest's packed symbols, its mappings. Lines of symbols are
 * packed here, else nothing would get behind zlib; or the input brings packed bytes.
 */
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "fuzz.h"
#include "out.h"
#include "show.h"
#include "stacks.h"
#include "symbols.h"

#define ROOM 16384u

struct entries {
	size_t len;
	_Alignas(8) char at[ROOM];
};

static void *entry(struct entries *e, __u16 kind, size_t len)
{
	struct htrace_schema_entry *at = (void *)(e->at + e->len);

	len = (len + 7) & ~7ULL;
	if (len > ROOM - e->len)
		return NULL;
	memset(at, 0, len);
	at->kind = kind;
	at->len = (__u32)len;
	e->len += len;
	return at;
}

static void add_symbols(struct entries *e, struct input *in, __u64 how)
{
	struct htrace_schema_symbols *s;
	size_t len;
	char *text = take_exact(in, take(in, 1 + (how & 1)) % 2048, &len);
	uLongf packed = compressBound(len);

	s = entry(e, HTRACE_SCHEMA_SYMBOLS, sizeof(*s) + packed);
	if (s) {
		if (how & 2)
			memcpy(s + 1, text, packed = len);
		else
			CHECK(compress2((Bytef *)(s + 1), &packed, (Bytef *)text, len, 1) == Z_OK);
		s->raw = (__u32)(how & 4 ? take_number(in) : len);
		s->packed = (__u32)(how & 8 ? take_number(in) : packed);
	}
	free(text);
}

static void add_mapping(struct entries *e, struct input *in)
{
	size_t room = take(in, 1) % 32, n = room < in->left ? room : in->left;
	struct htrace_schema_mapping *m = entry(e, HTRACE_SCHEMA_MAPPING, sizeof(*m) + room);

	if (!m)
		return;
	m->pid = (__u32)take(in, 1) % 4;
	m->start = take_number(in) << 12;
	m->end = m->start + (take_number(in) << 12);
	m->offset = take_number(in);
	m->bias = (__s64)take_number(in);
	memset(m->build_id, (int)take(in, 1) % 4, sizeof(m->build_id));
	n = n < in->left ? n : in->left;
	memcpy(m + 1, in->at, n);
	in->at += n;
	in->left -= n;
}

static void add_stack(struct stacks *s, struct input *in, __u64 how)
{
	struct htrace_stack head = { .id = take(in, 1), .pid = (__u32)take(in, 1) % 4,
				     .kind = (__u16)(how % 5), .nr = (__u16)take(in, 1) };
	size_t each = head.kind == HTRACE_STACK_USER_FILES ? sizeof(struct htrace_stack_file_frame) : 8;
	size_t len = sizeof(head) + head.nr * each;
	char *p;

	if (how & 64)
		len = take(in, 1);
	p = calloc(1, len ? len : 1);
	memcpy(p, &head, len < sizeof(head) ? len : sizeof(head));
	for (size_t at = sizeof(head); at + each <= len && in->left; at += each) {
		__u64 v = take_number(in) << (how & 128 ? 8 : 0);

		if (each == 8) {
			memcpy(p + at, &v, 8);
		} else {
			struct htrace_stack_file_frame f = { .status = (__s32)(v & 3), .offset = v };

			memset(f.build_id, (int)take(in, 1) % 4, sizeof(f.build_id));
			memcpy(p + at, &f, each);
		}
	}
	stacks_add(s, p, len);
	free(p);
}

/* More than are kept. */
static void flood(struct stacks *s)
{
	__u64 rec[sizeof(struct htrace_stack) / 8 + 1];

	for (__u64 id = 1000; id < 67000; id++) {
		struct htrace_stack head = { .id = id, .kind = HTRACE_STACK_KERNEL, .nr = 1 };

		memcpy(rec, &head, sizeof(head));
		rec[ARRAY_SIZE(rec) - 1] = id;
		stacks_add(s, rec, sizeof(rec));
	}
	CHECK(stacks_forgotten(s));
}

static void check_frame(const struct frame *f)
{
	CHECK(!f->symbol || strnlen(f->symbol, 2000) < 2000);
	CHECK(!f->module || strnlen(f->module, 2000) < 2000);
	CHECK(!f->file || !strchr(f->file, '/'));
}

static void show(const struct stacks *s, struct symbols *y, __u64 id)
{
	struct stack st;
	struct frame f;

	if (!stacks_find(s, id, &st))
		return;
	CHECK(st.nr && st.nr <= HTRACE_STACK_FRAMES && st.nr_files <= st.nr);
	CHECK(symbols_own_frames(y, &st) <= st.nr);
	for (__u32 i = 0; i < st.nr; i++) {
		symbols_kernel_frame(y, &st, i, &f);
		check_frame(&f);
		symbols_user_frame(y, &st, i, &f);
		check_frame(&f);
	}
}

/* All of them as text, of which nothing steers a terminal. */
static void show_as_text(const struct stacks *s, struct symbols *y)
{
	const struct origin from = { .stacks = s, .symbols = y };
	/* Of those the first frames may be the tracer's, or not. */
	static const struct htrace_event profile = { .name = "profile" };
	struct sink_event e = { .from = &from };
	static struct out *out;
	static int fd;
	char text[4096];
	ssize_t n;

	if (!out) {
		fd = memfd_create("out", 0);
		CHECK(fd >= 0 && !out_open_fd(&out, fd));
	}
	for (__u64 id = 0; id < 256; id++) {
		struct stack st;

		e.event = id & 1 ? &profile : NULL;
		if (!id || stacks_find(s, id, &st))
			show_stacks(out, &e, &(struct shown_stacks){ 2, { { id, false }, { id, true } } });
	}
	out_flush(out);
	for (off_t at = 0; (n = pread(fd, text, sizeof(text), at)) > 0; at += n)
		for (ssize_t i = 0; i < n; i++)
			CHECK((text[i] >= ' ' && text[i] <= '~') || text[i] == '\n');
	CHECK(!n && !ftruncate(fd, 0) && !lseek(fd, 0, SEEK_SET));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct entries entries;
	struct input in = { data, size };
	struct symbols *y;
	struct stacks *s = stacks_new();
	static bool flooded; /* once will do: it takes long */

	setenv("HOME", "/nonexistent", 1);
	y = symbols_new();
	CHECK(s && y);
	fail_allocation((unsigned int)take(&in, 1));
	entries.len = 0;
	while (in.left) {
		__u64 op = take(&in, 1);

		if (op == 255 && !flooded)
			flood(s), flooded = true;
		else if (op % 8 < 2)
			add_symbols(&entries, &in, op >> 3);
		else if (op % 8 == 2)
			add_mapping(&entries, &in);
		else if (op % 8 < 6)
			add_stack(s, &in, op >> 3 | (op & 7) << 6);
		else if (op % 8 == 6)
			show(s, y, take(&in, 1));
		else
			symbols_load(y, entries.at, entries.len - (op & 64 && entries.len ? 4 : 0)),
				entries.len = 0;
	}
	fail_allocation(0);
	symbols_load(y, entries.at, entries.len);
	for (__u64 id = 0; id < 256; id++)
		show(s, y, id);
	show_as_text(s, y);
	stacks_free(s);
	symbols_free(y);
	return 0;
}
