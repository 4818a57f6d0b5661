//! The policy in force, which every connection reads at each request, and how much may be held back on its way.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::policy::Policy;

/// One place for the whole process: a change reaches connections that are open.
pub struct Published {
    generation: AtomicU64,
    policy: Mutex<Option<Arc<Policy>>>,
}

impl Published {
    pub const fn new() -> Published {
        Published {
            generation: AtomicU64::new(0),
            policy: Mutex::new(None),
        }
    }

    pub fn publish(&self, policy: Policy) {
        if let Ok(mut slot) = self.policy.lock() {
            *slot = Some(Arc::new(policy));
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Rises with every policy; 0 is none yet.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn policy(&self) -> Option<Arc<Policy>> {
        self.policy.lock().ok().and_then(|slot| slot.clone())
    }
}

/// What one connection may hold back without asking, at all, and all connections together beyond that.
const FREE: usize = 64 << 10;
const MOST: usize = 20 << 20;
const TOGETHER: usize = 256 << 20;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// Bytes that wait until they can be judged.
#[derive(Default)]
pub struct Hold {
    bytes: Vec<u8>,
    counted: usize,
}

impl Hold {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Take more in; false when that is too much.
    #[must_use]
    pub fn extend(&mut self, more: &[u8]) -> bool {
        let length = self.bytes.len() + more.len();
        if length > MOST {
            return false;
        }
        // What counts is the memory that is taken, which doubles when there is no more room.
        let room = self.bytes.capacity();
        let room = if length > room {
            length.max(2 * room).min(MOST)
        } else {
            room
        };
        let wanted = room.saturating_sub(FREE);
        if wanted > self.counted {
            let before = HELD.fetch_add(wanted - self.counted, Ordering::Relaxed);
            let step = wanted - self.counted;
            self.counted = wanted;
            if before + step > TOGETHER {
                return false;
            }
        }
        self.bytes.reserve_exact(room - self.bytes.len());
        self.bytes.extend_from_slice(more);
        true
    }

    /// All that was held.
    pub fn take(&mut self) -> Vec<u8> {
        self.release();
        std::mem::take(&mut self.bytes)
    }

    fn release(&mut self) {
        HELD.fetch_sub(self.counted, Ordering::Relaxed);
        self.counted = 0;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holding_is_bounded_and_given_back() {
        let mut hold = Hold::default();
        assert!(hold.extend(&[0; FREE]));
        assert!(hold.extend(&vec![0; 1 << 20]));
        assert_eq!(hold.counted, 1 << 20);
        assert!(hold.extend(&[0]));
        assert_eq!(hold.counted, FREE + (2 << 20), "the memory, not what is in it");
        assert_eq!(hold.take().len(), FREE + (1 << 20) + 1);
        assert_eq!(hold.counted, 0);
    }

    #[test]
    fn a_policy_raises_the_generation() {
        let published = Published::new();
        assert_eq!(published.generation(), 0);
        assert!(published.policy().is_none());
        published.publish(Policy::default());
        assert_eq!(published.generation(), 1);
        assert!(published.policy().is_some());
    }
}
