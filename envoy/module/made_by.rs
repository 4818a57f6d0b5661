//! Who made a connection, by the kernel's map of them: `struct connection_key` to `struct connection` of bpf/maps.h.
//!
//! An address says that better, but for one: who was given the node's on its way (masquerade) is known by the kernel alone,
//! which remembers it with the connection. That is rare, so the map is opened for each.

use std::convert::TryInto;
use std::net::SocketAddr;
use std::path::Path;

use crate::address::octets;
use crate::pinned_map::{self, BPF_F_RDONLY, BPF_MAP_TYPE_LRU_HASH};

/// The pin, beside the ipcache's.
pub const CONNECTIONS: &str = "connections";

const KEY_SIZE: usize = 40;
const VALUE_SIZE: usize = 32;
const IDENTITIES: usize = 16; // where they begin in a value
const TCP: u8 = 6;

/// The identity of the client of a TCP connection when it was made, by the pin of the map. It is never 0.
pub fn client(pin: &Path, client: SocketAddr, server: SocketAddr) -> Result<u32, String> {
    let layout = [BPF_MAP_TYPE_LRU_HASH, KEY_SIZE as u32, VALUE_SIZE as u32];
    let (map, _) = pinned_map::open(pin, layout, BPF_F_RDONLY)?;
    let (key, side) = key(client, server);
    let mut value = [0u8; VALUE_SIZE];
    pinned_map::look_up(&map, &key, &mut value)
        .map_err(|error| format!("the kernel does not know the connection of {client} to {server}: {error}"))?;
    let at = IDENTITIES + 4 * side;
    match u32::from_ne_bytes(value[at..at + 4].try_into().unwrap()) {
        0 => Err(format!(
            "the kernel does not know who made the connection of {client} to {server}"
        )),
        identity => Ok(identity),
    }
}

/// The key, and at which end of it the client is: the greater one comes second, by words as this machine reads them.
fn key(client: SocketAddr, server: SocketAddr) -> ([u8; KEY_SIZE], usize) {
    let side = usize::from(place(client) > place(server));
    let ends = if side == 1 { [server, client] } else { [client, server] };
    let mut key = [0u8; KEY_SIZE];
    for (at, end) in ends.iter().enumerate() {
        key[16 * at..16 * at + 16].copy_from_slice(&octets(&end.ip()));
        key[32 + 2 * at..34 + 2 * at].copy_from_slice(&end.port().to_be_bytes());
    }
    key[36] = TCP;
    (key, side)
}

fn place(end: SocketAddr) -> ([u32; 4], u16) {
    let bytes = octets(&end.ip());
    let word = |at: usize| u32::from_ne_bytes(bytes[4 * at..4 * at + 4].try_into().unwrap());
    ([word(0), word(1), word(2), word(3)], end.port().to_be())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_have_one_key_and_the_client_is_at_one_of_its_ends() {
        for (one, other) in [
            ("10.1.2.3:80", "10.1.2.4:9"),
            ("[fd00::7]:80", "[fd00::8]:9"),
            ("10.1.2.3:80", "10.1.2.3:9"),
        ] {
            let (one, other): (SocketAddr, SocketAddr) = (one.parse().unwrap(), other.parse().unwrap());
            let (there, back) = (key(one, other), key(other, one));
            assert_eq!(there.0, back.0);
            assert_eq!(there.1, 1 - back.1);
            let at = |end: SocketAddr, side: usize| {
                (
                    there.0[16 * side..16 * side + 16] == octets(&end.ip()),
                    there.0[32 + 2 * side..34 + 2 * side] == end.port().to_be_bytes(),
                )
            };
            assert_eq!(at(one, there.1), (true, true));
            assert_eq!(at(other, back.1), (true, true));
            assert_eq!(there.0[36..], [6, 0, 0, 0]);
        }
    }

    #[test]
    fn without_the_map_nobody_made_it() {
        let end = "10.1.2.3:80".parse().unwrap();
        assert!(client(Path::new("/nowhere/connections"), end, end).is_err());
    }
}
