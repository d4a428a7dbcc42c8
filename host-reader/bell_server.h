/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A server of ivshmem devices with a doorbell, for one VM: gives it the memory of its device, and hears
 * when it rings. QEMU's protocol (docs/specs/ivshmem-spec): 8-byte little-endian messages, descriptors
 * beside them. We are peer 0 with one vector, the VM is peer 1. Clients have nothing to say.
 *
 * Nothing here waits, or does more than a few system calls a round, whatever clients do.
 */
#ifndef READER_BELL_SERVER_H
#define READER_BELL_SERVER_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/types.h>

struct bell_server;

enum bell_news {
	BELL_NOTHING = 0,
	BELL_CAME = 1,    /* a VM is connected */
	BELL_WENT = 2,    /* it is no more */
	BELL_REFUSED = 4, /* another one, as one is connected */
	BELL_BROKEN = 8,  /* it does not speak the protocol: disconnected */
};

/*
 * Make @size bytes of memory, and listen at @path, for this user only. A socket that is there is
 * replaced if nobody listens to it. 0, or -errno with one line in @err.
 */
int bell_server_open(struct bell_server **out, const char *path, __u64 size, char *err,
		     size_t errlen);
/* NULL is allowed. The socket goes, if it is still ours; VMs keep the memory. */
void bell_server_close(struct bell_server *b);
/* The memory. The descriptor is the server's. */
int bell_server_memory(const struct bell_server *b);
/* Who comes and goes: bits of enum bell_news. */
int bell_server_round(struct bell_server *b, __u64 now);
/* Is a VM connected? */
bool bell_server_connected(const struct bell_server *b);
/* Becomes readable when the VM rings; another one after BELL_WENT. */
int bell_server_fd(const struct bell_server *b);
/* How often it rang since the last call; the descriptor is not readable then. */
__u64 bell_server_take(struct bell_server *b);

#endif
