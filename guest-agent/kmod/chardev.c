// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* /dev/htrace: the device's memory for user space, what the agent has to tell, interrupts. */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>

#include "kmod.h"

#define WINDOW (2UL << 20) /* of a mapping that a fault fills in */

static struct htrace_dev *bound; /* for open() */
static DEFINE_MUTEX(bound_lock);

struct reader {
	struct htrace_dev *d;
	u64 seen; /* interrupts */
};

static void release_dev(struct kref *ref)
{
	struct htrace_dev *d = container_of(ref, struct htrace_dev, ref);

	if (d->inode)
		iput(d->inode);
	kfree(d);
}

void htrace_dev_put(struct htrace_dev *d)
{
	kref_put(&d->ref, release_dev);
}

static int dev_open(struct inode *inode, struct file *file)
{
	struct reader *r = kzalloc(sizeof(*r), GFP_KERNEL);
	struct htrace_dev *d;

	if (!r)
		return -ENOMEM;
	mutex_lock(&bound_lock);
	d = bound;
	if (d)
		kref_get(&d->ref);
	mutex_unlock(&bound_lock);
	if (!d) {
		kfree(r);
		return -ENODEV;
	}
	mutex_lock(&d->lock);
	if (!d->inode)
		d->inode = igrab(inode);
	if (d->inode)
		file->f_mapping = d->inode->i_mapping;
	mutex_unlock(&d->lock);
	r->d = d;
	r->seen = atomic64_read(&d->interrupts);
	file->private_data = r;
	return nonseekable_open(inode, file);
}

static int dev_release(struct inode *inode, struct file *file)
{
	struct reader *r = file->private_data;

	htrace_dev_put(r->d);
	kfree(r);
	return 0;
}

/* ------------------------------------------------------------------------------------- memory */

struct fill {
	unsigned long pfn;
	struct vm_area_struct *vma;
};

static int fill_one(pte_t *pte, unsigned long at, void *data)
{
	struct fill *f = data;
	unsigned long index = (at - f->vma->vm_start) >> PAGE_SHIFT;

	set_pte_at(f->vma->vm_mm, at, pte,
		   pte_mkspecial(pfn_pte(f->pfn + index, f->vma->vm_page_prot)));
	return 0;
}

/*
 * Page tables are filled in here, not by remap_pfn_range(), which would heed the firmware's memory
 * types (see bar.c); and when they are needed, because a mapping that is still being made could not
 * be taken away.
 */
static vm_fault_t dev_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct reader *r = vma->vm_private_data;
	struct htrace_dev *d = r->d;
	struct fill fill = {(d->phys >> PAGE_SHIFT) + vma->vm_pgoff, vma};
	unsigned long from = max(vmf->address & ~(WINDOW - 1), vma->vm_start);
	unsigned long to = min((vmf->address & ~(WINDOW - 1)) + WINDOW, vma->vm_end);
	vm_fault_t ret = VM_FAULT_SIGBUS;

	mutex_lock(&d->lock);
	if (!d->gone && !apply_to_page_range(vma->vm_mm, from, to - from, fill_one, &fill))
		ret = VM_FAULT_NOPAGE;
	mutex_unlock(&d->lock);
	return ret;
}

static const struct vm_operations_struct vm_ops = {
	.fault = dev_fault,
};

static int dev_mmap(struct file *file, struct vm_area_struct *vma)
{
	const unsigned long flags = VM_PFNMAP | VM_IO | VM_DONTEXPAND | VM_DONTDUMP;
	struct reader *r = file->private_data;
	unsigned long pages = r->d->size >> PAGE_SHIFT;

	if (!(vma->vm_flags & VM_MAYSHARE)) /* VM_SHARED is not set where the file is read-only */
		return -EINVAL;
	if (vma->vm_pgoff > pages || vma_pages(vma) > pages - vma->vm_pgoff)
		return -EINVAL;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
	vma->vm_page_prot = pgprot_decrypted(vma->vm_page_prot);
	vma->vm_private_data = r; /* the vma keeps the file open */
	vma->vm_ops = &vm_ops;
	return 0;
}

/* ----------------------------------------------------------------------------------- requests */

/*
 * With the device's lock held, unless the device is gone. What user space passes is copied before,
 * what it is given after: its pages may be the device's, and dev_fault() takes the lock.
 */
static int lock_present(struct htrace_dev *d)
{
	mutex_lock(&d->lock);
	if (!d->gone)
		return 0;
	mutex_unlock(&d->lock);
	return -ENODEV;
}

