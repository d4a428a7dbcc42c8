/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an object that uses htrace.bpf.h is given before it is loaded: its variables that the verifier
 * takes for constants. And which events it declares, which are such variables.
 */
#ifndef RODATA_H
#define RODATA_H

#include <stddef.h>

#include <htrace/abi.h>
#include <htrace/ring.h>

struct bpf_object;
struct btf;
struct btf_type;

struct rodata {
	const struct btf *btf;
	const struct btf_type *sec;
	char *data;
	size_t len;
	int nr; /* variables, numbered from 0 on */
};

/* struct htrace_event_config of htrace.bpf.h, as far as loaders fill it in. */
struct rodata_event {
	__u32 id; /* of its records */
	__u32 stack;
};

/* 0, or -ENOENT: it does not use htrace.bpf.h. */
int rodata_of(struct rodata *r, struct bpf_object *obj);
const char *rodata_name(const struct rodata *r, int i);
/* The event that variable @i declares, by its name; NULL: it declares none. */
const char *rodata_event(const struct rodata *r, int i);
/* In BTF, the struct of that event; 0: it was not declared by HTRACE_EVENT(). */
__u32 rodata_payload(const struct rodata *r, int i);
/* @len bytes of variable @i, from its start. -EINVAL: it has fewer. */
int rodata_set(struct rodata *r, int i, const void *value, size_t len);
int rodata_get(const struct rodata *r, int i, void *value, size_t len);
/* Likewise of the variable of this name; -ENOENT: there is none. */
int rodata_set_named(struct rodata *r, const char *name, const void *value, size_t len);
/* Shape of the rings and schema generation. -ENOENT: the object is of another version. */
int rodata_set_rings(struct rodata *r, const struct htrace_geometry *g, __u32 schema);

#endif
