// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Filters as BPF instructions: run by an interpreter, they say of random records what libhtrace's
 * evaluation says; and the verifier has nothing to object to in their shape.
 */
/* First: its names are also the test framework's. */
#include "../guest-agent/filter_bpf.c"

#include "filter_fixture.h"

static unsigned char scratch[AT_RECORD + HTRACE_FILTER_RECORD];

static void set_scratch(const void *record, size_t len)
{
	memset(scratch, 0xa5, sizeof(scratch));
	memcpy(scratch + AT_TID, &context.tid, 4);
	memcpy(scratch + AT_PID, &context.pid, 4);
	memcpy(scratch + AT_CPU, &context.cpu, 4);
	memset(scratch + AT_COMM, 0, COMM_SIZE);
	memcpy(scratch + AT_COMM, context.comm, context.comm_len);
	memcpy(scratch + AT_RECORD, record, len);
}

static bool taken(__u8 op, __u64 a, __u64 b)
{
	switch (op & 0xf0) {
	case BPF_JEQ:
		return a == b;
	case BPF_JNE:
		return a != b;
	case BPF_JLT:
		return a < b;
	case BPF_JLE:
		return a <= b;
	case BPF_JGT:
		return a > b;
	case BPF_JGE:
		return a >= b;
	case BPF_JSLT:
		return (__s64)a < (__s64)b;
	case BPF_JSLE:
		return (__s64)a <= (__s64)b;
	case BPF_JSGT:
		return (__s64)a > (__s64)b;
	case BPF_JSGE:
		return (__s64)a >= (__s64)b;
	}
	ck_abort_msg("jump %x", op);
}

static __u64 alu(__u8 op, __u64 a, __u64 b)
{
	switch (op & 0xf0) {
	case BPF_MOV:
		return b;
	case BPF_AND:
		return a & b;
	case BPF_LSH:
		return a << b;
	case BPF_RSH:
		return a >> b;
	case BPF_ARSH:
		return (__u64)((__s64)a >> b);
	}
	ck_abort_msg("operation %x", op);
}

static __u32 drawn; /* what the next call for a random number gives */

/* As the kernel would, but for what the verifier checks: here by assertions. */
static __u64 run(const struct filter_code *c, __u32 number)
{
	__u64 r[6] = { 0xdead, 0, number, 0xdead, 0xdead, 0xdead };
	bool called = false;

	for (size_t pc = 0; pc < c->nr; pc++) {
		const struct bpf_insn *i = &c->insn[pc];
		__u64 b = i->code & BPF_X ? r[i->src_reg] : (__u64)(__s64)i->imm;
		unsigned int size;

		ck_assert(i->dst_reg < 6 && i->dst_reg != SCRATCH);
		if (i->code == (BPF_JMP | BPF_CALL)) {
			ck_assert_int_eq(i->imm, BPF_FUNC_get_prandom_u32);
			r[0] = drawn;
			for (int k = 1; k < 6; k++)
				r[k] = 0xdeadbeef; /* the call's to use */
			called = true;
			continue;
		}
		switch (BPF_CLASS(i->code)) {
		case BPF_ALU:
			ck_assert_int_eq(i->code, BPF_ALU | BPF_MOD | BPF_K);
			r[i->dst_reg] = (__u32)r[i->dst_reg] % (__u32)b;
			break;
		case BPF_ALU64:
			r[i->dst_reg] = alu(i->code, r[i->dst_reg], b);
			break;
		case BPF_LD:
			r[i->dst_reg] = (__u32)i->imm | (__u64)(__u32)c->insn[++pc].imm << 32;
			break;
		case BPF_LDX:
			size = BPF_SIZE(i->code) == BPF_B ? 1 : BPF_SIZE(i->code) == BPF_H ? 2 :
			       BPF_SIZE(i->code) == BPF_W ? 4 : 8;
			ck_assert(i->src_reg == SCRATCH && !called);
			ck_assert(i->off >= 0 && (size_t)i->off + size <= sizeof(scratch));
			r[i->dst_reg] = 0;
			memcpy(&r[i->dst_reg], scratch + i->off, size);
			break;
		case BPF_JMP:
			if (i->code == (BPF_JMP | BPF_JA) || taken(i->code, r[i->dst_reg], b))
				pc += (size_t)i->off;
			break;
		case BPF_JMP32:
			if (taken(i->code, (__u32)r[i->dst_reg], (__u32)b))
				pc += (size_t)i->off;
			break;
		default:
			ck_abort_msg("class %x", i->code);
		}
	}
	return r[0];
}

