/* Reading the kernel's own structures: by the offsets of their fields, which stand before this source. */
#pragma once

/* By its number: bcc would take another helper where it may not read /proc/kallsyms, as in a container. */
static long (*read_kernel)(void *into, __u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel;

#define READ(into, from, offset) read_kernel(&(into), sizeof(into), (const char *)(from) + (offset))
