// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * One event with a member of every kind, filled with values that test_custom.py knows, when a task
 * calls getpgid(424242, N). Values are the smallest and the largest where there is room.
 */
#include <linux/bpf.h>

#include <htrace/htrace.bpf.h>

#include <bpf/bpf_tracing.h>

#include <stdbool.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define GETPGID 121
#define VALUE 424242

struct pt_regs {
	unsigned long di, si;
} __attribute__((preserve_access_index));

enum color { RED, GREEN = 5, BLUE = 0xfffffffe };
enum level { LOW = -2, HIGH = 3 };
enum __attribute__((packed)) small { OFF, ON = 200 };
/* clang before 16 cannot write values of more than 32 bits to BTF: no names then */
enum wide { NARROW = 7, TOP = 0x8000000000000000 };
enum deep { BOTTOM = -0x7fffffffffffffff - 1, ABOVE = 1 };

typedef struct {
	__s16 x;
	__u16 y;
} point_t;

struct line {
	point_t from, to;
	char label[6];
};

struct members {
	__u64 number;
	__s8 s8[2];
	__u8 u8[2];
	__s16 s16[2];
	__u16 u16[2];
	__s32 s32[2];
	__u32 u32[2];
	__s64 s64[2];
	__u64 u64[2];
	__int128 s128;
	unsigned __int128 u128;
	enum color color, no_color;
	enum level level, no_level;
	enum small small;
	enum wide wide, top;
	enum deep deep, bottom;
	bool yes, no;
	char letter, newline;
	const void *pointer;
	htrace_ptr_t address;
	htrace_hex_t hex;
	htrace_tid_t tid;
	htrace_syscall_t call;
	htrace_task_state_t state;
	__s32 three : 3;
	__u32 five : 5;
	__s64 many : 41;
	__u64 rest_of_it : 19;
	bool flag : 1;
	enum level level_bits : 3;
	__u16 grid[2][3];
	char text[8], full[4], empty[4];
	char names[2][4];
	point_t point;
	struct line lines[2];
	union {
		__u32 word;
		struct {
			__u16 low, high;
		};
		__u8 bytes[4];
	} either;
	union {
		__u16 one;
		__u8 two[2];
	};
	struct {
		__u8 inner;
		struct {
			__u8 innermost;
		};
	};
	__u32 nr;
	__u32 tail[];
};
HTRACE_EVENT(members);

struct members_text {
	__u64 number;
	char tail[];
};
HTRACE_EVENT(members_text);

static __always_inline void fill_integers(struct members *e)
{
	e->s8[0] = -0x80, e->s8[1] = 0x7f;
	e->u8[1] = 0xff;
	e->s16[0] = -0x8000, e->s16[1] = 0x7fff;
	e->u16[1] = 0xffff;
	e->s32[0] = -0x7fffffff - 1, e->s32[1] = 0x7fffffff;
	e->u32[1] = 0xffffffff;
	e->s64[0] = -0x7fffffffffffffff - 1, e->s64[1] = 0x7fffffffffffffff;
	e->u64[1] = ~0ULL;
	e->s128 = -2;
	e->u128 = (unsigned __int128)0x0123456789abcdef << 64 | 0xfedcba9876543210;
}

static __always_inline void fill_enums(struct members *e)
{
	e->color = BLUE, e->no_color = (enum color)6;
	e->level = LOW, e->no_level = (enum level)-77;
	e->small = ON;
	e->wide = NARROW, e->top = TOP;
	e->deep = ABOVE, e->bottom = BOTTOM;
}

static __always_inline void fill_hints(struct members *e)
{
	e->yes = true;
	e->letter = 'x', e->newline = '\n';
	e->pointer = (void *)0xffff888012345678;
	e->address = 0x1000;
	e->hex = 0xdeadbeef;
	e->tid = (__u32)bpf_get_current_pid_tgid();
	e->call = GETPGID;
	e->state = 2;
	e->three = -4;
	e->five = 31;
	e->many = -(1LL << 40);
	e->rest_of_it = (1 << 19) - 1;
	e->flag = true;
	e->level_bits = HIGH;
}

static __always_inline void fill_compounds(struct members *e)
{
	for (int i = 0; i < 6; i++)
		e->grid[i / 3][i % 3] = 10 * (i / 3) + i % 3;
	__builtin_memcpy(e->text, "a\"b\\c\n", 7);
	__builtin_memcpy(e->full, "full", 4);
	__builtin_memcpy(e->names[0], "ab", 3);
	__builtin_memcpy(e->names[1], "cdef", 4);
	e->point = (point_t){ -1, 65535 };
	e->lines[0] = (struct line){ { 1, 2 }, { 3, 4 }, "first" };
	e->lines[1] = (struct line){ { -5, 6 }, { -7, 8 }, "second" };
	e->either.word = 0x04030201;
	e->one = 0x1234;
	e->inner = 8;
	e->innermost = 9;
	e->nr = 3;
	for (int i = 0; i < 4; i++)
		e->tail[i] = i < 3 ? 100 + i : 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(members, struct pt_regs *regs, long nr)
{
	struct htrace_slot slot;
	struct members *e;

	if (nr != GETPGID || regs->di != VALUE)
		return 0;
	e = htrace_begin_len(members, sizeof(*e) + 3 * sizeof(__u32), &slot);
	if (!e)
		return 0;
	__builtin_memset(e, 0, sizeof(*e));
	e->number = regs->si;
	fill_integers(e);
	fill_enums(e);
	fill_hints(e);
	fill_compounds(e);
	htrace_end(&slot);
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(members_text, struct pt_regs *regs, long nr)
{
	static const char text[] = "to the end";
	struct members_text *e;
	struct htrace_slot slot;

	if (nr != GETPGID || regs->di != VALUE)
		return 0;
	e = htrace_begin_len(members_text, sizeof(*e) + sizeof(text), &slot);
	if (!e)
		return 0;
	e->number = regs->si;
	__builtin_memcpy(e->tail, text, sizeof(text));
	htrace_end(&slot);
	return 0;
}