/* Jumps go forward, within it or to its end, and everything can be reached. */
static void check_shape(const struct filter_code *c)
{
	bool reached[HTRACE_FILTER_INSNS + 1] = { true };

	ck_assert_uint_le(c->nr, HTRACE_FILTER_INSNS);
	for (size_t pc = 0; pc < c->nr; pc++) {
		const struct bpf_insn *i = &c->insn[pc];
		bool jump = (BPF_CLASS(i->code) == BPF_JMP || BPF_CLASS(i->code) == BPF_JMP32) &&
			    i->code != (BPF_JMP | BPF_CALL);

		ck_assert_msg(reached[pc], "instruction %zu of %zu cannot be reached", pc, c->nr);
		if (jump) {
			ck_assert(i->off >= 0 && pc + 1 + (size_t)i->off <= c->nr);
			reached[pc + 1 + (size_t)i->off] = true;
		}
		if (i->code == (BPF_LD | BPF_DW | BPF_IMM))
			reached[++pc] = true;
		if (i->code != (BPF_JMP | BPF_JA))
			reached[pc + 1] = true;
	}
}

struct compiled {
	struct htrace_filter *f;
	struct htrace_filter_bound *b;
	struct filter_code code;
};

static struct compiled *compile(const char *text, int *ret)
{
	struct compiled *c = calloc(1, sizeof(*c));
	struct filter_case one;

	ck_assert(!htrace_filter_parse(&c->f, text, NULL));
	ck_assert(!htrace_filter_bind(&c->b, c->f, event));
	one = (struct filter_case){ 1, c->b, event };
	*ret = filter_compile(&c->code, &one, 1);
	return c;
}

static void release(struct compiled *c)
{
	htrace_filter_unbind(c->b);
	htrace_filter_free(c->f);
	free(c);
}

static void fill(struct record *r)
{
	for (size_t k = 0; k < sizeof(*r); k++)
		((char *)r)[k] = (char)(pick(3) ? pick(256) : pick(2) ? 255 : 0);
}

START_TEST(test_random_code)
{
	struct record *r = sample();
	unsigned int yes = 0, compiled = 0;

	seed = 4712;
	for (unsigned int i = 0; i < unit_some(20000); i++) {
		struct written w = { .len = 0 };
		struct compiled *c;
		int ret;

		fill(r);
		expression(&w, r, 4);
		if (w.len >= sizeof(w.s))
			continue;
		c = compile(w.s, &ret);
		for (int k = 0; k < 4 && !ret; k++) {
			bool expect = htrace_filter_matches(c->b, r, sizeof(*r), &context);

			check_shape(&c->code);
			set_scratch(r, sizeof(*r));
			ck_assert_msg(run(&c->code, 1) == expect, "'%s' is not %d", w.s, expect);
			yes += expect;
			compiled++;
			fill(r);
		}
		release(c);
	}
	ck_assert_uint_gt(compiled, unit_some(50000));
	ck_assert(yes > compiled / 4 && yes < compiled / 4 * 3);
}
END_TEST

START_TEST(test_compiled)
{
	static const struct {
		const char *text;
		const char *error; /* why it is not compiled */
	} tests[] = {
		{ "name == kworker" }, { "name != kworker" }, { "name == kw*" }, { "name != kw*" },
		{ "!(name == kworke)" }, { "name == \"\"" }, { "name == \"k\\\\worker\"" },
		{ "comm == 42 && name == kworker && cpu == 3" }, { "low == 5 && across == -3" },
		{ "across < 0 || low & 2" }, { "level == HIGH" }, { "state == D" }, { "state & (S & D)" },
		{ "tid == 4000000000 && pid == 12" }, { "nosuch == 1 || cpu == 3" }, { "flag" }, { "!flag" },
		{ "!(nosuch == 1) && cpu == 3" }, { "name == kworker || name == k || name == kworke*" },
		{ "name == [k]worker", "more than a beginning" }, { "name == *worker", "more than a beginning" },
		{ "name == kwor?er", "more than a beginning" }, { "text == /tmp*", "no fixed size" },
		{ "text[0] == '/'", "not every record" }, { "name == kworkers1", "more than a beginning" },
	};

	for (size_t i = 0; i < NR(tests); i++) {
		struct record *r = sample();
		struct compiled *c;
		int ret;

		c = compile(tests[i].text, &ret);
		if (tests[i].error) {
			ck_assert_msg(ret && strstr(c->code.error, tests[i].error), "'%s': %s",
				      tests[i].text, ret ? c->code.error : "compiled");
		} else {
			ck_assert_msg(!ret, "'%s': %s", tests[i].text, c->code.error);
			check_shape(&c->code);
			set_scratch(r, sizeof(*r));
			ck_assert_msg(run(&c->code, 1) ==
					      htrace_filter_matches(c->b, r, sizeof(*r), &context),
				      "'%s'", tests[i].text);
		}
		release(c);
	}
}
END_TEST

