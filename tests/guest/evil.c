/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A tracer that calls all that has a name TEXT: itself, its kernel and programs, tasks, functions, files, levels
 * of its boot, modules, and what its records say; or, in place of these, its events, fields, types or values,
 * which have no such names. It writes 100 times a second, until it is killed. tests/system/test_strings.py
 *
 *	evil PATH texts|event|field|type|value TEXT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <zlib.h>

#include <htrace/producer.h>
#include <htrace/schema.h>

#define SIZE (8u << 20)
#define TASK 4711u
#define KERNEL 0xffffffff81000000ULL
#define USER 0x7f0000001000ULL

/* Longer than any text, as they are overwritten. */
#define EVENT_NAME "event_name_with_room_for_another_one"
#define FIELD_NAME "field_name_with_room_for_another_one"
#define TYPE_NAME "type_name_with_room_for_another_one"
#define VALUE_NAME "value_name_with_room_for_another_one"

struct said {
	__u64 kernel, user; /* stacks */
	__u32 tid;
	__u32 value;
	char text[32];
	char letter;
	char pad[7];
};

struct renamed {
	__u32 tid;
	char comm[16];
	char pad[4];
};

/* What --view boot and --view functions show. */
struct booted {
	char text[32];
	__u64 func;
	__u32 tid;
	__s32 ret;
};

struct returned {
	__u32 tid;
	__u32 function;
	__u32 depth;
	__u32 interrupt;
	__u64 ns;
};

enum { SAID, RENAMED, STACK, LEVEL, START, FINISH, MODULE, EXEC, FUNCTION, EVENTS };

static void need(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "evil: %s failed\n", what);
	exit(1);
}

static __u32 member(struct htrace_schema_member *m, int type, __u32 bytes, const char *name)
{
	*m = (struct htrace_schema_member){ .type = (__u32)type, .bit_off = 8 * bytes };
	strcpy(m->name, name);
	return 1;
}

static int declare_said(struct htrace_schema_builder *b, int values)
{
	struct htrace_schema_member m[6];

	member(&m[0], htrace_builder_int(b, "k", 8, false, HTRACE_HINT_STACK_KERNEL), 0, "callstack_kernel");
	member(&m[1], htrace_builder_int(b, "u", 8, false, HTRACE_HINT_STACK_USER), 8, "callstack_user");
	member(&m[2], htrace_builder_int(b, "t", 4, false, HTRACE_HINT_TID), 16, "tid");
	member(&m[3], values, 20, "value");
	member(&m[4], htrace_builder_string(b, 32), 24, FIELD_NAME);
	member(&m[5], htrace_builder_int(b, "c", 1, false, HTRACE_HINT_CHAR), 56, "letter");
	return htrace_builder_event(b, EVENT_NAME, htrace_builder_struct(b, "said", false, sizeof(struct said), m, 6));
}

static int declare_renamed(struct htrace_schema_builder *b)
{
	struct htrace_schema_member m[2];

	member(&m[0], htrace_builder_int(b, "t", 4, false, HTRACE_HINT_TID), 0, "tid");
	member(&m[1], htrace_builder_string(b, 16), 4, "comm");
	return htrace_builder_event(b, "task_rename",
				    htrace_builder_struct(b, "renamed", false, sizeof(struct renamed), m, 2));
}

static int declare_stack(struct htrace_schema_builder *b)
{
	struct htrace_schema_member m[1];

	member(&m[0], htrace_builder_int(b, "w", 8, false, HTRACE_HINT_HEX), 0, "id");
	return htrace_builder_event(b, HTRACE_STACK_EVENT, htrace_builder_struct(b, "stack", false, 8, m, 1));
}

