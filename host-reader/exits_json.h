/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --view exits:json: all that struct exits has, as one object of JSON. */
#ifndef READER_EXITS_JSON_H
#define READER_EXITS_JSON_H

#include "exits.h"
#include "view.h"

/* @source: what each is called, harmless; names of VMs and places are those that the view has put in. */
void exits_json(struct out *o, const struct exits *x, char (*source)[VIEW_SOURCE]);

#endif
