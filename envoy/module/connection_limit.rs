//! Refuses a connection when its client has too many already, so that one noisy pod cannot take all that the node's shared
//! proxy has. Connections are counted by the client's address, over all worker threads and listeners.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use crate::abi::{ConnectionEvent, CLOSE_ABORT_RESET};
use crate::connection::Connection;
use crate::network_hooks::{Counters, NetworkConfig, NetworkFilter, Step};

static OPEN: Mutex<Option<HashMap<IpAddr, u32>>> = Mutex::new(None);

/// The configuration: how many connections a client may have, in digits.
pub fn config(text: &[u8]) -> Result<Box<dyn NetworkConfig>, String> {
    let limit = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    match limit {
        Some(limit) if limit > 0 => Ok(Box::new(Limit { limit, refused: None })),
        _ => Err("the number of connections that a client may have must be 1 or more".into()),
    }
}

struct Limit {
    limit: u32,
    refused: Option<usize>,
}

impl NetworkConfig for Limit {
    fn define_counters(&mut self, counters: &Counters) {
        self.refused = counters.define("lockgate_connections_refused");
    }

    fn new_filter(&self) -> Box<dyn NetworkFilter> {
        Box::new(Limited {
            limit: self.limit,
            refused: self.refused,
            counted: None,
        })
    }
}

struct Limited {
    limit: u32,
    refused: Option<usize>,
    counted: Option<Counted>,
}

impl NetworkFilter for Limited {
    fn new_connection(&mut self, connection: &Connection) -> Step {
        if let Some((address, _)) = connection.remote_address() {
            self.counted = Counted::new(address, self.limit);
            if self.counted.is_some() {
                return Step::Continue;
            }
        }
        connection.count(self.refused);
        connection.close(CLOSE_ABORT_RESET, "lockgate: too many connections");
        Step::Stop
    }

    fn read(&mut self, _: &Connection, _: usize, _: bool) -> Step {
        self.passed()
    }

    fn write(&mut self, _: &Connection, _: usize, _: bool) -> Step {
        self.passed()
    }

    fn event(&mut self, _: &Connection, _: ConnectionEvent) {}
}

impl Limited {
    /// No byte passes a connection that was refused.
    fn passed(&self) -> Step {
        match self.counted {
            Some(_) => Step::Continue,
            None => Step::Stop,
        }
    }
}

/// One of the connections of an address, as long as this lives.
struct Counted {
    address: IpAddr,
}

impl Counted {
    /// None when the address has `limit` connections.
    fn new(address: IpAddr, limit: u32) -> Option<Counted> {
        let mut open = OPEN.lock().unwrap_or_else(|broken| broken.into_inner());
        let count = open.get_or_insert_with(HashMap::new).entry(address).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Counted { address })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = OPEN.lock().unwrap_or_else(|broken| broken.into_inner());
        let open = open.get_or_insert_with(HashMap::new);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
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
        let mut held: Vec<_> = (0..3).map(|_| Counted::new(noisy, 3)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(Counted::new(noisy, 3).is_none());
        assert!(Counted::new(quiet, 3).is_some());
        held.pop();
        assert!(Counted::new(noisy, 3).is_some());
        held.clear();
        let open = OPEN.lock().unwrap();
        assert!(
            open.as_ref().unwrap().is_empty(),
            "nothing stays of an address without connections"
        );
    }

    #[test]
    fn the_limit_is_a_number() {
        for text in ["", "0", "-1", "x", "4294967296"] {
            assert!(config(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(config(b"1").is_ok());
    }
}