static long get_info(struct htrace_dev *d, void __user *to)
{
	struct htrace_module_info info = {
		.version = HTRACE_MODULE_VERSION,
		.flags = d->flags,
		.size = d->size,
		.caching = d->caching,
		.vectors = d->vectors,
	};
	int err = lock_present(d);

	if (err)
		return err;
	info.session = htrace_rings_session();
	if (d->flags & HTRACE_MODULE_DOORBELL)
		info.ivposition = readl(d->regs + REG_IVPOSITION);
	strscpy(info.pci, pci_name(d->pci), sizeof(info.pci));
	mutex_unlock(&d->lock);
	return copy_to_user(to, &info, sizeof(info)) ? -EFAULT : 0;
}

static long set_rings(struct htrace_dev *d, const void __user *from)
{
	struct htrace_module_rings rings;
	int err;

	if (copy_from_user(&rings, from, sizeof(rings)))
		return -EFAULT;
	err = lock_present(d);
	if (err)
		return err;
	err = htrace_rings_set(d, &rings);
	mutex_unlock(&d->lock);
	return err;
}

static long ring_bell(struct htrace_dev *d, const void __user *from)
{
	struct htrace_module_bell bell;
	int err;

	if (copy_from_user(&bell, from, sizeof(bell)))
		return -EFAULT;
	if (!(d->flags & HTRACE_MODULE_DOORBELL))
		return -EOPNOTSUPP;
	err = lock_present(d);
	if (err)
		return err;
	writel((u32)bell.peer << 16 | bell.vector, d->regs + REG_DOORBELL);
	mutex_unlock(&d->lock);
	return 0;
}

static long dev_ioctl(struct file *file, unsigned int request, unsigned long arg)
{
	struct reader *r = file->private_data;

	if (request != HTRACE_MODULE_INFO && !(file->f_mode & FMODE_WRITE))
		return -EBADF;
	switch (request) {
	case HTRACE_MODULE_INFO:
		return get_info(r->d, (void __user *)arg);
	case HTRACE_MODULE_RINGS:
		return set_rings(r->d, (void __user *)arg);
	case HTRACE_MODULE_BELL:
		return ring_bell(r->d, (void __user *)arg);
	default:
		return -ENOTTY;
	}
}

/* --------------------------------------------------------------------------------- interrupts */

static ssize_t dev_read(struct file *file, char __user *to, size_t len, loff_t *pos)
{
	struct reader *r = file->private_data;
	struct htrace_dev *d = r->d;
	u64 now = atomic64_read(&d->interrupts);
	int err;

	if (len < sizeof(now))
		return -EINVAL;
	if (now == r->seen && !READ_ONCE(d->gone)) {
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		err = wait_event_interruptible(d->wait, READ_ONCE(d->gone) ||
					       atomic64_read(&d->interrupts) != r->seen);
		if (err)
			return err;
		now = atomic64_read(&d->interrupts);
	}
	if (now == r->seen)
		return -ENODEV;
	r->seen = now;
	return copy_to_user(to, &now, sizeof(now)) ? -EFAULT : sizeof(now);
}

static __poll_t dev_poll(struct file *file, poll_table *table)
{
	struct reader *r = file->private_data;
	__poll_t events = 0;

	poll_wait(file, &r->d->wait, table);
	if (atomic64_read(&r->d->interrupts) != r->seen)
		events |= EPOLLIN | EPOLLRDNORM;
	if (READ_ONCE(r->d->gone))
		events |= EPOLLHUP | EPOLLERR;
	return events;
}

static const struct file_operations dev_fops = {
	.owner = THIS_MODULE,
	.open = dev_open,
	.release = dev_release,
	.mmap = dev_mmap,
	.read = dev_read,
	.poll = dev_poll,
	.unlocked_ioctl = dev_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "htrace",
	.fops = &dev_fops,
	.mode = 0600,
};

bool htrace_bound(void)
{
	bool yes;

	mutex_lock(&bound_lock);
	yes = bound;
	mutex_unlock(&bound_lock);
	return yes;
}

int htrace_chardev_add(struct htrace_dev *d)
{
	int err;

	mutex_lock(&bound_lock);
	bound = d;
	mutex_unlock(&bound_lock);
	err = misc_register(&misc);
	if (err) {
		mutex_lock(&bound_lock);
		bound = NULL;
		mutex_unlock(&bound_lock);
	}
	return err;
}

void htrace_chardev_remove(struct htrace_dev *d)
{
	mutex_lock(&bound_lock);
	bound = NULL;
	mutex_unlock(&bound_lock);
	misc_deregister(&misc);
	mutex_lock(&d->lock);
	d->gone = true;
	htrace_rings_set(d, NULL);
	mutex_unlock(&d->lock);
	if (d->inode)
		unmap_mapping_range(d->inode->i_mapping, 0, 0, 1);
	wake_up_all(&d->wait);
}
