// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Events with every kind of field that a schema can describe, filled with values that follow from
 * the workload's number, and with names that mean something to CTF's readers.
 */
#include <linux/bpf.h>

#include <htrace/htrace.bpf.h>

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define GETPGID 121
#define VALUE 424242

struct pt_regs {
	unsigned long di, si;
} __attribute__((preserve_access_index));

enum color { RED, GREEN = 5, BLUE = 0x7fffffff };

struct point {
	short x, y;
};

struct kinds {
	char letter;
	signed char tiny;
	__u8 octet;
	_Bool yes;
	__s16 s16;
	__u16 u16;
	__s32 s32;
	__u32 u32;
	__s64 s64;
	__u64 u64;
	__int128 wide;
	enum color color;
	enum color unnamed;
	htrace_tid_t tid;
	htrace_hex_t hex;
	htrace_ptr_t where;
	htrace_syscall_t nr;
	htrace_task_state_t state;
	__u32 three : 3;
	__s32 five : 5;
	__u64 many : 41;
	char text[16];
	char empty[4];
	__u8 mac[6];
	__s32 grid[2][3];
	char names[2][4];
	struct point points[2];
	union {
		__u32 word;
		struct {
			__u16 low, high;
		} halves;
	} both;
	struct {
		__s32 value;
		struct {
			__u8 innermost;
		} inner;
	} nested;
	char rest[];
};
HTRACE_EVENT(kinds);

/* Words of CTF's language as names, and an array to the record's end. */
struct event {
	__u32 align;
	__u32 typealias;
	__u32 stream;
	__u32 frames_length;
	htrace_ptr_t frames[];
};
HTRACE_EVENT(event);

/* Nothing but a name. */
struct clock {
	__u8 string;
};
HTRACE_EVENT(clock);

static __always_inline void fill(struct kinds *e, __u64 n)
{
	e->letter = 'a' + n % 26;
	e->tiny = -(n % 100);
	e->octet = n;
	e->yes = n & 1;
	e->s16 = -n;
	e->u16 = n;
	e->s32 = -n;
	e->u32 = -n;
	e->s64 = -n;
	e->u64 = -n;
	e->wide = -n;
	e->color = n & 1 ? GREEN : BLUE;
	e->unnamed = 77;
	e->tid = bpf_get_current_pid_tgid();
	e->hex = n << 32;
	e->where = -n;
	e->nr = n % 300;
	e->state = 1 << n % 8;
	e->three = n;
	e->five = -(n % 16);
	e->many = -n;
}

static __always_inline void fill_compound(struct kinds *e, __u64 n)
{
	bpf_get_current_comm(e->text, sizeof(e->text));
	e->text[3] = n; /* anything, a NUL and what is no UTF-8 among it */
	__builtin_memset(e->empty, 0, sizeof(e->empty));
	for (int i = 0; i < 6; i++) {
		e->mac[i] = n + i;
		e->grid[i / 3][i % 3] = n * i - 3;
	}
	__builtin_memcpy(e->names, "abc\0defg", 8);
	for (int i = 0; i < 2; i++) {
		e->points[i].x = n + i;
		e->points[i].y = -n - i;
	}
	e->both.word = n * 65537 + 1;
	e->nested.value = n;
	e->nested.inner.innermost = n;
	__builtin_memcpy(e->rest, "r\xc3\xa9st\"\\\n", 9);
}

static __always_inline void other_events(__u64 n)
{
	struct htrace_slot slot;
	struct event *e;
	struct clock *c;

	e = htrace_begin_len(event, sizeof(*e) + (n % 4) * sizeof(e->frames[0]), &slot);
	if (e) {
		e->align = n;
		e->typealias = 1;
		e->stream = 2;
		e->frames_length = 3;
		for (__u64 i = 0; i < n % 4 && i < 3; i++)
			e->frames[i] = n + i;
		htrace_end(&slot);
	}
	c = htrace_begin(clock, &slot);
	if (c) {
		c->string = n;
		htrace_end(&slot);
	}
}

SEC("tp_btf/sys_enter")
int BPF_PROG(kinds, struct pt_regs *regs, long nr)
{
	struct htrace_slot slot;
	struct kinds *e;
	__u64 n = regs->si;

	if (nr != GETPGID || regs->di != VALUE)
		return 0;
	e = htrace_begin_len(kinds, sizeof(*e) + 9, &slot);
	if (e) {
		fill(e, n);
		fill_compound(e, n);
		htrace_end(&slot);
	}
	other_events(n);
	return 0;
}
