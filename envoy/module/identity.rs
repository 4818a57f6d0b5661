//! The listener filter `identity`: who the two ends of a connection are, by the map that the kernel judged it with.
//!
//! It leaves filter state, as text, for the policy filters and the access log. An end that the map does not know, or that
//! nobody may talk to, closes the connection: the kernel would have dropped it, so the map has changed since.
//!
//! Configuration: `PATH ID GENERATION SHARDS`, the pin of the ipcache, the id of the map that must be behind it, that of
//! the map with its generation, and into how many shards the policies of each direction are divided; 0 where they are
//! not. Each thing that is left costs a connection some tenths of a microsecond, so nothing is left that nobody reads.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::path::PathBuf;

use crate::abi::envoy_dynamic_module_callback_is_validation_mode;
use crate::ipcache::{Ipcache, Owner};
use crate::listener_hooks::{ListenerConfig, Socket};

/// The identities of the two ends.
const SOURCE: &str = "lockgate.source.identity";
const DESTINATION: &str = "lockgate.destination.identity";
/// Where policies are not divided: the identity whose egress (ingress) policy this node enforces here; `0` when that end
/// is no endpoint of the node.
const EGRESS_SUBJECT: &str = "lockgate.egress.subject";
const INGRESS_SUBJECT: &str = "lockgate.ingress.subject";
/// Where they are: the shard in which that policy is; NO_SHARD when that end is no endpoint of the node.
const EGRESS_SHARD: &str = "lockgate.egress.shard";
const INGRESS_SHARD: &str = "lockgate.ingress.shard";
const NO_SHARD: &str = "none";

/// The filter. Without a map it only checks configurations, and closes every connection.
pub struct Identity {
    ipcache: Option<Ipcache>,
    shards: Option<NonZeroU32>,
}

impl Identity {
    pub fn new(config: &[u8]) -> Result<Identity, String> {
        let (path, [id, generation], shards) = parse(config)?;
        if unsafe { envoy_dynamic_module_callback_is_validation_mode() } {
            return Ok(Identity { ipcache: None, shards });
        }
        let ipcache = Some(Ipcache::open(&path, id, generation)?);
        Ok(Identity { ipcache, shards })
    }

    fn owner(&self, end: &str, address: Option<&[u8]>) -> Result<Owner, String> {
        let address = address.ok_or_else(|| format!("the {end} has no IP address"))?;
        let ipcache = self.ipcache.as_ref().ok_or("the configuration is only checked")?;
        match ipcache.find(address) {
            Ok(owner) if owner.identity != 0 => Ok(owner),
            Ok(_) => Err(format!("nobody may talk to or from the {end} {}", printed(address))),
            Err(error) => Err(format!(
                "the ipcache does not know the {end} {}: {error}",
                printed(address)
            )),
        }
    }
}

impl ListenerConfig for Identity {
    fn accept(&self, socket: &Socket) -> Result<(), String> {
        let source = self.owner("source", socket.remote_address())?;
        let destination = self.owner("destination", socket.local_address())?;
        let (egress, ingress) = (subject(source), subject(destination));
        let [of_egress, of_ingress] = match self.shards {
            Some(shards) => [
                (EGRESS_SHARD, shard(egress, shards)),
                (INGRESS_SHARD, shard(ingress, shards)),
            ],
            None => [(EGRESS_SUBJECT, Some(egress)), (INGRESS_SUBJECT, Some(ingress))],
        };
        let told = [
            (SOURCE, Some(source.identity)),
            (DESTINATION, Some(destination.identity)),
            of_egress,
            of_ingress,
        ];
        for (key, number) in told {
            let digits = number.map(Digits::of);
            if !socket.set_filter_state(key, digits.as_ref().map_or(NO_SHARD, Digits::text)) {
                return Err(format!("Envoy does not take the filter state {key}"));
            }
        }
        Ok(())
    }
}

fn printed(address: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(address)
}

fn subject(owner: Owner) -> u32 {
    if owner.ifindex == 0 {
        0
    } else {
        owner.identity
    }
}

fn shard(subject: u32, shards: NonZeroU32) -> Option<u32> {
    if subject == 0 {
        None
    } else {
        Some(subject % shards)
    }
}

fn parse(config: &[u8]) -> Result<(PathBuf, [u32; 2], Option<NonZeroU32>), String> {
    let text = std::str::from_utf8(config).map_err(|_| "the configuration is not text".to_string())?;
    let mut words = text.rsplitn(4, ' ');
    let (shards, generation, id) = (number(words.next()), number(words.next()), number(words.next()));
    let path = words.next().unwrap_or("");
    match (id, generation, shards) {
        (Some(id), Some(generation), Some(shards)) if path.starts_with('/') => {
            Ok((PathBuf::from(path), [id, generation], NonZeroU32::new(shards)))
        }
        _ => Err(format!(
            "{text:?} is not 'PATH ID GENERATION SHARDS', the ipcache's pin, its map id, that of its generation and how \
             many shards policies have"
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
    fn a_subject_has_one_shard() {
        let shards = NonZeroU32::new(64).unwrap();
        let found = [0, 1, 64, 65_600, u32::MAX].map(|subject| shard(subject, shards));
        assert_eq!(found, [None, Some(1), Some(0), Some(0), Some(63)]);
    }

    #[test]
    fn the_configuration_is_a_path_and_three_numbers() {
        for (shards, wanted) in [("64", NonZeroU32::new(64)), ("0", None)] {
            assert_eq!(
                parse(format!("/sys/fs/bpf/with blank/ipcache 17 18 {}", shards).as_bytes()).unwrap(),
                (PathBuf::from("/sys/fs/bpf/with blank/ipcache"), [17, 18], wanted)
            );
        }
        for wrong in [
            &b""[..],
            b"/a",
            b"/a b",
            b"/a 1",
            b"/a 1 2",
            b"a 1 2 64",
            b"/a -1 2 64",
            b"/a 1 4294967296 64",
            b"/a 1 2 -1",
            b"\xff 1 2 64",
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