static int declare_booted(struct htrace_schema_builder *b, const char *event, const char *text)
{
	struct htrace_schema_member m[4];

	member(&m[0], htrace_builder_string(b, 32), 0, text);
	member(&m[1], htrace_builder_int(b, "p", 8, false, HTRACE_HINT_HEX), 32, "func");
	member(&m[2], htrace_builder_int(b, "t", 4, false, HTRACE_HINT_TID), 40, "tid");
	member(&m[3], htrace_builder_int(b, "r", 4, true, 0), 44, "ret");
	return htrace_builder_event(b, event, htrace_builder_struct(b, event, false, sizeof(struct booted), m, 4));
}

static int declare_function(struct htrace_schema_builder *b, int values)
{
	int u32 = htrace_builder_int(b, "i", 4, false, 0);
	struct htrace_schema_member m[5];

	member(&m[0], htrace_builder_int(b, "t", 4, false, HTRACE_HINT_TID), 0, "tid");
	member(&m[1], values, 4, "function");
	member(&m[2], u32, 8, "depth");
	member(&m[3], u32, 12, "interrupt");
	member(&m[4], htrace_builder_int(b, "n", 8, false, 0), 16, "ns");
	return htrace_builder_event(b, "function",
				    htrace_builder_struct(b, "returned", false, sizeof(struct returned), m, 5));
}

static void declare(struct htrace_schema_builder *b, int id[EVENTS])
{
	static const struct htrace_schema_value value[] = { { 7, VALUE_NAME } };
	int values = htrace_builder_enum(b, TYPE_NAME, 4, false, value, 1);

	id[SAID] = declare_said(b, values);
	id[RENAMED] = declare_renamed(b);
	id[STACK] = declare_stack(b);
	id[LEVEL] = declare_booted(b, "initcall_level", "level");
	id[START] = declare_booted(b, "initcall_start", "start");
	id[FINISH] = declare_booted(b, "initcall_finish", "finish");
	id[MODULE] = declare_booted(b, "module_load", "name");
	id[EXEC] = declare_booted(b, "sched_process_exec", "filename");
	id[FUNCTION] = declare_function(b, values);
	for (int i = 0; i < EVENTS; i++)
		need(id[i] > 0, "an event");
}

/* Functions of the kernel and of a module, and a file, all with the same name. */
static void add_symbols(struct htrace_region *r, const char *text)
{
	struct {
		struct htrace_schema_symbols s;
		char packed[512];
		struct htrace_schema_mapping m;
		char path[128];
	} e = { 0 };
	uLongf packed = sizeof(e.packed);
	char lines[512];

	/* A line ends at its end. */
	snprintf(lines, sizeof(lines), "%llx %s %s\n", KERNEL, text, text);
	need(compress((Bytef *)e.packed, &packed, (const Bytef *)lines, strlen(lines)) == Z_OK, "compress");
	e.s.entry = (struct htrace_schema_entry){ HTRACE_SCHEMA_SYMBOLS, 0, sizeof(e.s) + sizeof(e.packed) };
	e.s.raw = (__u32)strlen(lines);
	e.s.packed = (__u32)packed;
	e.m = (struct htrace_schema_mapping){
		.entry = { HTRACE_SCHEMA_MAPPING, 0, sizeof(e.m) + sizeof(e.path) },
		.pid = TASK, .start = USER, .end = USER + 4096, .build_id = { 1 },
	};
	snprintf(e.path, sizeof(e.path), "/lib/%s", text);
	need(!htrace_region_add_schema(r, &e, sizeof(e)), "symbols");
}

/* In place, behind the library's back. */
static void overwrite(struct htrace_region *r, const char *what, const char *text)
{
	static const char *const names[][2] = {
		{ "event", EVENT_NAME }, { "field", FIELD_NAME }, { "type", TYPE_NAME }, { "value", VALUE_NAME },
	};
	struct htrace_schema_area *a = htrace_region_schema(r);

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		char *at = memmem(a, sizeof(*a) + a->bytes, names[i][1], strlen(names[i][1]));

		if (strcmp(names[i][0], what))
			continue;
		need(at != NULL, "finding the name");
		memset(at, 0, strlen(names[i][1]));
		memcpy(at, text, strlen(text));
		return;
	}
	need(false, what);
}

