//! The kernel's own map of who owns which address, read through its pin: `struct prefix` to `struct owner` of bpf/maps.h.
//!
//! How long what was looked up holds is told by the map beside it (see `generation`).

use std::convert::TryInto;
use std::io::Error;
use std::net::IpAddr;
use std::os::unix::io::OwnedFd;
use std::path::Path;

use crate::address::octets;
use crate::generation::Generation;
use crate::pinned_map::{self, BPF_F_RDONLY, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_LPM_TRIE};

const GENERATION: &str = "ipcache_generation"; // the pin beside the map's

const WHOLE_ADDRESS: u32 = 128;
const KEY_SIZE: u32 = 20;
const VALUE_SIZE: u32 = 8;

/// Whose an address is. Identity 0 is nobody's; `ifindex` is 0 unless it is an endpoint of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub identity: u32,
    pub ifindex: u32,
}

/// The open map. Threads may share it.
pub struct Ipcache {
    map: OwnedFd,
    id: u32,
    generation: Generation,
}

impl Ipcache {
    /// Open the pin at `path`, which must be the map with this `id`: another one would know other addresses. The map
    /// with its generation is pinned beside it and has an id of its own.
    pub fn open(path: &Path, id: u32, generation: u32) -> Result<Ipcache, String> {
        let map = open(path, id, [BPF_MAP_TYPE_LPM_TRIE, KEY_SIZE, VALUE_SIZE], BPF_F_RDONLY)?;
        let beside = path.with_file_name(GENERATION);
        // The kernel shares a map's memory by no descriptor that is only for reading.
        let fd = open(&beside, generation, [BPF_MAP_TYPE_ARRAY, 4, 8], 0)?;
        let generation = Generation::map(&fd).map_err(|error| format!("{}: {error}", beside.display()))?;
        Ok(Ipcache { map, id, generation })
    }

    /// The kernel's number of the map.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The map's generation, in memory; None while it is being changed.
    pub fn generation(&self) -> Option<u64> {
        self.generation.at_rest()
    }

    /// The owner by the longest prefix, as the map has it now. The error says why there is none.
    pub fn find(&self, address: &IpAddr) -> Result<Owner, Error> {
        let key = key(address);
        let mut value = [0u8; VALUE_SIZE as usize];
        pinned_map::look_up(&self.map, &key, &mut value)?;
        Ok(Owner {
            identity: u32::from_ne_bytes(value[..4].try_into().unwrap()),
            ifindex: u32::from_ne_bytes(value[4..].try_into().unwrap()),
        })
    }
}

/// A descriptor of the pin at `path`. The map must have this id, and this type, key and value size.
fn open(path: &Path, id: u32, layout: [u32; 3], flags: u32) -> Result<OwnedFd, String> {
    match pinned_map::open(path, layout, flags)? {
        (map, number) if number == id => Ok(map),
        (_, number) => Err(format!("{} is map {number}, not {id}", path.display())),
    }
}

/// `struct prefix` for one whole address.
fn key(address: &IpAddr) -> [u8; KEY_SIZE as usize] {
    let mut key = [0u8; KEY_SIZE as usize];
    key[..4].copy_from_slice(&WHOLE_ADDRESS.to_ne_bytes());
    key[4..].copy_from_slice(&octets(address));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_whole_prefix_and_ipv4_is_mapped() {
        let v4 = key(&"10.1.2.3".parse().unwrap());
        assert_eq!(v4[..4], 128u32.to_ne_bytes());
        assert_eq!(v4[4..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3]);
        let v6 = key(&"fd00::7".parse().unwrap());
        assert_eq!(v6[4..], [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn what_is_no_pin_is_refused() {
        let refused = Ipcache::open(Path::new("/nowhere/ipcache"), 1, 2).err().unwrap();
        assert_eq!(refused, "/nowhere/ipcache: No such file or directory (os error 2)");
        assert!(Ipcache::open(Path::new("/dev/null"), 1, 2).is_err());
        assert!(Ipcache::open(Path::new("/a\0b"), 1, 2).is_err());
    }
}
