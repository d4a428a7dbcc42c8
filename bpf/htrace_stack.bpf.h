/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Stacks of events, where guest-agent --stack asks for them; a part of htrace.bpf.h. A record holds
 * the stacks' ids only. What an id stands for is recorded as an event of its own, when the stack is
 * seen first and again from time to time, so that a reader finds it although rings are overwritten.
 */
#ifndef HTRACE_STACK_BPF_H
#define HTRACE_STACK_BPF_H

#define HTRACE_STACK_AGAIN 1000000000ULL /* ns after which a stack is recorded once more */

/* What records of an event with stacks begin with. 0: no stack. */
struct htrace_stack_ids {
	__u64 kernel, user;
};

HTRACE_EVENT(htrace_stack);

/* A stack is too large for a program's own stack. An element for each event, on each CPU. */
struct htrace_stack_scratch {
	__u64 busy;
	__u64 ip_head[2]; /* struct htrace_stack, for the kernel module */
	__u64 ip[HTRACE_STACK_FRAMES + 1];
	__u64 file_head[2];
	struct htrace_stack_file_frame file[HTRACE_STACK_FILE_FRAMES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1); /* the agent sets it */
	__type(key, __u32);
	__type(value, struct htrace_stack_scratch);
} htrace_stack_scratch SEC(".maps");

/* When a stack was recorded last, by id; and the processes that had one. Made by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u64);
} htrace_stack_seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} htrace_stack_pids SEC(".maps");

/* Shadowed by the program's argument of this name, if it has one. */
enum { ctx = 0 };

HTRACE_INLINE __u64 htrace_stack_hash(const __u64 *ip, __u32 nr, __u64 hash)
{
	for (__u32 i = 0; i < HTRACE_STACK_FRAMES && i < nr; i++) {
		hash = (hash ^ ip[i]) * 0x9e3779b97f4a7c15ULL;
		hash ^= hash >> 29;
	}
	return hash;
}

/*
 * What a record takes is much code: for records with stacks, and for stacks, it is there once in an
 * object. Other events have it inline.
 */
static __attribute__((noinline, unused)) void *htrace_stack_reserve(__u32 id, __u32 len,
								    struct htrace_slot *slot)
{
	return htrace_reserve_id(id, len, slot);
}

/*
 * Record @bytes of frames of @size bytes each, at @words, which has room for a head before it. 0:
 * there was no room.
 */
static __attribute__((noinline, unused)) int
htrace_stack_record(__u64 id, __u64 pid_kind, void *words, __u32 bytes, __u32 size)
{
	__u32 room = htrace_geo.max_payload - sizeof(struct htrace_stack);
	__u32 most = size == 8 ? HTRACE_STACK_FRAMES * 8 :
				 HTRACE_STACK_FILE_FRAMES * sizeof(struct htrace_stack_file_frame);
	struct htrace_slot slot;
	struct htrace_stack *e;

	if (bytes > room)
		bytes = room / size * size;
	if (bytes > most)
		bytes = most;
	if (htrace_by_module) {
		e = words - sizeof(*e);
		e->id = id;
		e->pid = pid_kind;
		e->kind = pid_kind >> 32;
		e->nr = bytes / size;
		return !htrace_write(htrace_event__htrace_stack.config.id, htrace_schema_gen, e,
				     sizeof(*e) + bytes);
	}
	e = htrace_stack_reserve(htrace_event__htrace_stack.config.id, sizeof(*e) + bytes, &slot);
	if (!e)
		return 0;
	e->id = id;
	e->pid = pid_kind;
	e->kind = pid_kind >> 32;
	e->nr = bytes / size;
	if (bytes <= most) /* the verifier has forgotten it by now */
		bpf_probe_read_kernel(e + 1, bytes, words);
	htrace_commit(&slot);
	return 1;
}

/* From the program's context, which the kernel then unwinds from, or the current task's. */
#define htrace_stack_get(ctx_, buf, flags)                                                         \
	((ctx_) ? bpf_get_stack(ctx_, buf, sizeof(buf), flags) :                                   \
		  bpf_get_task_stack(bpf_get_current_task_btf(), buf, sizeof(buf), flags))

HTRACE_INLINE __u64 htrace_stack_take(void *from, struct htrace_stack_scratch *s, __u32 user)
{
	__u64 kind = user ? HTRACE_STACK_USER : HTRACE_STACK_KERNEL;
	__u64 now = bpf_ktime_get_ns(), *seen, id;
	__u32 pid = user ? bpf_get_current_pid_tgid() >> 32 : 0, nr;
	long len;

	len = htrace_stack_get(from, s->ip, user ? BPF_F_USER_STACK : 0);
	if (len <= 0)
		return 0;
	nr = (__u32)len / 8;
	/* Another number to the verifier, so that it learns nothing of len from the loop. */
	__asm__ volatile("%0 &= 127" : "+r"(nr));
	id = htrace_stack_hash(s->ip, nr, user ? 1ULL << 32 | pid : 1);
	id |= !id;
	seen = bpf_map_lookup_elem(&htrace_stack_seen, &id);
	if (seen && now - *seen < HTRACE_STACK_AGAIN)
		return id;
	if (!htrace_stack_record(id, pid | kind << 32, s->ip, (__u32)len, 8))
		return id; /* the next one tries again */
	if (user) {
		bpf_map_update_elem(&htrace_stack_pids, &pid, &now, BPF_ANY);
		len = htrace_stack_get(from, s->file, BPF_F_USER_STACK | BPF_F_USER_BUILD_ID);
		if (len > 0 && !htrace_stack_record(id, pid | (__u64)HTRACE_STACK_USER_FILES << 32,
						    s->file, (__u32)len, sizeof(s->file[0])))
			return id;
	}
	bpf_map_update_elem(&htrace_stack_seen, &id, &now, BPF_ANY);
	return id;
}

/*
 * The id of the stack at hand; for event number @stack of this object. 0: none, or another program
 * that records the same event was interrupted right in here.
 */
static __attribute__((noinline, unused)) __u64 htrace_stack_id(void *from, __u32 stack, __u32 user)
{
	struct htrace_stack_scratch *s;
	__u32 index = stack - 1;
	__u64 id;

	s = bpf_map_lookup_elem(&htrace_stack_scratch, &index);
	if (!s || __sync_lock_test_and_set(&s->busy, 1))
		return 0;
	id = htrace_stack_take(from, s, user);
	htrace_store(&s->busy, 0);
	return id;
}

/* As htrace_begin_len(), for a record of event @id that begins with the stacks' ids. */
static __attribute__((noinline, unused)) void *
htrace_stack_begin(void *from, __u32 id, __u32 stack, __u32 len, struct htrace_slot *slot)
{
	struct htrace_stack_ids ids = {
		.kernel = htrace_stack_id(from, stack, 0),
		.user = htrace_stack_id(from, stack, 1),
	};
	struct htrace_stack_ids *at = htrace_stack_reserve(id, sizeof(ids) + len, slot);

	if (!at)
		return 0;
	*at = ids;
	return at + 1;
}

#endif /* HTRACE_STACK_BPF_H */
