// SPDX-License-Identifier: GPL-2.0-only
/* Cut out of security/integrity/ima/ima_appraise.c. */
#include "security-integrity-ima-ima_appraise-unchanged.h"

#line 679
/*
 * ima_reset_appraise_flags - reset ima_iint_cache flags
 *
 * @digsig: whether to clear/set IMA_DIGSIG flag, tristate values
 *          0: clear IMA_DIGSIG
 *          1: set IMA_DIGSIG
 *         -1: don't change IMA_DIGSIG
 *
 */
static void ima_reset_appraise_flags(struct inode *inode, int digsig)
{
	struct integrity_iint_cache *iint;

	if (!(ima_policy_flag & IMA_APPRAISE) || !S_ISREG(inode->i_mode))
		return;

	iint = integrity_iint_find(inode);
	if (!iint)
		return;
	iint->measured_pcrs = 0;
	set_bit(IMA_CHANGE_XATTR, &iint->atomic_flags);
	if (digsig == 1)
		set_bit(IMA_DIGSIG, &iint->atomic_flags);
	else if (digsig == 0)
		clear_bit(IMA_DIGSIG, &iint->atomic_flags);
}

#line 768
int ima_inode_setxattr(struct dentry *dentry, const char *xattr_name,
		       const void *xattr_value, size_t xattr_value_len)
{
	const struct evm_ima_xattr_data *xvalue = xattr_value;
	int digsig = 0;
	int result;
	int err;

	result = ima_protect_xattr(dentry, xattr_name, xattr_value,
				   xattr_value_len);
	if (result == 1) {
		if (!xattr_value_len || (xvalue->type >= IMA_XATTR_LAST))
			return -EINVAL;

		err = validate_hash_algo(dentry, xvalue, xattr_value_len);
		if (err)
			return err;

		digsig = (xvalue->type == EVM_IMA_XATTR_DIGSIG);
	} else if (!strcmp(xattr_name, XATTR_NAME_EVM) && xattr_value_len > 0) {
		digsig = (xvalue->type == EVM_XATTR_PORTABLE_DIGSIG);
	} else {
		digsig = -1;
	}
	if (result == 1 || evm_revalidate_status(xattr_name)) {
		ima_reset_appraise_flags(d_backing_inode(dentry), digsig);
		if (result == 1)
			result = 0;
	}
	return result;
}

#line 800
int ima_inode_removexattr(struct dentry *dentry, const char *xattr_name)
{
	int result, digsig = -1;

	result = ima_protect_xattr(dentry, xattr_name, NULL, 0);
	if (result == 1 || evm_revalidate_status(xattr_name)) {
		if (!strcmp(xattr_name, XATTR_NAME_IMA))
			digsig = 0;
		ima_reset_appraise_flags(d_backing_inode(dentry), digsig);
		if (result == 1)
			result = 0;
	}
	return result;
}

#include <livegraft.h>
LIVEGRAFT_PATCHES(ima_inode_removexattr);
LIVEGRAFT_PATCHES(ima_inode_setxattr);
