//! Refuses a connection when its client has too many already, so that one noisy pod cannot take all that the node's shared
//! proxy has. Connections are counted by the client's address, over all worker threads and listeners.
//!
//! While Envoy's heap is short, they are counted by what they can hold of it: a client that can have more than its share
//! gets no more connections, and loses those on which something comes, for only those grow. Others do not notice.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use crate::abi::{ConnectionEvent, CLOSE_ABORT_RESET};
use crate::connection::Connection;
use crate::heap::allocated;
use crate::network_hooks::{Counters, NetworkConfig, NetworkFilter, Step};

const HTTP2: &[u8] = b"PRI"; // what a client says first; no other method begins so (RFC 9113, 3.4)
const ENDED: &str = "lockgate: the proxy is short of memory, and this client can hold much of it";

static OPEN: Mutex<Option<HashMap<IpAddr, Client>>> = Mutex::new(None);

/// What an address has.
#[derive(Default)]
struct Client {
    connections: u32,
    bytes: u64, // that they can hold
}

/// The configuration: how many connections a client may have, and maybe the heap; numbers with blanks between.
pub fn config(text: &[u8]) -> Result<Box<dyn NetworkConfig>, String> {
    let numbers: Option<Vec<u64>> = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.split(' ').map(|each| each.parse().ok()).collect());
    let (limit, heap) = match numbers.as_deref() {
        Some(&[limit]) => (limit, None),
        Some(&[limit, short, share, plain, http2]) => {
            let heap = Heap {
                short,
                share,
                plain,
                http2,
            };
            (limit, Some(heap))
        }
        _ => (0, None),
    };
    match u32::try_from(limit) {
        Ok(limit) if limit > 0 => Ok(Box::new(Limit {
            limit,
            heap,
            refused: None,
            ended: None,
        })),
        _ => Err("the number of connections that a client may have must be 1 or more".into()),
    }
}

/// In bytes: from when on the heap is short, what one client may hold then, and what one connection can, of HTTP/2 and
/// any other.
#[derive(Clone, Copy)]
struct Heap {
    short: u64,
    share: u64,
    plain: u64,
    http2: u64,
}

struct Limit {
    limit: u32,
    heap: Option<Heap>,
    refused: Option<usize>,
    ended: Option<usize>,
}

impl NetworkConfig for Limit {
    fn define_counters(&mut self, counters: &Counters) {
        self.refused = counters.define("lockgate_connections_refused");
        self.ended = counters.define("lockgate_connections_ended");
    }

    fn new_filter(&self) -> Box<dyn NetworkFilter> {
        Box::new(Limited {
            limit: self.limit,
            heap: self.heap,
            refused: self.refused,
            ended: self.ended,
            greeted: 0,
            ending: false,
            counted: None,
        })
    }
}

struct Limited {
    limit: u32,
    heap: Option<Heap>,
    refused: Option<usize>,
    ended: Option<usize>,
    greeted: usize, // bytes of HTTP2 that have come, or all when something else has
    ending: bool,
    counted: Option<Counted>,
}

impl NetworkFilter for Limited {
    fn new_connection(&mut self, connection: &Connection) -> Step {
        if let Some((address, _)) = connection.remote_address() {
            self.counted = Counted::new(address, self.limit, self.heap.map_or(0, |heap| heap.plain));
            if self.counted.is_some() && !self.holds_too_much() {
                return Step::Continue;
            }
        }
        self.counted = None;
        connection.count(self.refused);
        connection.close(CLOSE_ABORT_RESET, "lockgate: too many connections");
        Step::Stop
    }

    fn read(&mut self, connection: &Connection, _: usize, _: bool) -> Step {
        if self.greeted < HTTP2.len() {
            self.listen(connection);
        }
        self.passed(connection)
    }

    fn write(&mut self, connection: &Connection, _: usize, _: bool) -> Step {
        self.passed(connection)
    }

    fn event(&mut self, _: &Connection, _: ConnectionEvent) {}

    fn later(&mut self, connection: &Connection) {
        self.counted = None;
        connection.count(self.ended);
        connection.close(CLOSE_ABORT_RESET, ENDED);
    }
}

