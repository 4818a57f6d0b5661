//! What a thread has looked up, by the address as Envoy prints it: no parsing, no allocation, one line of memory an address.
//!
//! An address has one place, which it shares with others: who comes later takes it. So whoever connects from as many
//! addresses as they like costs the others a look-up, and no memory.

use std::convert::TryInto;

use crate::ipcache::Owner;

const PLACES: usize = 4096;
const LONGEST: usize = 43; // of a text; longer than any IPv6 address that is written by the rules

/// What is kept, each for one map and one generation of it.
pub struct Kept {
    places: Vec<Place>,
}

#[derive(Clone)]
#[repr(align(64))]
struct Place {
    generation: u64,
    map: u32,
    owner: Owner,
    length: u8,
    text: [u8; LONGEST],
}

const EMPTY: Place = Place {
    generation: 1, // odd: nothing is kept of such
    map: 0,
    owner: Owner {
        identity: 0,
        ifindex: 0,
    },
    length: 0,
    text: [0; LONGEST],
};

impl Kept {
    /// Takes no memory before something is put in.
    pub const fn new() -> Kept {
        Kept { places: Vec::new() }
    }

    /// The owner of the address that is written like this, if it was put in for this map and generation.
    pub fn get(&self, address: &[u8], map: u32, generation: u64) -> Option<Owner> {
        let place = self.places.get(place_of(address))?;
        let known =
            place.map == map && place.generation == generation && place.text.get(..place.length.into())? == address;
        if known {
            Some(place.owner)
        } else {
            None
        }
    }

    /// Keep it, instead of what had its place.
    pub fn put(&mut self, address: &[u8], map: u32, generation: u64, owner: Owner) {
        if address.len() > LONGEST {
            return;
        }
        if self.places.is_empty() {
            self.places.resize(PLACES, EMPTY);
        }
        let place = &mut self.places[place_of(address)];
        place.text[..address.len()].copy_from_slice(address);
        place.length = address.len() as u8;
        (place.map, place.generation, place.owner) = (map, generation, owner);
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
    use super::*;

    const ALICE: Owner = Owner {
        identity: 70_000,
        ifindex: 7,
    };
    const BOB: Owner = Owner {
        identity: 70_001,
        ifindex: 0,
    };

    #[test]
    fn nothing_is_kept_beyond_its_map_and_generation() {
        let mut kept = Kept::new();
        assert_eq!(kept.get(b"10.0.0.1", 1, 2), None);
        kept.put(b"10.0.0.1", 1, 2, ALICE);
        assert_eq!(kept.get(b"10.0.0.1", 1, 2), Some(ALICE));
        for (address, map, generation) in [
            (&b"10.0.0.1"[..], 2, 2),
            (b"10.0.0.1", 1, 4),
            (b"10.0.0.1", 1, 0),
            (b"10.0.0.2", 1, 2),
            (b"10.0.0.", 1, 2),
            (b"", 0, 0),
        ] {
            assert_eq!(kept.get(address, map, generation), None);
        }
        kept.put(b"10.0.0.1", 1, 4, BOB);
        assert_eq!(kept.get(b"10.0.0.1", 1, 2), None);
        assert_eq!(kept.get(b"10.0.0.1", 1, 4), Some(BOB));
    }

    #[test]
    fn who_shares_a_place_takes_it() {
        let texts: Vec<String> = (0..=PLACES).map(|number| format!("fd00::{number:x}")).collect();
        let mut kept = Kept::new();
        for text in &texts {
            kept.put(text.as_bytes(), 1, 2, ALICE);
            assert_eq!(kept.get(text.as_bytes(), 1, 2), Some(ALICE));
        }
        let found = texts.iter().filter(|text| kept.get(text.as_bytes(), 1, 2).is_some());
        assert!((PLACES / 2..PLACES).contains(&found.count()));
        assert_eq!(kept.places.len(), PLACES, "it does not grow");
    }

    #[test]
    fn every_address_fits_and_what_is_none_does_no_harm() {
        let mut kept = Kept::new();
        let whole = "fd00:1111:2222:3333:4444:5555:6666:7777";
        for text in [whole, "::ffff:255.255.255.255", "1.1.1.1", "::"] {
            kept.put(text.as_bytes(), 1, 2, BOB);
            assert_eq!(kept.get(text.as_bytes(), 1, 2), Some(BOB));
        }
        let long = [b'f'; LONGEST + 1];
        kept.put(&long, 1, 2, BOB);
        assert_eq!(kept.get(&long, 1, 2), None);
    }
}
