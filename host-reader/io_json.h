/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --view io:json: all that struct io has, as one object of JSON; and what its kinds and stages are called. */
#ifndef READER_IO_JSON_H
#define READER_IO_JSON_H

#include "io.h"
#include "view.h"

extern const char *const io_op_name[];
extern const char *const io_stage_name[IO_STAGES];

/* @source: what each is called, harmless. */
void io_json(struct out *o, const struct io *x, char (*source)[VIEW_SOURCE]);

#endif
