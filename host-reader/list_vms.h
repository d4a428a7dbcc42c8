/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef READER_LIST_VMS_H
#define READER_LIST_VMS_H

/*
 * host-reader --list: on stdout the virtual machines of this host, by name, and for each by which SOURCE
 * it can be traced, or what it lacks. Reads /proc and the headers of regions; writes nothing, and takes no
 * region from another reader. Exit status.
 */
int list_vms(void);

#endif
