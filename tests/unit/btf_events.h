/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Events as tracers declare them, compiled twice: to BTF, and into the test that fills them in. So
 * the compiler says where the fields are, and the test need not.
 */
#ifndef BTF_EVENTS_H
#define BTF_EVENTS_H

typedef int htrace_tid_t;
typedef unsigned long long htrace_hex_t;
typedef const void *htrace_ptr_t;
typedef long htrace_syscall_t;
typedef unsigned int htrace_task_state_t;

enum color { RED, GREEN = 5, BLUE = 0x7fffffff };

typedef struct {
	short x, y;
} point_t;

struct everything {
	char letter;
	signed char tiny;
	unsigned char octet;
	_Bool yes;
	short s16;
	unsigned short u16;
	int s32;
	unsigned int u32;
	long long s64;
	unsigned long long u64;
	__int128 wide;
	enum color color;
	htrace_tid_t tid;
	htrace_hex_t hex;
	htrace_ptr_t where;
	htrace_syscall_t nr;
	htrace_task_state_t state;
	const volatile unsigned int *pointer;
	unsigned int three : 3;
	int five : 5;
	unsigned long long many : 41;
	_Bool flag : 1;
	char comm[16];
	unsigned char mac[6];
	int grid[2][3];
	char names[2][4];
	point_t points[2];
	union {
		unsigned int word;
		struct {
			unsigned short low, high;
		};
	};
	struct {
		int inner;
		struct {
			int innermost;
		};
	};
	struct {
		int value;
	} named;
	char rest[];
};

struct stack {
	int id;
	htrace_ptr_t frames[];
};

#endif /* BTF_EVENTS_H */