/* What does not fit into the window is refused, and nothing is written beyond it. */
START_TEST(test_too_long)
{
	char text[HTRACE_FILTER_MAX] = "u32 == 1";
	struct compiled *c;
	unsigned int longest = 0;
	int ret;

	for (int i = 0; i < 300; i++) {
		c = compile(text, &ret);
		ck_assert_int_eq(ret ? -1 : 0, ret);
		if (!ret) {
			check_shape(&c->code);
			longest = (unsigned int)c->code.nr;
		} else {
			ck_assert_str_eq(c->code.error, "it takes too many instructions");
		}
		release(c);
		strcat(text, " || u8==3");
	}
	ck_assert(ret && longest > HTRACE_FILTER_INSNS - 4);
}
END_TEST

/* Programs that record several events. */
START_TEST(test_cases)
{
	static const char *const texts[] = { "u8 == 200", "u8 == 0", "nosuch == 1", "!(nosuch == 1)" };
	static const bool passes[] = { true, false, false, true };
	struct filter_case cases[5];
	struct filter_code *code = calloc(1, sizeof(*code));
	struct compiled *c[4];
	int ret;

	sample();
	set_scratch(memory, sizeof(memory));
	for (__u32 i = 0; i < 4; i++) {
		c[i] = compile(texts[i], &ret);
		ck_assert(!ret);
		check_shape(&c[i]->code);
		ck_assert_uint_eq(run(&c[i]->code, 1), passes[i]);
		cases[i] = (struct filter_case){ i + 7, c[i]->b, event };
	}
	cases[4] = (struct filter_case){ 11, NULL, event };
	ck_assert(!filter_compile(code, cases, 5));
	check_shape(code);
	for (__u32 i = 0; i < 4; i++)
		ck_assert_uint_eq(run(code, i + 7), passes[i]);
	ck_assert_uint_eq(run(code, 11), 1);
	for (__u32 i = 0; i < 4; i++)
		release(c[i]);
	free(code);
}
END_TEST

/* One in so many of those that pass, and none of the others; alone, and beside other events. */
START_TEST(test_sampled)
{
	static const char *const texts[] = { "u8 == 200", "u8 == 0", "nosuch == 1", "!(nosuch == 1)" };
	static const bool passes[] = { true, false, false, true };
	struct filter_code *alone = calloc(1, sizeof(*alone)), *beside = calloc(1, sizeof(*beside));
	struct filter_case cases[6] = { { 0 } };
	struct compiled *c[4];
	int ret;

	sample();
	set_scratch(memory, sizeof(memory));
	for (__u32 i = 0; i < 5; i++) {
		cases[i] = (struct filter_case){ i + 7, NULL, event, 10 };
		if (i < 4) {
			c[i] = compile(texts[i], &ret);
			cases[i].bound = c[i]->b;
		}
	}
	cases[5] = (struct filter_case){ 12, NULL, event, 1 };
	ck_assert(!filter_compile(beside, cases, 6));
	check_shape(beside);
	for (__u32 i = 0; i < 5; i++) {
		ck_assert(!filter_compile(alone, &cases[i], 1));
		check_shape(alone);
		for (drawn = 4294967280u; drawn > 16; drawn++) {
			bool wanted = (i == 4 || passes[i]) && drawn % 10 == 0;

			ck_assert_uint_eq(run(alone, i + 7), wanted);
			ck_assert_uint_eq(run(beside, i + 7), wanted);
			ck_assert_uint_eq(run(beside, 12), 1);
		}
	}
	for (__u32 i = 0; i < 4; i++)
		release(c[i]);
	free(alone);
	free(beside);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("filter_bpf");
	TCase *tc = tcase_create("filter_bpf");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, test_random_code);
	tcase_add_test(tc, test_compiled);
	tcase_add_test(tc, test_too_long);
	tcase_add_test(tc, test_cases);
	tcase_add_test(tc, test_sampled);
	suite_add_tcase(s, tc);
	return unit_run(s);
}