impl Limited {
    /// No byte passes a connection that was refused. One that is to end does so when Envoy is through with these bytes,
    /// which may be in the midst of a request.
    fn passed(&mut self, connection: &Connection) -> Step {
        if self.counted.is_none() {
            return Step::Stop;
        }
        if !self.ending && self.holds_too_much() {
            self.ending = connection.call_later();
        }
        Step::Continue
    }

    fn holds_too_much(&self) -> bool {
        match (&self.heap, &self.counted) {
            (Some(heap), Some(counted)) => allocated() >= heap.short && counted.bytes_of_client() > heap.share,
            _ => false,
        }
    }

    /// Hear from the first bytes whether this is HTTP/2.
    fn listen(&mut self, connection: &Connection) {
        for byte in connection.read_chunks().iter().flatten() {
            if *byte != HTTP2[self.greeted] {
                self.greeted = HTTP2.len();
                return;
            }
            self.greeted += 1;
            if self.greeted == HTTP2.len() {
                if let (Some(heap), Some(counted)) = (self.heap, &mut self.counted) {
                    counted.weigh(heap.http2);
                }
                return;
            }
        }
    }
}

/// One of the connections of an address, as long as this lives.
struct Counted {
    address: IpAddr,
    bytes: u64,
}

impl Counted {
    /// None when the address has `limit` connections. `bytes` are what this one can hold.
    fn new(address: IpAddr, limit: u32, bytes: u64) -> Option<Counted> {
        let mut open = OPEN.lock().unwrap_or_else(|broken| broken.into_inner());
        let client = open.get_or_insert_with(HashMap::new).entry(address).or_default();
        if client.connections >= limit {
            return None;
        }
        client.connections += 1;
        client.bytes += bytes;
        Some(Counted { address, bytes })
    }

    /// It can hold `bytes` instead.
    fn weigh(&mut self, bytes: u64) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        let mut open = OPEN.lock().unwrap_or_else(|broken| broken.into_inner());
        if let Some(client) = open.get_or_insert_with(HashMap::new).get_mut(&self.address) {
            client.bytes = client.bytes - before + bytes;
        }
    }

    /// What all of the address's can hold.
    fn bytes_of_client(&self) -> u64 {
        let open = OPEN.lock().unwrap_or_else(|broken| broken.into_inner());
        let client = open.as_ref().and_then(|open| open.get(&self.address));
        client.map_or(0, |client| client.bytes)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = OPEN.lock().unwrap_or_else(|broken| broken.into_inner());
        let open = open.get_or_insert_with(HashMap::new);
        if let Some(client) = open.get_mut(&self.address) {
            client.connections -= 1;
            client.bytes -= self.bytes;
            if client.connections == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_limited_and_others_are_not() {
        let (noisy, quiet) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        let mut held: Vec<_> = (0..3).map(|_| Counted::new(noisy, 3, 10)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(Counted::new(noisy, 3, 10).is_none());
        let mut other = Counted::new(quiet, 3, 10).unwrap();
        held.pop();
        held.push(Counted::new(noisy, 3, 10));
        let one = held[0].as_mut().unwrap();
        assert_eq!(one.bytes_of_client(), 30);
        one.weigh(500);
        assert_eq!(one.bytes_of_client(), 520);
        assert_eq!(other.bytes_of_client(), 10);
        other.weigh(5);
        assert_eq!(other.bytes_of_client(), 5);
        held.remove(0);
        assert_eq!(held[0].as_ref().unwrap().bytes_of_client(), 20);
        held.clear();
        drop(other);
        let open = OPEN.lock().unwrap();
        assert!(
            open.as_ref().unwrap().is_empty(),
            "nothing stays of an address without connections"
        );
    }

    #[test]
    fn the_limit_is_a_number() {
        let others = ["1 2", "1 2 3 4 x", "1 2 3 4 5 6", "0 2 3 4 5"];
        for text in ["", "0", "-1", "x", "4294967296"].iter().chain(&others) {
            assert!(config(text.as_bytes()).is_err(), "{text:?}");
        }
        for text in ["1", "10000 1400000000 200000000 1000000 12000000"] {
            assert!(config(text.as_bytes()).is_ok(), "{text:?}");
        }
    }
}
