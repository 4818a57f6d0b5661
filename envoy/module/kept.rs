//! The ends that a thread has looked up, by the address as Envoy prints it: no parsing, no writing, no allocation, two lines
//! of memory an address.
//!
//! An address has one place, which it shares with others: who comes later takes it. So whoever connects from as many
//! addresses as they like costs the others a look-up, and no memory.

use std::convert::TryInto;

use crate::end::End;

const PLACES: usize = 4096;
const LONGEST: usize = 43; // of a text; longer than any IPv6 address that is written by the rules

/// What an end holds for: as long as one map is of one generation, and policies are divided into so many shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct While {
    pub generation: u64,
    pub map: u32,
    pub shards: u32,
}

pub struct Kept {
    places: Vec<Place>,
}

#[derive(Clone)]
#[repr(C, align(128))]
struct Place {
    holds: While,
    length: u8,
    address: [u8; LONGEST],
    end: End,
}

impl Place {
    fn empty() -> Place {
        Place {
            holds: NEVER,
            length: 0,
            address: [0; LONGEST],
            end: End::new(),
        }
    }
}

const NEVER: While = While {
    generation: 1, // odd: nothing is kept of such
    map: 0,
    shards: 0,
};

impl Kept {
    /// Takes no memory before something is put in.
    pub const fn new() -> Kept {
        Kept { places: Vec::new() }
    }

    /// The end at the address that is written like this, if it was put in and holds.
    pub fn get(&self, address: &[u8], now: While) -> Option<&End> {
        let place = self.places.get(place_of(address))?;
        if place.holds == now && place.address.get(..place.length.into())? == address {
            Some(&place.end)
        } else {
            None
        }
    }

    /// Keep it, instead of what had its place.
    pub fn put(&mut self, address: &[u8], now: While, end: End) {
        if address.len() > LONGEST {
            return;
        }
        if self.places.is_empty() {
            self.places.resize(PLACES, Place::empty());
        }
        let place = &mut self.places[place_of(address)];
        place.address[..address.len()].copy_from_slice(address);
        place.length = address.len() as u8;
        (place.holds, place.end) = (now, end);
    }
}

/// Where an address belongs. Pods may choose addresses that belong together: that is what costs no more than a look-up.
fn place_of(address: &[u8]) -> usize {
    let mut hash = address.len() as u64;
    let mut mix = |word: u64| {
        hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
    };
    let mut words = address.chunks_exact(8);
    for word in &mut words {
        mix(u64::from_le_bytes(word.try_into().unwrap()));
    }
    mix(words
        .remainder()
        .iter()
        .fold(0, |word, byte| word << 8 | u64::from(*byte)));
    hash as usize % PLACES
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::end;

    const NOW: While = While {
        generation: 2,
        map: 1,
        shards: 64,
    };

    fn end(identity: u32) -> End {
        end::written(identity, true, NonZeroU32::new(64).unwrap())
    }

    #[test]
    fn nothing_is_kept_beyond_what_it_holds_for() {
        let mut kept = Kept::new();
        assert_eq!(kept.get(b"10.0.0.1", NOW), None);
        kept.put(b"10.0.0.1", NOW, end(7));
        assert_eq!(kept.get(b"10.0.0.1", NOW), Some(&end(7)));
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
            assert_eq!(kept.get(address, now), None, "{address:?} {now:?}");
        }
        kept.put(b"10.0.0.1", later, end(8));
        assert_eq!(kept.get(b"10.0.0.1", NOW), None);
        assert_eq!(kept.get(b"10.0.0.1", later), Some(&end(8)));
    }

    #[test]
    fn who_shares_a_place_takes_it() {
        let texts: Vec<String> = (0..=PLACES).map(|number| format!("fd00::{number:x}")).collect();
        let mut kept = Kept::new();
        for text in &texts {
            kept.put(text.as_bytes(), NOW, end(7));
            assert_eq!(kept.get(text.as_bytes(), NOW), Some(&end(7)));
        }
        let found = texts.iter().filter(|text| kept.get(text.as_bytes(), NOW).is_some());
        assert!((PLACES / 2..PLACES).contains(&found.count()));
        assert_eq!(kept.places.len(), PLACES, "it does not grow");
    }

    #[test]
    fn every_address_fits_and_what_is_none_does_no_harm() {
        let mut kept = Kept::new();
        let whole = "fd00:1111:2222:3333:4444:5555:6666:7777";
        for text in [whole, "::ffff:255.255.255.255", "1.1.1.1", "::"] {
            kept.put(text.as_bytes(), NOW, end(8));
            assert_eq!(kept.get(text.as_bytes(), NOW), Some(&end(8)));
        }
        let long = [b'f'; LONGEST + 1];
        kept.put(&long, NOW, end(8));
        assert_eq!(kept.get(&long, NOW), None);
    }
}
