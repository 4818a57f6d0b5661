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

use std::num::NonZeroU32;
use std::path::PathBuf;

use crate::abi::envoy_dynamic_module_callback_is_validation_mode;
use crate::end::{End, DESTINATION, SOURCE};
use crate::ends::{Ends, NoEnd};
use crate::ipcache::Ipcache;
use crate::listener_hooks::{ListenerConfig, Socket};
use crate::made_by;
use crate::text::AddressText;

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

    /// Leave the end at this address, as Envoy prints it, under `key`; `which` of both it is.
    fn leave(&self, socket: &Socket, key: &str, which: &str, address: Option<&[u8]>) -> Result<(), String> {
        let ends = self.ends.as_ref().ok_or("the configuration is only checked")?;
        match address.map(|address| ends.at(address)) {
            Some(Ok(end)) if key == SOURCE && ends.is_nodes(&end) => self.leave_masked(socket, ends),
            Some(Ok(end)) if socket.set_filter_state(key, end.as_bytes()) => Ok(()),
            found => Err(refused(key, which, address, found)),
        }
    }

    /// Leave the source of a connection that comes with the node's address.
    #[cold]
    fn leave_masked(&self, socket: &Socket, ends: &Ends) -> Result<(), String> {
        let peer = socket.peer_address().ok_or("the socket has no peer")?;
        let own = socket.own_address().ok_or("the socket has no address")?;
        let source = ends.of(made_by::client(&self.connections, peer, own)?);
        match socket.set_filter_state(SOURCE, source.as_bytes()) {
            true => Ok(()),
            false => Err(format!("Envoy does not take the filter state {SOURCE}")),
        }
    }
}

impl ListenerConfig for Identity {
    fn accept(&self, socket: &Socket) -> Result<(), String> {
        let own = socket.own_address().ok_or("the socket has no address")?;
        let ip = AddressText::of(own.ip());
        if !socket.be_at(ip.as_bytes(), own) {
            return Err(format!("Envoy does not take {own} for the connection's own address"));
        }
        self.leave(socket, SOURCE, "source", socket.remote_address())?;
        self.leave(socket, DESTINATION, "destination", Some(ip.as_bytes()))
    }
}

/// Why an end that was looked up like this was not left.
#[cold]
fn refused(key: &str, which: &str, address: Option<&[u8]>, found: Option<Result<End, NoEnd>>) -> String {
    let address = String::from_utf8_lossy(address.unwrap_or_default());
    match found {
        None => format!("the {which} has no IP address"),
        Some(Ok(_)) => format!("Envoy does not take the filter state {key}"),
        Some(Err(NoEnd::Nobodys)) => format!("nobody may talk to or from the {which} {address}"),
        Some(Err(NoEnd::Unknown(error))) => format!("the ipcache does not know the {which} {address}: {error}"),
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
