//! The listener filter `identity`: who the two ends of a connection are, by the map that the kernel judged it with.
//!
//! The end that the client asked for is the socket's own address; from here on the connection is one to there.
//!
//! It leaves one text for each end (see `end`), for the policy filters and the access log. An end that the map does not
//! know, or that nobody may talk to, closes the connection: the kernel would have dropped it, so the map has changed since.
//! The node's own processes never come here: who comes with the node's address was given it on the way, and is who made the
//! connection (see `made_by`).
//!
//! Configuration: `PATH ID GENERATION SHARDS`, the pin of the ipcache, the id of the map that must be behind it, that of
//! the map with its generation, and into how many shards the policies of each direction are divided. Each text that is
//! left costs a connection some tenths of a microsecond.

use std::fmt::Display;
use std::num::NonZeroU32;
use std::path::PathBuf;

use crate::abi::envoy_dynamic_module_callback_is_validation_mode;
use crate::end::{DESTINATION, SOURCE};
use crate::ends::{Ends, NoEnd};
use crate::ipcache::Ipcache;
use crate::listener_hooks::Socket;
use crate::made_by;

/// The filter. Without a map it only checks configurations, and closes every connection.
pub struct Identity {
    ends: Option<Ends>,
    connections: PathBuf,
}

impl Identity {
    pub fn new(config: &[u8]) -> Result<Identity, String> {
        let (path, [id, generation], shards) = parse(config)?;
        let connections = path.with_file_name(made_by::CONNECTIONS);
        if unsafe { envoy_dynamic_module_callback_is_validation_mode() } {
            return Ok(Identity {
                ends: None,
                connections,
            });
        }
        let ipcache = Ipcache::open(&path, id, generation)?;
        Ok(Identity {
            ends: Some(Ends::new(ipcache, shards)),
            connections,
        })
    }

    /// Judge a socket that was just accepted. An error closes it; the text goes to the log and to its access log.
    #[inline(always)]
    pub fn accept(&self, socket: &Socket) -> Result<(), String> {
        let own = socket.own_address().ok_or_else(no_address)?;
        let ends = self.ends.as_ref().ok_or_else(only_checked)?;
        Ends::with(|looked| {
            let ip = own.ip();
            let destination = match ends.own(looked, &ip) {
                Ok(place) => place,
                Err(none) => return Err(refused("destination", ip.to_string().as_bytes(), none)),
            };
            if !socket.be_at(destination.address.printed(), own) {
                return Err(not_taken(own));
            }
            if !socket.set_filter_state(DESTINATION, destination.end.as_bytes()) {
                return Err(not_taken(DESTINATION));
            }
            let address = socket.remote_address().ok_or_else(no_client)?;
            match ends.client(looked, address) {
                Ok(source) if ends.is_nodes(&source.end) => self.leave_masked(socket, ends),
                Ok(source) if socket.set_filter_state(SOURCE, source.end.as_bytes()) => Ok(()),
                Ok(_) => Err(not_taken(SOURCE)),
                Err(none) => Err(refused("source", address, none)),
            }
        })
    }

    /// Leave the source of a connection that comes with the node's address.
    #[cold]
    fn leave_masked(&self, socket: &Socket, ends: &Ends) -> Result<(), String> {
        let peer = socket.peer_address().ok_or("the socket has no peer")?;
        let own = socket.own_address().ok_or_else(no_address)?;
        let source = ends.of(made_by::client(&self.connections, peer, own)?);
        match socket.set_filter_state(SOURCE, source.as_bytes()) {
            true => Ok(()),
            false => Err(not_taken(SOURCE)),
        }
    }
}

// Why a connection is closed. Cold, so that what is hot lies close together.

#[cold]
fn no_address() -> String {
    "the socket has no address".to_string()
}

#[cold]
fn no_client() -> String {
    "the source has no IP address".to_string()
}

#[cold]
fn only_checked() -> String {
    "the configuration is only checked".to_string()
}

#[cold]
fn not_taken(what: impl Display) -> String {
    format!("Envoy does not take {what}")
}

/// `which` of both ends it is, and its address.
#[cold]
fn refused(which: &str, address: &[u8], none: NoEnd) -> String {
    let address = String::from_utf8_lossy(address);
    match none {
        NoEnd::Nobodys => format!("nobody may talk to or from the {which} {address}"),
        NoEnd::Unknown(error) => format!("the ipcache does not know the {which} {address}: {error}"),
    }
}

fn parse(config: &[u8]) -> Result<(PathBuf, [u32; 2], NonZeroU32), String> {
    let text = std::str::from_utf8(config).map_err(|_| "the configuration is not text".to_string())?;
    let mut words = text.rsplitn(4, ' ');
    let shards = number(words.next()).and_then(NonZeroU32::new);
    let (generation, id) = (number(words.next()), number(words.next()));
    let path = words.next().unwrap_or("");
    match (id, generation, shards) {
        (Some(id), Some(generation), Some(shards)) if path.starts_with('/') => {
            Ok((PathBuf::from(path), [id, generation], shards))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_a_path_and_three_numbers() {
        assert_eq!(
            parse(b"/sys/fs/bpf/with blank/ipcache 17 18 64").unwrap(),
            (
                PathBuf::from("/sys/fs/bpf/with blank/ipcache"),
                [17, 18],
                NonZeroU32::new(64).unwrap()
            )
        );
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
            b"/a 1 2 0",
            b"\xff 1 2 64",
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
