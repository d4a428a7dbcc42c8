// SPDX-License-Identifier: LGPL-2.1-or-later
/* What exits are called, in the source kvm's schema and to a guest that is told of them, and what the kernel's headers call them. */
#include "unit.h"

#include <string.h>

#include <asm/kvm.h>
#include <asm/svm.h>
#include <asm/vmx.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/version.h>

#include "../../guest-agent/exit_names.h"

#define REASONS_OF KERNEL_VERSION(6, 1, 0) /* whose headers bpf/kvm_reasons.h was made from */
#define HEADERS_OF (LINUX_VERSION_CODE & ~0xff)
#define COUNT(a) (sizeof(a) / sizeof(*(a)))

/* As the kernel's own kvm_exit prints them. */
struct named {
	long long nr;
	const char *name;
};
static const struct named vmx[] = { VMX_EXIT_REASONS }, svm[] = { SVM_EXIT_REASONS };
static const struct isa {
	const char *name;
	__u32 nr;
	const struct named *reason;
	size_t count;
} isas[] = {
	{ "VMX", HTRACE_ISA_VMX, vmx, COUNT(vmx) },
	{ "SVM", HTRACE_ISA_SVM, svm, COUNT(svm) },
};

/* What the compiled programs have, from which the schema is made. */
extern const char kvm_events_bpf_start[], kvm_events_bpf_end[];
static struct bpf_object *object;
static const struct btf *btf;
static const struct btf_type *reasons;

static void setup(void)
{
	int id;

	object = bpf_object__open_mem(kvm_events_bpf_start, (size_t)(kvm_events_bpf_end - kvm_events_bpf_start), NULL);
	ck_assert_ptr_nonnull(object);
	btf = bpf_object__btf(object);
	id = btf__find_by_name_kind(btf, "kvm_exit_reason", BTF_KIND_ENUM);
	ck_assert_int_gt(id, 0);
	reasons = btf__type_by_id(btf, (__u32)id);
}

static void teardown(void)
{
	bpf_object__close(object);
}

/* An event has the low half. What GHCBs hold is above: guests' requests within one exit, of which none are traced. */
static bool is_traced(long long nr)
{
	return nr == -1 || nr < 0x10000;
}

static __u32 value_of(const struct isa *isa, long long nr)
{
	return isa->nr << 16 | (__u32)(nr & 0xffff);
}

/* NULL: it has none with us. */
static const char *our_name(__u32 value)
{
	const struct btf_enum *e = btf_enum(reasons);
	const char *name = NULL;

	for (int i = 0; i < btf_vlen(reasons); i++) {
		if ((__u32)e[i].val != value)
			continue;
		ck_assert_msg(!name, "0x%x has two names", value);
		name = btf__name_by_offset(btf, e[i].name_off);
	}
	return name;
}

/* A name is a C identifier. */
static bool same_name(const char *ours, const char *theirs)
{
	size_t i = 0;

	while (theirs[i] && ours[i] == (theirs[i] == ' ' ? '_' : theirs[i]))
		i++;
	return !theirs[i] && !ours[i];
}

static void lacking(const char *where, __u32 value, const char *name)
{
	printf("# not in %s: 0x%x, %s\n", where, value, name);
	fflush(stdout);
}

/* Each reason of the kernel's has its name; only of a newer kernel's may some have none. */
START_TEST(test_theirs)
{
	for (size_t k = 0; k < COUNT(isas); k++)
		for (size_t i = 0; i < isas[k].count; i++) {
			const struct named *r = &isas[k].reason[i];
			const char *ours = our_name(value_of(&isas[k], r->nr));

			if (!is_traced(r->nr))
				continue;
			if (ours)
				ck_assert_msg(same_name(ours, r->name), "%s %lld: %s, and the kernel's is %s", isas[k].name,
					      r->nr, ours, r->name);
			else
				lacking("bpf/kvm_reasons.h", value_of(&isas[k], r->nr), r->name);
			ck_assert_msg(ours || HEADERS_OF > REASONS_OF, "%s %lld, %s, has no name", isas[k].name, r->nr,
				      r->name);
		}
}
END_TEST

/* Each name is one of the kernel's; only an older kernel may lack some. */
START_TEST(test_ours)
{
	const struct btf_enum *e = btf_enum(reasons);
	size_t nr[COUNT(isas)] = { 0 };

	for (int i = 0; i < btf_vlen(reasons); i++) {
		const char *name = btf__name_by_offset(btf, e[i].name_off);
		bool found = false;

		for (size_t k = 0; k < COUNT(isas); k++)
			for (size_t j = 0; j < isas[k].count; j++) {
				const struct named *r = &isas[k].reason[j];

				if (!is_traced(r->nr) || value_of(&isas[k], r->nr) != (__u32)e[i].val)
					continue;
				found = true;
				nr[k]++;
				ck_assert_msg(same_name(name, r->name), "0x%x: %s, and the kernel's is %s",
					      (__u32)e[i].val, name, r->name);
			}
		if (!found)
			lacking("the kernel's headers", (__u32)e[i].val, name);
		ck_assert_msg(found || HEADERS_OF < REASONS_OF, "0x%x, %s, is none of the kernel's", (__u32)e[i].val, name);
	}
	ck_assert(nr[0] > 50 && nr[1] > 80);
}
END_TEST

/* A guest shows words of the CPUs' manuals; a number of none that the kernel names. */
START_TEST(test_told)
{
	char told[24], number[2][24];

	for (size_t k = 0; k < COUNT(isas); k++)
		for (size_t i = 0; i < isas[k].count; i++) {
			const struct named *r = &isas[k].reason[i];
			const char *name = exit_name(isas[k].nr, (__u32)r->nr, told, sizeof(told));

			if (!is_traced(r->nr) || HEADERS_OF > REASONS_OF)
				continue;
			snprintf(number[0], sizeof(number[0]), "vmx_%u", (__u32)r->nr);
			snprintf(number[1], sizeof(number[1]), "svm_%#x", (__u32)r->nr);
			ck_assert_str_ne(name, number[k]);
		}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("kvm_reasons");
	TCase *names = tcase_create("names");

	tcase_add_checked_fixture(names, setup, teardown);
	tcase_add_test(names, test_theirs);
	tcase_add_test(names, test_ours);
	tcase_add_test(names, test_told);
	suite_add_tcase(s, names);
	return unit_run(s);
}
