//! How often the ipcache has changed, read in memory: an entry of a map that the agent raises before and after it writes
//! (redirect/ipcache_map.py). Even is at rest.
//!
//! A look-up between two equal even readings is of that generation, and is what the map says as long as the reading stays
//! the same: a writer raises it before it changes anything.

use std::io::Error;
use std::os::raw::{c_int, c_long, c_void};
use std::os::unix::io::{AsRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};

const PROT_READ: c_int = 1;
const MAP_SHARED: c_int = 1;
const PAGE: usize = 4096;

/// The writer's three stores (number, map, number) are plain ones, which only such machines keep in their order. On others
/// nothing is kept, and every address is looked up.
const KEEPS_ORDER: bool = cfg!(target_arch = "x86_64");

extern "C" {
    fn mmap(
        address: *mut c_void,
        length: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        offset: c_long,
    ) -> *mut c_void;
    fn munmap(address: *mut c_void, length: usize) -> c_int;
}

/// The mapped number.
pub struct Generation {
    word: *const AtomicU64,
}

// The memory is the kernel's and only read, atomically.
unsafe impl Send for Generation {}
unsafe impl Sync for Generation {}

impl Generation {
    /// Of the map behind the descriptor, an array that can be mapped.
    pub fn map(fd: &OwnedFd) -> Result<Generation, Error> {
        let memory = unsafe { mmap(null_mut(), PAGE, PROT_READ, MAP_SHARED, fd.as_raw_fd(), 0) };
        if memory as isize == -1 {
            return Err(Error::last_os_error());
        }
        Ok(Generation {
            word: memory as *const AtomicU64,
        })
    }

    /// The generation; None while the map is being changed.
    pub fn at_rest(&self) -> Option<u64> {
        let now = unsafe { &*self.word }.load(Ordering::Acquire);
        if KEEPS_ORDER && now & 1 == 0 {
            Some(now)
        } else {
            None
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        unsafe {
            munmap(self.word as *mut c_void, PAGE);
        }
    }
}
