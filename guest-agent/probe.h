/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef AGENT_PROBE_H
#define AGENT_PROBE_H

/* Say on stdout what this machine runs on, what can be traced here, and how it gets to the host. Changes nothing. */
void probe_print(void);

#endif
