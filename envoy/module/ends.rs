//! The end at an address, by the ipcache: looked up once for a thread, and kept as long as the map stays as it was.

use std::cell::RefCell;
use std::io::Error;
use std::num::NonZeroU32;

use crate::end::{self, End};
use crate::ipcache::Ipcache;
use crate::kept::{Kept, While};

const NODE: u32 = 1; // HOST of bpf/verdict.h

/// All ends there are. Threads may share them.
pub struct Ends {
    ipcache: Ipcache,
    shards: NonZeroU32,
    node: End,
}

/// Why there is no end at an address.
pub enum NoEnd {
    /// Nobody may talk to or from it.
    Nobodys,
    /// The map does not know it, or it is none.
    Unknown(Error),
}

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept::new()) };
}

impl Ends {
    pub fn new(ipcache: Ipcache, shards: NonZeroU32) -> Ends {
        let node = end::written(NODE, false, shards);
        Ends { ipcache, shards, node }
    }

    /// True for the end of the node itself.
    pub fn is_nodes(&self, end: &End) -> bool {
        end.as_bytes() == self.node.as_bytes()
    }

    /// The end of an endpoint of this node that has this identity.
    pub fn of(&self, identity: u32) -> End {
        end::written(identity, true, self.shards)
    }

    /// The end at an address as Envoy prints it, as the map has it now.
    pub fn at(&self, address: &[u8]) -> Result<End, NoEnd> {
        let now = match self.ipcache.generation() {
            Some(generation) => self.during(generation),
            None => return self.look_up(address),
        };
        KEPT.with(|kept| {
            let mut kept = kept.borrow_mut();
            if let Some(end) = kept.get(address, now) {
                return Ok(*end);
            }
            let end = self.look_up(address)?;
            if self.ipcache.generation() == Some(now.generation) {
                kept.put(address, now, end);
            }
            Ok(end)
        })
    }

    fn during(&self, generation: u64) -> While {
        While {
            generation,
            map: self.ipcache.id(),
            shards: self.shards.get(),
        }
    }

    fn look_up(&self, address: &[u8]) -> Result<End, NoEnd> {
        match self.ipcache.find(address) {
            Ok(owner) if owner.identity != 0 => Ok(end::written(owner.identity, owner.ifindex != 0, self.shards)),
            Ok(_) => Err(NoEnd::Nobodys),
            Err(error) => Err(NoEnd::Unknown(error)),
        }
    }
}
