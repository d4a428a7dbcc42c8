/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU's monitor (QMP), as its client. A VMM that a guest has broken out into may answer anything: each call
 * ends in a stated time, holds one line of at most QMP_LINE bytes, and takes no answer for another's.
 */
#ifndef READER_QMP_H
#define READER_QMP_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>
#include <linux/types.h>

#define QMP_LINE (256 << 10)

struct qmp;

/*
 * Speak with who is connected at @fd, which is non-blocking and becomes ours also where this fails: waits for its
 * greeting, @wait_ns at most. @device: whose DEVICE_DELETED is looked for. 0, or -errno with one line in @err.
 */
int qmp_open(struct qmp **out, int fd, const char *device, __u64 wait_ns, char *err, size_t errlen);
/* NULL is allowed. */
void qmp_close(struct qmp *q);
int qmp_fd(const struct qmp *q);
/*
 * Have @command done, with @arguments, which are ours from here on (or NULL). @result, if that is not NULL,
 * gets what it returned: for json_decref(). 0; -EREMOTEIO: QEMU refused, and @err has its words; else the
 * connection is of no more use: -errno.
 */
int qmp_do(struct qmp *q, const char *command, json_t *arguments, json_t **result, char *err, size_t errlen);
/* Take in what came by itself, a bounded part of it. 0, or -errno: the connection is of no more use. */
int qmp_listen(struct qmp *q);
/* Wait for more to come by itself, @wait_ns at most. As qmp_listen(). */
int qmp_wait(struct qmp *q, __u64 wait_ns);
/* What was told of the device so far is of no interest any more. */
void qmp_forget(struct qmp *q);
/* Was it taken out since then? */
bool qmp_deleted(const struct qmp *q);
/* Did the guest refuse to give it back? */
bool qmp_refused(const struct qmp *q);

#endif
