//! The listener filter `identity`: who the two ends of a connection are, by the map that the kernel judged it with.
//!
//! It leaves filter state, as text, for the policy filters and the access log. An end that the map does not know, or that
//! nobody may talk to, closes the connection: the kernel would have dropped it, so the map has changed since.
//!
//! Configuration: `PATH ID GENERATION`, the pin of the ipcache, the id of the map that must be behind it, and that of the
//! map with its generation.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::abi::envoy_dynamic_module_callback_is_validation_mode;
use crate::ipcache::{Ipcache, Owner};
use crate::listener_hooks::{ListenerConfig, Socket};

/// The identities of the two ends.
const SOURCE: &str = "lockgate.source.identity";
const DESTINATION: &str = "lockgate.destination.identity";
/// The identity whose egress (ingress) policy this node enforces here; `0` when that end is no endpoint of the node.
const EGRESS_SUBJECT: &str = "lockgate.egress.subject";
const INGRESS_SUBJECT: &str = "lockgate.ingress.subject";

/// The filter. Without a map it only checks configurations, and closes every connection.
pub struct Identity {
    ipcache: Option<Ipcache>,
}

impl Identity {
    pub fn new(config: &[u8]) -> Result<Identity, String> {
        let (path, id, generation) = parse(config)?;
        if unsafe { envoy_dynamic_module_callback_is_validation_mode() } {
            return Ok(Identity { ipcache: None });
        }
        Ok(Identity {
            ipcache: Some(Ipcache::open(&path, id, generation)?),
        })
    }

    fn owner(&self, end: &str, address: Option<IpAddr>) -> Result<Owner, String> {
        let address = address.ok_or_else(|| format!("the {end} has no IP address"))?;
        let ipcache = self.ipcache.as_ref().ok_or("the configuration is only checked")?;
        match ipcache.find(address) {
            Ok(owner) if owner.identity != 0 => Ok(owner),
            Ok(_) => Err(format!("nobody may talk to or from the {end} {address}")),
            Err(error) => Err(format!("the ipcache does not know the {end} {address}: {error}")),
        }
    }
}

impl ListenerConfig for Identity {
    fn accept(&self, socket: &Socket) -> Result<(), String> {
        let source = self.owner("source", socket.remote_address())?;
        let destination = self.owner("destination", socket.local_address())?;
        let told = [
            (SOURCE, source.identity),
            (DESTINATION, destination.identity),
            (EGRESS_SUBJECT, subject(source)),
            (INGRESS_SUBJECT, subject(destination)),
        ];
        for (key, identity) in told {
            if !socket.set_filter_state(key, Digits::of(identity).text()) {
                return Err(format!("Envoy does not take the filter state {key}"));
            }
        }
        Ok(())
    }
}

fn subject(owner: Owner) -> u32 {
    if owner.ifindex == 0 {
        0
    } else {
        owner.identity
    }
}

fn parse(config: &[u8]) -> Result<(PathBuf, u32, u32), String> {
    let text = std::str::from_utf8(config).map_err(|_| "the configuration is not text".to_string())?;
    let mut words = text.rsplitn(3, ' ');
    let (generation, id, path) = (words.next(), words.next(), words.next().unwrap_or(""));
    match (number(id), number(generation)) {
        (Some(id), Some(generation)) if path.starts_with('/') => Ok((PathBuf::from(path), id, generation)),
        _ => Err(format!(
            "{text:?} is not 'PATH ID GENERATION', the ipcache's pin, its map id and that of its generation"
        )),
    }
}

fn number(word: Option<&str>) -> Option<u32> {
    word?.parse().ok()
}

/// A number's digits, without an allocation.
struct Digits {
    text: [u8; 10],
    start: usize,
}

impl Digits {
    fn of(mut number: u32) -> Digits {
        let mut digits = Digits {
            text: [b'0'; 10],
            start: 10,
        };
        while digits.start == 10 || number > 0 {
            digits.start -= 1;
            digits.text[digits.start] = b'0' + (number % 10) as u8;
            number /= 10;
        }
        digits
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.text[self.start..]).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_endpoint_of_this_node_is_a_subject() {
        let (identity, here, elsewhere) = (70_000, 12, 0);
        assert_eq!(
            subject(Owner {
                identity,
                ifindex: here
            }),
            70_000
        );
        assert_eq!(
            subject(Owner {
                identity,
                ifindex: elsewhere
            }),
            0
        );
    }

    #[test]
    fn the_configuration_is_a_path_and_a_number() {
        assert_eq!(
            parse(b"/sys/fs/bpf/with blank/ipcache 17 18").unwrap(),
            (PathBuf::from("/sys/fs/bpf/with blank/ipcache"), 17, 18)
        );
        for wrong in [
            &b""[..],
            b"/a",
            b"/a b",
            b"/a 1",
            b"a 1 2",
            b"/a -1 2",
            b"/a 1 4294967296",
            b"\xff 1 2",
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn digits_are_those_of_the_number() {
        for number in [0, 7, 10, 70_000, 16_777_217, u32::MAX] {
            assert_eq!(Digits::of(number).text(), number.to_string());
        }
    }
}
