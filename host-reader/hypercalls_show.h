/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages of --view hypercalls. */
#ifndef READER_HYPERCALLS_SHOW_H
#define READER_HYPERCALLS_SHOW_H

#include "hypercalls.h"
#include "view.h"

struct hypercalls_shown {
	struct hypercalls *h;
	const char (*source)[VIEW_SOURCE]; /* what each source is called; "": there is only one */
	__u64 since; /* time of the last event on the page before; 0: there was none */
};

void hypercalls_show_tables(const struct hypercalls_shown *s, struct view_page *p);
void hypercalls_show_folded(const struct hypercalls_shown *s, struct view_page *p);
void hypercalls_show_json(const struct hypercalls_shown *s, struct view_page *p);

#endif
