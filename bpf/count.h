/* How many packets had which end. */
#pragma once
#include "address.h"
#include "pinned.h"
#include "reason.h"

/* By reason, then direction: 2 * reason + (0 from the pod, 1 to the pod). */
PINNED("percpu_array", __u32, __u64, counters, 2 * REASONS, 0);

enum hook { FROM_POD = 0, TO_POD = 1 };

static __always_inline void count(int reason, enum hook hook)
{
    __u32 index = 2 * reason + hook;
    __u64 *counter = counters.lookup(&index);
    if (counter)
        *counter += 1;
}
