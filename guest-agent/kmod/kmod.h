/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the module's files share. */
#ifndef HTRACE_KMOD_H
#define HTRACE_KMOD_H

#include <linux/io.h>
#include <linux/kref.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/types.h>
#include <linux/wait.h>

#include "htrace_module.h"

#define REG_IVPOSITION 0x08
#define REG_DOORBELL 0x0c

/* The one device that is bound. Lives until the last file that was opened on it is closed. */
struct htrace_dev {
	struct kref ref;
	struct pci_dev *pci;
	phys_addr_t phys;
	resource_size_t size;
	void *mem; /* BAR2; NULL once the device is gone */
	void __iomem *regs; /* likewise BAR0 */
	u32 caching, flags;
	int vectors;

	struct mutex lock; /* of all below, and of what is NULL once the device is gone */
	bool gone;
	struct inode *inode; /* all files share its mapping, so that all of them can be zapped */

	atomic64_t interrupts;
	wait_queue_head_t wait;
};

/* bar.c */
int htrace_bar_map(struct htrace_dev *d);
void htrace_bar_unmap(struct htrace_dev *d);
const char *htrace_caching_name(u32 caching);

/* write.c */

/* Tell htrace_write() of the rings of @d, or with @r NULL of none. Waits until all have heard. */
int htrace_rings_set(struct htrace_dev *d, const struct htrace_module_rings *r);
/* Whose rings they are; 0: there are none. */
u64 htrace_rings_session(void);
/* htrace_doorbell() rings at @regs; NULL: nowhere. Waits until all have heard. */
void htrace_doorbell_set(void __iomem *regs);
int htrace_kfuncs_register(void);

/* chardev.c */
int htrace_chardev_add(struct htrace_dev *d);
/* No file reaches the device any more. */
void htrace_chardev_remove(struct htrace_dev *d);
void htrace_dev_put(struct htrace_dev *d);
/* Is there a device? */
bool htrace_bound(void);

#endif
