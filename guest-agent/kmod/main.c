// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * libhtrace's path into an ivshmem device's memory: BPF programs write their records straight into
 * the rings there. Binds one device.
 */
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>

#include <htrace/abi.h>

#include "kmod.h"

#define pr_prefix "htrace: "
#define IVSHMEM_VENDOR 0x1af4
#define IVSHMEM_DEVICE 0x1110

static char *device = "";
module_param(device, charp, 0444);
MODULE_PARM_DESC(device, "PCI address of the ivshmem device to bind, if there are several");

/* As libhtrace's htrace_bar_content(): nothing yet, or a region of ours. */
static bool is_ours(const struct htrace_dev *d)
{
	const struct htrace_super *s = d->mem;
	const u64 *word = d->mem;

	if (READ_ONCE(s->magic) == HTRACE_MAGIC)
		return true;
	if (!READ_ONCE(s->magic) && READ_ONCE(s->version_major) == HTRACE_ABI_MAJOR &&
	    READ_ONCE(s->region_size) == d->size)
		return true; /* left by one that died while it made the region anew */
	for (size_t i = 0; i < sizeof(*s) / sizeof(*word); i++)
		if (READ_ONCE(word[i]))
			return false;
	return true;
}

static irqreturn_t on_interrupt(int irq, void *data)
{
	struct htrace_dev *d = data;

	atomic64_inc(&d->interrupts);
	wake_up_interruptible(&d->wait);
	return IRQ_HANDLED;
}

/* ivshmem-plain has none; without them all but waiting for the host works. */
static int add_interrupts(struct htrace_dev *d)
{
	int nr = pci_msix_vec_count(d->pci), i, err;

	if (nr <= 0)
		return 0;
	nr = pci_alloc_irq_vectors(d->pci, 1, nr, PCI_IRQ_MSIX);
	if (nr < 0)
		return nr;
	for (i = 0; i < nr; i++) {
		err = request_irq(pci_irq_vector(d->pci, i), on_interrupt, 0, "htrace", d);
		if (err)
			goto fail;
	}
	d->vectors = nr;
	d->flags |= HTRACE_MODULE_DOORBELL;
	pci_set_master(d->pci);
	return 0;
fail:
	while (i--)
		free_irq(pci_irq_vector(d->pci, i), d);
	pci_free_irq_vectors(d->pci);
	return err;
}

static void remove_interrupts(struct htrace_dev *d)
{
	for (int i = 0; i < d->vectors; i++)
		free_irq(pci_irq_vector(d->pci, i), d);
	if (d->vectors)
		pci_free_irq_vectors(d->pci);
}

static struct htrace_dev *new_dev(struct pci_dev *pci)
{
	struct htrace_dev *d = kzalloc(sizeof(*d), GFP_KERNEL);

	if (!d)
		return NULL;
	kref_init(&d->ref);
	mutex_init(&d->lock);
	init_waitqueue_head(&d->wait);
	d->pci = pci;
	d->phys = pci_resource_start(pci, 2);
	d->size = pci_resource_len(pci, 2);
	return d;
}

static int map(struct htrace_dev *d)
{
	int err;

	if (!d->phys || d->size < HTRACE_REGION_MIN) {
		dev_err(&d->pci->dev, "BAR2 of %llu KiB is too small, or has no address: give the "
			"device at least 1M\n", (u64)d->size >> 10);
		return -ENOSPC;
	}
	d->regs = pci_ioremap_bar(d->pci, 0);
	err = d->regs ? htrace_bar_map(d) : -ENOMEM;
	if (err) {
		dev_err(&d->pci->dev, "cannot map the device's memory: %d\n", err);
		return err;
	}
	if (is_ours(d))
		return 0;
	dev_err(&d->pci->dev, "the device holds something that is not libhtrace's; clear its "
		"memory on the host if it may be used\n");
	return -EEXIST;
}

static void unmap(struct htrace_dev *d)
{
	htrace_bar_unmap(d);
	if (d->regs)
		iounmap(d->regs);
	d->regs = NULL;
}

static void say_mapping(const struct htrace_dev *d)
{
	dev_info(&d->pci->dev, "%llu KiB of shared memory at %pa, mapped %s%s; %d interrupt vectors\n",
		 (u64)d->size >> 10, &d->phys, htrace_caching_name(d->caching),
		 d->flags & HTRACE_MODULE_OVERRULES ?
			 " although the firmware's MTRRs say otherwise, which hypervisors do not heed" :
			 "",
		 d->vectors);
	if (d->caching != HTRACE_CACHING_WRITE_BACK)
		dev_warn(&d->pci->dev, "recording will be slow: each access of a program to its "
			 "ring goes past the caches\n");
}

