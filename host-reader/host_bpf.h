/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* BPF programs of this program's own on the host's KVM: loaded, attached, with one of their maps read. */
#ifndef READER_HOST_BPF_H
#define READER_HOST_BPF_H

#include <stddef.h>

#define HOST_BPF_PROGRAMS 16 /* at most */

struct bpf_object;
struct bpf_link;

struct host_bpf {
	struct bpf_object *object;
	/* As the programs come in the object; of one that was not loaded, nothing and no descriptor. */
	struct bpf_link *link[HOST_BPF_PROGRAMS];
	int program_fd[HOST_BPF_PROGRAMS];
	const void *map; /* read-only */
	size_t map_size;
};

/*
 * The steps of it, for who has to do something between them: open what lies between @start and @end as
 * @name; load it; attach all that was loaded; attach no more. Likewise.
 */
int host_bpf_read(struct host_bpf *b, const char *name, const char *start, const char *end, const char *need,
		  char *err, size_t errlen);
int host_bpf_load(struct host_bpf *b, const char *need, char *err, size_t errlen);
int host_bpf_attach(struct host_bpf *b, const char *need, char *err, size_t errlen);
void host_bpf_detach(struct host_bpf *b);

/*
 * Load what lies between @start and @end as @name, attach all, and map the first @map_size bytes of the map
 * @map. 0, or -errno with one line in @err, which asks for what they @need. To be closed in any case.
 */
int host_bpf_open(struct host_bpf *b, const char *name, const char *start, const char *end, const char *map,
		  size_t map_size, const char *need, char *err, size_t errlen);
/* Of a map; -1: there is none of this name. */
int host_bpf_map_fd(const struct host_bpf *b, const char *map);
void host_bpf_close(struct host_bpf *b);

#endif
