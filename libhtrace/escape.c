// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
/* Text from a traced machine, made harmless. */
#include <stdbool.h>

#include <htrace/schema.h>

static bool plain(unsigned char c)
{
	return c >= 0x20 && c <= 0x7e && c != '\\' && c != '"';
}

size_t htrace_escape(char *out, size_t outlen, const char *s, size_t len)
{
	static const char hex[] = "0123456789abcdef";
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)s[i];
		size_t need = plain(c) ? 1 : 4;

		if (out) {
			/* Never half an escape: what follows it would be read as a part of it. */
			if (outlen - n < need)
				break;
			if (need == 1) {
				out[n] = (char)c;
			} else {
				out[n] = '\\';
				out[n + 1] = 'x';
				out[n + 2] = hex[c >> 4];
				out[n + 3] = hex[c & 15];
			}
		}
		n += need;
	}
	return n;
}