/* By its parameter, or as the only one: init_module() has seen to that there is no other. */
static int probe(struct pci_dev *pci, const struct pci_device_id *id)
{
	struct htrace_dev *d;
	int err;

	if (*device && strcmp(device, pci_name(pci)))
		return -ENODEV;
	if (htrace_bound()) {
		dev_info(&pci->dev, "left alone: another ivshmem device is bound already; reload "
			 "the module with device=%s to have this one\n", pci_name(pci));
		return -EBUSY;
	}
	d = new_dev(pci);
	if (!d)
		return -ENOMEM;
	err = pci_enable_device(pci);
	if (err)
		goto free;
	err = pci_request_regions(pci, "htrace");
	if (err) {
		dev_err(&pci->dev, "the device is in use by another driver\n");
		goto disable;
	}
	err = map(d);
	if (!err)
		err = add_interrupts(d);
	if (err)
		goto unmap;
	err = htrace_chardev_add(d);
	if (err)
		goto interrupts;
	if (d->flags & HTRACE_MODULE_DOORBELL)
		htrace_doorbell_set(d->regs);
	pci_set_drvdata(pci, d);
	say_mapping(d);
	return 0;
interrupts:
	remove_interrupts(d);
unmap:
	unmap(d);
	pci_release_regions(pci);
disable:
	pci_disable_device(pci);
free:
	htrace_dev_put(d);
	return err;
}

/* Programs may be writing, processes may have it mapped: first nobody reaches it any more. */
static void remove(struct pci_dev *pci)
{
	struct htrace_dev *d = pci_get_drvdata(pci);

	htrace_chardev_remove(d);
	htrace_doorbell_set(NULL);
	remove_interrupts(d);
	unmap(d);
	pci_release_regions(pci);
	pci_disable_device(pci);
	dev_info(&pci->dev, "released\n");
	htrace_dev_put(d);
}

/*
 * No MODULE_DEVICE_TABLE(): ivshmem devices serve many purposes, so the module is not loaded for
 * whoever has one, but where it is asked for.
 */
static const struct pci_device_id ids[] = {
	{PCI_DEVICE(IVSHMEM_VENDOR, IVSHMEM_DEVICE)},
	{},
};

static struct pci_driver driver = {
	.name = "htrace",
	.id_table = ids,
	.probe = probe,
	.remove = remove,
};

/* Is there one device to bind? */
static int check_devices(void)
{
	struct pci_dev *pci = NULL;
	char first[32] = "", last[32] = "";
	int nr = 0, chosen = 0;

	while ((pci = pci_get_device(IVSHMEM_VENDOR, IVSHMEM_DEVICE, pci))) {
		strscpy(nr++ ? last : first, pci_name(pci), sizeof(first));
		chosen += !strcmp(device, pci_name(pci));
	}
	if (*device && !chosen) {
		pr_err(pr_prefix "there is no ivshmem device %s; %d others\n", device, nr);
		return -ENODEV;
	}
	if (!nr) {
		pr_err(pr_prefix "no ivshmem device in this machine; add one to the VM: "
		       "-device ivshmem-plain,memdev=ID\n");
		return -ENODEV;
	}
	if (nr > 1 && !*device) {
		pr_err(pr_prefix "%d ivshmem devices (%s, %s%s): choose one with device=ADDRESS\n", nr,
		       first, last, nr > 2 ? ", ..." : "");
		return -ENOTUNIQ;
	}
	return 0;
}

static int __init htrace_init(void)
{
	int err = check_devices();

	if (err)
		return err;
	err = htrace_kfuncs_register();
	if (err) {
		pr_err(pr_prefix "the kernel does not take the functions for BPF programs (%d): was the "
		       "module built with the BTF of this kernel?\n", err);
		return err;
	}
	err = pci_register_driver(&driver);
	if (err)
		return err;
	if (htrace_bound())
		return 0;
	pci_unregister_driver(&driver); /* why was said by probe() */
	return -ENODEV;
}

static void __exit htrace_exit(void)
{
	pci_unregister_driver(&driver);
}

module_init(htrace_init);
module_exit(htrace_exit);
MODULE_LICENSE("Dual BSD/GPL");
MODULE_DESCRIPTION("libhtrace: BPF programs' records straight into an ivshmem device");
MODULE_VERSION("0.1.0");
