//! The ends that a thread has looked up, by their addresses: no parsing, no writing, no allocation, and as few lines of
//! memory as can be: between two connections a node idles or does something else, and finds its caches cold.
//!
//! An address has one place, which it shares with others: who comes later takes it. So whoever connects from as many
//! addresses as they like costs the others a look-up, and no memory.

use crate::address::Address;
use crate::end::End;

const PLACES: usize = 4096;

/// What an end holds for: as long as one map is of one generation, and policies are divided into so many shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct While {
    pub generation: u64,
    pub map: u32,
    pub shards: u32,
}

/// Of an end that is not to be kept.
pub const NEVER: While = While {
    generation: 1, // odd: nothing is kept of such
    map: 0,
    shards: 0,
};

pub struct Kept<A> {
    places: Vec<Place<A>>,
}

/// Of an IPv4 address one line of memory is read, of the socket's own a second one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Place<A> {
    holds: While,
    pub end: End,
    pub address: A,
}

impl<A: Address> Place<A> {
    const EMPTY: Place<A> = Place {
        holds: NEVER,
        end: End::EMPTY,
        address: A::NONE,
    };

    /// True where it has the end at this address, and that holds.
    pub fn has(&self, asked: &A::Asked, now: While) -> bool {
        self.holds == now && self.address.is(asked)
    }

    /// Have it, instead of what was there.
    pub fn put(&mut self, asked: &A::Asked, holds: While, end: End) {
        let address = A::kept(asked);
        *self = Place { holds, end, address };
    }
}

impl<A: Address> Kept<A> {
    /// Takes no memory before a place is asked for.
    pub const fn new() -> Kept<A> {
        Kept { places: Vec::new() }
    }

    /// Where an address belongs.
    pub fn place(&mut self, asked: &A::Asked) -> &mut Place<A> {
        if self.places.is_empty() {
            self.places.resize(PLACES, Place::EMPTY);
        }
        &mut self.places[A::number(asked) as usize % PLACES]
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};
    use std::net::IpAddr;
    use std::num::NonZeroU32;

    use super::*;
    use crate::address::{Own, Printed};
    use crate::end;

    const NOW: While = While {
        generation: 2,
        map: 1,
        shards: 64,
    };

    fn end(identity: u32) -> End {
        end::written(identity, true, NonZeroU32::new(64).unwrap())
    }

    fn get<A: Address>(kept: &mut Kept<A>, asked: &A::Asked, now: While) -> Option<End> {
        let place = kept.place(asked);
        place.has(asked, now).then_some(place.end)
    }

    #[test]
    fn nothing_is_kept_beyond_what_it_holds_for() {
        let mut kept = Kept::<Printed>::new();
        assert_eq!(get(&mut kept, b"10.0.0.1", NOW), None);
        kept.place(b"10.0.0.1").put(b"10.0.0.1", NOW, end(7));
        assert_eq!(get(&mut kept, b"10.0.0.1", NOW), Some(end(7)));
        let later = While { generation: 4, ..NOW };
        for (address, now) in [
            (&b"10.0.0.1"[..], While { map: 2, ..NOW }),
            (b"10.0.0.1", While { shards: 32, ..NOW }),
            (b"10.0.0.1", later),
            (b"10.0.0.1", While { generation: 0, ..NOW }),
            (b"10.0.0.2", NOW),
            (b"10.0.0.", NOW),
            (b"", While { generation: 0, ..NEVER }),
        ] {
            assert_eq!(get(&mut kept, address, now), None, "{address:?} {now:?}");
        }
        kept.place(b"10.0.0.1").put(b"10.0.0.1", later, end(8));
        assert_eq!(get(&mut kept, b"10.0.0.1", NOW), None);
        assert_eq!(get(&mut kept, b"10.0.0.1", later), Some(end(8)));
        kept.place(b"10.0.0.1").put(b"10.0.0.1", NEVER, end(9));
        assert_eq!(get(&mut kept, b"10.0.0.1", later), None);
    }

    #[test]
    fn who_shares_a_place_takes_it() {
        let all: Vec<IpAddr> = (0..=PLACES as u32)
            .map(|n| IpAddr::from((n + (10 << 24)).to_be_bytes()))
            .collect();
        let mut kept = Kept::<Own>::new();
        for ip in &all {
            kept.place(ip).put(ip, NOW, end(7));
            assert_eq!(get(&mut kept, ip, NOW), Some(end(7)));
        }
        let found = all.iter().filter(|ip| get(&mut kept, ip, NOW).is_some());
        assert!((PLACES / 2..PLACES).contains(&found.count()));
        assert_eq!(kept.places.len(), PLACES, "it does not grow");
    }

    #[test]
    fn a_place_is_one_line_for_an_ipv4_address_and_two_at_most() {
        assert_eq!((size_of::<Place<Printed>>(), size_of::<Place<Own>>()), (128, 128));
        let longest = 1 + "255.255.255.255".len();
        assert!(offset_of!(Place<Printed>, address) + longest <= 64);
        assert!(offset_of!(Place<Own>, address) + 16 <= 64);
    }
}
