// SPDX-License-Identifier: LGPL-2.1-or-later
/* The agent's reader of tracefs' format files; what it declares, the host's parser takes. */
#include <errno.h>

#include "../../common/tracepoint_format.h"
#include "fuzz.h"

static void declare(const struct tracepoint *tp)
{
	struct htrace_schema_builder *b;
	struct htrace_schema_member front = { .name = "front" };
	struct htrace_schema *s;
	char err[160] = "";
	size_t len;
	int ret;

	CHECK(!htrace_builder_new(&b, NULL, 0));
	front.type = (__u32)htrace_builder_int(b, "u64", 8, false, HTRACE_HINT_STACK_KERNEL);
	ret = tracepoint_declare(tp, b, "event", &front, 1);
	CHECK(ret == 1 || ret == -EINVAL || ret == -ENOSPC || ret == -ENOMEM);
	CHECK(ret == 1 || htrace_builder_error(b)[0] || ret == -ENOMEM);
	if (ret == 1) {
		const void *entries = htrace_builder_entries(b, &len);

		CHECK(!htrace_schema_parse(&s, entries, len, err, sizeof(err)));
		CHECK(htrace_schema_event(s, 1)->type->size == 8 + tp->config.size);
		htrace_schema_free(s);
	}
	htrace_builder_free(b);
}

/* What the BPF program is told to copy: into a record, no place twice. */
static void check_config(const struct tracepoint_config *c)
{
	CHECK(c->fixed <= TRACEPOINT_FIXED_MAX && c->places >= c->fixed && c->places - c->fixed < 8);
	CHECK(c->size >= c->places && c->size <= c->places + TRACEPOINT_DYN_MAX * TRACEPOINT_PLACE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tracepoint *tp = calloc(1, sizeof(*tp));
	FILE *f;
	int ret;

	if (!size) {
		free(tp);
		return 0;
	}
	f = fmemopen((void *)(uintptr_t)data, size, "r");
	CHECK(f);
	ret = tracepoint_parse(tp, f);
	fclose(f);
	CHECK(!ret || ret == -EINVAL || ret == -E2BIG || ret == -ENOMEM);
	if (!ret) {
		check_config(&tp->config);
		declare(tp);
	}
	tracepoint_free(tp);
	return 0;
}
