/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ~/.debug as perf keeps it is full of links, some of them to where programs lie. Landlock looks at where a
 * link leads to: those files need a rule each.
 */
#ifndef READER_CONFINE_LINKS_H
#define READER_CONFINE_LINKS_H

/*
 * Calls @found for the regular files outside of @dir that @dir/.build-id/XX/NAME and @dir/.build-id/XX/NAME/elf
 * lead to, as far as they are now; for some thousands at most. 0, or what @found returned if it was not 0.
 */
int confine_links(const char *dir, int (*found)(void *arg, const char *path), void *arg);

#endif
