//! The end at an address, by the ipcache: looked up once for a thread, and kept as long as the map stays as it was.

use std::cell::RefCell;
use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use std::num::NonZeroU32;

use crate::address::{Address, Own, Printed};
use crate::end::{self, End};
use crate::ipcache::Ipcache;
use crate::kept::{Kept, Place, While, NEVER};

const NODE: u32 = 1; // HOST of bpf/verdict.h

/// All ends there are. Threads may share them.
#[repr(align(64))] // one line of memory, which every connection needs
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

/// What one thread has looked up.
pub struct Looked {
    clients: Kept<Printed>,
    own: Kept<Own>,
}

thread_local! {
    static LOOKED: RefCell<Looked> = const {
        RefCell::new(Looked {
            clients: Kept::new(),
            own: Kept::new(),
        })
    };
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

    /// What `act` gives; it may not ask for what the thread has looked up again.
    #[inline(always)]
    pub fn with<T>(act: impl FnOnce(&mut Looked) -> T) -> T {
        LOOKED.with(|looked| act(&mut looked.borrow_mut()))
    }

    /// The end at the client's address as Envoy prints it, as the map has it now.
    #[inline(always)]
    pub fn client<'l>(&self, looked: &'l mut Looked, address: &[u8]) -> Result<&'l Place<Printed>, NoEnd> {
        self.at(&mut looked.clients, address)
    }

    /// Likewise at the socket's own address.
    #[inline(always)]
    pub fn own<'l>(&self, looked: &'l mut Looked, address: &IpAddr) -> Result<&'l Place<Own>, NoEnd> {
        self.at(&mut looked.own, address)
    }

    #[inline(always)]
    fn at<'k, A: Address>(&self, kept: &'k mut Kept<A>, asked: &A::Asked) -> Result<&'k Place<A>, NoEnd> {
        let place = kept.place(asked);
        let now = self.ipcache.generation().map(|generation| self.during(generation));
        match now {
            Some(now) if place.has(asked, now) => {}
            _ => self.look_up(place, asked, now)?,
        }
        Ok(place)
    }

    fn during(&self, generation: u64) -> While {
        While {
            generation,
            map: self.ipcache.id(),
            shards: self.shards.get(),
        }
    }

    /// Have the place have what the map says. It holds where the map was of one generation all the while.
    #[cold]
    fn look_up<A: Address>(&self, place: &mut Place<A>, asked: &A::Asked, now: Option<While>) -> Result<(), NoEnd> {
        let ip =
            A::ip(asked).ok_or_else(|| NoEnd::Unknown(Error::new(ErrorKind::InvalidInput, "it is no IP address")))?;
        let end = match self.ipcache.find(&ip) {
            Ok(owner) if owner.identity != 0 => end::written(owner.identity, owner.ifindex != 0, self.shards),
            Ok(_) => return Err(NoEnd::Nobodys),
            Err(error) => return Err(NoEnd::Unknown(error)),
        };
        let holds = now.filter(|now| self.ipcache.generation() == Some(now.generation));
        place.put(asked, holds.unwrap_or(NEVER), end);
        Ok(())
    }
}
