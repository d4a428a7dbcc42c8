/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef EXIT_COST_H
#define EXIT_COST_H

#define EXIT_MAGIC 0x6578697453UL /* first argument of the calls that are exits */

#endif