/* With zeroes behind it, if there is room. */
static void put(char *to, size_t size, const char *text)
{
	size_t len = strlen(text);

	memset(to, 0, size);
	memcpy(to, text, len < size ? len : size);
}

static void call_all(struct htrace_region *r, const char *text)
{
	struct htrace_guest *g = htrace_region_guest(r);

	put(g->release, sizeof(g->release), text);
	put(g->hostname, sizeof(g->hostname), text);
	put(g->prog[0].name, sizeof(g->prog[0].name), text);
	g->nr_progs = 1;
	add_symbols(r, text);
	need(!htrace_region_add_name(r, TASK, TASK, text, 0), "name");
}

static void define_stack(struct htrace_producer *p, __u32 id, const struct htrace_stack *head, __u64 at)
{
	__u64 words[sizeof(*head) / 8 + 1];

	memcpy(words, head, sizeof(*head));
	words[sizeof(*head) / 8] = at;
	htrace_push(p, id, words, sizeof(words));
}

static void define_stacks(struct htrace_producer *p, __u32 id)
{
	const struct htrace_stack kernel = { .id = 5, .kind = HTRACE_STACK_KERNEL, .nr = 1 },
				  user = { .id = 6, .pid = TASK, .kind = HTRACE_STACK_USER, .nr = 1 };

	define_stack(p, id, &kernel, KERNEL + 16);
	define_stack(p, id, &user, USER + 16);
}

int main(int argc, char **argv)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .kind = HTRACE_RING_PER_THREAD,
		.policy = HTRACE_OVERWRITE, .nr_rings = 1, .ring_size = 1 << 18, .block_size = 1 << 13,
	};
	struct said said = { .kernel = 5, .user = 6, .tid = TASK, .value = 7, .letter = '\x1b' };
	struct renamed renamed = { .tid = TASK };
	struct htrace_schema_builder *b;
	struct htrace_producer p;
	struct htrace_region *r;
	struct booted booted = { .func = KERNEL + 16, .tid = TASK };
	struct returned returned = { .tid = TASK, .function = 7, .ns = 10 };
	int id[EVENTS], fd;
	const void *entries;
	bool texts;
	size_t len;

	need(argc == 4 && strlen(argv[3]) < 32, "see the head of its source for how to call it; this");
	texts = !strcmp(argv[2], "texts");
	need(!htrace_region_create_local(&r, argv[1], SIZE, &o, &fd), "making the region");
	need(!htrace_builder_new(&b, NULL, 0), "the builder");
	declare(b, id);
	entries = htrace_builder_entries(b, &len);
	need(!htrace_region_add_schema(r, entries, len), "the schema");
	if (texts)
		call_all(r, argv[3]);
	else
		overwrite(r, argv[2], argv[3]);
	need(!htrace_producer_get(&p, r, 0, 0), "taking a ring");
	htrace_region_guest(r)->heartbeat_ms = 50;
	htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
	htrace_region_publish(r);
	put(said.text, sizeof(said.text), argv[3]);
	put(renamed.comm, sizeof(renamed.comm), argv[3]);
	put(booted.text, sizeof(booted.text), argv[3]);
	for (int n = 0;; n++) {
		if (n % 20 == 0)
			define_stacks(&p, (__u32)id[STACK]);
		htrace_push(&p, (__u32)id[RENAMED], &renamed, sizeof(renamed));
		htrace_push(&p, (__u32)id[SAID], &said, sizeof(said));
		for (int i = LEVEL; i <= EXEC; i++)
			htrace_push(&p, (__u32)id[i], &booted, sizeof(booted));
		htrace_push(&p, (__u32)id[FUNCTION], &returned, sizeof(returned));
		htrace_region_guest(r)->prog[0].misses++;
		htrace_region_beat(r, 0);
		usleep(10000);
	}
}
