//! How much of its heap Envoy uses, looked at seldom, by each thread for itself.

use std::cell::Cell;
use std::os::raw::c_int;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(20); // a thread under attack allocates some ten megabytes in that

thread_local! {
    static LAST: Cell<Option<(Instant, u64)>> = Cell::new(None);
}

/// What the allocator says of itself (mallinfo(3)): Envoy's, which exports it. Its numbers count no further than `int`.
#[repr(C)]
#[allow(dead_code)] // it is the C library's structure, whether a field is read or not
struct MallInfo {
    arena: c_int,
    ordblks: c_int,
    smblks: c_int,
    hblks: c_int,
    hblkhd: c_int,
    usmblks: c_int,
    fsmblks: c_int,
    uordblks: c_int, // bytes in use
    fordblks: c_int,
    keepcost: c_int,
}

extern "C" {
    fn mallinfo() -> MallInfo;
    fn sysconf(name: c_int) -> i64;
}

/// Bytes in use, as of LOOK_EVERY ago at most.
pub fn allocated() -> u64 {
    let now = Instant::now();
    match LAST.with(Cell::get) {
        Some((looked, bytes)) if now.duration_since(looked) < LOOK_EVERY => bytes,
        _ => {
            let bytes = beyond_32_bits(unsafe { mallinfo() }.uordblks as u32, resident());
            LAST.with(|last| last.set(Some((now, bytes))));
            bytes
        }
    }
}

/// The number of which these are the lower bits: the largest that is no more than the process has of memory.
fn beyond_32_bits(low: u32, resident: u64) -> u64 {
    let low = u64::from(low);
    low + (resident.saturating_sub(low) >> 32 << 32)
}

/// Bytes of memory that are the process's own. 0 where /proc does not say.
fn resident() -> u64 {
    const PAGE_SIZE: c_int = 30; // _SC_PAGESIZE
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = text.split(' ').skip(1).map(|field| field.parse().unwrap_or(0u64));
    let (all, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    all.saturating_sub(shared) * unsafe { sysconf(PAGE_SIZE) } as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_an_int_is_told_by_the_memory_of_the_process() {
        const GIB: u64 = 1 << 30;
        assert_eq!(beyond_32_bits(5, GIB), 5);
        assert_eq!(beyond_32_bits(GIB as u32, 0), GIB);
        assert_eq!(beyond_32_bits(GIB as u32, 4 * GIB), GIB);
        assert_eq!(beyond_32_bits(GIB as u32, 5 * GIB + 1), 5 * GIB);
        assert_eq!(beyond_32_bits(GIB as u32, 14 * GIB), 13 * GIB);
    }

    #[test]
    fn the_process_has_memory() {
        assert!(resident() > 0);
    }
}
